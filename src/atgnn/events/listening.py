"""How a tagger listens for events: which windows, and what is read of each.

B windows of a batch, N of a piece, T frames, P moments of a window, L labels, F bins or rows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atgnn.events.detector import Detector
from atgnn.events.rows import band_places, layout_of
from atgnn.events.settings import EventSettings, places_of
from atgnn.model.evidence import row_shares
from atgnn.model.geometry import NodePlaces
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
    ) -> Iterator[Piece | Failure]:
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

    def whole(self, read: Scores) -> Scores:
        """The scores of whole windows (N, L) of what was read."""
        return replace(read, windows=self._layout.whole(read.windows))

    def whole_rows(self, rows: np.ndarray) -> np.ndarray:
        """The same of rows (N, D)."""
        return self._layout.whole(rows)


class _Rows:
    """Reads windows into rows (`Layout`)."""

    def __init__(self, tagger: Tagger, settings: EventSettings) -> None:
        self.tagger, self.layout = tagger, layout_of(tagger.checkpoint, settings)
        if self.layout.rows:
            self._means = _means(band_places(tagger.checkpoint))

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
            return self._row(scores, scores[:, None, :0], seen, features, frames)
        places = places_of(self.tagger.checkpoint)
        logits, moments = network.with_moments(features, frames, places.stage, seen)
        heard = parted(sound, moments.shape[1], places.stride).any(2)
        scores = score(logits).masked_fill(~sound.any(1)[:, None], 0)
        parts = score(moments).masked_fill(~heard[..., None], 0)
        return self._row(scores, parts, seen, features, frames)

    def _row(
        self,
        whole: Tensor,
        parts: Tensor,
        seen: list[Drawing] | None,
        features: Tensor,
        frames: Tensor | None,
    ) -> Tensor:
        """Scores (B, L), those of P moments (B, P, L), and what bands need, to (B, D)."""
        layout, count = self.layout, parts.shape[1]
        room = (0, 0, 0, max(0, layout.moments - count))
        row = [whole, functional.pad(parts, room).flatten(1)]
        if seen is not None and layout.rows:
            number = max(1, count)
            shares = row_shares(seen, layout.rows).unflatten(0, (-1, number))  # (B, P, L, F)
            levels = self._levels(features, frames, count)[:, :, None]
            both = torch.cat([shares, levels], 2)  # (B, P, L + 1, F)
            row.append(functional.pad(both, (0, 0, *room)).flatten(1))
        return torch.cat(row, 1)

    def _levels(self, features: Tensor, frames: Tensor | None, count: int) -> Tensor:
        """Mean log power, but for a factor, in the rows of each of `count` moments: (B, P, F)."""
        rows = features @ self._means.to(features)  # (B, T, F)
        there = torch.ones_like(features[..., 0], dtype=torch.bool)
        if frames is not None:
            there = within(there, frames)
        if not count:
            return mean_where(there, rows)[:, None]
        stride = places_of(self.tagger.checkpoint).stride
        return mean_where(parted(there, count, stride), parted(rows, count, stride))


def _means(places: NodePlaces) -> Tensor:
    """What makes means of rows of mel bins, (bins, F): row r is around bin r times the stride."""
    bins = torch.arange(places.model.n_mels)
    rows = ((bins + places.stride // 2) // places.stride).clamp(max=places.rows - 1)
    chosen = functional.one_hot(rows, places.rows).float()
    return chosen / chosen.sum(0)


def sounding(features: Tensor, frames: Tensor | None) -> Tensor:
    """Which frames of (B, T, F) hold sound, bool (B, T): those that differ from bin to bin."""
    sound = features.amax(2) - features.amin(2) > FLAT
    return sound if frames is None else within(sound, frames)


def within(flags: Tensor, frames: Tensor) -> Tensor:
    """Flags (B, T) that are False past each clip's end (B,)."""
    return flags & (torch.arange(flags.shape[1], device=flags.device) < frames[:, None])


def parted(values: Tensor, count: int, stride: int) -> Tensor:
    """Frames (B, T, ...) by moment (B, P, stride, ...): that around p begins half a stride ahead.

    What is beyond the ends is zero.
    """
    before = stride // 2
    after = count * stride - before - values.shape[1]
    room = (0, 0) * (values.ndim - 2) + (before, after)  # a negative number cuts
    return functional.pad(values, room).unflatten(1, (count, stride))


def mean_where(there: Tensor, values: Tensor) -> Tensor:
    """The mean over the frames that are there: bool (..., T) and (..., T, F) to (..., F)."""
    weights = there.to(values.dtype)[..., None]
    return (values * weights).sum(-2) / weights.sum(-2).clamp(min=1)
