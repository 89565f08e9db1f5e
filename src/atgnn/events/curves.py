"""From the scores of windows, in order, to the course of all labels over a recording.

L labels, F rows of frequency.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.events.rows import Layout, layout_of
from atgnn.events.settings import EventSettings, places_of
from atgnn.model.geometry import NodePlaces
from atgnn.tagger import Scores

__all__ = ["Curve", "MomentCurve", "Smoothed", "Stretch", "curve", "curve_of"]


@dataclass(frozen=True)
class Stretch:
    """A part of a recording, from `start` to `end` seconds, and the scores (L,) there.

    `shares` (L, F), where bands were asked for: where in frequency labels looked (`Layout`).
    """

    start: float
    end: float
    scores: np.ndarray
    shares: np.ndarray | None = None


class Curve:
    """From the scores of windows, in order, to those of the stretches between windows' starts.

    Stretches follow one another from the start of the recording to its end.
    """

    def __init__(self, window: float, hop: float, layout: Layout) -> None:
        """A window's length, and the time from one to the next, in seconds; what is in a row."""
        self._layout = layout
        self._window, self._hop = window, hop
        self._held = max(1, math.floor(window / hop + 1e-6))  # that hold a stretch
        self._rows: deque[np.ndarray] = deque(maxlen=self._held)
        self._starts: deque[float] = deque(maxlen=self._held)
        self._end = 0.0

    def add(self, start: float, seconds: float, scores: np.ndarray) -> list[Stretch]:
        """The next window and its row; the stretch that ends where it begins."""
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
        scores, shares = self._layout.split(weights @ np.array(self._rows) / weights.sum())
        return Stretch(start, end, scores[0], None if shares is None else shares[0])


class MomentCurve:
    """From the scores of windows' moments, in order, to those of the recording's.

    Where two windows overlap, each is believed up to the middle of that: what a moment is depends
    on what is around it. Stretches follow one another from the start of the recording to its end.
    """

    def __init__(self, places: NodePlaces, layout: Layout) -> None:
        """Where moments lie in a window, and what is in a row."""
        self._places, self._layout = places, layout
        self._held: tuple[np.ndarray, np.ndarray] | None = None  # edges of moments, row
        self._given = 0.0  # s, up to where stretches have been given

    def add(self, start: float, seconds: float, row: np.ndarray) -> list[Stretch]:
        """The next window and its row; the moments that are certain by now."""
        out: list[Stretch] = []
        if self._held is not None:
            reached = self._held[0][-1]
            out = self._until((start + max(start, reached)) / 2)
        count = self._places.columns(round(seconds * self._places.front_end.sample_rate))
        edges = start + self._places.time_edges(count).clip(0, seconds)
        edges[0], edges[-1] = start, start + seconds
        self._held = edges, row
        return out

    def finish(self) -> list[Stretch]:
        """The moments that are left."""
        out = [] if self._held is None else self._until(self._held[0][-1])
        self._held = None
        return out

    def _until(self, end: float) -> list[Stretch]:
        """Moments of the window at hand, from where they were given up to `end`."""
        assert self._held is not None
        edges, row = self._held
        bounds = edges.clip(self._given, end).tolist()
        self._given = end
        scores, shares = self._layout.split(row)
        return [
            Stretch(begin, over, scores[number], None if shares is None else shares[number])
            for number, (begin, over) in enumerate(itertools.pairwise(bounds))
            if over - begin > 1e-9
        ]


class Smoothed:
    """A course whose scores are medians over so many stretches around each; fewer at its ends."""

    def __init__(self, course: Curve | MomentCurve, count: int) -> None:
        """`count` is odd."""
        self._course, self._half = course, count // 2
        self._held: list[Stretch] = []
        self._given = 0  # of those held

    def add(self, start: float, seconds: float, row: np.ndarray) -> list[Stretch]:
        """The next window and its row; the stretches of which all that counts is known."""
        return self._next(self._course.add(start, seconds, row), self._half)

    def finish(self) -> list[Stretch]:
        """The stretches that are left."""
        return self._next(self._course.finish(), 0)

    def _next(self, stretches: list[Stretch], behind: int) -> list[Stretch]:
        """Take more; give those that have `behind` after them."""
        self._held += stretches
        out = []
        while self._given < len(self._held) - behind:
            around = self._held[max(0, self._given - self._half) : self._given + self._half + 1]
            scores = np.median([one.scores for one in around], axis=0)
            out.append(replace(self._held[self._given], scores=scores))
            self._given += 1
        over = max(0, self._given - self._half)
        del self._held[:over]
        self._given -= over
        return out


def curve_of(checkpoint: Checkpoint, settings: EventSettings) -> Curve | MomentCurve | Smoothed:
    """What makes the course of a recording of windows; `settings` are those `for_model`."""
    layout = layout_of(checkpoint, settings)
    course: Curve | MomentCurve = Curve(*settings.framing, layout)
    step = settings.framing[1]
    if settings.reading == "moments":
        places = places_of(checkpoint)
        course, step = MomentCurve(places, layout), places.seconds
    assert settings.smooth_s is not None
    count = 2 * round((settings.smooth_s / step - 1) / 2) + 1  # odd
    return course if count <= 1 else Smoothed(course, count)


def curve(scores: Scores, checkpoint: Checkpoint, settings: EventSettings) -> list[Stretch]:
    """The course of all labels over a recording whose windows have been read.

    `scores` is what `Listening.score_many` gave with these settings.
    """
    made = curve_of(checkpoint, settings.for_model(checkpoint))
    rows = zip(scores.starts.tolist(), scores.seconds.tolist(), scores.windows, strict=True)
    stretches = [stretch for row in rows for stretch in made.add(*row)]
    return stretches + made.finish()
