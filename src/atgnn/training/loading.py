"""From a table of clips to batches of waveforms.

Every random draw is a function of seed, epoch and the clip's place in the table, so that an
interrupted run repeats an epoch exactly as it would have been.
"""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from atgnn import audio
from atgnn.data.clips import Clips
from atgnn.training import augment
from atgnn.training.recipe import AugmentSettings

__all__ = ["Batch", "ClipDataset", "EpochSampler", "Waveforms", "make_loader"]


class Batch(NamedTuple):
    """Clips padded to the longest, with what is in them."""

    wave: Tensor  # (B, samples) float32
    lengths: Tensor  # (B,) samples
    targets: Tensor  # (B, L) float32; NaN is unknown


class Waveforms:
    """Decoded, resampled clips of a table, kept in memory as 16 bits while there is room."""

    def __init__(self, clips: Clips, rate: int, cache_gigabytes: float, longest: float) -> None:
        self.clips = list(clips)
        self.rate, self.longest = rate, longest
        self._room = int(cache_gigabytes * 2**30)
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> np.ndarray:
        """Samples of a clip as float32, at most `longest` seconds of it."""
        kept = self._kept.get(index)
        if kept is None:
            kept = self._decode(index)
            if kept.nbytes <= self._room:
                self._room -= kept.nbytes
                self._kept[index] = kept
        return kept.astype(np.float32) / np.float32(32767)

    def _decode(self, index: int) -> np.ndarray:
        clip = self.clips[index]
        # The first block of a stream, not an excerpt: what a file's header says of its length is
        # not always true, and only a row that states an end may insist on it.
        blocks = cast(
            "Generator[np.ndarray]",
            audio.stream(
                clip.path, self.rate, block_seconds=self.longest, start=clip.start, end=clip.end
            ),
        )
        with contextlib.closing(blocks):
            samples = next(blocks)
        return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


class ClipDataset(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Waveforms with targets; with settings, augmented."""

    def __init__(
        self,
        waveforms: Waveforms,
        targets: np.ndarray,
        augment: AugmentSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.waveforms, self.targets = waveforms, targets
        self.augment, self.seed = augment, seed
        # Shared memory, so that loader processes that live on see the epoch change.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw afresh, as a function of the seed and this number."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        wave, target = self.waveforms[index], self.targets[index]
        settings = self.augment
        if settings is None:
            return wave, target
        rng = np.random.default_rng((self.seed, int(self._epoch), index))
        wave = self._varied(wave, settings, rng)
        if rng.random() < settings.mixup_probability:
            partner = int(rng.integers(len(self)))
            other = self._varied(self.waveforms[partner], settings, rng)
            pair = (other, self.targets[partner])
            wave, target = augment.mix((wave, target), pair, settings.mixup_alpha, rng)
        return wave, target

    def _varied(
        self, wave: np.ndarray, settings: AugmentSettings, rng: np.random.Generator
    ) -> np.ndarray:
        if settings.roll and rng.random() < settings.roll:
            wave = augment.roll(wave, rng)
        if settings.crop_seconds is not None:
            samples = int(settings.crop_seconds * self.waveforms.rate)
            if settings.crop_shortest is not None and rng.random() < 0.5:
                shortest = settings.crop_shortest / settings.crop_seconds
                wave = augment.moment(wave, int(samples * shortest ** rng.random()), rng)
            else:
                wave = augment.crop(wave, samples, rng)
            if settings.fill and rng.random() < settings.fill:
                wave = augment.fill(wave, samples, rng)
        if settings.gain_db:
            wave = augment.gain(wave, settings.gain_db, rng)
        return wave


class EpochSampler(Sampler[int]):
    """All clips once, in an order that is a function of seed and epoch."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Shuffle afresh."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        return iter(order.tolist())


def make_loader(
    dataset: Any, batch_size: int, workers: int, sampler: EpochSampler | None = None
) -> DataLoader[Batch]:
    """Batches in order, or, with a sampler, shuffled without an incomplete last one."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=sampler is not None and len(dataset) > batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        # For the workers' seeds, which we do not use: drawn from the global generator, they would
        # shift the model's own draws whenever an iterator is made.
        generator=torch.Generator(),
    )


def collate(items: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Pad with zeros to the longest clip of the batch."""
    waves, targets = zip(*items, strict=True)
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    stacked = torch.from_numpy(np.stack(targets).astype(np.float32))
    return Batch(padded, lengths, stacked)
