"""Clips a second that a core gets ready for training: mixed half of the time, in random order.

    python -m benchmarks.speed loader

All make batches of ten-second clips at 16 kHz out of files in the system's cache.

- `packed`: ours, 16-bit samples and what to multiply them with, as the training device gets them.
- `packed, mixed here`: the same, and the float32 waveforms computed on the same core.
- `npy`: a file of 16-bit samples for each clip, mixed in NumPy; `flac`: 44.1 kHz recordings,
  decoded with soundfile, resampled and mixed the same way, every time anew.
- `threads`: ours as a run uses it; `processes`: the same batches through torch's own DataLoader.

A core's rate is clips by processor seconds, worker processes included: what else the machine does
matters less to it than to clips a second on the wall clock.
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from atgnn.data.clips import Clips
from atgnn.data.store import SCALE, PackedWaveforms
from atgnn.data.waveforms import Waveforms
from atgnn.training.loading import ClipDataset, EpochSampler, Loader, collate
from atgnn.training.recipe import AugmentSettings

from .harness import finish, heading, machine, parser, quartiles, table, threads
from .systems import waveform

RATE, NATIVE = 16_000, 44_100
LABELS = 200
RECORDINGS = 48  # compressed ones: they are slow to make, and to read
TARGET = 1000  # clips a second and core


def main(argv: list[str] | None = None) -> int:
    """Parse options, measure, print."""
    out = parser(
        __doc__.splitlines()[0],
        batch=[24],
        seconds=[10.0],
        rounds=7,
        threads=1,
        memory=False,
    )
    out.add_argument("--clips", type=int, default=480, help="of the packed folder; 320 kB each")
    out.add_argument("--workers", type=int, nargs="*", default=[1, 2], metavar="N")
    options = out.parse_args(argv)
    cases, text = [], []
    with threads(options.threads), tempfile.TemporaryDirectory() as scratch:
        for seconds in options.seconds:
            sounds = Sounds(Path(scratch) / f"{seconds:g}", seconds, options.clips)
            for batch in options.batch:
                rows = _measure(_contestants(sounds, batch, options.workers), options.rounds)
                cases.append({"seconds": seconds, "batch": batch, "systems": rows})
                text.append(_text(seconds, batch, rows))
        facts = machine(options)
    report = {"command": "loader", "machine": facts, "options": vars(options), "cases": cases}
    return finish(report, "\n\n".join([heading("loader", facts), *text]), options)


def _text(seconds: float, batch: int, rows: list[dict[str, Any]]) -> str:
    columns = {"system": "", "mixup": "", "workers": "d", "clips_per_s_and_core": ",.0f",
               "clips_per_s": ",.0f", "times_packed": ".2f"}  # fmt: skip
    least = min(row["clips_per_s_and_core"] for row in rows if row["system"] in OURS)
    return "\n".join(
        [
            f"clips of {seconds:g} s, batches of {batch}",
            *table(rows, columns),
            f"  ours: at least {least:,.0f} clips a second and core (target {TARGET:,})",
        ]
    )


OURS = ("packed", "packed, mixed here")


# ---------------------------------------------------------------------------- sounds


class Sounds:
    """The same made-up clips in every form."""

    def __init__(self, folder: Path, seconds: float, count: int) -> None:
        samples = round(seconds * RATE)
        for name in ("wav/label", "npy"):
            (folder / name).mkdir(parents=True)
        noise = np.random.default_rng(0)
        self.npy = [folder / "npy" / f"{i:05}.npy" for i in range(count)]
        for i, path in enumerate(self.npy):
            wave = (3000 * noise.standard_normal(samples, np.float32)).astype(np.int16)
            np.save(path, wave)
            soundfile.write(folder / "wav" / "label" / f"{i:05}.wav", wave, RATE)
        self.flac = [folder / f"{i:02}.flac" for i in range(RECORDINGS)]
        for path, clip in zip(self.flac, waveform(seconds, RECORDINGS, NATIVE), strict=True):
            soundfile.write(path, clip.numpy(), NATIVE)
        packed = PackedWaveforms.write(Clips.read(folder / "wav"), folder / "packed", RATE)
        self.waveforms = Waveforms(packed.clips, RATE, 0.0, seconds, [packed])


# ---------------------------------------------------------------------------- contestants


Epoch = Callable[[], Iterable[Any]]  # gives the batches of one epoch


def _contestants(
    sounds: Sounds, batch: int, workers: list[int]
) -> dict[tuple[str, str, int], tuple[Epoch, int]]:
    """By system, mixing and workers: one epoch, and how many clips it has."""
    out: dict[tuple[str, str, int], tuple[Epoch, int]] = {}
    count = len(sounds.waveforms) // batch * batch
    for mixing in ("no", "yes"):
        data = _dataset(sounds, mixing == "yes")
        out["packed", mixing, 0] = _ours(data, batch, 0), count
        out["packed, mixed here", mixing, 0] = _waves(data, batch), count
        half = mixing == "yes"
        few = max(batch, RECORDINGS // batch * batch)
        out["npy", mixing, 0] = _files(sounds.npy, read_npy, batch, half), count
        out["flac", mixing, 0] = _files(sounds.flac, read_flac, batch, half), few
    for number in workers:
        data = _dataset(sounds, True)
        out["threads", "yes", number] = _ours(data, batch, number), count
        out["processes", "yes", number] = _torchs(data, batch, number), count
    return out


def _dataset(sounds: Sounds, mixing: bool) -> ClipDataset:
    targets = np.zeros((len(sounds.waveforms), LABELS), np.float32)
    settings = AugmentSettings(mixup_probability=0.5 if mixing else 0.0)
    return ClipDataset(sounds.waveforms, targets, settings)


def _ours(data: ClipDataset, batch: int, workers: int) -> Epoch:
    return lambda: Loader(data, batch, workers, EpochSampler(len(data), 0))


def _waves(data: ClipDataset, batch: int) -> Epoch:
    loader = Loader(data, batch, 0, EpochSampler(len(data), 0))
    return lambda: (one.wave() for one in loader)


class _Mapped(Dataset):
    def __init__(self, data: ClipDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]


def _torchs(data: ClipDataset, batch: int, workers: int) -> Epoch:
    return lambda: DataLoader(
        _Mapped(data), batch, shuffle=True, drop_last=True, num_workers=workers, collate_fn=collate
    )


def _files(paths: list[Path], read: Callable[[Path], np.ndarray], batch: int, mix: bool) -> Epoch:
    """One file after the other, mixed in float32 as PSLA does it."""
    random = np.random.default_rng(0)

    def item(index: int) -> np.ndarray:
        wave = read(paths[index])
        if not mix or random.random() >= 0.5:
            return wave
        other = read(paths[random.integers(len(paths))])
        share = np.float32(random.beta(10, 10))
        mixed = share * (wave - wave.mean()) + (1 - share) * (other - other.mean())
        return mixed - mixed.mean()

    def epoch() -> Iterator[Tensor]:
        order = random.permutation(len(paths))
        order = np.resize(order, max(batch, len(paths) // batch * batch))
        for place in range(0, len(order), batch):
            yield torch.from_numpy(np.stack([item(i) for i in order[place : place + batch]]))

    return epoch


def read_npy(path: Path) -> np.ndarray:
    """float32 (S,) from a file of 16-bit samples."""
    return np.load(path).astype(np.float32) * np.float32(SCALE)


def read_flac(path: Path) -> np.ndarray:
    """float32 (S,) at `RATE` from a compressed recording."""
    wave, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(wave, rate, RATE)


# ---------------------------------------------------------------------------- measuring


def _measure(
    contestants: dict[tuple[str, str, int], tuple[Epoch, int]], rounds: int
) -> list[dict[str, Any]]:
    """Every contestant's epoch in turn, A B C A B C; the first round only warms up."""
    found: dict[Any, list[tuple[float, float]]] = {key: [] for key in contestants}
    for number in range(rounds + 1):
        for key, (epoch, clips) in contestants.items():
            wall, processor = _timed(epoch)
            if number:
                found[key].append((clips / wall, clips / processor))
    rows: list[dict[str, Any]] = []
    for (system, mixing, workers), calls in found.items():
        by_core = [core for _, core in calls]
        rows.append(
            {
                "system": system,
                "mixup": mixing,
                "workers": workers,
                "clips_per_s": statistics.median(wall for wall, _ in calls),
                "clips_per_s_and_core": statistics.median(by_core),
                "quartiles_per_core": quartiles(by_core),
                "times_packed": statistics.median(
                    core / packed
                    for core, (_, packed) in zip(by_core, found["packed", mixing, 0], strict=True)
                ),
            }
        )
    return rows


def _timed(epoch: Epoch) -> tuple[float, float]:
    """Seconds of an epoch on the wall clock and of processors, those of its workers too."""
    wall, processor = time.perf_counter(), _processor_seconds()
    batches = iter(epoch())
    for _ in batches:
        pass
    del batches  # ends the workers
    return time.perf_counter() - wall, _processor_seconds() - processor


def _processor_seconds() -> float:
    use = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in use)
