"""How a tagger listens for events: which windows, and what is read of each.

B windows of a batch, N of a piece, T frames, P moments of a window, L labels, F bins or rows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atgnn.events.detector import Detector
from atgnn.events.rows import layout_of
from atgnn.events.settings import EventSettings, places_of
from atgnn.model.evidence import row_shares
from atgnn.model.label import Drawing
from atgnn.tagger import Piece, Reading, Scores, Taggable, Tagger
from atgnn.tags import Failure

__all__ = ["Listening"]

FLAT = 1e-3  # a frame whose normalised values differ by less holds no sound


class Listening:
    """A tagger with settings for events.

    Attributes:
        settings: those given, with what the model decides of them.
        reading: what is read of a window in the place of scores, or None for these.
    """

    def __init__(self, tagger: Tagger, settings: EventSettings | None = None) -> None:
        """ConfigError and LabelError for settings that do not fit the model."""
        self.tagger = tagger
        self.settings = (settings or EventSettings()).for_model(tagger.checkpoint)
        self.settings.thresholds(tagger.checkpoint)  # refused now, not at the first recording
        self.reading: Reading | None = None
        rows = _Rows(tagger, self.settings)
        self._layout = rows.layout
        if self.settings.reading == "moments" or self.settings.bands:
            self.reading = Reading(rows.take, rows.layout.width)

    def detector(self) -> Detector:
        """For one recording."""
        return Detector(self.tagger.checkpoint, self.settings)

    def pieces(
        self,
        sources: Iterable[Taggable],
        batch_size: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> Generator[Piece | Failure, None, None]:
        """What is read of recordings, as `Tagger.pieces`; no batch holds windows of two."""
        with closing(self.tagger.pieces(sources, **self._how(batch_size, on_error))) as pieces:
            yield from pieces

    def score_many(
        self,
        sources: Iterable[Taggable],
        batch_size: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> Generator[Scores | Failure, None, None]:
        """The same of whole recordings, as `Tagger.score_many`."""
        return self.tagger.score_many(sources, **self._how(batch_size, on_error))

    def _how(self, batch_size: int | None, on_error: str) -> dict[str, Any]:
        window, hop = self.settings.framing
        return {
            "window": window,
            "hop": hop,
            "batch_size": batch_size,
            "share_batches": False,
            "on_error": on_error,
            "reading": self.reading,
        }

    def whole_rows(self, rows: np.ndarray) -> np.ndarray:
        """The scores of whole windows (N, L) in rows (N, D)."""
        return self._layout.whole(rows)


class _Rows:
    """Reads windows into rows (`Layout`)."""

    def __init__(self, tagger: Tagger, settings: EventSettings) -> None:
        self.tagger, self.layout = tagger, layout_of(tagger.checkpoint, settings)

    def take(self, features: Tensor, frames: Tensor | None) -> Tensor:
        """Features (B, T, F) and their valid frames (B,), to (B, D).

        Where there is no sound, in frames that are the same in all bins, there is no score.
        """
        seen: list[Drawing] | None = [] if self.layout.rows else None
        score, sound = self.tagger.checkpoint.scores, sounding(features, frames)
        network: Any = self.tagger.network.model
        if not self.layout.moments:
            logits, seen = network.with_drawings(features, frames)
            scores = score(logits).masked_fill(~sound.any(1)[:, None], 0)
            return self._row(scores, scores[:, None, :0], seen)
        places = places_of(self.tagger.checkpoint)
        logits, moments = network.with_moments(features, frames, places.stage, seen)
        heard = parted(sound, moments.shape[1], places.stride).any(2)
        scores = score(logits).masked_fill(~sound.any(1)[:, None], 0)
        parts = score(moments).masked_fill(~heard[..., None], 0)
        return self._row(scores, parts, seen)

    def _row(self, whole: Tensor, parts: Tensor, seen: list[Drawing] | None) -> Tensor:
        """Scores (B, L), those of P moments (B, P, L), and what labels drew, to (B, D)."""
        layout, count = self.layout, parts.shape[1]
        room = (0, 0, 0, max(0, layout.moments - count))
        row = [whole, functional.pad(parts, room).flatten(1)]
        if seen:
            shares = row_shares(seen, layout.rows).unflatten(0, (-1, max(1, count)))
            row.append(functional.pad(shares, (0, 0, *room)).flatten(1))  # (B, P, L, F)
        return torch.cat(row, 1)


def sounding(features: Tensor, frames: Tensor | None) -> Tensor:
    """Which frames of (B, T, F) hold sound, bool (B, T): those that differ from bin to bin."""
    sound = features.amax(2) - features.amin(2) > FLAT
    if frames is not None:
        sound &= torch.arange(sound.shape[1], device=sound.device) < frames[:, None]
    return sound


def parted(values: Tensor, count: int, stride: int) -> Tensor:
    """Frames (B, T) by moment (B, P, stride): that around p begins half a stride ahead of it.

    What is beyond the ends is zero.
    """
    before = stride // 2
    after = count * stride - before - values.shape[1]
    return functional.pad(values, (before, after)).unflatten(1, (count, stride))  # less than 0 cuts
