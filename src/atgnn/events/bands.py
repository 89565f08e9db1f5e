"""The band that an event lies in: where its label looked, and where it was louder than usual.

F rows of frequency.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.events.rows import Bands, band_places

__all__ = ["Usual"]

MEMORY = 60.0  # s of the recording of which the usual levels are those
OUTSIDE = 0.1  # of an event's weights are outside of its band, on either side
LEAST = 1e-6


class Usual:
    """How loud each row of frequency usually is: the median over the last minute."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        places = band_places(checkpoint)
        self._front_end = places.front_end
        edges = (np.arange(places.rows + 1) - 0.5) * places.stride
        edges[0], edges[-1] = -1, places.front_end.n_mels  # the ends of the band
        self._edges = edges  # (F + 1,) in mel bins
        self._levels: deque[tuple[float, np.ndarray]] = deque()
        self._seconds = 0.0

    def add(self, seconds: float, levels: np.ndarray) -> None:
        """The levels (F,) of the next stretch."""
        self._levels.append((seconds, levels))
        self._seconds += seconds
        while self._seconds - self._levels[0][0] > MEMORY:
            self._seconds -= self._levels.popleft()[0]

    def band(self, bands: Bands) -> tuple[float, float]:
        """From where to where, in Hz, of an event with these means: shares (F,), levels (F,)."""
        usual = np.median(np.stack([levels for _, levels in self._levels]), axis=0)
        weights = np.asarray(bands.shares, np.float64)
        louder = (bands.levels - usual).clip(min=0)
        if (weights * louder).sum() > LEAST:  # else it lasts as long as what is remembered
            weights = weights * louder
        reached = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
        bins = np.interp((OUTSIDE, 1 - OUTSIDE), reached, self._edges)
        low, high = self._front_end.bins_to_hertz(bins).clip(*self._front_end.band)
        return float(low), float(high)
