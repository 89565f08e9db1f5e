"""The cells of a stage's patch nodes in one window of a recording: they tile the plane.

F rows, T columns of nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from atgnn.explain.records import Region
from atgnn.model.geometry import NodePlaces

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """The nodes of a stage over a window that begins at `start` and ends at `end` s."""

    places: NodePlaces
    columns: int
    start: float
    end: float

    def of_stage(self, stage: int, columns: int) -> Grid:
        """Another stage's nodes over the same window."""
        return Grid(NodePlaces(self.places.model, self.places.front_end, stage), columns,
                    self.start, self.end)  # fmt: skip

    @cached_property
    def times(self) -> np.ndarray:
        """Edges of the columns in s, (T + 1,); the outermost are the window's ends."""
        edges = (self.start + self.places.time_edges(self.columns)).clip(self.start, self.end)
        edges[0], edges[-1] = self.start, self.end
        return edges

    @cached_property
    def bands(self) -> np.ndarray:
        """Edges of the rows in Hz, (F + 1,)."""
        return self.places.band_edges()

    def box(self, row: int, row_end: int, column: int, column_end: int, weight: float) -> Region:
        """The cells of rows up to `row_end` and columns up to `column_end`, both left out."""
        return Region(
            start=float(self.times[column]),
            end=float(self.times[column_end]),
            low_hz=float(self.bands[row]),
            high_hz=float(self.bands[row_end]),
            weight=weight,
        )
