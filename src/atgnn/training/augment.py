"""Random changes to training sounds, in the order of PSLA: waveforms first, then log-mel.

Every function takes its generator: the same one in, the same sound out. Waveforms are 16-bit
samples and stay so: what would multiply them is returned as a factor.
"""

import numpy as np
import torch
from torch import Tensor

from atgnn.distributed import uniform
from atgnn.training.recipe import AugmentSettings

__all__ = [
    "crop",
    "fill",
    "gain",
    "mask_features",
    "mean",
    "mix_targets",
    "moment",
    "place_partner",
    "roll",
    "shift_frequency",
    "trim",
]

STRIDE = 8  # samples; every eighth tells where the energy of a sound lies


def trim(wave: np.ndarray) -> np.ndarray:
    """Cut digital silence, what stays within one step of 0, off both ends.

    Its length says which collection a clip comes from. What is silent throughout stays whole.
    """
    some = wave[::STRIDE]  # a clip that is heard has more than 8 samples of sound
    sound = (some > 1) | (some < -1)  # the absolute value of int16's least is negative
    first, last = int(sound.argmax()), len(sound) - 1 - int(sound[::-1].argmax())
    return wave[max(0, (first - 1) * STRIDE + 1) : (last + 1) * STRIDE] if sound.any() else wave


def crop(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random excerpt of so many samples; shorter clips stay as they are.

    Many clips are a short event in digital silence: of three draws, the one with most energy.
    """
    spare = len(wave) - samples
    if spare <= 0:
        return wave
    starts = rng.integers(0, spare + 1, size=3)
    pieces = [wave[start : start + samples] for start in starts]
    energy = [int(_power(piece).sum()) for piece in pieces]
    # The first draw, unless it is nearly empty beside the others.
    return pieces[0] if energy[0] > 0.01 * max(energy) else pieces[int(np.argmax(energy))]


def moment(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random excerpt of so many samples around a moment drawn in proportion to its energy.

    Short excerpts by `crop` would often miss a short event in silence, and keep its label.
    """
    spare = len(wave) - samples
    if spare <= 0:
        return wave
    power = np.cumsum(_power(wave))
    if power[-1] <= 0:
        return wave[:samples]
    heard = STRIDE * int(np.searchsorted(power, rng.random() * power[-1]))
    start = min(max(heard - int(rng.integers(samples)), 0), spare)
    return wave[start : start + samples]


def _power(wave: np.ndarray) -> np.ndarray:
    """Squares of some samples, int64: exact, so that no draw depends on how they are added."""
    return np.square(wave[::STRIDE], dtype=np.int64)


def fill(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A clip shorter than so many samples filled up: repeated, or placed somewhere in silence."""
    spare = samples - len(wave)
    if spare <= 0:
        return wave
    if rng.random() < 0.5:
        return np.resize(wave, samples)
    before = int(rng.integers(spare + 1))
    return np.pad(wave, (before, spare - before))


def gain(largest_db: float, rng: np.random.Generator) -> float:
    """A factor from a uniform draw of -largest_db to +largest_db."""
    return float(10 ** (rng.uniform(-largest_db, largest_db) / 20))


def roll(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift cyclically by a uniform draw of the clip's length."""
    return np.roll(wave, int(rng.integers(len(wave))))


# Mixup of PSLA, of clips a and b with a share s from Beta(alpha, alpha): b is padded
# with zeros at its end, or cut, to the length of a; both are freed of their mean; the mixture is
# s a + (1 - s) b. So s a + (1 - s) b as they are, less one number: the same mixture of the means.


def place_partner(place: np.ndarray, wave: np.ndarray, length: int) -> float:
    """Put b into `place` (S,), int16, for a clip a of so many samples; returns b's mean.

    What b lacks to that length is filled with its mean, to the nearest integer: zero without it.
    """
    wave = wave[:length]
    centre = mean(wave)
    place[: len(wave)] = wave
    place[len(wave) : length] = round(centre)
    place[length:] = 0
    return centre


def mean(wave: np.ndarray) -> float:
    """The mean of integers (S,), rounded once."""
    return int(wave.sum(dtype=np.int64)) / len(wave)


def mix_targets(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Targets (L,) of a mixture: they add up, so that a label of both stays 1.

    Unknown (NaN) in either is unknown in the mixture.
    """
    part = np.float32(share)
    return part * first + (1 - part) * second


def mask_features(
    features: Tensor, lengths: Tensor, settings: AugmentSettings, generator: torch.Generator
) -> Tensor:
    """Cover a band of bins and a stretch of frames of each clip with 0, before normalisation.

    Widths are uniform up to the recipe's largest, never more than half of the clip; places are
    uniform within the clip's own frames. ``(B, T, F)`` to the same.
    """
    batch, frames, bins = features.shape
    device = features.device
    whole = torch.full((batch,), bins, device=device)
    hidden = torch.zeros(batch, frames, bins, dtype=torch.bool, device=device)
    for _ in range(settings.masks):
        band = _stretch(whole, settings.frequency_mask, bins, generator)
        span = _stretch(lengths, settings.time_mask, frames, generator)
        hidden |= band[:, None, :] | span[:, :, None]
    return features.masked_fill(hidden, 0.0)


def _stretch(sizes: Tensor, largest: int, steps: int, generator: torch.Generator) -> Tensor:
    """One random interval per clip: ``(B,)`` sizes to ``(B, steps)`` bool."""
    draw = uniform(2, len(sizes), clips=1, generator=generator).to(sizes.device, non_blocking=True)
    width = (draw[0] * torch.minimum(torch.full_like(sizes, largest), sizes // 2)).floor()
    start = (draw[1] * (sizes - width)).floor()
    step = torch.arange(steps, device=sizes.device)
    return (step >= start[:, None]) & (step < (start + width)[:, None])


def shift_frequency(features: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Move each clip up or down by up to `largest` bins; the edge bins repeat. ``(B, T, F)``."""
    batch, frames, bins = features.shape
    draw = uniform(batch, 1, clips=0, generator=generator)
    shift = (draw * (2 * largest + 1)).long() - largest
    source = (torch.arange(bins) - shift).clamp(0, bins - 1)  # (B, F)
    source = source.to(features.device, non_blocking=True)
    return features.gather(2, source[:, None, :].expand(-1, frames, -1))
