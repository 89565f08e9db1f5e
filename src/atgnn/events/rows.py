"""What is read of a window: one row of numbers, and what is where in it.

L labels, P moments of a window, F rows of frequency, N windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.errors import ConfigError
from atgnn.events.settings import EventSettings, places_of
from atgnn.model import ATGNN
from atgnn.model.geometry import NodePlaces

__all__ = ["Layout", "band_places", "layout_of"]


@dataclass(frozen=True)
class Layout:
    """A row: scores of the whole window (L), of each moment (P L), where labels looked (P L F).

    That is the share of each label's evidence in each row of frequency. By windows, `moments` is 0:
    scores are those of the whole, and so are shares.
    """

    labels: int
    moments: int = 0
    rows: int = 0  # F; 0 without bands

    @property
    def width(self) -> int:
        """Numbers in a row."""
        parts = max(1, self.moments)
        return self.labels * (1 + self.moments + parts * self.rows)

    def whole(self, rows: np.ndarray) -> np.ndarray:
        """(..., D) to the scores of whole windows (..., L)."""
        return rows[..., : self.labels]

    def split(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A row (D,) to scores (P, L), by windows (1, L), and shares (P, L, F), or None."""
        first, parts = self.labels if self.moments else 0, max(1, self.moments)
        scores = row[first : first + parts * self.labels].reshape(parts, self.labels)
        if not self.rows:
            return scores, None
        return scores, row[first + scores.size :].reshape(parts, self.labels, self.rows)


def layout_of(checkpoint: Checkpoint, settings: EventSettings) -> Layout:
    """The layout for a model; `settings` are those `for_model`.

    ConfigError for bands of a model whose labels look at no patches.
    """
    window = round(settings.framing[0] * checkpoint.front_end.sample_rate)
    moments = places_of(checkpoint).columns(window) if settings.reading == "moments" else 0
    rows = band_places(checkpoint).rows if settings.bands else 0
    return Layout(len(checkpoint.vocabulary), moments, rows)


def band_places(checkpoint: Checkpoint) -> NodePlaces:
    """The rows of frequency: those of the first stage."""
    model = checkpoint.model
    if not isinstance(model, ATGNN) or not sum(blocks for _, blocks in model.config.label_levels):
        raise ConfigError(
            "bands come from what the labels of a model look at: this one has no label nodes, or "
            "it has labels of packs; leave --bands out"
        )
    return NodePlaces(model.config, checkpoint.front_end, 0)
