"""Regions of time and frequency: what a box on a spectrogram holds, and where else that is.

A box seeds a label node: the mean of the patch nodes inside, each of length one. As in a label
block it then looks for the patches most like it. The regions it finds in a window are where the
nearest of them lie together.

F frequency rows, T time columns, C channels, k patches that a label draws on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atgnn.errors import ConfigError
from atgnn.model.geometry import NodePlaces

__all__ = ["Box", "Found", "label_node", "nearest_region", "nodes_inside"]

MOST = 64  # patches that a label node draws on


@dataclass(frozen=True)
class Box:
    """From `start` to `end` seconds and from `low_hz` to `high_hz`; ConfigError where empty."""

    start: float
    end: float
    low_hz: float
    high_hz: float

    def __post_init__(self) -> None:
        if not (0 <= self.start < self.end and 0 <= self.low_hz < self.high_hz):
            raise ConfigError(
                f"a box from {self.start:g} to {self.end:g} s and {self.low_hz:g} to "
                f"{self.high_hz:g} Hz holds nothing: give an end after the start, and a highest "
                "frequency above the lowest"
            )

    def overlap(self, other: Box) -> float:
        """Shared area over the area of both, in seconds times hertz: 0 to 1."""
        time = min(self.end, other.end) - max(self.start, other.start)
        band = min(self.high_hz, other.high_hz) - max(self.low_hz, other.low_hz)
        shared = max(0.0, time) * max(0.0, band)
        return shared / (self._area + other._area - shared)

    @property
    def _area(self) -> float:
        return (self.end - self.start) * (self.high_hz - self.low_hz)


@dataclass(frozen=True)
class Found:
    """A region in a window: its box, from the window's start, and its similarity, -1 to 1."""

    box: Box
    similarity: float


def nodes_inside(places: NodePlaces, columns: int, box: Box, begin: float) -> np.ndarray:
    """bool (F, T): the nodes of a window that begins at `begin` s whose centre is in the box.

    At least the one whose place is nearest to the middle of the box.
    """
    times, bands = begin + places.times(columns), places.band_edges()
    middles = (bands[:-1] + bands[1:]) / 2
    inside = np.outer(
        (middles >= box.low_hz) & (middles <= box.high_hz),
        (times >= box.start) & (times <= box.end),
    )
    if not inside.any():
        row = np.searchsorted(bands[1:-1], (box.low_hz + box.high_hz) / 2)
        column = np.abs(times - (box.start + box.end) / 2).argmin()
        inside[row, column] = True
    return inside


def label_node(nodes: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """float32 (C,), of length one: the seed of nodes (F, T, C), of length one each, in a box."""
    mean = nodes[inside].mean(0)
    seed: np.ndarray = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return seed


def nearest_region(
    likeness: np.ndarray, k: int, places: NodePlaces, begin: float, end: float
) -> Found:
    """Where in a window from `begin` to `end` s the label node finds itself.

    `likeness` (F, T) is that of each patch with it. Its k nearest patches are drawn on; the region
    is that of those which touch one another around the nearest, its similarity their mean.
    """
    k = min(k, MOST, likeness.size)
    limit = np.partition(likeness.ravel(), -k)[-k]
    best = np.unravel_index(int(likeness.argmax()), likeness.shape)
    rows, columns = _together(likeness >= limit, (int(best[0]), int(best[1])))
    times, bands = begin + places.time_edges(likeness.shape[1]), places.band_edges()
    first, last = float(times[columns.min()]), float(times[columns.max() + 1])
    first = max(begin, min(first, end - 1e-3))
    box = Box(
        first,
        max(min(last, end), first + 1e-3),
        float(bands[rows.min()]),
        float(bands[rows.max() + 1]),
    )
    return Found(box, float(np.sort(likeness.ravel())[-k:].mean()))


def _together(chosen: np.ndarray, start: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cells that hang together with `start`, corners included."""
    seen, waiting = {start}, [start]
    while waiting:
        row, column = waiting.pop()
        for r in range(max(0, row - 1), min(chosen.shape[0], row + 2)):
            for c in range(max(0, column - 1), min(chosen.shape[1], column + 2)):
                if chosen[r, c] and (r, c) not in seen:
                    seen.add((r, c))
                    waiting.append((r, c))
    cells = np.array(sorted(seen))
    return cells[:, 0], cells[:, 1]
