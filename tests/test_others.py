"""Scores of other tools become ours: in every form they come in, for the labels that are meant."""

import io
import json
import pickle
import re
import sys

import h5py
import numpy as np
import pandas
import pytest
import torch
from helpers import sound, write
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.errors import LabelError, MissingExtraError
from atgnn.labels import Label, Ontology, Vocabulary
from atgnn.others import LabelMap, import_scores, read_labels, target_labels
from atgnn.others.names import clips_named, read_names
from atgnn.scoring import ScoresError, ScoreTable

AUDIOSET, FSD50K = Vocabulary.audioset(), Vocabulary.fsd50k()
NAMES = ("a.wav", "b.wav", "c.wav")


@pytest.fixture
def logits():
    """(3, 527), between about -6 and 6."""
    return np.random.default_rng(0).normal(-2, 2, (3, 527)).astype(np.float32)


@pytest.fixture
def scores(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.fixture
def names(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path / "names.txt"


def column(table, name):
    return table.values[:, table.labels.index(name)]


# --- files -----------------------------------------------------------------------------------


def test_teacher_predictions_as_efficientat_and_passt_have_them(tmp_path, logits, scores):
    np.save(tmp_path / "passt.npy", logits.astype(np.float16))
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps({"b.wav": 1, "c.wav": 2, "a.wav": 0}))
    found = import_scores([tmp_path / "passt.npy"], names=tmp_path / "rows.pkl", logits=True)
    assert found.table.paths == NAMES
    assert found.table.labels == AUDIOSET.names
    assert found.table.source == "passt"
    np.testing.assert_allclose(found.table.values, scores, atol=2e-3)
    assert "official order" in found.notes[0]


def write_npz(path, scores):
    np.savez(path, clipwise_output=scores, target=np.zeros((3, 527)), audio_name=list(NAMES))


def write_pt(path, scores):
    torch.save({"probs": torch.tensor(scores), "fname": list(NAMES)}, path)


def write_pt_by_name(path, scores):
    torch.save({name: torch.tensor(row) for name, row in zip(NAMES, scores, strict=True)}, path)


def write_h5(path, scores):
    with h5py.File(path, "w") as file:
        file["predictions"] = scores
        file["audio_name"] = [name.encode() for name in NAMES]


def frame(scores):
    table = pandas.DataFrame(scores, columns=list(AUDIOSET.mids))
    table.insert(0, "filename", NAMES)
    return table


@pytest.mark.parametrize(
    ("ending", "writer"),
    [
        ("npz", write_npz),
        ("pt", write_pt),
        ("pth", write_pt_by_name),
        ("h5", write_h5),
        ("csv", lambda path, scores: frame(scores).to_csv(path, index=False)),
        ("tsv", lambda path, scores: frame(scores).to_csv(path, index=False, sep="\t")),
        ("parquet", lambda path, scores: frame(scores).to_parquet(path)),
    ],
)
def test_files_that_name_their_rows(tmp_path, scores, ending, writer):
    writer(tmp_path / f"theirs.{ending}", scores)
    table = import_scores([tmp_path / f"theirs.{ending}"]).table
    assert table.paths == NAMES
    assert table.labels == AUDIOSET.names  # identifiers in the header are spelt as AudioSet does
    np.testing.assert_allclose(table.values, scores, atol=1e-6)
    assert np.isnan(table.ends).all()


def test_predictions_as_psla_and_ast_write_them(tmp_path, scores):
    """Numbers alone, in the order of the manifest."""
    np.savetxt(tmp_path / "predictions_1.csv", scores, delimiter=",")
    manifest = {"data": [{"wav": f"/old/{name}", "labels": "/m/0bt9lr"} for name in NAMES]}
    (tmp_path / "eval.json").write_text(json.dumps(manifest))
    found = import_scores([tmp_path / "predictions_1.csv"], names=tmp_path / "eval.json")
    assert found.table.paths == tuple(f"/old/{name}" for name in NAMES)
    np.testing.assert_allclose(found.table.values, scores, atol=1e-6)


def write_ced(folder, rows=4, labels=527, kept=20):
    """The best few of rows of excerpts, as CED's save_logits.py leaves them."""
    scores = np.random.default_rng(1).random((rows, labels)).astype(np.float32)
    which = np.argsort(-scores, axis=1)[:, :kept]
    with h5py.File(folder / "logits_ep1_0.h5", "w") as file:
        file["topk_values"] = np.take_along_axis(scores, which, 1).astype(np.float16)
        file["topk_indexes"] = which.astype(np.int16)
        file["seeds"] = np.zeros(rows, np.int32)
    table = {"filename": ["a.wav", "a.wav", "b.wav", "c.wav"]}
    table |= {"start": [0.0, 10.0, 0.0, 0.0], "end": [10.0, 15.0, 10.0, 10.0]}
    pandas.DataFrame(table).to_parquet(folder / "logits_ep1_0.parquet")
    return folder / "logits_ep1_0.h5", scores, which


def test_what_ced_saves(tmp_path):
    path, scores, which = write_ced(tmp_path)
    table = import_scores([path]).table
    assert table.paths == ("a.wav", "a.wav", "b.wav", "c.wav")
    np.testing.assert_array_equal(table.starts, [0, 10, 0, 0])
    best = np.take_along_axis(scores, which, 1)
    np.testing.assert_allclose(np.take_along_axis(table.values, which, 1), best, atol=1e-3)
    others = np.ones_like(scores, bool)
    np.put_along_axis(others, which, False, 1)
    np.testing.assert_allclose(table.values[2][others[2]], best[2].min() / 507, rtol=1e-3)


def test_windows_of_a_clip_become_their_mean_by_length(tmp_path):
    path, _, _ = write_ced(tmp_path)
    each, joined = import_scores([path]).table, import_scores([path], join=True).table
    assert joined.paths == NAMES
    expected = (10 * each.values[0] + 5 * each.values[1]) / 15
    np.testing.assert_allclose(joined.values[0], expected, rtol=1e-5)
    assert (joined.starts == 0).all()
    assert np.isnan(joined.ends).all()


def test_several_files_are_one_table(tmp_path, scores):
    for name, part in (("one", slice(0, 2)), ("two", slice(2, 3))):
        frame(scores)[part].to_csv(tmp_path / f"{name}.csv", index=False)
    table = import_scores([tmp_path / "one.csv", tmp_path / "two.csv"]).table
    assert table.paths == NAMES
    np.testing.assert_allclose(table.values, scores, atol=1e-6)


def test_a_score_file_of_ours_is_mapped(tmp_path):
    ours = ScoreTable(["x.wav"], [1.0], [2.0], ["Dog", "Rain"], [[0.25, 0.5]], "softmax", "us")
    ours.write(tmp_path / "ours.parquet")
    table = import_scores([tmp_path / "ours.parquet"], to=Vocabulary.from_names(["Rain"])).table
    assert (table.labels, table.activation, table.source) == (("Rain",), "softmax", "us")
    assert (table.starts[0], table.ends[0], table.values[0, 0]) == (1, 2, 0.5)


def test_extreme_logits_are_sure(tmp_path, names):
    np.save(tmp_path / "s.npy", np.repeat([[-1000.0], [0.0], [1000.0]], 527, axis=1))
    values = import_scores([tmp_path / "s.npy"], names=names, logits=True).table.values
    np.testing.assert_array_equal(values[:, 0], [0, 0.5, 1])


def test_exclusive_labels(tmp_path, logits, names):
    np.save(tmp_path / "s.npy", logits)
    table = import_scores(
        [tmp_path / "s.npy"], names=names, logits=True, activation="softmax"
    ).table
    assert table.activation == "softmax"
    np.testing.assert_allclose(table.values, torch.tensor(logits).softmax(1).numpy(), atol=1e-6)


# --- labels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mids.txt", "/m/0bt9lr\n/m/06mb1\n"),
        ("indices.txt", "74\n289\n"),
        ("names.txt", "Dog\nRain\n"),
        ("list.json", '["Dog", "/m/06mb1"]'),
        ("config.json", '{"id2label": {"1": "Rain", "0": "Dog"}, "hidden_size": 3}'),
        ("file.csv", "index,mid,display_name\n0,/m/0bt9lr,Dog\n1,/m/06mb1,Rain\n"),
    ],
)
def test_lists_of_labels(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    labels = read_labels(str(tmp_path / name))
    assert labels.names == ("Dog", "Rain")
    assert labels.mids == ("/m/0bt9lr", "/m/06mb1")


def test_the_order_of_a_beats_checkpoint(tmp_path):
    content = {"cfg": {"depth": 1}, "model": {}, "label_dict": {0: "/m/06mb1", 1: "/m/0bt9lr"}}
    torch.save(content, tmp_path / "BEATs.pt")
    assert read_labels(str(tmp_path / "BEATs.pt")).names == ("Rain", "Dog")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("two.txt", "Chirp, tweet\nChirp_and_tweet\n", "both /m/07pggtn .*which of them"),
        ("two.txt", "Dog\nDog\n", "'Dog' is listed twice"),
        ("far.txt", "3\n527\n", "527 is no index of AudioSet's 527 classes"),
        ("none.txt", "\n", "names no labels"),
        ("text.json", '"Dog"', "no list of labels"),
        ("gap.json", '{"0": "Dog", "2": "Rain"}', "keys must be 0, 1, 2"),
        ("bad.json", "[", "cannot read the list"),
    ],
)
def test_what_is_no_list_of_labels(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelError, match=words) as caught:
        read_labels(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_labels_in_a_damaged_checkpoint(tmp_path):
    (tmp_path / "BEATs.pt").write_bytes(b"\x80\x02.")
    with pytest.raises(LabelError, match=r"BEATs\.pt: cannot be read as tensors alone"):
        read_labels(str(tmp_path / "BEATs.pt"))


def test_a_list_that_is_not_there():
    with pytest.raises(LabelError, match="give audioset, fsd50k or a file"):
        read_labels("no-such-list")


def test_target_labels_may_be_those_of_a_model():
    assert "Rain" in target_labels("everyday-mini").names


# --- label maps ------------------------------------------------------------------------------


def test_audioset_columns_for_fsd50k():
    found = LabelMap.of(AUDIOSET, FSD50K)
    both = [label for label in FSD50K if label.mid in set(AUDIOSET.mids)]
    assert list(found.columns) == [label.name for label in both]
    for label in both:
        (at,) = found.columns[label.name]
        assert AUDIOSET[at].mid == label.mid
    assert set(found.lacking) == {one.name for one in FSD50K} - {one.name for one in both}
    assert "Human_voice" in found.lacking
    assert len(found.unused) == len(AUDIOSET) - len(both)


def test_filling_takes_the_highest_score_below():
    found = LabelMap.of(AUDIOSET, FSD50K, fill=True)
    assert "Human_voice" in found.filled
    below = set(Ontology.audioset().descendants("Human voice"))
    expected = [at for at, label in enumerate(AUDIOSET) if label.mid in below]
    assert list(found.columns["Human_voice"]) == expected
    assert "Screech" in found.lacking  # nothing lies below it
    values = np.random.default_rng(0).random((2, 527)).astype(np.float32)
    table = ScoreTable(["a", "b"], [0, 0], [1, 1], AUDIOSET.names, values)
    mapped = found.apply(table)
    np.testing.assert_array_equal(column(mapped, "Human_voice"), values[:, expected].max(1))


def test_exclusive_labels_below_are_summed():
    source = Vocabulary.from_names(["Speech", "Singing", "Rain"])
    target = Vocabulary.from_names(["Human voice", "Rain"])
    table = ScoreTable(["a"], [0], [1], source.names, [[0.5, 0.25, 0.25]], "softmax")
    mapped = LabelMap.of(source, target, fill=True).apply(table)
    np.testing.assert_array_equal(mapped.values, [[0.75, 0.25]])


def test_labels_that_audioset_does_not_know_match_by_name():
    source = Vocabulary.from_names(["my cow", "Dog"])
    found = LabelMap.of(source, Vocabulary.from_names(["my cow", "my horse"]))
    assert dict(found.columns) == {"my cow": (0,)}
    assert found.lacking == ("my horse",)


def test_maps_that_mean_nothing_are_refused():
    with pytest.raises(LabelError, match="none of the 1 label"):
        LabelMap.of(Vocabulary.from_names(["Dog"]), Vocabulary.from_names(["Rain"]))
    twice = Vocabulary([Label(name="bark", mid="/m/05tny_"), Label(name="Bark", mid="/m/05tny_")])
    with pytest.raises(LabelError, match="'bark' and 'Bark' are both"):
        LabelMap.of(Vocabulary.from_names(["Bark"]), twice)


# --- which clip is which row -----------------------------------------------------------------


def clips_at(folder, names):
    for name in names:
        write(folder / name, sound(0.2))
    rows = "".join(f"{name},Dog\n" for name in names)
    (folder / "clips.csv").write_text(f"path,labels\n{rows}")
    return Clips.read(folder / "clips.csv")


@pytest.mark.parametrize("ending", ["txt", "csv", "json", "pkl", "h5", "rows.json"])
def test_lists_of_names(tmp_path, ending):
    path = tmp_path / f"names.{ending}"
    if ending == "txt":
        path.write_text("a.wav\nb.wav\nc.wav\n")
    elif ending == "csv":
        path.write_text("fname,labels\na.wav,Dog\nb.wav,Dog\nc.wav,Dog\n")
    elif ending == "json":
        path.write_text(json.dumps(NAMES))
    elif ending == "rows.json":
        path.write_text(json.dumps({"c.wav": 2, "a.wav": 0, "b.wav": 1}))
    elif ending == "pkl":
        path.write_bytes(pickle.dumps(list(NAMES)))
    else:
        with h5py.File(path, "w") as file:
            file["audio_name"] = [name.encode() for name in NAMES]
            file["target"] = np.zeros((3, 66), np.uint8)
    assert tuple(read_names(path)) == NAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"data": ["a.wav"]}, "needs a 'wav'"),
        ({"a.wav": None}, "rows must be 0, 1, 2"),
        ({"a.wav": 1}, "rows must be 0, 1, 2"),
        (3, "holds no names"),
    ],
)
@pytest.mark.parametrize("ending", ["json", "pkl"])
def test_what_names_no_clips(tmp_path, ending, content, words):
    path = tmp_path / f"names.{ending}"
    path.write_bytes(pickle.dumps(content) if ending == "pkl" else json.dumps(content).encode())
    with pytest.raises(ScoresError, match=words):
        read_names(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return print, ("it ran",)

    (tmp_path / "n.pkl").write_bytes(pickle.dumps([Runs()]))
    with pytest.raises(ScoresError, match=r"holds builtins\.print.*save the names as JSON"):
        read_names(tmp_path / "n.pkl")


def test_names_find_their_clips(tmp_path):
    files = ["x/one.wav", "two.flac", "--4gqARaEJE_10.000.wav"]
    clips = clips_at(tmp_path, files)
    names = ["/old/one.wav", "two", "two.mp3", "Y--4gqARaEJE.mp3", "none.wav"]
    assert clips_named(names, clips) == [0, 1, 1, 2, -1]
    assert clips_named([str(clips.paths[0]), "x/one.wav", "./x/one"], clips) == [0, 0, 0]


def test_folders_tell_files_of_one_name_apart(tmp_path):
    clips = clips_at(tmp_path, ["noise/00.wav", "tone/00.wav"])
    names = ["SOUNDS/tone/00.wav", "noise\\00.wav", "other/00.wav", "00.wav"]
    assert clips_named(names[:3], clips) == [1, 0, -1]
    with pytest.raises(ScoresError, match=r"^00\.wav means 2 of the clips"):
        clips_named(names, clips)


def test_a_folder_that_contradicts_is_another_clip(tmp_path):
    """The scores of tone/00.wav are not those of noise/00.wav, the only 00.wav there is."""
    clips = clips_at(tmp_path, ["noise/00.wav", "tone/01.wav"])
    assert clips_named(["tone/00.wav", "tone/01.wav"], clips) == [-1, 1]
    assert clips_named(["audio/00.wav", "audio/01.wav"], clips) == [0, 1]  # from elsewhere


@pytest.mark.parametrize("header", ["filename", "filename,n", "filename;n", "n\tfilename"])
def test_a_table_of_names_has_any_number_of_columns(tmp_path, header):
    sign = next((sign for sign in ",;\t" if sign in header), ",")
    values = [("a.wav" if part == "filename" else "1") for part in header.split(sign)]
    (tmp_path / "n.csv").write_text(f"{header}\n{sign.join(values)}\n")
    assert read_names(tmp_path / "n.csv") == ["a.wav"]


def test_a_name_of_two_clips_is_refused(tmp_path):
    clips = clips_at(tmp_path, ["x/one.wav", "y/one.wav"])
    with pytest.raises(ScoresError, match=r"one\.wav means 2 of the clips.*with their folders"):
        clips_named(["one.wav"], clips)


def test_excerpts_of_one_file_are_told_apart_by_their_starts(tmp_path):
    write(tmp_path / "long.wav", sound(1))
    (tmp_path / "c.csv").write_text(
        "path,labels,start,end\nlong.wav,Dog,0.5,1\nlong.wav,Dog,0,0.5\n"
    )
    clips = Clips.read(tmp_path / "c.csv")
    (tmp_path / "s.csv").write_text("path,start,end,Dog\nlong.wav,0,0.5,0.1\nlong.wav,0.5,1,0.9\n")
    table = import_scores([tmp_path / "s.csv"], clips=clips).table
    np.testing.assert_allclose(table.aligned(clips, ["Dog"])[:, 0], [0.9, 0.1])


def test_clips_give_the_rows_their_paths(tmp_path, scores):
    clips = clips_at(tmp_path, ["c.flac", "a.flac"])
    frame(scores).to_csv(tmp_path / "s.csv", index=False)
    found = import_scores([tmp_path / "s.csv"], clips=clips)
    assert found.table.paths == tuple(str(tmp_path / name) for name in ("a.flac", "c.flac"))
    assert any("1 row left out" in note and "b.wav" in note for note in found.notes)
    np.testing.assert_allclose(found.table.aligned(clips, ["Dog"])[:, 0], scores[[2, 0], 74])


def test_without_names_rows_are_those_of_the_table(tmp_path, scores):
    clips = clips_at(tmp_path, ["c.wav", "b.wav", "a.wav"])
    np.save(tmp_path / "s.npy", scores)
    table = import_scores([tmp_path / "s.npy"], clips=clips).table
    assert table.paths == tuple(map(str, clips.paths))


# --- what is refused -------------------------------------------------------------------------


def refusal(tmp_path, values, **options):
    np.save(tmp_path / "s.npy", values)
    with pytest.raises((ScoresError, LabelError)) as caught:
        import_scores([tmp_path / "s.npy"], **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_logits_and_probabilities_are_told_apart(tmp_path, logits, scores, names):
    assert "if they are logits, give --logits" in refusal(tmp_path, logits, names=names)
    assert "leave it out" in refusal(tmp_path, scores, names=names, logits=True)
    logits[0, 0] = np.nan
    assert "not finite" in refusal(tmp_path, logits, names=names, logits=True)


def test_what_does_not_fit_is_said(tmp_path, scores, names):
    assert "--names" in refusal(tmp_path, scores)
    assert "527 columns, the list 200" in refusal(tmp_path, scores, names=names, labels="fsd50k")
    assert "3 names, the scores 2 rows" in refusal(tmp_path, scores[:2], names=names)
    assert "does not name them" in refusal(tmp_path, scores[:, :9], names=names)
    assert "numbers of shape (clips, labels)" in refusal(tmp_path, scores[0], names=names)
    assert "none of 3 names is a clip" in refusal(
        tmp_path, scores, names=names, clips=clips_at(tmp_path, ["z.wav"])
    )
    (tmp_path / "names.txt").write_text("a.wav\na.wav\nc.wav\n")
    assert "--join" in refusal(tmp_path, scores, names=names)


def test_a_numpy_file_that_would_run_code_is_refused(tmp_path, names):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ScoresError, match="cannot be read"):
        import_scores([tmp_path / "o.npy"], names=names)


@pytest.mark.parametrize("ending", ["npy", "npz", "pt", "h5", "csv", "parquet"])
def test_damaged_files(tmp_path, ending, names):
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(b"\x00\x01 no such file" * 9)
    with pytest.raises(ScoresError) as caught:
        import_scores([path], names=names)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def zipped(damage):
    """An .npz archive, damaged."""
    file = io.BytesIO()
    np.savez(file, scores=np.ones((3, 66)))
    return damage(file.getvalue())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.npz", zipped(lambda data: data[:-40])),
        ("flipped.npz", zipped(lambda data: data[:300] + b"flip" + data[304:])),
        ("archive.npy", zipped(bytes)),
        ("empty.pt", b"\x80\x02."),
        ("wide.csv", b"x" * 200_000 + b",1\n"),
    ],
)
def test_whatever_a_reader_raises_is_one_line(tmp_path, name, content, names):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScoresError, match=re.escape(name)) as caught:
        import_scores([tmp_path / name], names=names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("package", "name"), [("pandas", "s.csv"), ("h5py", "s.h5")])
def test_without_an_extra_its_name_is_said(tmp_path, monkeypatch, package, name):
    (tmp_path / name).write_text("path,Dog\na.wav,0.5\n")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}: "):
        import_scores([tmp_path / name])


def test_a_torch_file_that_would_run_code_is_refused(tmp_path, names):
    (tmp_path / "m.pt").write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(ScoresError, match="as tensors alone"):
        import_scores([tmp_path / "m.pt"], names=names)


def test_several_arrays_need_a_name(tmp_path, scores, names):
    np.savez(tmp_path / "s.npz", mine=scores, yours=1 - scores)
    with pytest.raises(ScoresError, match="several tables, mine, yours: say which with --array"):
        import_scores([tmp_path / "s.npz"], names=names)
    table = import_scores([tmp_path / "s.npz"], names=names, array="yours").table
    np.testing.assert_allclose(table.values, 1 - scores, atol=1e-6)


def test_other_endings_are_named(tmp_path):
    (tmp_path / "s.xlsx").write_text("x")
    with pytest.raises(ScoresError, match=r"expected a file that ends in \.npy"):
        import_scores([tmp_path / "s.xlsx"])


# --- the command -----------------------------------------------------------------------------


def test_the_command(tmp_path, logits, names):
    np.save(tmp_path / "s.npy", logits)
    out = tmp_path / "s.parquet"
    command = ["import", str(tmp_path / "s.npy"), "--names", str(names), "--logits"]
    command += ["--to", "fsd50k", "--fill", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "3 clips x 196 labels" in result.output
    assert "4 without scores: Crash_cymbal" in result.output
    assert len(ScoreTable.read(out)) == 3
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, again.output.count("\n")) == (2, 1)
    idle = CliRunner().invoke(
        app, ["import", "x.npy", "--out", str(tmp_path / "n.parquet"), "--fill"]
    )
    assert "--fill does nothing without --to" in idle.output
