"""What a run says of itself, and what it refuses to begin."""

import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from run_helpers import tiny_recipe, tone_folders
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.errors import AtgnnWarning, ClipsError, MissingExtraError
from atgnn.training.overlap import check_apart
from atgnn.training.recipe import load_recipe

pytest.importorskip("lightning")
from atgnn.training.curves import draw_curves, read_history
from atgnn.training.environment import git_state
from atgnn.training.folder import RunFolder
from atgnn.training.run import train


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return tone_folders(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def run(sounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_recipe(sounds, "optim.epochs=2"), out)
    return out


# ---------------------------------------------------------------------- the folder


def test_the_readme_tells_what_happened_and_how_to_go_on(run):
    text = (run / "README.md").read_text()
    assert "It is finished. 2 of 2 epochs are complete" in text
    assert "12 clips to train on, 4 to validate, 2 labels" in text
    assert f"atgnn train --out {run} --resume" in text
    assert "best mean average precision in validation: " in text
    for name in ("recipe.yaml", "history.csv", "curves.png", "resume/last.ckpt", "data.json"):
        assert f"`{name}`" in text
        assert (run / name).is_file()
    assert "init.txt" not in text  # which is not there


def test_the_readme_quotes_its_commands_and_lists_kept_epochs(run, tmp_path):
    moved = shutil.copytree(run, tmp_path / "my run")
    (moved / "epochs" / "002").mkdir(parents=True)
    RunFolder(moved, load_recipe(run / "recipe.yaml")).tell("It is finished.")
    text = (moved / "README.md").read_text()
    assert f"atgnn train --out '{moved}' --resume" in text
    assert f"--model '{moved}/model'" in text
    assert "- `epochs/`: " in text


def test_environment_and_data_are_written_down(run):
    (start,) = json.loads((run / "environment.json").read_text())["starts"]
    assert start["packages"]["torch"]
    assert start["processor"]["threads"] >= 1
    assert start["processes"] == {"devices": 1, "nodes": 1, "started_by": "atgnn"}
    data = json.loads((run / "data.json").read_text())
    assert data["training"]["clips"] == 12
    assert data["training"]["digest"] != data["validation"]["digest"]


def test_git_state_names_commit_and_changed_files(tmp_path):
    assert git_state(str(tmp_path)) is None

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "a.txt").write_text("one")
    git("add", "a.txt")
    git("commit", "-qm", "first")
    clean = git_state(str(tmp_path))
    assert len(clean["commit"]) == 40
    assert clean["changed_files"] == []
    (tmp_path / "a.txt").write_text("two")
    (tmp_path / "untracked.txt").write_text("")
    assert git_state(str(tmp_path)) == {**clean, "changed_files": ["a.txt"]}


def test_curves_are_drawn_from_the_history(run, tmp_path):
    columns = read_history(run / "history.csv")
    assert columns["epoch"] == [1, 2]
    assert all(np.isfinite(columns["learning_rate"]))
    picture = tmp_path / "curves.png"
    draw_curves(run / "history.csv", picture)
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    history = tmp_path / "history.csv"
    history.write_text("epoch,train_loss,val_loss\n1,0.5,\n2,0.25,\n")  # nothing was validated
    draw_curves(history, picture)
    assert picture.read_bytes() != first


def test_a_resumed_run_repeats_rows_and_keeps_an_older_header(tmp_path):
    folder = RunFolder(tmp_path, None)
    folder.tell = lambda state: None
    (tmp_path / "history.csv").write_text("epoch,train_loss\n1,0.5\n2,0.4\n3,0.3\n")
    folder.add_epoch({"epoch": 2, "train_loss": 0.45, "learning_rate": 1})
    assert (tmp_path / "history.csv").read_text() == "epoch,train_loss\n1,0.5\n2,0.45\n"


# ---------------------------------------------------------------------- the command


def test_the_command_resumes_by_the_folder_alone(run):
    result = CliRunner().invoke(app, ["train", "--out", str(run), "--resume"])
    assert result.exit_code == 0
    assert f"The model is in {run}/model" in result.stdout
    assert len(json.loads((run / "environment.json").read_text())["starts"]) >= 2


def test_the_command_says_what_it_misses(run, tmp_path):
    for arguments, words in (
        (["--out", str(tmp_path / "new")], "a new run needs a recipe"),
        (["--out", str(tmp_path / "new"), "--resume"], "nothing to resume"),
        (["--out", str(run), "--resume", "--set", "seed=9"], "seed=1 (now 9)"),
        (["folder", "--out", str(tmp_path / "new"), "--devices", "many"], "scale.devices"),
    ):
        result = CliRunner().invoke(app, ["train", *arguments])
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


# ---------------------------------------------------------------------- both sides


def table(folder, rows):
    for name in {row.split(",")[0] for row in rows}:
        (folder / name).write_bytes(b"")
    path = folder / "clips.csv"
    path.write_text("\n".join(["path,labels,start,end,author", *rows]))
    return path


def clips(folder, rows):
    return Clips._from_file(table(folder, rows), "test")[0]


def test_a_sound_on_both_sides_is_refused(tmp_path):
    both = clips(tmp_path, ["a.wav,x,0,5,", "a.wav,x,5,9,", "a.wav,x,4,,", "b.wav,x,,,"])
    check_apart(both[:1], both[1:2])  # one after the other
    check_apart(both[:1], both[3:])
    for one, other in ((both[:1], both[2:3]), (both[2:], both[3:]), (both[1:2], both[2:3])):
        with pytest.raises(ClipsError, match="1 recording is both trained and validated on"):
            check_apart(one, other)


def test_authors_on_both_sides_are_warned_of(tmp_path):
    rows = ["a.wav,x,,,Ann", "b.wav,x,,,Bob", "c.wav,x,,,Ann", "d.wav,x,,,", "e.wav,x,,,Cy;Bob"]
    some = clips(tmp_path, rows)
    with pytest.warns(AtgnnWarning, match="1 author .* Bob say"):
        check_apart(some[1:2], some[4:])  # one of the two whose sounds are mixed there
    some = some[:4]
    with pytest.warns(AtgnnWarning, match="1 author .* Ann say"):
        check_apart(some[:2], some[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_apart(some[1:2], some[2:])


def test_a_run_refuses_a_clip_that_is_in_two_folds(sounds, tmp_path):
    path = tmp_path / "clips.csv"
    rows = [f"{sounds}/high/{i}.wav,high,{i % 4}" for i in range(8)]
    path.write_text("\n".join(["path,labels,fold", *rows, f"{sounds}/high/0.wav,high,1"]))
    with pytest.raises(ClipsError, match=r"both trained and validated on.*0\.wav"):
        train(tiny_recipe(path, "data.validation={fold: 1}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- loggers


def test_no_loggers_leave_no_logs(sounds, run, tmp_path):
    assert list((run / "logs").glob("events*"))
    train(tiny_recipe(sounds, "optim.epochs=1", "loggers=[]"), tmp_path / "run")
    assert not (tmp_path / "run" / "logs").exists()


def test_wandb_is_an_extra(sounds, tmp_path, monkeypatch):
    import lightning.pytorch.loggers.wandb as module

    monkeypatch.setattr(module, "_WANDB_AVAILABLE", False)
    with pytest.raises(MissingExtraError, match=r"pip install \"\.\[wandb\]\""):
        train(tiny_recipe(sounds, "loggers=[wandb]"), tmp_path / "run")


@pytest.mark.slow
def test_weights_and_biases_without_a_network(sounds, tmp_path):
    """In a process of its own: wandb starts a service beside it."""
    pytest.importorskip("wandb")
    recipe = tiny_recipe(sounds, "optim.epochs=1", "loggers=[tensorboard, wandb]")
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    out = tmp_path / "run"
    command = [sys.executable, "-m", "atgnn", "train", str(tmp_path / "r.yaml"), "--out", str(out)]
    done = subprocess.run(
        command,
        env={**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    identity = (out / "wandb-id.txt").read_text().strip()
    assert list((out / "wandb").glob(f"offline-run-*-{identity}/*.wandb"))
    assert list((out / "logs").glob("events*"))
