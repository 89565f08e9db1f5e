"""Random changes to training sounds, in the order of PSLA: waveforms first, then log-mel.

Every function takes its generator: the same one in, the same sound out.
"""

import numpy as np
import torch
from torch import Tensor

from atgnn.training.recipe import AugmentSettings

__all__ = ["crop", "fill", "gain", "mask_features", "mix", "moment", "roll", "shift_frequency"]


def crop(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random excerpt of so many samples; shorter clips stay as they are.

    Many clips are a short event in digital silence: of three draws, the one with most energy.
    """
    spare = len(wave) - samples
    if spare <= 0:
        return wave
    starts = rng.integers(0, spare + 1, size=3)
    pieces = [wave[start : start + samples] for start in starts]
    energy = [float(np.square(piece, dtype=np.float64).sum()) for piece in pieces]
    # The first draw, unless it is nearly empty beside the others.
    return pieces[0] if energy[0] > 0.01 * max(energy) else pieces[int(np.argmax(energy))]


def moment(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random excerpt of so many samples around a moment drawn in proportion to its energy.

    Short excerpts by `crop` would often miss a short event in silence, and keep its label.
    """
    spare = len(wave) - samples
    if spare <= 0:
        return wave
    power = np.cumsum(np.square(wave, dtype=np.float64))
    if power[-1] <= 0:
        return wave[:samples]
    heard = int(np.searchsorted(power, rng.random() * power[-1]))
    start = min(max(heard - int(rng.integers(samples)), 0), spare)
    return wave[start : start + samples]


def fill(wave: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A clip shorter than so many samples filled up: repeated, or placed somewhere in silence."""
    spare = samples - len(wave)
    if spare <= 0:
        return wave
    if rng.random() < 0.5:
        return np.resize(wave, samples)
    before = int(rng.integers(spare + 1))
    return np.pad(wave, (before, spare - before))


def gain(wave: np.ndarray, largest_db: float, rng: np.random.Generator) -> np.ndarray:
    """Scale by a uniform draw of -largest_db to +largest_db."""
    return wave * np.float32(10 ** (rng.uniform(-largest_db, largest_db) / 20))


def roll(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift cyclically by a uniform draw of the clip's length."""
    return np.roll(wave, int(rng.integers(len(wave))))


def mix(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    alpha: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Mixup of two (waveform, target) pairs with a weight from Beta(alpha, alpha).

    The partner is padded at its end, or cut, to the first one's length; both waveforms and the
    result are freed of their mean. Targets add up with the same weights, so that a label of both
    stays 1; unknown (NaN) in either is unknown in the mixture.
    """
    (a, target_a), (b, target_b) = first, second
    b = b[: len(a)] - b.mean()
    b = np.pad(b, (0, len(a) - len(b)))
    share = np.float32(rng.beta(alpha, alpha))
    mixed = share * (a - a.mean()) + (1 - share) * b
    return mixed - mixed.mean(), share * target_a + (1 - share) * target_b


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
    draw = torch.rand(2, len(sizes), generator=generator).to(sizes.device)
    width = (draw[0] * torch.minimum(torch.full_like(sizes, largest), sizes // 2)).floor()
    start = (draw[1] * (sizes - width)).floor()
    step = torch.arange(steps, device=sizes.device)
    return (step >= start[:, None]) & (step < (start + width)[:, None])


def shift_frequency(features: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Move each clip up or down by up to `largest` bins; the edge bins repeat. ``(B, T, F)``."""
    batch, frames, bins = features.shape
    shift = torch.randint(-largest, largest + 1, (batch, 1), generator=generator)
    source = (torch.arange(bins) - shift).clamp(0, bins - 1).to(features.device)  # (B, F)
    return features.gather(2, source[:, None, :].expand(-1, frames, -1))
