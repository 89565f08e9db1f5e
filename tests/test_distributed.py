"""Several processes: each clip once, the same draws, the same losses as one process."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import RATE, sound, write
from run_helpers import tiny_recipe, tone_folders

from atgnn import distributed
from atgnn.distributed import Part
from atgnn.errors import ClipsError, ConfigError
from atgnn.model import layers
from atgnn.training.recipe import ScaleSettings

pytest.importorskip("lightning")
from two_processes import recipe, train_recording

from atgnn.training.cluster import Cluster, find_cluster, was_restarted
from atgnn.training.division import divide
from atgnn.training.loaders import make_loaders
from atgnn.training.loading import ClipDataset, EpochSampler, Loader
from atgnn.training.module import masked_loss

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "5"}
SLURM = {"SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_PROCID": "4", "SLURM_JOB_NAME": "train"}


# ---------------------------------------------------------------------- who is there


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        ({}, {}, Cluster(1, 1, 0)),
        ({}, {"LOCAL_RANK": "0"}, Cluster(1, 1, 0)),
        ({"devices": 2}, {"LOCAL_RANK": "1"}, Cluster(2, 1, 1)),
        ({"devices": 2, "nodes": 3}, {"LOCAL_RANK": "1", "NODE_RANK": "2"}, Cluster(2, 3, 5)),
        ({}, TORCHRUN, Cluster(4, 2, 5, "torchrun")),
        ({"devices": 4, "nodes": 2}, TORCHRUN, Cluster(4, 2, 5, "torchrun")),
        ({"devices": "all"}, SLURM, Cluster(2, 3, 4, "SLURM")),
        ({}, {**SLURM, "SLURM_JOB_NAME": "bash"}, Cluster(1, 1, 0)),
    ],
)
def test_processes_are_those_that_were_started(settings, environment, expected):
    found = find_cluster(ScaleSettings(accelerator="cpu", **settings), environment)
    assert found == expected
    assert found.leads == (found.rank == 0)


def test_processes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="devices is 3, but torchrun started 4"):
        find_cluster(ScaleSettings(accelerator="cpu", devices=3), TORCHRUN)
    with pytest.raises(ConfigError, match="nodes is 2, but SLURM started 3"):
        find_cluster(ScaleSettings(accelerator="cpu", nodes=2), SLURM)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="accelerator is cuda, which is not there"):
            find_cluster(ScaleSettings(accelerator="cuda"), {})


def test_a_restarted_process_knows():
    assert not was_restarted({})
    assert not was_restarted({"SLURM_RESTART_COUNT": "0", "TORCHELASTIC_RESTART_COUNT": "0"})
    assert was_restarted({"SLURM_RESTART_COUNT": "1"})
    assert was_restarted({"TORCHELASTIC_RESTART_COUNT": "2"})


# ---------------------------------------------------------------------- clips


class Sounds(list):
    rate = 100


def dataset(clips):
    waves = Sounds(np.full(50, i, np.int16) for i in range(clips))
    return ClipDataset(waves, np.arange(clips, dtype=np.float32)[:, None])


def seen(loader):
    return [batch.targets[:, 0].tolist() for batch in loader]


@pytest.mark.parametrize("balanced", [False, True])
def test_processes_share_the_batches_of_one(balanced):
    kept = np.arange(1, 24.0) if balanced else None
    sampler = EpochSampler(23, 3, kept)
    whole = seen(Loader(dataset(23), 6, sampler=sampler))
    parts = [
        seen(Loader(dataset(23), 6, workers=rank, sampler=sampler, part=Part(rank, 3)))
        for rank in range(3)
    ]
    assert len(whole) == 3
    assert [a + b + c for a, b, c in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize(("clips", "world"), [(11, 1), (11, 2), (11, 4), (4, 4), (3, 4)])
def test_every_validation_clip_is_somebody_s(clips, world):
    loaders = [Loader(dataset(clips), 4, part=Part(rank, world)) for rank in range(world)]
    for loader in loaders:
        assert len(seen(loader)) == len(loader)
        assert [clip for batch in seen(loader) for clip in batch] == loader.places.tolist()
    places = np.concatenate([loader.places for loader in loaders])
    if clips >= world:
        assert sorted(places) == list(range(clips))
    else:  # a process without clips would not take part in the epoch's end
        assert sorted(places) == sorted([*range(clips)] * world)


def test_a_loader_goes_on_behind_what_was_trained_on():
    loader = Loader(dataset(23), 4, sampler=EpochSampler(23, 3))
    loader.set_epoch(7)
    whole = seen(loader)
    loader.taken = 3
    state = loader.state_dict()
    other = Loader(dataset(23), 4, workers=2, sampler=EpochSampler(23, 3))
    other.load_state_dict(state)
    assert seen(other) == whole[3:]
    assert len(other) == 5
    other.set_epoch(7)
    assert seen(other) == whole


def test_batches_that_cannot_be_shared_are_refused(tmp_path):
    chosen = tiny_recipe(tone_folders(tmp_path))
    division = divide(chosen)
    with pytest.raises(ConfigError, match="batch_size 4 cannot be shared by 3 processes"):
        make_loaders(chosen, division, Part(0, 3))
    with pytest.raises(ClipsError, match="12 training clips are too few for 16 processes"):
        make_loaders(tiny_recipe(tmp_path, "optim.batch_size=16"), division, Part(0, 16))
    loader, _ = make_loaders(tiny_recipe(tmp_path, "optim.batch_size=16"), division, Part(1, 8))
    assert (loader.batch_size, len(loader)) == (8, 1)  # 12 clips: one batch of eight


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_the_mean_of_processes_losses_is_the_loss_of_all_known_cells(task, monkeypatch):
    generator = torch.manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, requires_grad=True)
    targets = torch.eye(3)[torch.randint(3, (6,), generator=generator)]
    targets[0] = targets[1, :] = torch.nan  # nearly all unknown cells in the first half
    targets[4, 1] = torch.nan
    whole = masked_loss(logits, targets, task)
    (gradient,) = torch.autograd.grad(whole, logits)
    halves = slice(0, 3), slice(3, 6)
    known = ~targets.isnan() if task == "multi_label" else ~targets.isnan().any(1)
    mean = torch.tensor([known[half].sum() for half in halves]).float().mean()
    monkeypatch.setattr("atgnn.training.module.mean_over_processes", lambda count: mean)
    losses = [masked_loss(logits[half], targets[half], task, shared=True) for half in halves]
    together = sum(losses) / 2
    assert together.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(together, logits)[0], gradient)


# ---------------------------------------------------------------------- two processes


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """20 clips to train on and 5 to validate, of unequal lengths, with unknown cells in some."""
    folder = tmp_path_factory.mktemp("clips")
    rows = ["path,labels,unknown,split"]
    for i in range(25):
        write(folder / f"{i}.wav", sound(0.25 + 0.05 * (i % 6), RATE, seed=i))
        label, unknown = ("high", "low")[i % 2], ("", "other", "high;low;other")[i % 3]
        rows.append(
            f"{i}.wav,{label}{';other' if i % 5 == 0 else ''},{unknown},"
            f"{'val' if i >= 20 else 'train'}"
        )
    path = folder / "clips.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def pair(table, tmp_path_factory):
    """Runs of two processes; their own assertions have passed."""
    out, script = tmp_path_factory.mktemp("pair"), Path(__file__).with_name("two_processes.py")
    port = free_ports(3)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(table), str(out), str(port), str(rank)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n\n".join(errors)
    return out


def free_ports(count):
    """The first of so many ports in a row that nobody listens on now."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
        try:
            for number in range(count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port + number))
        except OSError:
            continue
        return port


def numbers(run):
    lines = (run / "history.csv").read_text().splitlines()[1:]
    return np.array([[float(cell or "nan") for cell in line.split(",")] for line in lines])


def close_runs(one, other):
    history, second = numbers(one), numbers(other)
    assert history.shape[0] == 3
    np.testing.assert_allclose(history, second, atol=1e-4, rtol=0)


def close_gradients(one, other):
    first, second = (torch.load(run / "gradients.pt") for run in (one, other))
    assert first.keys() == second.keys()
    largest = max(float(value.abs().max()) for value in first.values())
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-5 * largest, rtol=1e-4)
    return first


def test_two_processes_with_shared_norms_train_as_one(table, pair, tmp_path):
    train_recording(recipe(str(table)), tmp_path / "one")
    close_gradients(tmp_path / "one", pair / "together")
    close_runs(tmp_path / "one", pair / "together")


def test_two_processes_train_as_one_that_normalises_each_half_by_itself(
    table, pair, tmp_path, monkeypatch
):
    for name in ("normalise", "normalise_gelu_linear"):
        monkeypatch.setattr(layers, name, by_halves(getattr(layers, name)))
    train_recording(recipe(str(table), "scale.sync_norms=false"), tmp_path / "one")
    close_gradients(tmp_path / "one", pair / "apart")
    close_runs(tmp_path / "one", pair / "apart")
    with pytest.raises(AssertionError):  # these checks see what norms do
        close_gradients(pair / "apart", pair / "together")


def by_halves(function):
    """Normalise both halves of a batch apart; running statistics are the first half's."""
    of_linear = function.__name__ == "normalise_gelu_linear"

    def halves(x, norm, *rest):
        linear, mask, gelu = (rest[0], rest[1], ()) if of_linear else (None, rest[0], rest[1:])
        outputs = []
        for own in (slice(0, len(x) // 2), slice(len(x) // 2, None)):
            kept = [buffer.clone() for buffer in norm.buffers()]
            valid = None if mask is None else mask[own]
            more = (linear, valid) if of_linear else (valid, *gelu)
            outputs.append(function(x[own], norm, *more))
            if own.start:
                for buffer, before in zip(norm.buffers(), kept, strict=True):
                    buffer.copy_(before)
        return torch.cat(outputs)

    return halves


# ---------------------------------------------------------------------- from outside


def command(table, out, *more):
    chosen = recipe(str(table))
    file = out.with_suffix(".yaml")
    file.write_text(chosen.to_yaml())
    return ["atgnn", "train", str(file), "--out", str(out), *more]


@pytest.mark.slow
def test_the_command_starts_its_processes(table, pair, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", *command(table, tmp_path / "run", "--devices", "2")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("The model is in") == 1
    close_runs(tmp_path / "run", pair / "together")


@pytest.mark.slow
def test_torchrun_starts_them_and_killed_ones_go_on(table, pair, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-port", str(free_ports(1)), "-m"]
    arguments = command(table, tmp_path / "run", "--set", "scale.checkpoint_steps=1")
    process = subprocess.Popen([*launcher, *arguments], start_new_session=True)
    checkpoint = tmp_path / "run" / "resume" / "last.ckpt"
    while process.poll() is None and not checkpoint.is_file():
        time.sleep(0.002)
    os.killpg(process.pid, 9)
    process.wait()
    assert not (tmp_path / "run" / "model").exists()
    again = subprocess.run([*launcher, *arguments, "--resume"], check=False)
    assert again.returncode == 0
    close_runs(tmp_path / "run", pair / "together")


def test_a_single_process_is_plain():
    rows = torch.ones(3, 2)
    assert distributed.part() == Part()
    assert distributed.gather_rows(rows) is rows
    assert distributed.mean_over_processes(rows) is rows
    assert distributed.largest_over_processes(4) == 4
    drawn = distributed.uniform(3, 2, clips=0, generator=torch.manual_seed(1))
    assert torch.equal(drawn, torch.rand(3, 2, generator=torch.manual_seed(1)))
