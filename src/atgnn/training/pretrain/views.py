"""Two views of a stretch of sound: excerpts of it, changed so that only what is heard stays.

B stretches, 2 B views (the first of every pair, then the second), T frames, F mel bins.
"""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atgnn.data.ahead import map_ahead
from atgnn.data.store import SCALE
from atgnn.training import augment, spectral
from atgnn.training.loading import Batch, Item, Sound, collate
from atgnn.training.pretrain.settings import PretrainSettings, ViewSettings
from atgnn.training.pretrain.sounds import Sounds
from atgnn.training.recipe import AugmentSettings

__all__ = ["PairLoader", "add_background", "vary", "zoom"]

NO_TARGET = np.zeros(0, np.float32)
SOFTER_DB = (6.0, 30.0)  # a background, than the sound in front of it


class PairLoader:
    """Batches of pairs of excerpts; pair i of an epoch is a function of seed, epoch and i."""

    def __init__(self, sounds: Sounds, settings: PretrainSettings, batches: int) -> None:
        self.sounds, self.settings, self.batches = sounds, settings, batches
        self.epoch = 0
        self.taken = 0  # batches of the epoch that have been trained on; iteration goes on there
        self._pinned = torch.cuda.is_available()

    def set_epoch(self, epoch: int) -> None:
        """Draw afresh; call it before an epoch begins."""
        self.epoch, self.taken = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch, for `load_state_dict`."""
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batches that have been trained on."""
        self.epoch, self.taken = state["epoch"], state["taken"]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        workers, left = self.settings.workers, range(self.taken, self.batches)
        if not workers:
            yield from map(self.batch, left)
            return
        with closing(map_ahead(self.batch, left, workers, 2 * workers)) as batches:
            yield from batches

    def batch(self, number: int) -> Batch:
        """One batch of 2 B views without targets."""
        size = self.settings.optim.batch_size
        pairs = [self._pair(number * size + place) for place in range(size)]
        return collate([view for views in zip(*pairs, strict=True) for view in views], self._pinned)

    def _pair(self, place: int) -> tuple[Item, Item]:
        rng = np.random.default_rng((self.settings.seed, self.epoch, place))
        wave = self.sounds.draw(rng)
        return self._view(wave, rng), self._view(wave, rng)

    def _view(self, wave: np.ndarray, rng: np.random.Generator) -> Item:
        samples = round(self.settings.sounds.crop_seconds * self.sounds.rate)
        view = augment.fill(augment.crop(wave, samples, rng), samples, rng)
        return Item(Sound(view, augment.gain(self.settings.views.gain_db, rng) * SCALE), NO_TARGET)


def vary(
    features: Tensor, settings: ViewSettings, generator: torch.Generator, *, covered: bool
) -> Tensor:
    """Change log-mel views before normalisation, ``(2 B, T, F)`` to the same.

    `covered`: also cover a band of bins and a stretch of frames of each.
    """
    whole = torch.full((len(features),), features.shape[1], device=features.device)
    if settings.background:
        features = add_background(features, settings.background, generator)
    if settings.zoom:
        features = zoom(features, settings.zoom, generator)
    if settings.equalise_db:
        features = spectral.equalise(features, settings.equalise_db, generator)
    if settings.noise:
        features = spectral.add_noise(features, whole, settings.noise, generator)
    if covered:
        masks = AugmentSettings(
            frequency_mask=settings.frequency_mask, time_mask=settings.time_mask, masks=1
        )
        features = augment.mask_features(features, whole, masks, generator)
    return features


def add_background(features: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """With this probability, put another view of the batch behind a view, 6 to 30 dB softer.

    After BYOL-A's mixture in the power domain (Niizumi et al., 2021), here at a stated ratio of
    the energies: a loud background would take the place of a soft sound.
    """
    count = len(features)
    draw = torch.rand(2, count, 1, 1, generator=generator)
    other = torch.randperm(count, generator=generator).to(features.device)
    low, high = SOFTER_DB
    softer = (low + (high - low) * draw[1]) * spectral.DB
    softer = softer.masked_fill(draw[0] >= probability, 1e4).to(features.device)
    loudness = features.flatten(1).logsumexp(1)[:, None, None]
    return torch.logaddexp(features, (features - loudness)[other] + loudness - softer)


def zoom(features: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Show a window of each view, up to so much smaller or larger, on the whole grid. Bilinear.

    Height, width and place are drawn apart, so pitch and tempo move; a smaller window stays inside
    the view, a larger one around it, and what lies outside the view is its mirror image.
    Source: the random resized crop of BYOL-A.
    """
    count, frames, bins = features.shape
    draw = torch.rand(4, count, generator=generator).to(features.device)
    size = 1 + largest * (2 * draw[:2] - 1)
    centre = (2 * draw[2:] - 1) * (1 - size).abs()
    grid = features.new_zeros(count, 2, 3)
    grid[:, 0, 0], grid[:, 0, 2] = size[0], centre[0]  # along the bins
    grid[:, 1, 1], grid[:, 1, 2] = size[1], centre[1]  # along the frames
    places = functional.affine_grid(grid, [count, 1, frames, bins], align_corners=False)
    image = functional.grid_sample(
        features[:, None], places, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return image[:, 0]
