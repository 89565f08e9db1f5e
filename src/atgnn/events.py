"""When something is heard: events with start, end, label and score, from files and from streams.

The recording is heard in overlapping windows. The score of a label from one window's start to the
next is the mean over the windows that hold this stretch whole, and those count most in whose middle
it lies. A label's event lasts while its score is at least `off`, if it reaches `on` at least once.

A stream gives the events of the whole file, to the last bit, however it is cut: both pass the same
resampler, the same windows, in the same batches, and the same `Detector`.

L labels, N windows of a piece, S samples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atgnn import audio
from atgnn.checkpoint import Checkpoint
from atgnn.errors import AudioError, ConfigError, LabelError, describe_error, did_you_mean
from atgnn.labels import Ontology
from atgnn.tagger import Piece, Scores, Taggable, Tagger, not_finite
from atgnn.tags import Event, Failure, Timeline

__all__ = [
    "Curve",
    "Detector",
    "Event",
    "EventSettings",
    "Stream",
    "Stretch",
    "Timeline",
    "curve",
    "detect",
    "events_in",
    "timelines",
]

#: A score for all labels, or for each of those named.
Threshold: TypeAlias = float | dict[str, float]

DEFAULT_ON = 0.5  # where a model has no thresholds
COVERED = 0.5  # of an event, by those of more specific labels: then it is left out


class EventSettings(BaseModel):
    """What counts as an event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: float = Field(2.0, gt=0, description="s heard at a time")
    hop_s: float = Field(0.5, gt=0, description="s from one window to the next")
    on: Threshold | None = Field(
        None,
        description="an event reaches this score; of all labels, or of each of those named; "
        "without it, and for the others, the model's threshold, or 0.5",
    )
    off: Threshold | None = Field(
        None, description="an event lasts from this score on; for the others off_share of on"
    )
    off_share: float = Field(0.5, ge=0, le=1, description="of on, where off does not say")
    shortest_s: float = Field(0.0, ge=0, description="shorter events are left out")
    gap_s: float = Field(0.0, ge=0, description="events of a label this near are one")
    ancestors: bool = Field(
        False, description="also a label that others imply (Dog) where they are heard (Bark)"
    )

    @classmethod
    def of(cls, **values: Any) -> EventSettings:
        """Checked; `ConfigError` in one line where something does not fit."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"events: {describe_error(error, cls.model_fields)}") from None

    def thresholds(self, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
        """float64 (L,) each: from which score on every label begins, and lasts.

        LabelError for a label that the model does not know, ConfigError for an `off` above `on`.
        """
        names = checkpoint.vocabulary.names
        own = checkpoint.thresholds
        on = _each(self.on, names, np.full(len(names), DEFAULT_ON) if own is None else own)
        off = _each(self.off, names, self.off_share * on)
        for name, begins, lasts in zip(names, on, off, strict=True):
            if not 0 <= lasts <= begins <= 1:
                raise ConfigError(
                    f"events of {name} begin at {begins:g} and last from {lasts:g} on: "
                    "give 0 <= off <= on <= 1"
                )
        return on, off


def _each(given: Threshold | None, names: Sequence[str], default: Any) -> np.ndarray:
    """float64 (L,): what is given for all labels or for some, the default for the others."""
    values = np.array(default, np.float64)
    if isinstance(given, Mapping):
        for name, value in given.items():
            if name not in names:
                raise LabelError(f"no label {name!r} in this model{did_you_mean(name, names)}")
            values[names.index(name)] = value
    elif given is not None:
        values[:] = given
    return values


# --- from windows to events ------------------------------------------------------------------


@dataclass(frozen=True)
class Stretch:
    """A part of a recording, from `start` to `end` seconds, and the scores (L,) there."""

    start: float
    end: float
    scores: np.ndarray


class Curve:
    """From the scores of windows, in order, to those of the stretches between windows' starts.

    Stretches follow one another from the start of the recording to its end.
    """

    def __init__(self, settings: EventSettings) -> None:
        self._window, self._hop = settings.window_s, settings.hop_s
        self._held = max(1, math.floor(self._window / self._hop + 1e-6))  # that hold a stretch
        self._rows: deque[np.ndarray] = deque(maxlen=self._held)
        self._starts: deque[float] = deque(maxlen=self._held)
        self._end = 0.0

    def add(self, start: float, seconds: float, scores: np.ndarray) -> list[Stretch]:
        """The next window; the stretch that ends where it begins."""
        out = []
        if self._starts:
            out.append(self._stretch(self._starts[-1], start))
        self._rows.append(scores)
        self._starts.append(start)
        self._end = start + seconds
        return out

    def finish(self) -> list[Stretch]:
        """From the start of the last window to the end of the recording."""
        if not self._starts:
            return []
        last, count = self._starts[-1], 0
        out = []
        while (start := last + count * self._hop) < self._end - 1e-9:
            count += 1
            out.append(self._stretch(start, last + count * self._hop))
        out[-1] = replace(out[-1], end=self._end)
        self._starts.clear()
        self._rows.clear()
        return out

    def _stretch(self, start: float, end: float) -> Stretch:
        middle = start + self._hop / 2 - self._window / 2  # of it, as the start of a window
        starts = np.array(self._starts)
        away = np.abs(starts - middle) / (self._window + self._hop)
        weights = np.where(away < 0.5, np.cos(np.pi * away) ** 2, 0.0)
        weights[starts < end - self._window - 1e-6] = 0  # windows that end within it
        if not weights.any():
            weights[-1] = 1.0
        return Stretch(start, end, weights @ np.array(self._rows) / weights.sum())


def curve(scores: Scores, settings: EventSettings) -> list[Stretch]:
    """The course of all labels over a recording whose windows have been scored.

    The windows must be those of the settings, see `Tagger.score_many`.
    """
    made = Curve(settings)
    rows = zip(scores.starts.tolist(), scores.seconds.tolist(), scores.windows, strict=True)
    stretches = [stretch for row in rows for stretch in made.add(*row)]
    return stretches + made.finish()


@dataclass
class _Run:
    """A stretch of one label, from `start` to `end` seconds, and its highest score."""

    start: float
    end: float
    score: float


class Detector:
    """Turns the scores of windows, in order, into events; each is given as soon as it is certain.

    Memory does not grow with the length of the recording.
    """

    def __init__(self, checkpoint: Checkpoint, settings: EventSettings) -> None:
        self.labels = checkpoint.vocabulary.names
        self.settings = settings
        self._on, self._off = settings.thresholds(checkpoint)
        above: Mapping[int, Sequence[int]] = {}
        if not settings.ancestors:
            above = Ontology.audioset().ancestors_within(checkpoint.vocabulary)
        pairs = [(general, special) for special in above for general in above[special]]
        self._below = {general: [b for a, b in pairs if a == general] for general, _ in pairs}
        self._curve = Curve(settings)
        self._open: dict[int, _Run] = {}  # at least `off` up to now
        self._closed: dict[int, _Run] = {}  # an event, unless the next one is near enough to join
        self._past: dict[int, list[_Run]] = {}  # events that may cover one of a more general label

    def add(self, start: float, seconds: float, scores: np.ndarray) -> list[Event]:
        """The next window: its place in seconds, its scores (L,). The events that are now over."""
        return [
            event
            for stretch in self._curve.add(start, seconds, scores)
            for event in self._heard(stretch)
        ]

    def finish(self) -> list[Event]:
        """The recording has ended: all that is left."""
        events = [event for stretch in self._curve.finish() for event in self._heard(stretch)]
        for label in sorted(self._open):
            self._end(label, self._open[label])
        self._open.clear()
        return events + self._released(np.inf)

    def _heard(self, stretch: Stretch) -> list[Event]:
        """The next stretch of the recording."""
        loud = set(np.flatnonzero(stretch.scores >= self._off).tolist())
        for label in [label for label in self._open if label not in loud]:
            self._end(label, self._open.pop(label))
        for label in loud:
            score = float(stretch.scores[label])
            run = self._open.setdefault(label, _Run(stretch.start, stretch.end, score))
            run.end, run.score = stretch.end, max(run.score, score)
        return self._released(stretch.end)

    def _end(self, label: int, run: _Run) -> None:
        """A stretch is over: it is an event if it was loud enough, perhaps one with the last."""
        if run.score < self._on[label]:
            return
        last = self._closed.get(label)
        if last is not None:  # near enough to be one, else it would have been released
            run = _Run(last.start, run.end, max(last.score, run.score))
        self._closed[label] = run

    def _released(self, now: float) -> list[Event]:
        """Events that nothing after `now` can join."""
        over = []
        for label, run in sorted(self._closed.items()):
            upcoming = self._open[label].start if label in self._open else now
            if upcoming - run.end > self.settings.gap_s:
                del self._closed[label]
                if run.end - run.start >= self.settings.shortest_s:
                    over.append((label, run))
        for label, run in over:
            self._past.setdefault(label, []).append(run)
        events = [
            Event(self.labels[label], run.start, run.end, run.score)
            for label, run in over
            if not self._implied(label, run)
        ]
        self._forget(now)
        return events

    def _implied(self, label: int, event: _Run) -> bool:
        """Whether events of more specific labels, as far as they are known, cover half of it."""
        pieces = []
        for special in self._below.get(label, ()):
            runs = [*self._past.get(special, ())]
            runs += [some[special] for some in (self._closed, self._open) if special in some]
            for run in runs:
                start, end = max(run.start, event.start), min(run.end, event.end)
                if run.score >= self._on[special] and start < end:
                    pieces.append((start, end))
        covered, reached = 0.0, event.start
        for start, end in sorted(pieces):
            covered += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return covered >= COVERED * (event.end - event.start)

    def _forget(self, now: float) -> None:
        """Drop past events that no event of a more general label still to come can overlap."""
        going = [run.start for some in (self._open, self._closed) for run in some.values()]
        since = min([*going, now])
        for label, runs in list(self._past.items()):
            self._past[label] = [run for run in runs if run.end > since]
            if not self._past[label]:
                del self._past[label]


# --- recordings ------------------------------------------------------------------------------


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
    settings = settings or EventSettings()
    detector = Detector(tagger.checkpoint, settings)
    for piece in _pieces(tagger, [source], settings, batch_size, "raise"):
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
    settings = settings or EventSettings()
    draft: _Draft | None = None
    for piece in _pieces(tagger, sources, settings, batch_size, on_error):
        if isinstance(piece, Failure):
            draft = None
            yield piece
            continue
        draft = draft or _Draft(tagger, settings)
        draft.add(piece)
        if piece.last:
            yield draft.timeline(choice)
            draft = None


def events_in(scores: Scores, checkpoint: Checkpoint, settings: EventSettings) -> tuple[Event, ...]:
    """The events of a recording whose windows have been scored, in order of their start.

    The windows must be those of the settings, see `Tagger.score_many`. ConfigError and LabelError
    for settings that do not fit the model.
    """
    whole = Piece(scores.path, scores.starts, scores.seconds, scores.windows, last=True)
    return _in_order(_events_of(Detector(checkpoint, settings), whole))


def _pieces(
    tagger: Tagger,
    sources: Iterable[Taggable],
    settings: EventSettings,
    batch_size: int | None,
    on_error: Literal["raise", "collect"],
) -> Iterator[Piece | Failure]:
    pieces = tagger.pieces(
        sources,
        window=settings.window_s,
        hop=settings.hop_s,
        batch_size=batch_size,
        share_batches=False,
        on_error=on_error,
    )
    with closing(pieces):
        yield from pieces


def _events_of(detector: Detector, piece: Piece) -> Iterator[Event]:
    rows = zip(piece.starts.tolist(), piece.seconds.tolist(), piece.windows, strict=True)
    for start, seconds, scores in rows:
        yield from detector.add(start, seconds, scores)
    if piece.last:
        yield from detector.finish()


class _Draft:
    """What is known of a recording that is not over."""

    def __init__(self, tagger: Tagger, settings: EventSettings) -> None:
        self.tagger = tagger
        self.detector = Detector(tagger.checkpoint, settings)
        self.events: list[Event] = []
        self.path: str | None = None
        self.duration = 0.0
        self._sum = np.zeros(len(tagger.labels))  # scores (L,) times seconds
        self._seconds = 0.0

    def add(self, piece: Piece) -> None:
        self.path = piece.path
        self.events += _events_of(self.detector, piece)
        if len(piece.seconds):
            self.duration = float(piece.starts[-1] + piece.seconds[-1])
            self._sum += piece.seconds @ piece.windows
            self._seconds += float(piece.seconds.sum())

    def timeline(self, choice: dict[str, Any]) -> Timeline:
        """The whole; events in order of their start."""
        mean = (self._sum / self._seconds).astype(np.float32)
        tags = self.tagger.selector.tagging(self.path, self.duration, mean, **choice).tags
        return Timeline(self.path, self.duration, tags, _in_order(self.events))


def _in_order(events: Iterable[Event]) -> tuple[Event, ...]:
    return tuple(sorted(events, key=lambda event: (event.start, event.end, event.label)))


# --- streams ---------------------------------------------------------------------------------


class Stream:
    """Events of a signal that comes in chunks of any size: a microphone, a socket, a simulation.

    >>> stream = Stream(tagger, rate=48_000)  # doctest: +SKIP
    >>> for chunk in microphone:  # doctest: +SKIP
    ...     for event in stream.feed(chunk):
    ...         print(event)
    >>> print(*stream.finish())  # doctest: +SKIP

    They are exactly those that `detect` finds in the same samples with the same `batch_size`.
    Windows go through the network when `batch_size` of them have come: with 1 an event is given at
    once when it is over, with more the network works less for the same sound.
    """

    def __init__(
        self,
        tagger: Tagger,
        rate: int,
        settings: EventSettings | None = None,
        *,
        channels: int = 1,
        batch_size: int | None = None,
    ) -> None:
        """Chunks are (T,) of one channel or (T, channels), at `rate` Hz.

        Raises `AudioError` for a rate or a number of channels out of range, `ConfigError` and
        `LabelError` for settings that do not fit the model.
        """
        self.tagger, self.settings = tagger, settings or EventSettings()
        self._size = tagger.checked_batch_size(batch_size)
        size, hop = tagger.framing(self.settings.window_s, self.settings.hop_s)
        self._rate = tagger.front_end.config.sample_rate
        self._mixer = audio.Mixer(rate, channels)
        self._resampler = audio.Resampler(self._mixer.rate, self._rate)
        self._framer = audio.Framer(size, hop)
        self._detector = Detector(tagger.checkpoint, self.settings)
        self._windows: list[np.ndarray] = []
        self._scored = 0  # windows
        self._over = False

    @property
    def seconds(self) -> float:
        """How much has been fed."""
        return self._mixer.position / self._mixer.rate

    def feed(self, samples: np.ndarray) -> list[Event]:
        """The next samples, (T,) or (T, channels), floats or integers; the events that are over.

        AudioError for another shape, or NaN and infinite samples; nothing of the chunk is used.
        """
        if self._over:
            raise AudioError("this stream has ended: make a new one")
        events: list[Event] = []
        for mono in self._mixer.push(samples):
            for block in self._resampler.push(mono):
                events += self._heard(self._framer.push(block))
        return events

    def finish(self) -> list[Event]:
        """The signal has ended, in the middle of a window perhaps: all events that are left.

        AudioError if nothing was ever fed.
        """
        if self._over:
            return []
        self._over = True
        if not self._mixer.position:
            raise AudioError("the stream holds no samples")
        events: list[Event] = []
        for block in self._resampler.finish():
            events += self._heard(self._framer.push(block))
        events += self._heard(self._framer.finish())
        return events + self._score() + self._detector.finish()

    def _heard(self, windows: Iterable[np.ndarray]) -> list[Event]:
        events: list[Event] = []
        for window in windows:
            self._windows.append(window)
            if len(self._windows) == self._size:
                events += self._score()
        return events

    def _score(self) -> list[Event]:
        """Put the windows that wait through the network, as one batch."""
        windows, self._windows = self._windows, []
        if not windows:
            return []
        scores = self.tagger.score_windows(windows)
        if not np.isfinite(scores).all():
            raise not_finite(None)
        events: list[Event] = []
        for window, row in zip(windows, scores, strict=True):
            start = self._scored * self._framer.hop / self._rate
            events += self._detector.add(start, len(window) / self._rate, row)
            self._scored += 1
        return events
