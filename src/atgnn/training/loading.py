"""From a table of clips to batches of waveforms.

Samples stay 16-bit integers until they are on the training device: half the bytes to copy, and
mixing there is one multiplication and addition. Here each clip is copied once, into its batch.

Every random draw is a function of seed, epoch, the clip's place in the table and how often it has
come before in the epoch, so that an interrupted run repeats an epoch exactly as it would have been.

B clips, M of them mixed with a partner, S samples, L labels.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from atgnn.data.ahead import map_ahead
from atgnn.data.store import SCALE
from atgnn.data.waveforms import Waveforms
from atgnn.distributed import Part
from atgnn.training import augment, sampling
from atgnn.training.recipe import AugmentSettings

__all__ = [
    "Batch",
    "ClipDataset",
    "EpochSampler",
    "Item",
    "Loader",
    "Sound",
    "collate",
]


class Sound(NamedTuple):
    """A waveform as integers and what to multiply them with."""

    samples: np.ndarray  # int16 (S,); a view where nothing had to be moved
    gain: float


class Item(NamedTuple):
    """A clip with what is in it; with a partner, the mixture of both (`augment.mix_targets`)."""

    sound: Sound
    target: np.ndarray  # float32 (L,); NaN is unknown
    partner: Sound | None = None


class Batch(NamedTuple):
    """Clips padded with zeros to the longest, with what is in them."""

    samples: Tensor  # (B, S) int16
    lengths: Tensor  # (B,) samples that are sound
    targets: Tensor  # (B, L) float32; NaN is unknown
    gains: Tensor  # (B,) float32, what to multiply `samples` with
    partners: Tensor  # (M, S) int16
    rows: Tensor  # (M,) which clips they are mixed into
    partner_gains: Tensor  # (M,) float32
    offsets: Tensor  # (M,) float32, what to subtract from the mixture: the means of its parts
    shortest: int  # smallest of `lengths`, known without asking the device

    @property
    def equal(self) -> bool:
        """Whether all clips are equally long."""
        return self.shortest == self.samples.shape[1]

    def wave(self) -> Tensor:
        """The waveforms, (B, S) float32, computed where the batch is; 0 past a clip's end.

        Multiplication, addition and subtraction one after another, each rounded: the same bits
        whatever the device, the threads and the rest of the batch.
        """
        wave = self.samples.float().mul_(self.gains[:, None])
        if len(self.rows):
            partners = self.partners.float().mul_(self.partner_gains[:, None])
            wave.index_add_(0, self.rows, partners.sub_(self.offsets[:, None]))
            if not self.equal:
                time = torch.arange(wave.shape[1], device=wave.device)
                wave.masked_fill_(time >= self.lengths[:, None], 0)
        return wave


class ClipDataset:
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
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw afresh, as a function of the seed and this number."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, index: int) -> Item:
        return self.item(index)

    def item(self, index: int, repeat: int = 0) -> Item:
        """A clip; where it comes again in an epoch, with other draws for each `repeat`."""
        wave, target = self.waveforms[index], self.targets[index]
        settings = self.augment
        if settings is None:
            return Item(Sound(wave, SCALE), target)
        rng = np.random.default_rng((self.seed, self.epoch, index, repeat))
        sound = self._varied(wave, settings, rng)
        if rng.random() >= settings.mixup_probability:
            return Item(sound, target)
        other = int(rng.integers(len(self)))
        partner = self._varied(self.waveforms[other], settings, rng)
        share = float(rng.beta(settings.mixup_alpha, settings.mixup_alpha))
        return Item(
            Sound(sound.samples, sound.gain * share),
            augment.mix_targets(target, self.targets[other], share),
            Sound(partner.samples, partner.gain * (1 - share)),
        )

    def _varied(
        self, wave: np.ndarray, settings: AugmentSettings, rng: np.random.Generator
    ) -> Sound:
        if settings.trim_silence:
            wave = augment.trim(wave)
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
        level = augment.gain(settings.gain_db, rng) if settings.gain_db else 1.0
        return Sound(wave, level * SCALE)


class EpochSampler:
    """The order of an epoch, a function of the seed and its number.

    All clips once, or, with `weights` (N,), so many draws in proportion to them (`sampling.py`).
    """

    def __init__(self, size: int, seed: int, weights: np.ndarray | None = None) -> None:
        self.size, self.seed, self.epoch, self.weights = size, seed, 0, weights

    def set_epoch(self, epoch: int) -> None:
        """Shuffle or draw afresh."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def order(self) -> np.ndarray:
        """Places of the clips in the table, int64 (N,)."""
        if self.weights is None:
            return sampling.shuffled_order(self.size, self.seed, self.epoch)
        return sampling.balanced_order(self.weights, self.seed, self.epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())


class Loader:
    """Batches of clips in order, or, with a sampler, shuffled without an incomplete last one.

    With workers, threads load ahead of the network. Threads, because copying, decoding and
    resampling leave Python's lock alone: processes would each need their own copy of the clips
    kept in memory, and fresh pages for every batch cost four times what filling it does.

    Several processes that train together share each batch of `batch_size`: the first of P takes
    its first P-th. Without a sampler, every clip belongs to one process, and `places` says which
    are this one's; where there are fewer clips than processes, all have all.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        workers: int = 0,
        sampler: EpochSampler | None = None,
        part: Part = Part(),  # noqa: B008
    ) -> None:
        self.dataset, self.batch_size, self.workers, self.part = dataset, batch_size, workers, part
        self._sampler = sampler  # not `sampler`: Lightning takes what has one for torch's own
        self._pinned = torch.cuda.is_available()
        self._epoch = 0
        self.taken = 0  # batches of the epoch that have been trained on; iteration goes on there
        rank, world = part if len(dataset) >= part.world else Part()
        self.places = np.arange(rank, len(dataset), world)

    def set_epoch(self, epoch: int) -> None:
        """Draw and, with a sampler, shuffle as in this epoch; call it before an epoch begins."""
        self._epoch, self.taken = epoch, 0
        self.dataset.set_epoch(epoch)
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch, for `load_state_dict`."""
        return {"epoch": self._epoch, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batches that have been trained on."""
        self.set_epoch(state["epoch"])
        self.taken = state["taken"]

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        if self._sampler is None:
            return -(-len(self.places) // max(1, self.batch_size // self.part.world))
        return max(1, len(self._sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        chosen = self._batches()[self.taken :]
        if not self.workers:
            yield from map(self._load, chosen)
            return
        with closing(map_ahead(self._load, chosen, self.workers, 2 * self.workers)) as batches:
            yield from batches

    def _batches(self) -> list[list[tuple[int, int]]]:
        """Of each batch the clips that are this process's, and how often each has come before."""
        rank, world = self.part
        size = max(1, self.batch_size // world)
        if self._sampler is None:
            own = [(place, 0) for place in self.places.tolist()]
            return [own[size * number : size * (number + 1)] for number in range(len(self))]
        order = self._sampler.order()
        draws = list(zip(order.tolist(), sampling.repeats(order).tolist(), strict=True))
        starts = [self.batch_size * number + rank * size for number in range(len(self))]
        return [draws[start : start + size] for start in starts]

    def _load(self, draws: list[tuple[int, int]]) -> Batch:
        return collate([self.dataset.item(*draw) for draw in draws], self._pinned)


def collate(items: Sequence[Item], pinned: bool = False) -> Batch:
    """One batch of clips: every sample is copied once, partners cut or padded to their clip.

    `pinned` samples lie where a GPU fetches them by itself.
    """
    sounds = [item.sound for item in items]
    lengths = [len(sound.samples) for sound in sounds]
    samples = torch.empty(len(items), max(lengths), dtype=torch.int16, pin_memory=pinned)
    for row, sound, length in zip(samples.numpy(), sounds, lengths, strict=True):
        row[:length] = sound.samples
        row[length:] = 0
    mixed = [(row, item.partner) for row, item in enumerate(items) if item.partner is not None]
    partners = torch.empty(len(mixed), max(lengths), dtype=torch.int16, pin_memory=pinned)
    offsets = []
    for place, (row, partner) in zip(partners.numpy(), mixed, strict=True):
        centre = augment.place_partner(place, partner.samples, lengths[row])
        offsets.append(augment.mean(sounds[row].samples) * sounds[row].gain + centre * partner.gain)
    return Batch(
        samples,
        torch.tensor(lengths),
        torch.from_numpy(np.stack([item.target for item in items]).astype(np.float32)),
        torch.tensor([sound.gain for sound in sounds], dtype=torch.float32),
        partners,
        torch.tensor([row for row, _ in mixed], dtype=torch.long),
        torch.tensor([partner.gain for _, partner in mixed], dtype=torch.float32),
        torch.tensor(offsets, dtype=torch.float32),
        min(lengths),
    )
