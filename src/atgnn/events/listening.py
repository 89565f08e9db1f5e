"""How a tagger listens for events: which windows, and what is read of each.

B windows of a batch, N of a piece, P moments of a window, L labels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atgnn.events.detector import Detector
from atgnn.events.settings import EventSettings, places_of
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
        if self.settings.reading == "moments":
            self.reading = _by_moments(tagger, tagger.framing(*self.settings.framing)[0])

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
        return replace(read, windows=self.whole_rows(read.windows))

    def whole_rows(self, rows: np.ndarray) -> np.ndarray:
        """The same of rows (N, D)."""
        return rows[:, : len(self.tagger.labels)]


@dataclass(frozen=True)
class _Moments:
    """Reads windows by moments: the scores of the whole window, then of each moment."""

    tagger: Tagger
    stage: int
    most: int  # moments of a window

    @property
    def width(self) -> int:
        return (1 + self.most) * len(self.tagger.labels)

    def take(self, features: Tensor, frames: Tensor | None) -> Tensor:
        """Features (B, T, F) and their valid frames (B,), to (B, (1 + most) L) scores.

        Where there is no sound, in frames that are the same in all bins, there is no score.
        """
        network: Any = self.tagger.network.model
        whole, moments = network.with_moments(features, frames, self.stage)
        score = self.tagger.checkpoint.scores
        silent = self._silent(features, moments.shape[1])
        scores = score(moments).masked_fill(silent[..., None], 0)
        first = score(whole).masked_fill(silent.all(1)[:, None], 0)
        rows = torch.cat([first[:, None], scores], 1)
        return functional.pad(rows, (0, 0, 0, self.most - moments.shape[1])).flatten(1)

    def _silent(self, features: Tensor, count: int) -> Tensor:
        """Which moments hold no sound, bool (B, count)."""
        stride = places_of(self.tagger.checkpoint).stride
        sound = (features.amax(2) - features.amin(2) > FLAT).float()[:, None]  # (B, 1, T)
        room = max(0, count * stride - stride // 2 - sound.shape[2])
        padded = functional.pad(sound, (stride // 2, room))
        return functional.max_pool1d(padded, stride)[:, 0, :count] == 0


def _by_moments(tagger: Tagger, samples: int) -> Reading:
    places = places_of(tagger.checkpoint)
    moments = _Moments(tagger, places.stage, places.columns(samples))
    return Reading(moments.take, moments.width)
