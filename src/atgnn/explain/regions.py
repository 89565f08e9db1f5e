"""From weights of patch nodes to regions of time and frequency.

F rows, T columns of nodes.
"""

from __future__ import annotations

import numpy as np

from atgnn.explain.grid import Grid
from atgnn.explain.records import Region

__all__ = ["boxes", "regions_of", "strongest"]


def strongest(weights: np.ndarray, share: float) -> np.ndarray:
    """The fewest nodes that hold `share` of the positive weights, bool (F, T).

    None where no weight is positive.
    """
    positive = weights.clip(min=0).ravel()
    total = positive.sum()
    chosen = np.zeros(positive.shape, dtype=bool)
    if total > 0:
        order = np.argsort(-positive, kind="stable")
        below = np.cumsum(positive[order]) < share * total * (1 - 1e-9)
        count = min(int(below.sum()) + 1, int((positive > 0).sum()))
        chosen[order[:count]] = True
    return chosen.reshape(weights.shape)


def regions_of(grid: Grid, weights: np.ndarray, chosen: np.ndarray) -> tuple[Region, ...]:
    """The chosen nodes (F, T) as regions that do not overlap, the weightiest first.

    A region's weight is its share of all positive `weights` (F, T).
    """
    positive = weights.clip(min=0)
    total = max(float(positive.sum()), 1e-30)
    found = [
        grid.box(*box, weight=float(positive[box[0] : box[1], box[2] : box[3]].sum()) / total)
        for box in boxes(chosen)
    ]
    return tuple(sorted(found, key=lambda region: (-region.weight, region.start, region.low_hz)))


def boxes(chosen: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Cover exactly the true cells (F, T) with rectangles: row, row end, column, column end.

    Runs of columns that are the same in neighbouring rows are one rectangle.
    """
    done: list[tuple[int, int, int, int]] = []
    open_: dict[tuple[int, int], int] = {}  # columns of a run, and the row where it began
    rows = len(chosen)
    for row in range(rows + 1):
        runs = _runs(chosen[row]) if row < rows else []
        for columns, first in list(open_.items()):
            if columns not in runs:
                done.append((first, row, *columns))
                del open_[columns]
        for columns in runs:
            open_.setdefault(columns, row)
    return done


def _runs(row: np.ndarray) -> list[tuple[int, int]]:
    """First and last (left out) column of each run of true cells."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
