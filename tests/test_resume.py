"""A run that stops within an epoch goes on there: the same losses, the same weights."""

import errno
import json
import os
import random
import shutil
import signal
import time

import pytest
import torch
from run_helpers import start, tiny_recipe, tone_folders, weights

from atgnn.errors import AtgnnError, CheckpointError, ConfigError
from atgnn.training.recipe import load_recipe, recipe_of_run

pytest.importorskip("lightning")
from atgnn.training.means import EpochMeans, step_seed
from atgnn.training.module import TaggingModule
from atgnn.training.resume import AtomicCheckpoints
from atgnn.training.run import train


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return tone_folders(tmp_path_factory.mktemp("sounds"))


BUSY = (  # everything that draws
    "augment={stretch: 0.2, equalise_db: 3, noise: 0.5, band_limit: 0.5, frequency_shift: 2,"
    " crop_seconds: 0.4, gain_db: 3, roll: 0.5}",
    "model.drop_path=0.2",
    "data.balanced=true",
    "select=last",
)


@pytest.fixture(scope="module")
def whole(sounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_recipe(sounds, *BUSY), out)
    return out


class Killed(BaseException):
    pass


def die_at(monkeypatch, epoch, step):
    original = TaggingModule.training_step

    def dies(self, batch, number):
        if (self.current_epoch, number) == (epoch, step):
            raise Killed
        return original(self, batch, number)

    monkeypatch.setattr(TaggingModule, "training_step", dies)


def same_run(one, other):
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()
    first, second = weights(one / "model"), weights(other / "model")
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 2), (2, 1), (1, 0)])
def test_within_an_epoch_a_run_goes_on_where_it_was(
    sounds, whole, tmp_path, monkeypatch, epoch, step
):
    recipe = tiny_recipe(sounds, *BUSY, "scale.checkpoint_steps=1", "workers=2")
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        die_at(patch, epoch, step)
        with pytest.raises(Killed):
            train(recipe, run)
    steps = []
    original = TaggingModule.training_step

    def counted(self, batch, number):
        steps.append((self.current_epoch, number))
        return original(self, batch, number)

    monkeypatch.setattr(TaggingModule, "training_step", counted)
    train(recipe, run, resume=True)
    assert steps[0] == (epoch, step)  # nothing twice, nothing left out
    assert len(steps) == 3 * 3 - 3 * epoch - step
    same_run(whole, run)


def test_how_a_run_is_saved_changes_nothing(sounds, whole, tmp_path):
    recipe = tiny_recipe(sounds, *BUSY, "scale.checkpoint_minutes=1e-9", "loggers=[]")
    train(recipe, tmp_path / "run")
    same_run(whole, tmp_path / "run")


def test_minutes_save_within_an_epoch(sounds, tmp_path, monkeypatch):
    run = tmp_path / "run"
    for minutes, place in ((1e-9, 2), (1000, 0)):
        recipe = tiny_recipe(sounds, f"scale.checkpoint_minutes={minutes}")
        with monkeypatch.context() as patch:
            die_at(patch, 1, 2)
            with pytest.raises(Killed):
                train(recipe, run / str(minutes))
        saved = torch.load(run / str(minutes) / "resume" / "last.ckpt", weights_only=True)
        batches = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"]
        assert batches % 3 == place


def test_sigterm_saves_and_ends(sounds, whole, tmp_path, monkeypatch):
    recipe, run = tiny_recipe(sounds, *BUSY), tmp_path / "run"
    original = TaggingModule.training_step

    def asked(self, batch, number):
        if (self.current_epoch, number) == (1, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, number)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(TaggingModule, "training_step", asked)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, run)
    assert signal.getsignal(signal.SIGTERM) == before
    assert "It was interrupted. 1 of 3 epochs" in (run / "README.md").read_text()
    saved = torch.load(run / "resume" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3 + 1
    train(recipe, run, resume=True)
    same_run(whole, run)


# ---------------------------------------------------------------------- what is refused


def test_resume_takes_the_run_s_own_recipe(sounds, whole, monkeypatch, tmp_path):
    own = recipe_of_run(whole, True, [])
    assert own.model["drop_path"] == 0.2
    monkeypatch.chdir(sounds.parent)
    relative = tiny_recipe(sounds.name, *BUSY)  # the same clips, spelled from elsewhere
    assert train(relative, whole, resume=True) == whole / "model"
    assert json.loads((whole / "data.json").read_text())["training"]["clips"] == 12
    with pytest.raises(ConfigError, match=r"a new run needs a recipe: .*esc10"):
        recipe_of_run(whole, False, [])
    with pytest.raises(ConfigError, match="nothing to resume"):
        recipe_of_run(tmp_path, True, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optim.learning_rate=0.5", r"optim\.learning_rate=0\.0\d+ \(now 0\.5\)"),
        ("model.k=5", r"model\.k=3 \(now 5\)"),
        ("data.validation={fold: 3}", r"data\.validation.*fold"),
        ("scale.sync_norms=false", r"scale\.sync_norms=True \(now False\)"),
    ],
)
def test_a_changed_recipe_is_refused_by_the_names_of_its_changes(whole, change, words):
    with pytest.raises(ConfigError, match=words) as error:
        train(recipe_of_run(whole, True, [change]), whole, resume=True)
    assert "\n" not in str(error.value)
    assert "leave recipe and settings out" in str(error.value)


def test_how_a_run_is_computed_may_change(whole):
    changes = ["workers=3", "scale.checkpoint_steps=7", "data.cache_gigabytes=1", "loggers=[]"]
    before = (whole / "history.csv").read_text()
    train(recipe_of_run(whole, True, changes), whole, resume=True)
    assert (whole / "history.csv").read_text() == before
    assert load_recipe(whole / "recipe.yaml").workers == 3


def test_changed_data_are_refused(tmp_path):
    sounds = tone_folders(tmp_path / "sounds")
    recipe = tiny_recipe(sounds, "optim.epochs=1", "loggers=[]")
    train(recipe, tmp_path / "run")
    (sounds / "high" / "0.wav").rename(sounds / "low" / "8.wav")
    with pytest.raises(ConfigError, match="the data are not those") as error:
        train(recipe, tmp_path / "run", resume=True)
    assert "training differ" in str(error.value)
    (sounds / "low" / "8.wav").unlink()
    with pytest.raises(ConfigError, match="training: 12 then, 11 now"):
        train(recipe, tmp_path / "run", resume=True)


def test_moved_data_are_the_same_data(tmp_path):
    sounds = tone_folders(tmp_path / "sounds")
    train(tiny_recipe(sounds, "optim.epochs=1", "loggers=[]"), tmp_path / "run")
    sounds.rename(tmp_path / "elsewhere")
    moved = tiny_recipe(tmp_path / "elsewhere", "optim.epochs=1", "loggers=[]")
    train(moved, tmp_path / "run", resume=True)
    assert "elsewhere" in (tmp_path / "run" / "recipe.yaml").read_text()


# ---------------------------------------------------------------------- a full disk


def full_disk(path):
    from contextlib import contextmanager

    @contextmanager
    def replacing(target):
        assert target.name == path
        with open("/dev/full", "wb") as file:
            yield type("Scratch", (), {"open": lambda self, mode: file})()

    return replacing


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    path, plugin = tmp_path / "resume" / "last.ckpt", AtomicCheckpoints()
    plugin.save_checkpoint({"weights": torch.ones(1000)}, path)
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("atgnn.training.resume.replacing", full_disk("last.ckpt"))
        with pytest.raises(AtgnnError, match=r"No space left.*the one before it is whole") as error:
            plugin.save_checkpoint({"weights": torch.zeros(1_000_000)}, path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_ends_a_run_in_one_line_and_it_goes_on_later(
    sounds, whole, tmp_path, monkeypatch
):
    recipe = tiny_recipe(sounds, *BUSY)
    original = os.fsync
    for name in ("last.ckpt", "history.csv"):
        target = tmp_path / name

        def sync(handle, name=name, target=target):
            written = os.readlink(f"/proc/self/fd/{handle}")
            if f"{name}." in written and (target / "history.csv").is_file():
                raise OSError(errno.ENOSPC, "No space left on device")
            original(handle)

        with monkeypatch.context() as patch:
            patch.setattr("atgnn.files.os.fsync", sync)
            with pytest.raises(AtgnnError, match=r"No space left.*--resume goes on"):
                train(recipe, target)
        train(recipe, target, resume=True)
        same_run(whole, target)


def test_a_damaged_state_is_one_line(whole, sounds, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    state = run / "resume" / "last.ckpt"
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged: delete it"):
        train(tiny_recipe(sounds, *BUSY), run, resume=True)


# ---------------------------------------------------------------------- parts


def test_means_survive_saving():
    means, resumed = EpochMeans(), EpochMeans()
    values = torch.rand(7, generator=torch.manual_seed(0))
    for value in values[:4]:
        means.add("a", value)
    resumed.load_state_dict(means.state_dict())
    for value in values[4:]:
        means.add("a", value)
        resumed.add("a", value)
    assert means.means() == resumed.means()
    assert means.means()["a"] == pytest.approx(values.double().mean().item())
    means.clear()
    assert means.means() == {}


def test_seeds_of_steps_differ():
    seeds = {step_seed(s, e, t) for s in range(20) for e in range(20) for t in range(20)}
    assert len(seeds) == 20**3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


# ---------------------------------------------------------------------- from outside


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(sounds, tmp_path):
    """Within a step, while it saves, while it validates; once while it still starts."""
    more = [
        "--set",
        "scale.checkpoint_steps=1",
        "--set",
        "augment.noise=0.5",
        "--set",
        "loggers=[]",
    ]
    assert start(sounds, tmp_path / "whole", *more).wait() == 0
    run, rng = tmp_path / "run", random.Random(1)
    checkpoint = run / "resume" / "last.ckpt"
    for number in range(5):
        process = start(sounds, run, *more, *(["--resume"] * (number > 0)))
        before = checkpoint.stat().st_mtime_ns if number else 0
        while number != 2 and process.poll() is None:  # until it has got somewhere
            if checkpoint.is_file() and checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, "ended before it was killed"
        process.kill()
        process.wait()
    process = start(sounds, run, *more, "--resume")
    assert process.wait() == 0, process.stderr.read().decode()
    starts = json.loads((run / "environment.json").read_text())["starts"]
    assert len(starts) >= 5
    same_run(tmp_path / "whole", run)
