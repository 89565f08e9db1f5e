"""The events of recordings: files, bytes, pipes, samples.

L labels, N windows of a piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.events.detector import Detector
from atgnn.events.listening import Listening
from atgnn.events.settings import EventSettings
from atgnn.tagger import Piece, Scores, Taggable, Tagger
from atgnn.tags import Event, Failure, Timeline

__all__ = ["detect", "events_in", "heard", "timelines"]


def detect(
    tagger: Tagger,
    source: Taggable,
    settings: EventSettings | None = None,
    *,
    batch_size: int | None = None,
) -> Iterator[Event]:
    """The events of one recording of any length, each as soon as it is over.

    Memory does not grow with the recording; what it is decoded from may be a pipe.

    Raises:
        AudioError: the recording is missing, unreadable, empty or not finite.
        ConfigError, LabelError: settings that do not fit the model.
    """
    listening = Listening(tagger, settings)
    detector = listening.detector()
    for piece in listening.pieces([source], batch_size):
        assert isinstance(piece, Piece)
        yield from _events_of(detector, piece)


def timelines(
    tagger: Tagger,
    sources: Iterable[Taggable],
    settings: EventSettings | None = None,
    *,
    batch_size: int | None = None,
    on_error: Literal["raise", "collect"] = "raise",
    **choice: Any,
) -> Iterator[Timeline | Failure]:
    """Tags and events of any number of recordings, in order; see `Tagger.tag_many`.

    `choice` is what `Tagger.tag` takes to choose tags. A recording's tags come from the mean
    over its windows.
    """
    listening = Listening(tagger, settings)
    draft: _Draft | None = None
    for piece in listening.pieces(sources, batch_size, on_error):
        if isinstance(piece, Failure):
            draft = None
            yield piece
            continue
        draft = draft or _Draft(listening)
        draft.add(piece)
        if piece.last:
            yield draft.timeline(choice)
            draft = None


def heard(
    tagger: Tagger,
    sources: Iterable[Taggable],
    settings: EventSettings,
    *,
    batch_size: int | None = None,
    on_error: Literal["raise", "collect"] = "raise",
) -> Iterator[tuple[Scores | Failure, tuple[Event, ...]]]:
    """The scores of recordings' windows and their events, in order; see `Tagger.score_many`.

    Whatever else was read of the windows, for bands say, is used and not kept.
    """
    listening = Listening(tagger, settings)
    detector = listening.detector()
    parts: list[Piece] = []
    events: list[Event] = []
    with closing(listening.pieces(sources, batch_size, on_error)) as pieces:
        for piece in pieces:
            if isinstance(piece, Piece):
                events += _events_of(detector, piece)
                parts.append(replace(piece, windows=listening.whole_rows(piece.windows).copy()))
                if not piece.last:
                    continue
                yield Scores.joined(parts), _in_order(events)
            else:
                yield piece, ()
            detector, parts, events = listening.detector(), [], []


def events_in(scores: Scores, checkpoint: Checkpoint, settings: EventSettings) -> tuple[Event, ...]:
    """The events of a recording that has been heard, in order of their start.

    `scores` is what `Listening.score_many` gave with these settings. ConfigError and LabelError for
    settings that do not fit the model.
    """
    whole = Piece(scores.path, scores.starts, scores.seconds, scores.windows, last=True)
    return _in_order(_events_of(Detector(checkpoint, settings), whole))


def _events_of(detector: Detector, piece: Piece) -> Iterator[Event]:
    rows = zip(piece.starts.tolist(), piece.seconds.tolist(), piece.windows, strict=True)
    for start, seconds, scores in rows:
        yield from detector.add(start, seconds, scores)
    if piece.last:
        yield from detector.finish()


class _Draft:
    """What is known of a recording that is not over."""

    def __init__(self, listening: Listening) -> None:
        self.listening, self.detector = listening, listening.detector()
        self.events: list[Event] = []
        self.path: str | None = None
        self.duration = 0.0
        self._sum = np.zeros(len(listening.tagger.labels))  # scores (L,) times seconds
        self._seconds = 0.0

    def add(self, piece: Piece) -> None:
        self.path = piece.path
        self.events += _events_of(self.detector, piece)
        if len(piece.seconds):
            self.duration = float(piece.starts[-1] + piece.seconds[-1])
            self._sum += piece.seconds @ self.listening.whole_rows(piece.windows)
            self._seconds += float(piece.seconds.sum())

    def timeline(self, choice: dict[str, Any]) -> Timeline:
        """The whole; events in order of their start."""
        mean = (self._sum / self._seconds).astype(np.float32)
        selector = self.listening.tagger.selector
        tags = selector.tagging(self.path, self.duration, mean, **choice).tags
        return Timeline(self.path, self.duration, tags, _in_order(self.events))


def _in_order(events: Iterable[Event]) -> tuple[Event, ...]:
    return tuple(sorted(events, key=lambda event: (event.start, event.end, event.label)))
