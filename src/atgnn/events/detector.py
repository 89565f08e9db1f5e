"""From the course of all labels to events: hysteresis, joining, and labels that imply others.

L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.events.bands import band_of, band_places
from atgnn.events.curves import Stretch, curve_of
from atgnn.events.settings import EventSettings
from atgnn.labels import Ontology
from atgnn.tags import Event

__all__ = ["Detector"]

COVERED = 0.5  # of an event, by those of more specific labels: then it is left out


@dataclass
class _Run:
    """A stretch of one label, from `start` to `end` seconds, and its highest score.

    `shares` (F,): the sum of where it looked, weighted by seconds; None where nobody asked.
    """

    start: float
    end: float
    score: float
    shares: np.ndarray | None = None

    def joined(self, later: _Run) -> _Run:
        """This one and a later one as one."""
        shares = self.shares
        if shares is not None and later.shares is not None:
            shares = shares + later.shares
        return _Run(self.start, later.end, max(self.score, later.score), shares)


class Detector:
    """Turns the scores of windows, in order, into events; each is given as soon as it is certain.

    Memory does not grow with the length of the recording.
    """

    def __init__(self, checkpoint: Checkpoint, settings: EventSettings) -> None:
        self.labels = checkpoint.vocabulary.names
        self.settings = settings = settings.for_model(checkpoint)
        self._on, self._off = settings.thresholds(checkpoint)
        above: Mapping[int, Sequence[int]] = {}
        if not settings.ancestors:
            above = Ontology.audioset().ancestors_within(checkpoint.vocabulary)
        pairs = [(general, special) for special in above for general in above[special]]
        self._below = {general: [b for a, b in pairs if a == general] for general, _ in pairs}
        self._curve = curve_of(checkpoint, settings)
        self._open: dict[int, _Run] = {}  # at least `off` up to now
        self._closed: dict[int, _Run] = {}  # an event, unless the next one is near enough to join
        self._rows = band_places(checkpoint) if settings.bands else None
        self._past: dict[int, list[_Run]] = {}  # events that may cover one of a more general label

    def add(self, start: float, seconds: float, scores: np.ndarray) -> list[Event]:
        """The next window: its place in seconds, what was read of it. The events that are over.

        `scores` are those of the window (L,), or the row that `Listening` reads (`Layout`).
        """
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
            score, shares = float(stretch.scores[label]), None
            if stretch.shares is not None:
                shares = stretch.shares[label] * (stretch.end - stretch.start)
            new = _Run(stretch.start, stretch.end, score, shares)
            self._open[label] = self._open[label].joined(new) if label in self._open else new
        return self._released(stretch.end)

    def _end(self, label: int, run: _Run) -> None:
        """A stretch is over: it is an event if it was loud enough, perhaps one with the last."""
        if run.score < self._on[label]:
            return
        last = self._closed.get(label)
        if last is not None:  # near enough to be one, else it would have been released
            run = last.joined(run)
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
            Event(self.labels[label], run.start, run.end, run.score, *self._band(run))
            for label, run in over
            if not self._implied(label, run)
        ]
        self._forget(now)
        return events

    def _band(self, run: _Run) -> tuple[float, float] | tuple[None, None]:
        if self._rows is None or run.shares is None:
            return None, None
        return band_of(self._rows, run.shares)

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
