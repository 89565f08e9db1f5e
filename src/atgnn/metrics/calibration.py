"""Whether scores can be read as probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from atgnn.errors import AtgnnError
from atgnn.metrics.ranking import checked

__all__ = ["Reliability", "calibration_error", "reliability"]


@dataclass(frozen=True, eq=False)
class Reliability:
    """Known cells, all labels together, in bins of as many cells each, from low scores to high.

    `scores` and `shares` are float64 (bins,): the mean score of a bin and the share of it that is
    positive; `counts` int64 (bins,).
    """

    scores: np.ndarray
    shares: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean over cells of how far share and score differ."""
        return float(np.average(np.abs(self.scores - self.shares), weights=self.counts))


def reliability(targets: ArrayLike, scores: ArrayLike, bins: int = 15) -> Reliability:
    """Bins of the known cells of `targets` against `scores`, of the same shape, in [0, 1].

    Equal scores are never divided, so there may be fewer than `bins`.

    Raises:
        AtgnnError: scores beyond [0, 1], no known cell, or as `checked`.
    """
    truth, given = checked(targets, scores)
    if bins < 1:
        raise AtgnnError(f"{bins} bins: give at least one")
    if given.min() < 0 or given.max() > 1:
        raise AtgnnError(
            f"calibration is of probabilities: scores go from {given.min():g} to {given.max():g}"
        )
    known = ~np.isnan(truth)
    if not known.any():
        raise AtgnnError("calibration needs a known cell: all targets are unknown")
    true, score = truth[known], given[known]
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, score, side="left")
    counts = np.bincount(place)
    held = counts > 0
    sums = (np.bincount(place, weights=part)[held] for part in (score, true))
    means, shares = (part / counts[held] for part in sums)
    return Reliability(means, shares, counts[held])


def calibration_error(targets: ArrayLike, scores: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error over all known cells; see `reliability`."""
    return reliability(targets, scores, bins).error
