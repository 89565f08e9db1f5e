"""The band that an event lies in: where in frequency its label looked.

F rows of frequency.
"""

from __future__ import annotations

import numpy as np

from atgnn.events.rows import band_places
from atgnn.model.geometry import NodePlaces

__all__ = ["band_of", "band_places"]

OUTSIDE = 0.15  # of the evidence, on either side of the band; chosen on validation scenes


def band_of(places: NodePlaces, shares: np.ndarray) -> tuple[float, float]:
    """From where to where, in Hz, of a label's evidence in each row (F,), of any sum."""
    edges = (np.arange(places.rows + 1) - 0.5) * places.stride  # (F + 1,) in mel bins
    edges[0], edges[-1] = -1, places.front_end.n_mels  # the ends of what the model hears
    reached = np.concatenate([[0.0], np.cumsum(np.asarray(shares, np.float64))])
    bins = np.interp((OUTSIDE, 1 - OUTSIDE), reached / reached[-1], edges)
    low, high = places.front_end.bins_to_hertz(bins).clip(*places.front_end.band)
    return float(low), float(high)
