"""The score file: what is written comes back, rows and labels are found or missed by name."""

import json
import math

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from helpers import LABELS, sound, tiny_checkpoint, write
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms
from atgnn.errors import AtgnnError, AtgnnWarning, AudioError
from atgnn.files import new_file
from atgnn.scoring import ScoresError, ScoreTable
from atgnn.tagger import Excerpt, Tagger


@pytest.fixture(scope="module")
def tagger():
    return Tagger(tiny_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rows = ["path,labels,start,end"]
    for index, (start, end) in enumerate((("", ""), (0.5, 1.5), ("", 2))):
        write(folder / f"{index}.wav", sound(2.5, seed=index))
        rows.append(f"{index}.wav,Dog,{start},{end}")
    (folder / "clips.csv").write_text("\n".join([*rows, "0.wav,Dog,1,"]) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def scores(tagger, table):
    return ScoreTable.of(tagger, Clips.read(table), source="a test")


def made(values=None, labels=("a", "b"), paths=("x.wav", "y.wav"), **more):
    values = np.full((len(paths), len(labels)), 0.5) if values is None else values
    ends = more.pop("ends", [math.nan] * len(paths))
    return ScoreTable(paths, [0.0] * len(paths), ends, labels, values, **more)


def clips_of(paths, folder):
    for path in paths:
        write(folder / path)
    (folder / "c.csv").write_text("path,labels\n" + "".join(f"{path},a\n" for path in paths))
    return Clips.read(folder / "c.csv")


def test_scores_are_the_tagger_s(scores, tagger, table):
    clips = Clips.read(table)
    expected = [tagger.scores(Excerpt(c.path, c.start, c.end)) for c in clips]
    np.testing.assert_allclose(scores.values, expected, atol=1e-5)
    assert scores.labels == LABELS
    assert scores.values.dtype == np.float32
    np.testing.assert_array_equal(scores.starts, [0, 0.5, 0, 1])
    np.testing.assert_array_equal(scores.ends, [math.nan, 1.5, 2, math.nan])


def test_what_is_written_comes_back(scores, tmp_path):
    again = ScoreTable.read(scores.write(tmp_path / "new" / "s.parquet"))
    np.testing.assert_array_equal(again.values, scores.values)
    np.testing.assert_array_equal(again.ends, scores.ends)
    assert (again.paths, again.labels) == (scores.paths, scores.labels)
    assert (again.activation, again.source) == ("sigmoid", "a test")
    plain = pyarrow.parquet.read_table(tmp_path / "new" / "s.parquet")
    assert plain.column_names == ["path", "start", "end", *LABELS]
    assert plain.schema.field("Dog").type == pyarrow.float32()


def test_rows_are_found_in_any_order_and_labels_by_name(scores, table):
    clips = Clips.read(table).subset([3, 0, 0, 2])
    found = scores.aligned(clips, ("Siren", "Dog"))
    np.testing.assert_array_equal(found, scores.values[[3, 0, 0, 2]][:, [4, 2]])


def test_packed_clips_score_as_their_files_do(scores, tagger, table, tmp_path):
    packed = PackedWaveforms.write(Clips.read(table), tmp_path / "packed", 16000)
    of_packed = ScoreTable.of(tagger, packed)
    np.testing.assert_allclose(of_packed.values, scores.values, atol=2e-3)  # 16-bit samples
    np.testing.assert_array_equal(
        of_packed.aligned(Clips.read(table), LABELS), of_packed.values
    )  # the rows keep their names
    some = ScoreTable.of(tagger, packed, only=Clips.read(table).subset([3, 1]))
    np.testing.assert_allclose(some.values, of_packed.values[[3, 1]], atol=1e-5)


@pytest.fixture
def padded(tmp_path):
    """Two clips, bare in one table and between zeros in another."""
    for name, before, after in (("bare", 0, 0), ("padded", 20_000, 9_000)):
        (tmp_path / name).mkdir()
        for index in range(2):
            samples = np.pad(sound(1.5, seed=index), (before, after))
            write(tmp_path / name / f"{index}.wav", samples)
        rows = "".join(f"{index}.wav,{label}\n" for index, label in enumerate(("Dog", "Rain")))
        (tmp_path / name / "clips.csv").write_text(f"path,labels\n{rows}")
    return tmp_path / "bare" / "clips.csv", tmp_path / "padded" / "clips.csv"


def test_silence_at_the_ends_is_left_out_where_asked_for(tagger, padded, tmp_path):
    bare, clips = (Clips.read(table) for table in padded)
    expected = ScoreTable.of(tagger, bare).values
    packed = PackedWaveforms.write(clips, tmp_path / "packed", 16000)
    for opened, near in ((clips, 1e-4), (packed, 2e-3)):
        assert abs(ScoreTable.of(tagger, opened).values - expected).max() > 2 * near
        found = ScoreTable.of(tagger, opened, trim_db=60).values
        np.testing.assert_allclose(found, expected, atol=near)


def test_commands_leave_it_out_too_and_say_so(padded, tmp_path):
    model = str(tiny_checkpoint().save_pretrained(tmp_path / "model"))
    option = ["--trim-silence", "60", "--device", "cpu"]

    def run(*words):
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == 0, result.output
        return result.stdout

    bare, clips = padded
    run("score", model, bare, "--out", tmp_path / "bare.parquet", "--device", "cpu")
    run("score", model, clips, "--out", tmp_path / "trimmed.parquet", *option)
    expected, found = (ScoreTable.read(tmp_path / f"{n}.parquet") for n in ("bare", "trimmed"))
    np.testing.assert_allclose(found.values, expected.values, atol=1e-4)
    assert found.source == f"{model}; clips without silence at their ends (60 dB)"
    write(tmp_path / "none" / "0.wav", np.pad(sound(1.5, seed=7), (20_000, 9_000)))
    background = ["--background", tmp_path / "none"]
    known = json.loads(run("evaluate", model, bare, "--json", "--device", "cpu"))
    report = json.loads(run("evaluate", model, clips, "--json", *background, *option))
    assert report["lwlrap"] == pytest.approx(known["lwlrap"])
    assert "clips without silence at their ends (60 dB)" in report["notes"]
    assert report["background"]["minutes"] == pytest.approx(1.5 / 60, abs=0.02 / 60)
    scores = ["--scores", tmp_path / "bare.parquet", clips, "--trim-silence", "60"]
    result = CliRunner().invoke(app, ["evaluate", *map(str, scores)])
    assert result.exit_code == 2
    assert "--trim-silence does nothing with --scores" in " ".join(result.output.split())


def test_moved_sounds_are_found_by_file_name_with_a_warning(tmp_path):
    old = made([[0.1, 0.2], [0.3, 0.4]], paths=("/old/place/x.wav", "/old/place/y.wav"))
    clips = clips_of(["y.wav", "x.wav"], tmp_path)
    with pytest.warns(AtgnnWarning, match=r"by file name: .*y\.wav was scored as /old/place"):
        np.testing.assert_allclose(old.aligned(clips, ["b"]), [[0.4], [0.2]])


def test_a_name_that_is_not_unique_is_no_match(tmp_path):
    clips = clips_of(["a/x.wav", "b/x.wav"], tmp_path)
    with pytest.raises(ScoresError, match=r"2 of 2 clips have no scores, the first is .*a/x\.wav"):
        made(paths=("/o/x.wav", "/o/y.wav")).aligned(clips, ["a"])
    with pytest.raises(ScoresError, match="no scores"):
        made(paths=("/o/1/x.wav", "/o/2/x.wav")).aligned(clips.subset([0]), ["a"])


def test_missing_rows_and_labels_are_named(scores, table, tmp_path):
    other = clips_of(["z.wav"], tmp_path)
    with pytest.raises(ScoresError, match=r"1 of 1 clip have no scores, the first is .*z\.wav"):
        scores.aligned(other, LABELS)
    with pytest.raises(ScoresError, match=r"lack 2 of 3 labels, .*'Dogs'; did you mean 'Dog'"):
        scores.aligned(Clips.read(table), ("Rain", "Dogs", "Cat"))


def test_one_clip_with_two_scores_is_an_error(tmp_path):
    clips = clips_of(["x.wav"], tmp_path)
    path = str(clips.paths[0])
    assert made(paths=(path, path)).aligned(clips, ["a"]).shape == (1, 1)
    with pytest.raises(ScoresError, match="listed twice"):
        made([[0, 0], [0, 1]], paths=(path, path)).aligned(clips, ["a"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"values": [[0.5, 1.5], [0, 0]]}, "1 of 4 scores are not between 0 and 1.*1.5 for b"),
        ({"values": [[0.5, math.nan], [0, 0]]}, "not between 0 and 1.*nan"),
        ({"values": np.zeros((3, 2))}, "do not fit 2 clips"),
        ({"ends": [1.0]}, "1 ends do not fit 2 clips"),
        ({"labels": ("a", "a")}, "distinct"),
        ({"labels": ("a", "start")}, "not path, start, end"),
        ({"activation": "relu"}, "'relu'"),
    ],
)
def test_what_is_no_table_of_probabilities_is_refused(changes, words):
    with pytest.raises(ScoresError, match=words):
        made(**changes)


def test_files_that_are_not_scores(tmp_path):
    with pytest.raises(ScoresError, match="no score file"):
        ScoreTable.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(ScoresError, match="not a readable Parquet"):
        ScoreTable.read(tmp_path / "text.parquet")
    plain = pyarrow.table({"path": ["a"], "start": [0.0], "end": [1.0], "a": [0.5]})
    about = {"format": "atgnn scores", "version": 1, "labels": ["a", "b"]}
    for content, words in (
        (None, "not one of scores"),
        ({**about, "version": 9}, "version 9"),
        (about, "lacks the column b"),
        ({**about, "labels": ["path"]}, "could not convert string"),
        ({**about, "labels": []}, "at least one"),
    ):
        meta = None if content is None else {"atgnn_scores": json.dumps(content)}
        pyarrow.parquet.write_table(plain.replace_schema_metadata(meta), tmp_path / "p.parquet")
        with pytest.raises(ScoresError, match=words):
            ScoreTable.read(tmp_path / "p.parquet")


def test_nothing_is_written_over_and_a_crash_leaves_the_old_file(tmp_path):
    path = made().write(tmp_path / "s.parquet")
    with pytest.raises(AtgnnError, match=r"exists: .*--force"):
        made().write(path)
    made([[0, 0], [0, 0]]).write(path, force=True)
    assert ScoreTable.read(path).values.max() == 0

    def crash():
        with new_file(path, force=True) as scratch:
            scratch.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert ScoreTable.read(path).values.max() == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.parquet"]
    with pytest.raises(AtgnnError, match="cannot be written"):
        made().write(path / "below" / "s.parquet")


def test_commands_refuse_a_name_before_they_listen(monkeypatch, tmp_path):
    monkeypatch.setattr(ScoreTable, "of", lambda *_, **__: pytest.fail("it listened"))
    for command in (["score", "everyday-mini", "x"], ["ensemble", str(tmp_path)]):
        result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "s.csv")])
        assert result.exit_code == 2
        assert "give a name that ends in .parquet" in result.stderr


def test_a_bad_clip_is_an_error_or_left_out(tagger, tmp_path):
    write(tmp_path / "good.wav", sound(1))
    (tmp_path / "bad.wav").write_text("no sound")
    (tmp_path / "c.csv").write_text("path,labels\nbad.wav,Dog\ngood.wav,Dog\n")
    clips, failures = Clips.read(tmp_path / "c.csv"), []
    with pytest.raises(AudioError):
        ScoreTable.of(tagger, clips)
    scores = ScoreTable.of(tagger, clips, on_failure=failures.append)
    assert [path.rsplit("/")[-1] for path in scores.paths] == ["good.wav"]
    assert "bad.wav" in str(failures[0].path)
    with pytest.raises(ScoresError, match="none of 1"):
        ScoreTable.of(tagger, clips.subset([0]), on_failure=failures.append)


def test_the_command(table, tmp_path):
    model = tiny_checkpoint().save_pretrained(tmp_path / "model")
    out = tmp_path / "s.parquet"
    command = ["score", str(model), str(table), "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "4 clips x 5 labels" in result.output
    assert ScoreTable.read(out).source == str(model)
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "exists" in again.output
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    (table.parent / "bad.wav").write_text("no sound")
    (table.parent / "b.csv").write_text("path\nbad.wav\n0.wav\n")  # labels are not asked for
    command[2] = str(table.parent / "b.csv")
    skipped = CliRunner().invoke(app, [*command, "--force", "--skip-bad"])
    assert skipped.exit_code == 0, skipped.output
    assert "left out: " in skipped.output
    assert "1 clip x" in skipped.output
