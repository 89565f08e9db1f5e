"""The table of clips: every layout, its three-state targets, and what it refuses."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from atgnn.data import Clip, Clips
from atgnn.errors import ClipsError
from atgnn.labels import Ontology, Vocabulary

REPOSITORY = Path(__file__).resolve().parents[1]


def sound(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * 8000), dtype=np.float32), 8000)
    return path


def table(folder: Path, text: str, name: str = "clips.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "c.wav"):
        sound(tmp_path / name)
    return tmp_path


def test_reads_a_csv_with_everything(folder):
    path = table(
        folder,
        "path,labels,unknown,split,fold,start,end,author,mood\n"
        'a.wav,Bark; Dog,Rain,train,1,0.1,0.4,Ann,"calm, dark"\n'
        "b.wav,,,,,,,,\n",
    )
    clips = Clips.read(path)
    assert len(clips) == 2
    assert clips[0] == Clip(
        path=folder / "a.wav",
        labels=("Bark", "Dog"),
        unknown=("Rain",),
        start=0.1,
        end=0.4,
        collection="clips",
        group="Ann",
        split="train",
        fold=1,
    )
    assert clips[0].extra["mood"] == "calm, dark"
    assert clips[1] == Clip(path=folder / "b.wav", labels=(), collection="clips")
    assert [clip.path.name for clip in clips] == ["a.wav", "b.wav"]
    assert list(clips.groups) == ["Ann", str(folder / "b.wav")]


def test_reads_parquet_with_lists_and_tsv(folder):
    rows = {"filename": ["b.wav", "a.wav"], "labels": [["Rain", "Wind"], []], "fold": [2, None]}
    pd.DataFrame(rows).to_parquet(folder / "t.parquet")
    clips = Clips.read(folder / "t.parquet")
    assert clips.labels == [("Rain", "Wind"), ()]
    assert [clip.fold for clip in clips] == [2, None]
    tabs = table(folder, "path\tlabels\na.wav\tBark;Dog\n", "t.tsv")
    assert Clips.read(tabs).labels == [("Bark", "Dog")]


def test_reads_a_folder_of_folders(tmp_path):
    for name in ("Rain/2.wav", "Rain/1.wav", "Bark/deep/er.flac", ".hidden/no.wav"):
        sound(tmp_path / "sounds" / name)
    (tmp_path / "sounds" / "Rain" / "notes.txt").write_text("not a sound")
    clips = Clips.read(tmp_path / "sounds")
    assert [(clip.path.name, clip.labels) for clip in clips] == [
        ("er.flac", ("Bark",)),
        ("1.wav", ("Rain",)),
        ("2.wav", ("Rain",)),
    ]
    assert set(clips.column("collection")) == {"sounds"}


def test_folders_that_divide_are_splits_not_labels(tmp_path):
    for name in ("Train/Rain/1.wav", "val/Bark/deep/2.wav"):
        sound(tmp_path / name)
    clips = Clips.read(tmp_path)
    assert clips.labels == [("Rain",), ("Bark",)]
    assert list(clips.column("split")) == ["train", "val"]


def test_what_need_not_be_labelled(tmp_path):
    sound(tmp_path / "1.wav")
    sound(tmp_path / "Rain" / "2.wav")
    assert Clips.read(tmp_path, labelled=False).labels == [(), ("Rain",)]
    named = table(tmp_path, "path,species\n1.wav,Owl\n", "named.csv")
    with pytest.raises(ClipsError, match="no column 'labels'"):
        Clips.read(named)
    clips = Clips.read(named, labelled=False)
    assert clips.labels == [()]
    assert clips.labelled_by("species").labels == [("Owl",)]
    assert clips.labelled_by("labels") is clips


def test_numbers_are_no_labels_and_endings_may_be_in_capitals(folder):
    pd.DataFrame({"path": ["a.wav"], "labels": [3]}).to_parquet(folder / "n.parquet")
    with pytest.raises(ClipsError, match="expected label names, got 3"):
        Clips.read(folder / "n.parquet")
    assert Clips.read(table(folder, "path\tlabels\na.wav\tA\n", "C.TSV")).labels == [("A",)]


def test_a_csv_table_is_searched_as_a_parquet_table_is(folder):
    written = table(folder, "path,labels,session,loud\na.wav,A,3,True\nb.wav,B,4,False\n")
    kept = pd.read_csv(written)
    kept.to_parquet(folder / "same.parquet")
    for clips in (Clips.read(written), Clips.read(folder / "same.parquet")):
        assert clips.where(session=3).labels == clips.where(session="3").labels == [("A",)]
        assert clips.where(loud=[False]).labels == [("B",)]
        assert not clips.matching(session=[[3], {"a": 1}]).any()
        assert clips.distinct("session") == "3, 4"


@pytest.mark.parametrize("named", ["", "meta/esc50.csv"])
def test_reads_the_esc50_layout(tmp_path, named):
    root = tmp_path / "ESC-50"
    sound(root / "audio" / "1-1-A-0.wav")
    sound(root / "audio" / "2-7-A-1.wav")
    table(
        root,
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-1-A-0.wav,1,0,dog,True,1,A\n2-7-A-1.wav,2,1,rooster,False,7,A\n",
        "meta/esc50.csv",
    )
    clips = Clips.read(root / named)
    assert [(clip.labels, clip.fold, clip.group) for clip in clips] == [
        (("dog",), 1, "1"),
        (("rooster",), 2, "7"),
    ]
    assert clips[0].path == root / "audio" / "1-1-A-0.wav"
    assert len(clips.where(esc10="True")) == 1
    assert clips.vocabulary()[0].mid == "/m/0bt9lr"


def test_reads_the_shared_collections(shared_data):
    """Every clip of every collection, quickly, with the label identifiers of labels.csv."""
    start = time.perf_counter()
    sizes = {"esc10": 400, "cc_sounds": 322, "ambient": 226, "sonicpi": 117}
    clips = Clips.concat([Clips.read(shared_data / name) for name in sizes])
    assert time.perf_counter() - start < 5
    assert {name: len(clips.where(collection=name)) for name in sizes} == sizes
    assert len(clips.vocabulary()) == 92
    assert all(clips.vocabulary().mids)
    assert all(path.is_absolute() and path.is_file() for path in clips.paths)
    esc10 = clips.where(collection="esc10")
    assert [len(esc10.where(fold=fold)) for fold in range(1, 6)] == [80] * 5
    assert clips[0].group == clips[0].extra["author"]


def test_targets_close_over_ancestors_and_keep_the_unknown(folder):
    path = table(
        folder,
        "path,labels,unknown\na.wav,Hi-hat,Rain;Cymbal\nb.wav,Rain,Hi-hat\nc.wav,,Hi-hat;Elsewhere\n",
    )
    clips = Clips.read(path)
    vocabulary = Vocabulary.from_names(["Cymbal", "Dog", "Hi-hat", "Music", "Rain"])
    nan = np.nan
    closed = clips.targets(vocabulary, Ontology.audioset())
    assert closed.dtype == np.float32
    np.testing.assert_array_equal(
        closed, [[1, 0, 1, 1, nan], [nan, 0, nan, nan, 1], [nan, 0, nan, nan, 0]]
    )
    np.testing.assert_array_equal(
        clips.targets(vocabulary), [[nan, 0, 1, 0, nan], [0, 0, nan, 0, 1], [0, 0, nan, 0, 0]]
    )


def test_a_label_outside_the_vocabulary_is_refused_or_counts_through_its_ancestors(folder):
    clips = Clips.read(table(folder, "path,labels\na.wav,Hi-hat\nb.wav,Rain;Oboe\n"))
    vocabulary = Vocabulary.from_names(["Cymbal", "Rain"])
    with pytest.raises(ClipsError, match=r"'Hi-hat' is not among the 2 labels.*1 other label"):
        clips.targets(vocabulary)
    dropped = clips.targets(vocabulary, Ontology.audioset(), outside="drop")
    np.testing.assert_array_equal(dropped, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(clips.targets(vocabulary, outside="drop"), [[0, 0], [0, 1]])


def test_vocabulary_is_sorted_and_never_empty(folder):
    clips = Clips.read(table(folder, "path,labels\na.wav,Rain;Bark\nb.wav,Bark\n"))
    assert clips.vocabulary().names == ("Bark", "Rain")
    with pytest.raises(ClipsError, match="no clip is marked"):
        Clips.read(table(folder, "path,labels\na.wav,\n")).vocabulary()


def test_where_subset_slice_and_concat(folder):
    text = "path,labels,fold,split\na.wav,A,1,train\nb.wav,B,2,test\nc.wav,A,2,\n"
    clips = Clips.read(table(folder, text))
    assert clips.where(fold=2).labels == [("B",), ("A",)]
    assert clips.where(fold=[1, 2], split={"train", "test"}).labels == [("A",), ("B",)]
    assert len(clips.where(fold=7)) == 0
    assert clips.subset([2, 0]).paths == [folder / "c.wav", folder / "a.wav"]
    assert clips.subset(np.array([True, False, True])).labels == [("A",), ("A",)]
    assert clips[1:].labels == [("B",), ("A",)]
    assert clips[-1].path.name == "c.wav"
    other = Clips.read(table(folder, "path,labels\nc.wav,C\n", "other.csv"))
    both = Clips.concat([other, clips])
    assert list(both.column("collection")) == ["other", "clips", "clips", "clips"]
    assert [clip.fold for clip in both] == [None, 1, 2, 2]
    assert [clip.split for clip in both] == [None, "train", "test", None]
    with pytest.raises(ClipsError, match="no column 'mood'; there are: path, labels"):
        clips.where(mood="calm")
    with pytest.raises(ClipsError, match="does not fit 3 clips"):
        clips.subset(np.array([True]))
    with pytest.raises(ClipsError, match="nothing to concatenate"):
        Clips.concat([])


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".tsv"])
def test_write_and_read_again(folder, tmp_path_factory, suffix):
    text = "path,labels,unknown,fold,start,end,author\na.wav,A;B,C,1,0.125,0.5,x\nb.wav,,,,,,\n"
    clips = Clips.read(table(folder, text))
    for place in (folder, tmp_path_factory.mktemp("elsewhere")):
        again = Clips.read(clips.write(place / f"new{suffix}"))
        assert list(again) == list(clips)
    assert "\na.wav" in clips.write(folder / "new.csv").read_text(), "relative below the table"


def test_paths_start_at_the_table_or_an_audio_folder(tmp_path):
    inside = sound(tmp_path / "one" / "audio" / "a.wav")
    assert Clips.read(table(tmp_path / "one", "path,labels\na.wav,A\n")).paths == [inside]
    assert Clips.read(table(tmp_path / "one", "path,labels\naudio/a.wav,A\n")).paths == [inside]
    assert Clips.read(table(tmp_path / "one" / "meta", "path,labels\na.wav,A\n")).paths == [inside]
    anywhere = table(tmp_path / "two", f"path,labels\n{inside},A\n")
    assert Clips.read(anywhere).paths == [inside]


def test_an_excerpt_beyond_its_file_is_refused(folder):
    good = table(folder, "path,labels,start,end\na.wav,A,0.2,0.5\na.wav,A,,0.505\n")
    assert len(Clips.read(good)) == 2
    bad = table(folder, "path,labels,end\na.wav,A,0.4\nb.wav,A,0.6\nc.wav,B,9\n")
    with pytest.raises(ClipsError, match=r"2 clips go beyond .*b.wav, .*0.6 s but lasts 0.500 s"):
        Clips.read(bad)
    with pytest.raises(ClipsError, match="1 clip goes beyond"):
        Clips.read(table(folder, "path,labels,start\na.wav,A,0.7\n"))


def test_files_are_opened_only_for_excerpts(folder):
    (folder / "a.wav").write_text("not a sound")
    Clips.read(table(folder, "path,labels\na.wav,A\n"))
    with pytest.raises(ClipsError, match=r"a\.wav"):
        Clips.read(table(folder, "path,labels,end\na.wav,A,0.1\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,labels\na.wav,A\n", "no column 'path'.*it has: file_name, labels"),
        ("path,tags\na.wav,A\n", "no column 'labels'"),
        ("path,labels\n", "header and no rows"),
        ("", "not a readable .csv table"),
        ("path,labels\na.wav,A\nx.wav,B\ny.wav,B\n", "names 3 sound files, 2 not there, .*x.wav"),
        ("path,labels\n,A\n", "row 1: the path is empty"),
        ("path,labels,fold\na.wav,A,one\n", "row 1: fold is 'one'"),
        ("path,labels,fold\na.wav,A,1.5\n", "row 1: fold is '1.5'"),
        ("path,labels,fold\na.wav,A,inf\n", "row 1: fold is 'inf'"),
        ("path,labels,fold\na.wav,A,1e30\n", "row 1: fold is '1e30'"),
        ("path,labels, path\na.wav,A,b.wav\n", "two columns 'path'"),
        ("path,labels\na.wav,A,\nb.wav,B,\n", "more cells than the header"),
        ("path,labels,start\na.wav,A,soon\n", "row 1: start is 'soon', expected seconds"),
        ("path,labels,end\na.wav,A,inf\n", "row 1: end is 'inf', expected seconds"),
        (
            "path,labels,start,end\na.wav,A,0.3,0.2\n",
            "row 1: an excerpt from 0.3 to 0.2 s is empty",
        ),
        ("path,labels,start\na.wav,A,-1\n", "start must be 0 or more"),
    ],
)
def test_a_bad_table_is_one_line(folder, text, message):
    with pytest.raises(ClipsError, match=message) as caught:
        Clips.read(table(folder, text))
    assert "\n" not in str(caught.value)


def test_bad_places_are_one_line(tmp_path):
    with pytest.raises(ClipsError, match="no table of clips at"):
        Clips.read(tmp_path / "none.csv")
    with pytest.raises(ClipsError, match=r"expected a .csv, .tsv or .parquet"):
        Clips.read(sound(tmp_path / "sound.wav"))
    with pytest.raises(ClipsError, match=r"sound\.wav: put every sound into a folder"):
        Clips.read(tmp_path)
    (tmp_path / "empty" / "Rain").mkdir(parents=True)
    with pytest.raises(ClipsError, match="no clips found"):
        Clips.read(tmp_path / "empty")
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(ClipsError, match=r"not a readable \.parquet table"):
        Clips.read(tmp_path / "bad.parquet")
    (tmp_path / "bytes.csv").write_bytes(b"path,labels\n\xff\xfe,A\n")
    with pytest.raises(ClipsError, match=r"not a readable \.csv table"):
        Clips.read(tmp_path / "bytes.csv")
    with pytest.raises(ClipsError, match="suffix must be"):
        Clips.read(sound(tmp_path / "x" / "A" / "a.wav").parents[1]).write(tmp_path / "t.xlsx")


# The table behind the first shipped model ---------------------------------------------------


@pytest.fixture(scope="module")
def first_edition():
    path = REPOSITORY / "benchmarks" / "everyday" / "clips.py"
    spec = importlib.util.spec_from_file_location("first_edition_clips", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def edition(first_edition, shared_data):
    return first_edition.build(shared_data)


def test_author_names_are_compared_in_one_spelling(first_edition):
    names = first_edition.author_names
    assert names("Digifish music") == names("digifishmusic") == ("digifishmusic",)
    assert names("PSYCHO%20BOOMER") == ("psychoboomer",)
    assert names("cmusounddesign & egomassive") == ("cmusounddesign", "egomassive")
    assert (
        names("InspectorJ (mix by Peter Havran Raven 2236)")[1]
        == (names("Peter Havran (Raven2236)")[0])
    )


def test_connected_follows_chains(first_edition):
    groups = first_edition.connected([["a", 1], ["b", 2], ["c", 1], ["b", 3], ["d", 3]])
    np.testing.assert_array_equal(groups, [0, 1, 0, 1, 1])


def test_spread_keeps_groups_whole_and_traits_even(first_edition):
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), generator.integers(1, 9, 60))
    traits = np.eye(6, dtype=bool)[groups % 6]
    folds = first_edition.spread(groups, traits, 5)
    assert all(len(set(folds[groups == group])) == 1 for group in range(60))
    share = np.array([traits[folds == fold].sum(axis=0) for fold in range(5)]) / traits.sum(axis=0)
    assert share.min() > 0.12
    assert share.max() < 0.28
    np.testing.assert_array_equal(folds, first_edition.spread(groups, traits, 5))


def test_labels_of_eight_authors_and_what_counts_as_one(edition):
    """28 labels have 8 or more authors; 6 of them always occur with a more specific one."""
    assert sum(len(stands) for stands in edition.merged.values()) == 28
    assert len(edition.merged) == 22
    joint = {name: set(stands) for name, stands in edition.merged.items() if len(stands) > 1}
    assert joint == {
        "Bark": {"Bark", "Dog"},
        "Chainsaw": {"Chainsaw", "Power_tool"},
        "Crowing_and_cock-a-doodle-doo": {"Crowing_and_cock-a-doodle-doo", "Chicken_and_rooster"},
        "Helicopter": {"Helicopter", "Aircraft"},
        "Shatter": {"Shatter", "Glass"},
        "Tick": {"Tick", "Clock"},
    }
    assert set(edition.clips.vocabulary().names) == set(edition.merged)


def test_no_author_and_no_source_is_in_two_folds(edition, first_edition):
    seen: dict[object, int] = {}
    for clip in edition.clips:
        owners = [*first_edition.author_names(clip.extra["author"]), ("s", clip.extra["source_id"])]
        for owner in owners:
            assert seen.setdefault(owner, clip.fold) == clip.fold
    assert set(seen.values()) == {1, 2, 3, 4, 5}


def test_every_label_is_in_every_fold(edition):
    targets = edition.clips.targets(edition.clips.vocabulary(), Ontology.audioset())
    folds = edition.clips.table["fold"].to_numpy(dtype=int)
    positives = np.array([(targets[folds == fold] == 1).sum(axis=0) for fold in range(1, 6)])
    assert positives.min() >= 2
    sizes = np.bincount(folds)[1:]
    assert sizes.max() - sizes.min() < 0.1 * sizes.mean()


def test_clips_that_may_not_ship_are_left_out(edition):
    names = {path.name for path in edition.clips.paths}
    assert len(edition.clips) == 1065 - 2
    assert not names & {"1-40730-A-rooster.ogg", "2-96460-A-rooster.ogg"}


def test_unknown_cells_come_from_the_table_and_all_others_are_zero(edition):
    clips = edition.clips
    vocabulary = clips.vocabulary()
    targets = clips.targets(vocabulary, Ontology.audioset())

    def cells(label: str, **where: object) -> np.ndarray:
        rows = clips.where(**where).targets(vocabulary, Ontology.audioset())
        return rows[:, vocabulary.index(label)]

    assert np.isnan(cells("Hi-hat", category="drum_loop")).all()
    assert (cells("Percussion", category="drum_loop") == 1).all()
    assert np.isnan(cells("Rain", collection="ambient", category="wind")).all()
    assert (cells("Rain", category="stream") == 0).all()
    waves = clips.where(category="sea_waves").column("source_id")
    np.testing.assert_array_equal(
        cells("Rain", category="sea_waves"), np.where(waves == "fs213077", np.nan, 0)
    )
    assert np.isnan(cells("Music", source_id="fs88724")).all(), "a cuckoo clock plays"
    assert (cells("Bark", category="baby_cry") == 0).all()
    assert 0.005 < np.isnan(targets).mean() < 0.1
    for labels, unknown in zip(clips.labels, clips.table["unknown"], strict=True):
        assert not set(labels) & set(unknown)


def test_the_table_survives_its_command(first_edition, shared_data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "clips.csv"
    arguments = ["clips.py", "--data", str(shared_data), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert first_edition.main() == 0
    printed = capsys.readouterr().out
    assert "Bark" in printed
    assert "22 labels" in printed
    clips = Clips.read(out)
    assert len(clips) == 1063
    assert len(clips.vocabulary()) == 22
    assert len(set(clips.groups)) > 300
    monkeypatch.setattr(sys, "argv", [*arguments[:2], str(tmp_path), *arguments[3:]])
    assert first_edition.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_row_about_nothing_is_refused(first_edition, shared_data, tmp_path):
    head = "collection,category,source_id,label,reason\n"
    for row, message in (
        ("ambient,winds,,Rain,misspelt\n", "do not exist"),
        ("esc11,,,Rain,misspelt\n", "expected collection"),
        ("esc10,,,,no label\n", "expected collection"),
    ):
        with pytest.raises(ClipsError, match=message):
            first_edition.build(shared_data, table(tmp_path, head + row, "unmarked.csv"))


def test_a_row_is_json_when_asked(folder):
    """`extra` and fields are plain values, fit for a report."""
    clip = Clips.read(table(folder, "path,labels,fold,mood\na.wav,A,1,calm\n"))[0]
    assert json.loads(json.dumps([clip.fold, clip.start, clip.end, clip.extra])) == [
        1,
        0.0,
        None,
        {"mood": "calm"},
    ]


# ---------------------------------------------------------------------- owners of mixtures


def test_mixtures_belong_to_everyone_who_has_a_part(tmp_path):
    rows = ["a.wav,ann", "b.wav,ann;ben", "c.wav,cid", "d.wav,ben;dan", "e.wav,", "f.wav, cid "]
    for row in rows:
        sound(tmp_path / row.split(",")[0])
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(["path,group,labels", *(f"{row},Rain" for row in rows)]))
    clips = Clips.read(table)
    assert clips.owners[:4] == [("ann",), ("ann", "ben"), ("cid",), ("ben", "dan")]
    assert clips.owners[4] == (str(tmp_path / "e.wav"),)
    groups = clips.groups.tolist()
    assert groups[0] == groups[1] == groups[3] == "ann (+2)", "through ben, dan belongs to ann"
    assert groups[2] == groups[5] == "cid"
    assert groups[4] == str(tmp_path / "e.wav")
    without = clips.subset([0, 2, 4])
    assert without.groups.tolist() == ["ann", "cid", str(tmp_path / "e.wav")]
