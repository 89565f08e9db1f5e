"""Where the patch nodes of a stage lie in a recording: seconds and hertz.

A node of stage s stands for `stride` frames and `stride` mel bins around its centre; as every
convolution is padded by one, the first node's centre is the first frame and the first bin. A node
hears more than that, through overlapping convolutions and through its neighbours.

F frequency rows, T time columns.
"""

from dataclasses import dataclass

import numpy as np

from atgnn.frontend import FrontEndConfig
from atgnn.model.config import ModelConfig

__all__ = ["NodePlaces"]


@dataclass(frozen=True)
class NodePlaces:
    """The places of a stage's nodes, whatever the length of the clip."""

    model: ModelConfig
    front_end: FrontEndConfig
    stage: int

    def __post_init__(self) -> None:
        """ValueError where there is no such stage."""
        if not 0 <= self.stage < len(self.model.channels):
            raise ValueError(
                f"stage {self.stage}: this model has stages 0 to {len(self.model.channels) - 1}"
            )

    @property
    def stride(self) -> int:
        """Frames, and mel bins, from one node to the next."""
        return self.model.time_stride * 2**self.stage

    @property
    def seconds(self) -> float:
        """Time from one column to the next."""
        return self.front_end.frames_to_seconds(self.stride)

    @property
    def rows(self) -> int:
        """F."""
        return self.model.grid(1, self.stage)[0]

    def columns(self, samples: int) -> int:
        """T of a clip of so many samples."""
        return self.model.grid(self.front_end.samples_to_frames(samples), self.stage)[1]

    def times(self, columns: int) -> np.ndarray:
        """float64 (T,): seconds at the centre of each column, in the middle of its first frame."""
        return self._middle + np.arange(columns) * self.seconds

    def time_edges(self, columns: int) -> np.ndarray:
        """float64 (T + 1,): seconds at which columns begin and the last one ends."""
        edges: np.ndarray = self._middle + (np.arange(columns + 1) - 0.5) * self.seconds
        return edges.clip(min=0)

    def band_edges(self) -> np.ndarray:
        """float64 (F + 1,): hertz at which rows begin and the last one ends, within the band."""
        bins = (np.arange(self.rows + 1) - 0.5) * self.stride
        hertz = self.front_end.bins_to_hertz(bins)
        low, high = self.front_end.band
        hertz[0], hertz[-1] = low, high
        out: np.ndarray = hertz.clip(low, high)
        return out

    def column_at(self, seconds: np.ndarray | float) -> np.ndarray:
        """float64: the place among the columns' centres of a moment; 0.5 is between two."""
        return (np.asarray(seconds, np.float64) - self._middle) / self.seconds

    @property
    def _middle(self) -> float:
        return self.front_end.first_centre
