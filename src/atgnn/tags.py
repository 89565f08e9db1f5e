"""Records of tags, the rule that chooses them from scores, and how they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atgnn.errors import AtgnnError, ConfigError, printable
from atgnn.labels import Ontology, Vocabulary

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = [
    "DEFAULT_TOP",
    "Event",
    "Failure",
    "Selector",
    "Tag",
    "Tagging",
    "Timeline",
    "clock",
    "moment",
]

#: Tags of a recording when nothing else is asked for and the model has no thresholds.
DEFAULT_TOP = 5

#: A more specific label takes its ancestor's place among the best when it scores this share of it.
SPECIFIC_SHARE = 0.5


@dataclass(frozen=True)
class Tag:
    """A label, spelt as in the model's vocabulary, and its score from 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True)
class Event:
    """A sound that begins and ends.

    Attributes:
        label: spelt as in the model's vocabulary.
        start, end: seconds from the start of the recording.
        score: from 0 to 1, the highest on the way.
        low_hz, high_hz: the band it lies in, where that is known.
    """

    label: str
    start: float
    end: float
    score: float
    low_hz: float | None = None
    high_hz: float | None = None

    def line(self) -> Text:
        """When and what, in one line of a terminal."""
        from rich.text import Text

        line = Text.assemble(
            f"{moment(self.start):>12} - {moment(self.end):<12} {printable(self.label):<32} ",
            (f"{self.score:.2f}", "cyan"),
        )
        if self.low_hz is not None and self.high_hz is not None:
            line.append(f"  {self.low_hz:.0f} to {self.high_hz:.0f} Hz", "dim")
        return line


@dataclass(frozen=True)
class Timeline:
    """What was heard in one recording: tags of the whole of it, and events.

    `path` is what was given (None for samples and bytes), `duration` is in seconds, NaN while the
    recording goes on. Tags are best first, events in order of their start.
    """

    path: str | None
    duration: float
    tags: tuple[Tag, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def length(self) -> str:
        """Its duration for people, as exact as `moment`: no event ends after it. "" for NaN."""
        if math.isnan(self.duration):
            return ""
        text = moment(self.duration)
        return text if ":" in text else f"{text} s"

    def __rich__(self) -> RenderableType:
        """The recording as a titled block with a line for each event."""
        from rich.console import Group
        from rich.text import Text

        name = "recording" if self.path is None else printable(self.path)
        title = Text.assemble((name, "bold"), "  ", (self.length, "dim"))
        title.rstrip()
        if not self.events:
            return Group(title, Text("  no events", style="dim"))
        return Group(title, *(event.line() for event in self.events))


@dataclass(frozen=True)
class Tagging:
    """The tags of one recording, best first.

    `path` is what was given (None for samples and bytes), `duration` is in seconds. `best` is the
    label with the highest score, also when it did not reach its threshold and `tags` is empty.
    """

    path: str | None
    duration: float
    tags: tuple[Tag, ...]
    best: Tag

    def to_dict(self) -> dict[str, Any]:
        """Plain data: path, duration (s) and tags, nothing else."""
        tags = [{"label": tag.label, "score": round(tag.score, 6)} for tag in self.tags]
        return {"path": self.path, "duration": round(self.duration, 3), "tags": tags}

    def to_json(self) -> str:
        """`to_dict` as one line of ASCII, which no terminal or file name can upset."""
        return json.dumps(self.to_dict())

    def __iter__(self) -> Iterator[Tag]:
        return iter(self.tags)

    def __len__(self) -> int:
        return len(self.tags)

    def __str__(self) -> str:
        lines = [f"{tag.score:.2f}  {printable(tag.label)}" for tag in self.tags]
        return "\n".join([f"{self._title} ({clock(self.duration)})", *(lines or [self._none])])

    @property
    def _title(self) -> str:
        return "recording" if self.path is None else printable(self.path)

    @property
    def _none(self) -> str:
        return f"no label reached its threshold; the nearest: {_named(self.best)}"

    def __rich__(self) -> RenderableType:
        """One recording as a titled block with a bar per tag."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        title = Text.assemble((self._title, "bold"), "  ", (clock(self.duration), "dim"))
        if not self.tags:
            return Group(title, Text(f"  {self._none}", style="dim"))
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        for tag in self.tags:
            bar = ProgressBar(
                total=1,
                completed=tag.score,
                width=24,
                style="grey30",
                complete_style="cyan",
                finished_style="cyan",
            )
            table.add_row("", printable(tag.label), bar, _short(tag))
        return Group(title, table)

    def line(self, width: int = 0) -> Text:
        """The same in one line for long lists; the path is filled up to `width` characters."""
        from rich.text import Text

        text = Text.assemble((self._title.ljust(width), "bold"), "  ")
        text.append(f"{clock(self.duration):>9}  ", style="dim")
        if not self.tags:
            return text.append(f"({_named(self.best)})", style="dim")
        for number, tag in enumerate(self.tags):
            text.append(", " if number else "").append(printable(tag.label))
            text.append(f" {_short(tag)}", "cyan")
        return text


@dataclass(frozen=True)
class Failure:
    """A recording that could not be tagged, and why."""

    path: str | None
    error: AtgnnError

    def __str__(self) -> str:
        return str(self.error)


class Selector:
    """Chooses the tags to report from the scores of all labels.

    - `threshold`: every label that scores at least as much;
    - `top`: the best so many, whatever they score; with `threshold`, of those that reach it;
    - neither: the labels that reach their own threshold in the checkpoint, or, where it has none,
      the `DEFAULT_TOP` best.

    Labels that are ontology ancestors of a reported one are left out unless `ancestors` is true.
    Where a threshold alone decides what is present, a more specific present label always displaces
    its ancestors. With `top`, it takes their place when it scores at least half as much, and
    otherwise gives way to them (a bark at 0.01 must not hide a dog at 0.9).
    """

    def __init__(self, vocabulary: Vocabulary, thresholds: tuple[float, ...] | None = None) -> None:
        self.vocabulary = vocabulary
        self.thresholds = None if thresholds is None else np.asarray(thresholds)

    @cached_property
    def _above(self) -> dict[int, tuple[int, ...]]:
        return Ontology.audioset().ancestors_within(self.vocabulary)

    def tagging(
        self,
        path: str | None,
        duration: float,
        scores: np.ndarray,
        *,
        top: int | None = None,
        threshold: float | None = None,
        ancestors: bool = False,
    ) -> Tagging:
        """The record of one recording from its scores (L,)."""
        check_choice(top, threshold)
        chosen = self._chosen(scores, top, threshold, ancestors)
        tags = tuple(self._tag(scores, index) for index in chosen)
        return Tagging(path, duration, tags, self._tag(scores, int(scores.argmax())))

    def _tag(self, scores: np.ndarray, index: int) -> Tag:
        return Tag(self.vocabulary[index].name, float(scores[index]))

    def _chosen(
        self, scores: np.ndarray, top: int | None, threshold: float | None, ancestors: bool
    ) -> list[int]:
        """Positions of the labels to report, best first; ties in the vocabulary's order."""
        ranked = np.argsort(-scores, kind="stable").tolist()
        limits = self.thresholds if threshold is None and top is None else threshold
        if limits is None:
            top = top or DEFAULT_TOP
        else:
            present = scores >= limits
            ranked = [index for index in ranked if present[index]]
        # Where a threshold alone decides, what reaches it is there.
        share = 0.0 if top is None else SPECIFIC_SHARE
        return ranked[:top] if ancestors else self._specific(ranked, scores, top, share)

    def _specific(
        self, ranked: list[int], scores: np.ndarray, top: int | None, share: float
    ) -> list[int]:
        """The best labels (at most `top`) of which none is an ancestor of another.

        A label takes the place of its ancestors from `share` of their score on, else gives way.
        """
        kept: list[int] = []
        for index in ranked:
            if len(kept) == top:
                break
            general = [other for other in kept if other in self._above[index]]
            if any(index in self._above[other] for other in kept) or any(
                scores[index] < share * scores[other] for other in general
            ):
                continue
            kept = [other for other in kept if other not in general] + [index]
        return kept


def check_choice(top: int | None, threshold: float | None) -> None:
    """Refuse a choice of tags that makes no sense, with one line."""
    if top is not None and top < 1:
        raise ConfigError(f"top is {top}: give the number of tags wanted, 1 or more")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}: give a score from 0 to 1")


def _short(tag: Tag) -> str:
    return f"{tag.score:.2f}"


def _named(tag: Tag) -> str:
    return f"{printable(tag.label)} {_short(tag)}"


def moment(seconds: float) -> str:
    """A place in a recording: ``5.00``, ``3:20.50`` or ``2:00:00.00``."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest / 100:05.2f}"
    return f"{minutes}:{rest / 100:05.2f}" if minutes else f"{rest / 100:.2f}"


def clock(seconds: float) -> str:
    """A duration for people: ``5.0 s``, ``3:20`` or ``2:00:00``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
