"""Lists of public data sets, matched with the sounds that are there; whatever is odd is counted."""

import json
import time

import numpy as np
import pytest

from atgnn.data.audioset import find_lists, read_audioset, segment_names
from atgnn.data.esc50 import read_esc50
from atgnn.data.fsd50k import read_fsd50k
from atgnn.data.hdf5 import read_hdf5
from atgnn.data.manifest import read_manifests
from atgnn.data.tables import read_folders, read_table
from atgnn.errors import AudioError, ClipsError, MissingExtraError
from atgnn.labels import Vocabulary


def touch(path):
    """A file whose name alone matters here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF")
    return path


def odd(listing):
    return {oddity.kind: oddity.count for oddity in listing.oddities}


# ---------------------------------------------------------------------- FSD50K


def fsd50k(root, prefix="FSD50K.", dev=(), evaluation=()):
    """A data set with two labels; sounds 1, 2, 3 in dev and 7 in eval."""
    for name in ("1", "2", "3"):
        touch(root / f"{prefix}dev_audio" / f"{name}.wav")
    touch(root / f"{prefix}eval_audio" / "7.wav")
    truth = root / f"{prefix}ground_truth"
    truth.mkdir()
    (truth / "vocabulary.csv").write_text("0,Bark,/m/05tny_\n1,Dog,/m/0bt9lr\n2,Rain,/m/06mb1\n")
    rows = ['1,"Bark,Dog","/m/05tny_,/m/0bt9lr",train', "2,Rain,/m/06mb1,val", *dev]
    (truth / "dev.csv").write_text("\n".join(["fname,labels,mids,split", *rows]) + "\n")
    rows = ["7,Dog,/m/0bt9lr", *evaluation]
    (truth / "eval.csv").write_text("\n".join(["fname,labels,mids", *rows]) + "\n")
    return root


@pytest.mark.parametrize("prefix", ["FSD50K.", ""])
def test_fsd50k_is_read_with_and_without_its_prefix(tmp_path, prefix):
    root = fsd50k(tmp_path, prefix)
    info = root / f"{prefix}metadata"
    info.mkdir()
    uploads = {"1": {"uploader": "ann", "license": "CC0"}, "2": {"uploader": "ben"}}
    (info / "dev_clips_info_FSD50K.json").write_text(json.dumps(uploads))
    listing = read_fsd50k(root)
    table = listing.clips.table
    assert table["name"].tolist() == ["1", "2", "7"]
    assert table["split"].tolist() == ["train", "val", "eval"]
    assert listing.clips.labels == [("Bark", "Dog"), ("Rain",), ("Dog",)]
    assert table["mids"].tolist() == ["/m/05tny_,/m/0bt9lr", "/m/06mb1", "/m/0bt9lr"]
    assert table["group"].tolist()[:2] == ["ann", "ben"]
    assert listing.clips.paths[2] == root / f"{prefix}eval_audio" / "7.wav"
    assert listing.listed == {"train": 1, "val": 1, "eval": 1}
    assert listing.vocabulary.names == ("Bark", "Dog", "Rain")
    assert odd(listing) == {"sounds of dev that its list does not name": 1}


def test_what_is_odd_in_fsd50k_is_counted(tmp_path):
    dev = [
        "3,Rain,/m/06mb1,train",
        "3,Rain,/m/06mb1,train",  # twice
        "3,Dog,/m/0bt9lr,train",  # and with another label
        "7,Rain,/m/06mb1,train",  # also in eval
        '4,"Rain,Whale","/m/06mb1,/m/x",val',  # no sound, and a foreign label
        "5,Whale,/m/x,val",  # no label left
        "6,Rain,/m/06mb1,holdout",  # no split of FSD50K's
        "8,Rain",
    ]
    listing = read_fsd50k(fsd50k(tmp_path, dev=dev))
    assert listing.clips.table["name"].tolist() == ["1", "2", "3", "7"]
    assert listing.clips.labels[2:] == [("Rain",), ("Dog",)]
    assert listing.clips.table["split"].tolist()[3] == "eval"
    assert [(m.name, m.split) for m in listing.missing] == [("4", "val")]
    assert listing.listed == {"train": 2, "val": 2, "eval": 1}
    assert odd(listing) == {
        "labels outside the vocabulary, left out": 2,
        "clips left out: no label of theirs is in the vocabulary": 1,
        "rows that cannot be understood": 2,
        "duplicate rows": 1,
        "duplicate rows with other labels (the first holds)": 1,
        "clips listed in two splits": 1,
    }
    (both,) = [o for o in listing.oddities if o.kind == "clips listed in two splits"]
    assert both.examples == ("7 in train and eval: stays in eval",)


def test_what_is_not_fsd50k_is_one_line(tmp_path):
    with pytest.raises(ClipsError, match=r"no folder FSD50K\.ground_truth or ground_truth"):
        read_fsd50k(tmp_path)
    root = fsd50k(tmp_path)
    (root / "FSD50K.ground_truth" / "dev.csv").write_text("fname,labels\n1,Dog\n")
    with pytest.raises(ClipsError, match="expected the header fname,labels,mids,split"):
        read_fsd50k(root)
    (root / "FSD50K.ground_truth" / "dev.csv").unlink()
    with pytest.raises(ClipsError, match=r"has no dev\.csv"):
        read_fsd50k(root)


# ---------------------------------------------------------------------- AudioSet

OFFICIAL = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=2, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
a_b-c_d-e_f, 0.000, 9.500, "/m/09x0r"
Yabcdefghij, 100.000, 110.000, "/m/06mb1"
"""
HEADER = """YTID,start_seconds,end_seconds,positive_labels
--PJHxphWEs,30.000,40.000,"/m/09x0r,/t/dd00088"
a_b-c_d-e_f,0.000,9.500,"/m/09x0r"
Yabcdefghij,100.000,110.000,"/m/06mb1"
"""


@pytest.mark.parametrize("text", [OFFICIAL, HEADER, OFFICIAL[OFFICIAL.index("--PJ") :]])
def test_audioset_lists_with_comments_with_a_header_and_bare(tmp_path, text):
    (tmp_path / "balanced_train_segments.csv").write_text(text)
    touch(tmp_path / "audio" / "--PJHxphWEs.wav")
    (path,) = find_lists(tmp_path / "audio")
    listing = read_audioset(tmp_path / "audio", [str(path)])
    assert listing.clips.labels == [("Speech", "Gush")]
    table = listing.clips.table
    assert table[["name", "split", "mids"]].to_numpy().tolist() == [
        ["--PJHxphWEs", "balanced", "/m/09x0r,/t/dd00088"]
    ]
    assert table[["segment_start", "segment_end", "start"]].to_numpy().tolist() == [[30, 40, 0]]
    assert np.isnan(table["end"]).all()
    assert listing.listed == {"balanced": 3}
    assert [tuple(m) for m in listing.missing] == [
        ("a_b-c_d-e_f", "balanced", 0.0, 9.5),
        ("Yabcdefghij", "balanced", 100.0, 110.0),
    ]
    assert not listing.oddities
    assert len(listing.vocabulary) == 527


@pytest.mark.parametrize(
    "name",
    [
        "--PJHxphWEs.wav",
        "--PJHxphWEs_30.000.wav",
        "--PJHxphWEs_30.wav",
        "Y--PJHxphWEs.wav",
        "Y--PJHxphWEs_30000_40000.flac",
        "--PJHxphWEs_30000_40000.flac",
        "--PJHxphWEs_30.000_40.000.mkv",
        "--PJHxphWEs_30.000,40.000.ogg",
        "--PJHxphWEs-30-40.opus",
        "--PJHxphWEs_000030.mp4",
        "deep/er/--PJHxphWEs.m4a",
        "A title [--PJHxphWEs].webm",
    ],
)
def test_clips_are_found_under_all_usual_names(tmp_path, name):
    (tmp_path / "eval_segments.csv").write_text(OFFICIAL)
    place = touch(tmp_path / name)
    listing = read_audioset(tmp_path, [str(tmp_path / "eval_segments.csv")])
    assert listing.clips.paths == [place]
    assert listing.clips.table["name"].tolist() == ["--PJHxphWEs"]


def test_ids_that_look_like_prefixes_or_times(tmp_path):
    (tmp_path / "eval_segments.csv").write_text(OFFICIAL)
    for name in ("Yabcdefghij.wav", "a_b-c_d-e_f_0.000.wav", "YYabcdefghij_100.flac", "zzz.wav"):
        touch(tmp_path / name)
    touch(tmp_path / "--PJHxphWEs_70.wav")  # another segment of that video
    listing = read_audioset(tmp_path, [f"mine={tmp_path / 'eval_segments.csv'}"])
    assert [path.name for path in listing.clips.paths] == [
        "a_b-c_d-e_f_0.000.wav",
        "Yabcdefghij.wav",  # lossless, and first by name
    ]
    assert set(listing.clips.table["split"]) == {"mine"}
    assert odd(listing) == {
        "sounds that no list names": 1,
        "sounds of listed videos, but of other segments": 1,
        "clips that are here several times (one is taken)": 1,
    }
    assert list(segment_names("Yabcdefghij")) == [("Yabcdefghij", ())]
    assert list(segment_names("zzz")) == []


def test_segments_are_cut_out_of_whole_videos(tmp_path):
    rows = OFFICIAL + '--PJHxphWEs, 60.000, 70.000, "/m/06mb1"\n'
    (tmp_path / "eval_segments.csv").write_text(rows)
    touch(tmp_path / "--PJHxphWEs.m4a")
    lists = [str(tmp_path / "eval_segments.csv")]
    listing = read_audioset(tmp_path, lists, whole_videos=True)
    assert listing.clips.table[["start", "end"]].to_numpy().tolist() == [[30, 40], [60, 70]]
    with pytest.raises(ClipsError, match="none of the 4 clips"):  # which of the two it is
        read_audioset(tmp_path, lists)


def test_what_is_odd_in_audioset_is_counted(tmp_path):
    bad = '--PJHxphWEs, 30.000, 40.000, "/m/xx"\nshort, 1, 2, "/m/09x0r"\n'
    bad += "a_b-c_d-e_f, 3.000, 1.000, /m/09x0r\na_b-c_d-e_f, x, 1, /m/09x0r\n"
    (tmp_path / "balanced_train_segments.csv").write_text(OFFICIAL + bad)
    (tmp_path / "eval_segments.csv").write_text('a_b-c_d-e_f, 0.000, 9.500, "/m/09x0r"\n')
    touch(tmp_path / "a_b-c_d-e_f.wav")
    listing = read_audioset(tmp_path, sorted(map(str, tmp_path.glob("*_segments.csv")))[::-1])
    assert listing.clips.table["split"].tolist() == ["eval"]
    assert listing.listed == {"balanced": 2, "eval": 1}
    assert odd(listing) == {
        "rows that cannot be understood": 3,
        "labels outside the vocabulary, left out": 1,
        "clips left out: no label of theirs is in the vocabulary": 1,
        "clips listed in two splits": 1,
    }


def test_what_is_no_list_of_segments_is_one_line(tmp_path):
    with pytest.raises(ClipsError, match="no list of segments"):
        find_lists(tmp_path)
    (tmp_path / "a.csv").write_text("path,labels\nx.wav,Dog\n")
    with pytest.raises(ClipsError, match="is no list of AudioSet segments"):
        read_audioset(tmp_path, [str(tmp_path / "a.csv")])
    with pytest.raises(ClipsError, match="cannot be read as a list"):
        read_audioset(tmp_path, [str(tmp_path / "b.csv")])
    (tmp_path / "a.csv").write_text(OFFICIAL)
    with pytest.raises(ClipsError, match="no such folder"):
        read_audioset(tmp_path / "none", [str(tmp_path / "a.csv")])


def test_the_real_lists_with_one_clip_in_a_hundred(shared_data, tmp_path):
    lists = [
        str(shared_data / "labels" / f"audioset_{part}_segments.csv")
        for part in ("balanced_train", "eval")
    ]
    import csv

    here = {}
    for split, path in zip(("balanced", "eval"), lists, strict=True):
        with open(path, newline="") as file:
            rows = list(csv.reader(file))[1::100]
        here[split] = len(rows)
        for number, (name, start, end, _) in enumerate(rows):
            times = f"_{1000 * float(start):.0f}_{1000 * float(end):.0f}" if number % 2 else ""
            touch(tmp_path / name[:1] / f"{'Y' * (number % 3 == 0)}{name}{times}.wav")
    listing = read_audioset(tmp_path, lists)
    assert here == {"balanced": 222, "eval": 204}
    assert listing.listed == {"balanced": 22160, "eval": 20371}
    assert len(listing.clips) == 222 + 204
    assert len(listing.missing) == 22160 + 20371 - 426
    assert listing.clips.table["split"].value_counts().to_dict() == here
    assert not listing.oddities


def test_a_list_of_200_000_rows_takes_seconds(tmp_path):
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"))
    ids = ["".join(row) for row in letters[random.integers(0, 64, (200_000, 11))]]
    mids = [mid for mid in Vocabulary.audioset().mids if mid]
    rows = [f'{name}, {i % 500}.000, {i % 500 + 10}.000, "{mids[i % 527]},{mids[i % 101]}"'
            for i, name in enumerate(ids)]  # fmt: skip
    (tmp_path / "unbalanced_train_segments.csv").write_text("\n".join(rows))
    for name in ids[::100]:
        touch(tmp_path / "audio" / f"{name}.wav")
    begin = time.process_time()
    listing = read_audioset(tmp_path, [str(tmp_path / "unbalanced_train_segments.csv")])
    seconds = time.process_time() - begin
    assert (len(listing.clips), listing.listed) == (2000, {"unbalanced": 200_000})
    assert seconds < 20, f"{seconds:.1f} s of processor time; some 3 s are usual"


# ---------------------------------------------------------------------- ESC-50


def test_esc50_and_esc10(tmp_path):
    rows = [
        "1-1-A-0.wav,1,0,dog,True,1,A",
        "2-2-A-14.wav,2,14,chirping_birds,False,2,A",
        "3-3-A-0.wav,3,0,dog,True,3,A",
        "4-4-A-0.wav,²,0,dog,True,3,A",  # a digit, for Python, that is no number
    ]
    (tmp_path / "meta").mkdir()
    header = "filename,fold,target,category,esc10,src_file,take"
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join([header, *rows]))
    touch(tmp_path / "audio" / "1-1-A-0.wav")
    touch(tmp_path / "audio" / "2-2-A-14.ogg")
    listing = read_esc50(tmp_path)
    table = listing.clips.table
    assert table["fold"].tolist() == [1, 2]
    assert table["category"].tolist() == ["dog", "chirping_birds"]
    assert table["group"].tolist() == ["1", "2"]
    assert listing.clips[1].fold == 2
    assert [m.name for m in listing.missing] == ["3-3-A-0"]
    assert odd(listing) == {"rows that cannot be understood": 1}
    assert read_esc50(tmp_path, only_esc10=True).clips.labels == [("dog",)]
    (tmp_path / "meta" / "esc50.csv").write_text("filename,labels\n")
    with pytest.raises(ClipsError, match="lacks fold, category"):
        read_esc50(tmp_path)
    with pytest.raises(ClipsError, match=r"no meta/esc50\.csv"):
        read_esc50(tmp_path / "audio")


def test_esc10_as_it_lies_here(shared_data):
    listing = read_esc50(shared_data / "esc10", only_esc10=True)
    assert (listing.name, len(listing.clips), len(listing.missing)) == ("ESC-10", 400, 0)
    assert listing.clips.table["fold"].value_counts().to_dict() == dict.fromkeys(range(1, 6), 80)


# ---------------------------------------------------------------------- manifests


def manifest(path, *entries):
    data = [{"wav": str(wav), "labels": labels, "image": 3} for wav, labels in entries]
    path.write_text(json.dumps({"data": data}))
    return str(path)


def test_manifests_with_the_sounds_where_they_say_and_elsewhere(tmp_path):
    sound = touch(tmp_path / "here" / "train" / "1.wav")
    touch(tmp_path / "here" / "eval" / "1.flac")
    train = manifest(tmp_path / "tr.json", (sound, "/m/05tny_,/m/0bt9lr"), ("gone.wav", "/m/06mb1"))
    test = manifest(tmp_path / "ev.json", ("/data/eval/1.wav", "/m/06mb1"))
    listing = read_manifests([f"train={train}", test])
    assert listing.clips.labels == [("Bark", "Dog")]
    assert listing.clips.table["mids"].tolist() == ["/m/05tny_,/m/0bt9lr"]
    assert listing.listed == {"train": 2, "ev": 1}
    assert listing.vocabulary == Vocabulary.fsd50k()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipsError, match="none of the 2 clips"):
        read_manifests([train], audio=tmp_path / "empty")
    moved = read_manifests([f"train={train}", f"eval={test}"], audio=tmp_path / "here")
    assert [path.name for path in moved.clips.paths] == ["1.wav", "1.flac"]
    assert [m.name for m in moved.missing] == ["gone.wav"]
    for order in ([f"eval={train}", f"train={train}"], [f"train={train}", f"eval={train}"]):
        assert read_manifests(order).clips.column("split").tolist() == ["eval"]
    big = manifest(tmp_path / "as.json", (sound, "/t/dd00088"))
    assert read_manifests([big]).vocabulary == Vocabulary.audioset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not readable JSON"),
        ("[1]", "is no manifest"),
        ('{"data": []}', "is no manifest"),
        ('{"data": [{"wav": "a.wav"}]}', "clip 1: expected the texts 'wav' and 'labels'"),
        ('{"data": [{"wav": "a.wav", "labels": ["/m/x"]}]}', "clip 1: expected the texts"),
    ],
)
def test_what_is_no_manifest_is_one_line(tmp_path, text, words):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ClipsError) as error:
        read_manifests([str(tmp_path / "m.json")])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_hdf5_without_h5py_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    listed = manifest(tmp_path / "m.json", (touch(tmp_path / "1.h5"), "/m/06mb1"))
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[hdf5\]"'):
        read_manifests([listed])


def test_hdf5_clips(tmp_path):
    h5py = pytest.importorskip("h5py")
    wave = np.linspace(-1, 1, 1000, dtype=np.float32)
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file.create_dataset("audio", data=wave, compression="gzip")
    with h5py.File(tmp_path / "2.h5", "w") as file:
        file.create_dataset("sound", data=wave)
    samples, rate = read_hdf5(tmp_path / "1.h5")
    np.testing.assert_array_equal(samples, wave)
    assert rate == 16_000
    with pytest.raises(AudioError, match="has no dataset 'audio', it holds sound"):
        read_hdf5(tmp_path / "2.h5")
    with pytest.raises(AudioError, match="cannot be read as HDF5"):
        read_hdf5(touch(tmp_path / "3.h5"))
    with pytest.raises(AudioError, match="no such file"):
        read_hdf5(tmp_path / "4.h5")


# ---------------------------------------------------------------------- tables and folders


def test_tables_keep_their_columns_and_count_what_is_missing(tmp_path):
    touch(tmp_path / "a.wav")
    touch(tmp_path / "b.wav")
    rows = ["a.wav,Dog;Whale,ann,train", "b.wav,Whale,ben,train", "c.wav,Rain,ann,train",
            "a.wav,Dog,ann,train", "a.wav,Dog,ann,test"]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(["path,labels,author,split", *rows]))
    vocabulary = Vocabulary.from_names(["Dog", "Rain"])
    listing = read_table(tmp_path / "t.csv", vocabulary)
    table = listing.clips.table
    assert [path.name for path in listing.clips.paths] == ["a.wav"]
    assert table["split"].tolist() == ["test"]
    assert table["author"].tolist() == ["ann"]
    assert [m.name for m in listing.missing] == ["c.wav"]
    assert odd(listing) == {
        "duplicate rows": 1,
        "clips listed in two splits": 1,
        "labels outside the vocabulary, left out": 1,
        "clips left out: no label of theirs is in the vocabulary": 1,
    }
    everything = read_table(tmp_path / "t.csv")
    assert everything.vocabulary.names == ("Dog", "Whale")
    assert len(everything.clips) == 2


def test_folders_of_labels_and_of_splits(tmp_path):
    for place in ("train/Dog/1.wav", "Valid/Dog/2.wav", "test/Rain/deep/3.wav"):
        touch(tmp_path / "split" / place)
    listing = read_folders(tmp_path / "split")
    assert listing.clips.labels == [("Dog",), ("Rain",), ("Dog",)]
    assert sorted(listing.clips.table["split"]) == ["test", "train", "val"]
    touch(tmp_path / "split" / "Cat" / "4.wav")
    labels = {names[0] for names in read_folders(tmp_path / "split").clips.labels}
    assert labels == {"train", "Valid", "test", "Cat"}
    touch(tmp_path / "split" / "5.wav")
    with pytest.raises(ClipsError, match=r"1 sound lies directly.*5\.wav"):
        read_folders(tmp_path / "split")


def test_links_to_folders_are_followed_when_asked_for(tmp_path):
    touch(tmp_path / "far" / "1.wav")
    touch(tmp_path / "near" / "Dog" / "2.wav")
    (tmp_path / "near" / "Cat").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "near")
    assert read_folders(tmp_path / "near").clips.labels == [("Dog",)]
    assert read_folders(tmp_path / "near", links=True).clips.labels == [("Cat",), ("Dog",)]
