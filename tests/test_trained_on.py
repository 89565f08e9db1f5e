"""What a model has heard: found again under other names, and said when it is measured on that."""

import json
import shutil

import numpy as np
import pytest
from helpers import LABELS, sound, tiny_checkpoint, write
from run_helpers import tiny_recipe, tone_folders
from typer.testing import CliRunner

from atgnn.calibrate import Background
from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.errors import AtgnnWarning, CheckpointError
from atgnn.evaluate import evaluate
from atgnn.trained_on import Heard, Overlap


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight sounds of four authors."""
    folder = tmp_path_factory.mktemp("sounds")
    for row in range(8):
        write(folder / f"{row}.wav", sound(0.5, seed=row))
    return folder


def table(folder, rows, authors=True, name="t.csv", excerpts=None):
    head = "path,labels" + (",author" if authors else "") + (",start,end" if excerpts else "")
    lines = [head]
    for number, row in enumerate(rows):
        author = f",a{row % 4}" if authors else ""
        place = ",{},{}".format(*excerpts[number]) if excerpts else ""
        lines.append(f"{row}.wav,{LABELS[row % 5]}{author}{place}")
    (folder / name).write_text("\n".join(lines) + "\n")
    return Clips.read(folder / name)


def test_clips_and_authors_are_counted(folder):
    heard = Heard.of(table(folder, [0, 1]))
    assert heard.overlap(table(folder, [0, 1, 4, 6])) == Overlap(4, 2, 1)
    assert heard.overlap(table(folder, [2, 3])) == Overlap(2, 0, 0)
    assert heard.overlap(table(folder, [0, 4], authors=False)) == Overlap(2, 1, 0)


def test_a_sound_is_known_under_another_name_and_another_sound_is_not(folder, tmp_path):
    heard = Heard.of(table(folder, [0, 1], authors=False))
    shutil.copy(folder / "0.wav", tmp_path / "5.wav")  # the same sound, named anew
    write(tmp_path / folder.name / "1.wav", sound(0.5, seed=40))  # another one of the old name
    assert heard.overlap(table(tmp_path, [5], authors=False)) == Overlap(1, 1, 0)
    other = table(tmp_path / folder.name, [1], authors=False)
    assert heard.overlap(other) == Overlap(1, 0, 0)


def test_names_count_where_files_are_gone(folder, tmp_path):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    gone = table(copy, [0, 1, 2], authors=False)
    (copy / "0.wav").unlink()
    here = Heard.of(table(folder, [0, 1, 5], authors=False))
    assert here.overlap(gone) == Overlap(3, 2, 0)
    assert Heard.of(gone).overlap(table(folder, [0, 1, 5], authors=False)) == Overlap(3, 2, 0)


def test_other_excerpts_are_other_clips(folder):
    heard = Heard.of(table(folder, [0, 0], authors=False, excerpts=[(0, 0.2), (0.2, 0.4)]))
    asked = table(folder, [0, 0], authors=False, name="u.csv", excerpts=[(0.2, 0.4), (0.1, 0.3)])
    assert heard.overlap(asked) == Overlap(2, 1, 0)


def test_what_is_said():
    assert Overlap(5, 0, 0).line() == ""
    assert Overlap(1, 1, 0).line() == "the model has learned from 1 of 1 clip: figures flatter it"
    both = Overlap(80, 12, 30).line()
    assert both.startswith("the model has learned from 12 of 80 clips and heard the author or rec")
    assert "of 30 more: figures" in both
    assert "author or recording of 3 of 8 clips: figures" in Overlap(8, 0, 3).line()


def test_it_travels_with_the_weights_in_little_room(folder, tmp_path):
    heard = Heard.of(table(folder, range(8)))
    one = tiny_checkpoint(heard=heard)
    again = Checkpoint.from_pretrained(one.save_pretrained(tmp_path / "m"))
    for part in ("sounds", "names", "owners"):
        np.testing.assert_array_equal(getattr(again.heard, part), getattr(heard, part))
    assert again.heard.complete
    assert (tmp_path / "m" / "heard.safetensors").stat().st_size < 1000
    again.save_pretrained(tmp_path / "m")  # a file of ours: no foreign folder
    assert again.changed(thresholds=(0.5,) * 5).heard is again.heard
    (tmp_path / "m" / "heard.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="damaged: delete it"):
        Checkpoint.from_pretrained(tmp_path / "m")


def test_a_model_that_starts_from_another_has_heard_what_that_has(folder):
    first, second = (Heard.of(table(folder, rows)) for rows in ([0], [1, 2]))
    assert second.joined(first).overlap(table(folder, [0, 1, 2, 3])) == Overlap(4, 3, 0)
    assert first.joined(None) is first


def test_evaluate_says_so_in_one_line(folder, tmp_path):
    asked = table(folder, [0, 1, 2, 3, 4])
    model = tiny_checkpoint(heard=Heard.of(table(folder, [0, 1], name="u.csv")))
    (line,) = [note for note in evaluate(model, asked).notes if "learned" in note]
    assert "2 of 5 clips" in line
    assert not any("learned" in note for note in evaluate(tiny_checkpoint(), asked).notes)
    model.save_pretrained(tmp_path / "m")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "m"), str(folder / "t.csv")])
    assert " ".join(result.stdout.split()).count("learned from 2 of 5 clips") == 1
    result = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "m"), str(folder / "t.csv"), "--json"]
    )
    assert line in json.loads(result.stdout)["notes"]


def test_background_that_a_model_learned_from_is_named(folder):
    clips = Clips(table(folder, [0, 1]).table.assign(labels=[(), ()]))
    model = tiny_checkpoint(heard=Heard.of(clips))
    with pytest.warns(AtgnnWarning, match="background: .* learned from 2 of 2 clips"):
        Background.of(model, clips)


def test_a_run_notes_its_training_clips_alone(tmp_path):
    pytest.importorskip("lightning")
    from atgnn.training.run import train

    sounds = tone_folders(tmp_path / "sounds")
    recipe = tiny_recipe(sounds, "optim.epochs=1", "loggers=[]", "select=last", "keep_epochs=1")
    model = Checkpoint.from_pretrained(train(recipe, tmp_path / "first"))
    found = model.heard.overlap(Clips.read(sounds))
    assert found == Overlap(16, 12, 0)  # a quarter is held out
    assert Checkpoint.from_pretrained(tmp_path / "first" / "epochs" / "001").heard is not None
    other = tone_folders(tmp_path / "other")
    for path in other.rglob("*.wav"):
        write(path, sound(0.5, seed=100 + int(path.stem)))
    more = tiny_recipe(other, "optim.epochs=1", "loggers=[]", f"init={tmp_path / 'first/model'}")
    tuned = Checkpoint.from_pretrained(train(more, tmp_path / "second"))
    assert tuned.heard.overlap(Clips.read(sounds)) == found
