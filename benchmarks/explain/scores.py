"""How much of a density lies where the event is, against what chance would put there.

T frames, F mel bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atgnn.data.scenes import Event
from atgnn.explain.examine import Examination
from atgnn.frontend import FrontEndConfig

__all__ = ["FRACTIONS", "Truth", "curves", "matched", "share"]

LEVELS = 20  # classes of equal size by loudness
FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)  # of the nodes, removed or kept


@dataclass(frozen=True)
class Truth:
    """Where an event is: its frames (T,), its bins (F,), both bool."""

    frames: np.ndarray
    bins: np.ndarray

    @classmethod
    def of(cls, event: Event, frames: int, config: FrontEndConfig) -> Truth:
        """Frames whose middle lies in the event, bins that reach into its band."""
        middles = (np.arange(frames) * config.hop + config.window / 2) / config.sample_rate
        below, above = (config.bins_to_hertz(np.arange(config.n_mels) + step) for step in (-1, 1))
        return cls(
            (middles >= event.onset) & (middles < event.offset),
            (above >= event.low_hz) & (below <= event.high_hz),
        )

    @property
    def box(self) -> np.ndarray:
        """(T, F)."""
        return np.outer(self.frames, self.bins)

    @property
    def time(self) -> np.ndarray:
        """All bins while the event lasts, (T, F)."""
        return np.outer(self.frames, np.ones(len(self.bins), bool))


def share(density: np.ndarray, mask: np.ndarray) -> float:
    """The share of a density (T, F) inside a mask; NaN where there is no density."""
    total = density.sum()
    return float(density[mask].sum() / total) if total > 0 else float("nan")


def matched(density: np.ndarray, mask: np.ndarray, loudness: np.ndarray) -> float:
    """The share inside that a density as choosy about loudness, but about nothing else, would have.

    Cells are put into classes of equal loudness (T, F), and the density of each class is spread
    evenly over the class.
    """
    total = density.sum()
    if total <= 0:
        return float("nan")
    edges = np.quantile(loudness, np.linspace(0, 1, LEVELS + 1)[1:-1])
    level = np.digitize(loudness, edges).ravel()
    held = np.bincount(level, density.ravel(), LEVELS)
    cells = np.bincount(level, minlength=LEVELS)
    inside = np.bincount(level, mask.ravel().astype(float), LEVELS)
    return float((held * inside / np.maximum(cells, 1)).sum() / total)


def curves(
    examination: Examination, label: int, order: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Scores when the first nodes of an order are removed (deletion), or alone kept (insertion).

    At each of `FRACTIONS`; the nodes are truly removed from the graph.
    """
    count = len(order)
    kept = np.ones((2 * len(FRACTIONS), count), dtype=bool)
    for row, fraction in enumerate(FRACTIONS):
        first = list(order[: max(1, round(fraction * count))])
        kept[row, first] = False
        kept[row + len(FRACTIONS)] = ~kept[row]
    sets = torch.from_numpy(kept.reshape(-1, *examination.shape))
    scores = examination.log_odds(sets)[:, label].sigmoid().tolist()
    return scores[: len(FRACTIONS)], scores[len(FRACTIONS) :]
