"""The sound of regions: the recording with everything else taken away.

S samples, K frequencies and T frames of a short-time Fourier transform.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from atgnn.explain.records import Region, Window

__all__ = ["sound_of"]

FRAME = 0.046  # s, of the transform: the power of two nearest to it
SLOPE_S, SLOPE_HZ = 0.03, 60.0  # how far a region's edge fades, to either side


def sound_of(window: Window, regions: Iterable[Region]) -> np.ndarray:
    """A window's sound with all but the regions silenced, float32 (S,).

    The short-time spectrum is multiplied by 1 inside regions and 0 outside, with fading edges, and
    made into sound again. A region that covers everything gives the sound itself.
    """
    size = 2 ** round(np.log2(max(FRAME * window.rate, 16)))
    wave = torch.from_numpy(np.ascontiguousarray(window.samples, dtype=np.float32))
    if len(wave) == 0:
        return window.samples
    # Whole frames on either side: the edges of the recording are no edges of the transform.
    padded = torch.nn.functional.pad(wave, (size, size))
    shape = torch.hann_window(size)
    spectrum = torch.stft(padded, size, size // 4, window=shape, return_complex=True)
    times = (torch.arange(spectrum.shape[1]) * (size // 4) - size) / window.rate + window.start
    bands = torch.arange(spectrum.shape[0]) * window.rate / size
    gain = torch.zeros(spectrum.shape)
    for region in regions:
        first = -torch.inf if region.start <= window.start else region.start
        last = torch.inf if region.end >= window.end else region.end
        low = -torch.inf if region.low_hz <= SLOPE_HZ else region.low_hz
        high = torch.inf if region.high_hz >= window.rate / 2 else region.high_hz
        during = _fading(times, first, last, SLOPE_S)
        within = _fading(bands, low, high, SLOPE_HZ)
        gain = torch.maximum(gain, within[:, None] * during[None, :])
    heard = torch.istft(spectrum * gain, size, size // 4, window=shape, length=len(padded))
    out: np.ndarray = heard[size : size + len(wave)].numpy()
    return out


def _fading(places: Tensor, first: float, last: float, slope: float) -> Tensor:
    """1 from `first` to `last`, 0 outside; half a cosine wave between, `slope` to either side."""
    distance = torch.minimum(places - first, last - places)
    share = (distance / slope).clamp(-1, 1)
    return 0.5 + 0.5 * torch.sin(share * torch.pi / 2)
