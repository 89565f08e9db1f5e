"""Mel scales and the triangles on them.

K FFT bins, F mel bins.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from atgnn.frontend.config import FrontEndConfig

__all__ = ["MEL_SCALES", "bins_between", "blocks", "mel_filters"]

#: Filters multiplied at once: neighbours share few FFT bins, so most of the bank is zeros.
_FILTERS_AT_ONCE = 32


class MelScale(NamedTuple):
    """From hertz to mel and back, float64 arrays of any shape."""

    mel: Callable[[np.ndarray], np.ndarray]
    hertz: Callable[[np.ndarray], np.ndarray]


_BREAK = 1000.0  # Hz; Slaney's scale has 15 mel up to here, and 27 more for a factor of 6.4
_STEP = math.log(6.4) / 27


def _slaney_mel(hertz: np.ndarray) -> np.ndarray:
    above = 15 + np.log(np.maximum(hertz, _BREAK) / _BREAK) / _STEP
    return np.where(hertz < _BREAK, hertz * 15 / _BREAK, above)


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    above = _BREAK * np.exp((np.maximum(mel, 15) - 15) * _STEP)
    return np.where(mel < 15, mel * _BREAK / 15, above)


#: By the name that `FrontEndConfig.mel_scale` has for them.
MEL_SCALES = {
    "htk": MelScale(lambda hertz: 1127 * np.log1p(hertz / 700), lambda m: 700 * np.expm1(m / 1127)),
    "slaney": MelScale(_slaney_mel, _slaney_hertz),
    "none": MelScale(lambda hertz: hertz, lambda hertz: hertz),
}


def bins_between(low: float, high: float, sample_rate: int, n_fft: int) -> int:
    """FFT bins inside the mel range; like Kaldi, without the one at half the sample rate."""
    width = sample_rate / n_fft
    return min(n_fft // 2 - 1, math.floor(high / width)) - math.ceil(low / width) + 1


def mel_filters(config: "FrontEndConfig") -> Tensor:
    """The bank of a front end's kind, (K, F)."""
    return _kaldi(config) if config.kind == "kaldi" else _librosa(config)


def _kaldi(config: "FrontEndConfig") -> Tensor:
    """Triangles in mel (K, F), without area normalisation; the last FFT bin has weight 0.

    Deliberately float32: float64 moves a weight near a triangle's foot by 0.16 %, and a loud
    tone there by more than the 1e-3 within which published features are reproduced.
    """
    low, step = config.mel_grid
    cpu = torch.device("cpu")
    bins = torch.arange(config.n_fft // 2, dtype=torch.float32, device=cpu)[:, None]
    mel = 1127 * (1 + config.sample_rate / config.n_fft * bins / 700).log()
    index = torch.arange(config.n_mels, dtype=torch.float32, device=cpu)
    left, centre, right = (low + (index + edge) * step for edge in (0.0, 1.0, 2.0))
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return functional.pad(torch.minimum(rising, falling).clamp_min(0), (0, 0, 0, 1))


def _librosa(config: "FrontEndConfig") -> Tensor:
    """Triangles in hertz (K, F) between edges that are even in mel, of height or area 1."""
    edges = config.bins_to_hertz(np.arange(-1, config.n_mels + 1))[:, None]  # (F + 2, 1)
    hertz = np.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    triangles = np.minimum(rising, falling).clip(min=0)
    if config.mel_area:
        triangles *= 2 / (edges[2:] - edges[:-2])
    return torch.from_numpy(triangles.T.astype(np.float32, order="C"))


def blocks(filters: Tensor) -> tuple[tuple[int, int, int, int], ...]:
    """Ranges of FFT bins and of filters (low, high, first, last) that hold every weight."""
    found = []
    for first in range(0, filters.shape[1], _FILTERS_AT_ONCE):
        last = min(first + _FILTERS_AT_ONCE, filters.shape[1])
        used = filters[:, first:last].any(1).nonzero().flatten().tolist() or [0]
        found.append((used[0], used[-1] + 1, first, last))
    return tuple(found)
