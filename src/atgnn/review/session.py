"""Review: a person hears what a learned label says of new recordings, and the label learns from it.

Segments of a folder are put in an order: those that the label is least sure of, or those that match
it best. What a person accepts or rejects is written down at once, a line of JSON each, with who,
when, the score that was shown, and the versions of model and pack that gave it. Then the label's
head is fitted again, from kept nodes and in seconds; where its node looks stays as it was learned.

    session = ReviewSession(checkpoint, "cow.pack", "cow")
    segment = session.segments(["field/"])[0]
    session.judge(segment, "accept", who="Ada")
    session.refit()
"""

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from atgnn.checkpoint import Checkpoint
from atgnn.errors import (
    AtgnnError,
    AtgnnWarning,
    AudioError,
    ClipsError,
    ConfigError,
    counted,
    is_text,
    printable,
    some_of,
)
from atgnn.files import appending, lock, write_all
from atgnn.learn import ClipNodes, Lessons, Listener, learn_label, listen, made_by_rule
from atgnn.learn.fit import Node
from atgnn.packs import LabelPack, Lesson, PackedLabel, Review, model_digest, with_packs
from atgnn.tagger import Excerpt, Scores, Taggable, Tagger
from atgnn.tags import Failure

__all__ = ["ORDERS", "ReviewSession", "ReviewStore", "Segment", "Verdict"]

ORDERS = ("uncertain", "best")
SEGMENT_SECONDS = 5.0
PER_RECORDING = 3  # segments shown of one recording at a time
PATIENCE = 5.0  # s to wait for another process that writes


@dataclass(frozen=True)
class Segment:
    """A part of a recording, in seconds, and the label's score of it."""

    path: str
    start: float
    end: float
    score: float

    @property
    def place(self) -> tuple[str, float, float]:
        """What tells it from others."""
        return self.path, self.start, self.end

    @property
    def excerpt(self) -> Excerpt:
        """For whatever hears a part of a recording."""
        return Excerpt(self.path, self.start, self.end)


class Verdict(BaseModel):
    """What somebody said of a segment; "withdraw" takes back what was said before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    path: str
    start: float
    end: float
    verdict: Literal["accept", "reject", "withdraw"]
    score: float
    who: str
    when: str
    model: str
    pack: str


class ReviewStore:
    """Verdicts in a file, a line each, only ever added to.

    A line is on the disk before `add` returns. Several people may write at once; a line that was
    cut off by a crash is passed over.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def add(self, verdict: Verdict) -> None:
        """Write one down. AtgnnError where the file cannot be written."""
        if not (is_text(verdict.path) and is_text(verdict.who)):
            raise AtgnnError(
                f"{printable(verdict.path)}, judged by {printable(verdict.who)}: verdicts are "
                "written in UTF-8, which one of these names is not: choose another"
            )
        line = verdict.model_dump_json().encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with appending(self.path) as file:
                until = time.monotonic() + PATIENCE
                while not lock(file):
                    if time.monotonic() > until:
                        raise AtgnnError(f"{self.path} is held by another process: try again")
                    time.sleep(0.01)
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                write_all(file, line)
                os.fsync(file.fileno())
        except OSError as error:
            raise AtgnnError(
                f"{self.path}: the verdict cannot be written ({error.strerror or error})"
            ) from None

    def history(self, label: str) -> Iterator[Verdict]:
        """All that was ever said of a label, oldest first."""
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                verdict = Verdict.model_validate_json(line)
            except ValidationError:
                continue  # cut off by a crash
            if verdict.label == label:
                yield verdict

    def standing(self, label: str) -> dict[tuple[str, float, float], Verdict]:
        """The last verdict on each segment, those withdrawn left out."""
        found: dict[tuple[str, float, float], Verdict] = {}
        for verdict in self.history(label):
            place = (verdict.path, verdict.start, verdict.end)
            found.pop(place, None)
            if verdict.verdict != "withdraw":
                found[place] = verdict
        return found


class ReviewSession:
    """One label of one pack under review.

    Args:
        checkpoint: the model that the pack was learned with.
        pack: its file, which `refit` replaces.
        label: the label; it may be left out where the pack has one alone.
        store: file of verdicts; by default beside the pack, ``NAME.reviews.jsonl``.
        cache: folder of kept nodes, as for `atgnn.learn.learn`.

    Raises:
        CheckpointError: the pack is damaged, or another model's.
        LabelError: it has no such label.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        pack: str | os.PathLike[str],
        label: str | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self.checkpoint, self.path = checkpoint, Path(pack)
        self.pack = LabelPack.read(self.path)
        if label is None and len(self.pack.names) > 1:
            raise ConfigError(f"{self.path} has {some_of(self.pack.names)}: say which to review")
        self.label = self.pack.names[0 if label is None else self.pack.index(label)]
        self.pack.new_labels(checkpoint)
        beside = self.path.with_name(f"{self.path.name}.reviews.jsonl")
        self.store = ReviewStore(beside if store is None else store)
        self.listener = Listener.of(checkpoint, cache)
        self._tagger: Tagger | None = None
        self._heard: dict[tuple[str, int, int], list[Segment] | Failure] = {}  # by this pack

    @property
    def about(self) -> PackedLabel:
        """What the pack says of the label now."""
        return self.pack.labels[self.pack.index(self.label)]

    # ------------------------------------------------------------------ what to show

    def segments(
        self,
        sounds: Sequence[str],
        order: str = "uncertain",
        count: int = 20,
        failures: list[Failure] | None = None,
    ) -> list[Segment]:
        """The segments to judge first, of those that nobody has judged.

        Args:
            sounds: recordings.
            order: "uncertain" puts the scores nearest to the threshold first, "best" the highest.
            count: at most so many, and at most three of one recording.
            failures: gets what could not be read.

        Raises:
            ConfigError: an order that does not exist, or a count below 0.
        """
        if order not in ORDERS:
            raise ConfigError(f"order {order!r}: give {' or '.join(ORDERS)}")
        if count < 0:
            raise ConfigError(f"count {count}: give the number of segments, 0 or more")
        judged = self.store.standing(self.label)
        found = [one for one in self._scored(sounds, failures) if one.place not in judged]
        threshold = _log_odds(self.about.threshold)
        if order == "best":
            found.sort(key=lambda one: -one.score)
        else:
            found.sort(key=lambda one: abs(_log_odds(one.score) - threshold))
        return _spread(found, count)

    def _scored(self, sounds: Sequence[str], failures: list[Failure] | None) -> Iterator[Segment]:
        """All segments; what has been heard is not heard again until the label or file changes."""
        states = [_state(os.path.abspath(path)) for path in sounds]
        new = [state for state in dict.fromkeys(states) if state not in self._heard]
        tagger = self._listening()
        column = tagger.labels.index(self.label)
        results = tagger.score_many((path for path, *_ in new), on_error="collect")
        for state, scores in zip(new, results, strict=True):
            self._heard[state] = _segments(state[0], scores, column)
        for state in states:
            found = self._heard[state]
            if not isinstance(found, Failure):
                yield from found
            elif failures is not None:
                failures.append(found)

    def _listening(self) -> Tagger:
        """Hears segments with the pack as it is now, on a copy of the model of its own."""
        if self._tagger is None:
            own = self.checkpoint.changed(
                model=self.listener.network,
                window_seconds=min(SEGMENT_SECONDS, self.checkpoint.window_seconds),
            )
            self._tagger = Tagger(with_packs(own, [self.pack]), "cpu")
        return self._tagger

    # ------------------------------------------------------------------ what was said

    def judge(
        self, segment: Segment, verdict: Literal["accept", "reject", "withdraw"], who: str
    ) -> Verdict:
        """Write down what somebody said of a segment."""
        if not who.strip():
            raise ConfigError("a verdict needs a name: say who judges")
        said = Verdict(
            label=self.label,
            path=segment.path,
            start=segment.start,
            end=segment.end,
            verdict=verdict,
            score=segment.score,
            who=who.strip(),
            when=_now(),
            model=model_digest(self.checkpoint),
            pack=self.pack.digest(),
        )
        self.store.add(said)
        return said

    # ------------------------------------------------------------------ learning from it

    def refit(self, clips: Sequence[Taggable] = ()) -> PackedLabel:
        """Fit the label's head again with all verdicts that stand, and replace the pack's file.

        Args:
            clips: the sounds that the label was learned from, where their nodes are no longer
                kept; which of them had the label the pack knows.

        Verdicts on recordings that are gone are left out, with an `AtgnnWarning`.

        Raises:
            ClipsError: nodes of a clip behind the label are neither kept nor among `clips`.
        """
        judged = self._judged()
        verdicts = [verdict for verdict, _ in judged]
        heard = self._lessons(judged, clips)
        place = self.pack.index(self.label)
        weights = self.pack.weights
        node = Node(weights["embedding"][place], weights["rows"][place])
        rule = made_by_rule(self.listener)
        fitted = learn_label(self.checkpoint, self.listener, self.label, heard, rule, node)
        old = self.about
        accepted = sum(one.verdict == "accept" for one in verdicts)
        review = Review(
            when=_now(),
            who=tuple(sorted({one.who for one in verdicts})),
            accepted=accepted,
            rejected=len(verdicts) - accepted,
        )
        about = fitted.labels[0].model_copy(
            update={
                "lessons": old.lessons,
                "learned": old.learned,
                "reviews": (*old.reviews, review),
            }
        )
        single = LabelPack(self.pack.model, self.pack.model_labels, [about], fitted.weights)
        self.pack = self.pack.replacing(self.label, single)
        self.pack.write(self.path, force=True)
        self._tagger = None
        self._heard.clear()
        return about

    def _judged(self) -> list[tuple[Verdict, ClipNodes]]:
        """The verdicts that stand and what was heard; those whose recording is gone are left out.

        An AtgnnWarning names them.
        """
        judged: list[tuple[Verdict, ClipNodes]] = []
        gone = []
        for verdict in self.store.standing(self.label).values():
            try:
                excerpt = Excerpt(verdict.path, verdict.start, verdict.end)
                judged.append((verdict, self.listener.clip(excerpt)))
            except AudioError:
                gone.append(os.path.basename(verdict.path))
        if gone:
            warnings.warn(
                f"{counted(len(gone), 'verdict')} on what can no longer be heard left out: "
                f"{some_of(list(dict.fromkeys(gone)), 3)}",
                AtgnnWarning,
                stacklevel=3,
            )
        return judged

    def _lessons(
        self, judged: Iterable[tuple[Verdict, ClipNodes]], clips: Sequence[Taggable]
    ) -> Lessons:
        again = {clip.key: clip for clip in listen(self.listener, clips)[0]}
        positive: dict[str, ClipNodes] = {}
        negative: dict[str, ClipNodes] = {}
        missing = []
        for lesson in self.about.lessons:
            clip = again.get(lesson.key) or self._kept(lesson)
            if clip is None:
                missing.append(lesson.name)
            else:
                (positive if lesson.positive else negative)[lesson.key] = clip
        if missing:
            raise ClipsError(
                f"{len(missing)} of the {len(self.about.lessons)} clips behind {self.label!r} are "
                f"no longer kept ({some_of(missing, 3)}): give their files or folders again "
                "(--clips)"
            )
        for verdict, clip in judged:
            side, other = positive, negative
            if verdict.verdict == "reject":
                side, other = negative, positive
            other.pop(clip.key, None)
            side[clip.key] = clip
        if not positive:
            raise ClipsError(f"no clip of {self.label!r} is left: accept one first")
        return Lessons(tuple(positive.values()), tuple(negative.values()))

    def _kept(self, lesson: Lesson) -> ClipNodes | None:
        cache = self.listener.cache
        return None if cache is None else cache.get(lesson.key, lesson.name)


def _state(path: str) -> tuple[str, int, int]:
    """Path, size and time of change."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):  # hearing it will say what is wrong
        return path, -1, -1
    return path, about.st_size, about.st_mtime_ns


def _segments(path: str, scores: Scores | Failure, column: int) -> list[Segment] | Failure:
    """A recording's windows as segments, with the scores in one column."""
    if isinstance(scores, Failure):
        return scores
    if not is_text(path):
        problem = f"{printable(path)}: verdicts need its name in UTF-8: rename it"
        return Failure(path, AudioError(problem))
    found = []
    ends = np.cumsum(scores.seconds)
    for last, seconds, row in zip(ends, scores.seconds, scores.windows, strict=True):
        start, end = round(float(last - seconds), 3), round(float(last), 3)
        if start < end:  # of less than a millisecond nobody can judge
            found.append(Segment(path, start, end, round(float(row[column]), 6)))
    return found


def _spread(segments: list[Segment], count: int) -> list[Segment]:
    """The first so many, at most `PER_RECORDING` of one recording."""
    seen: dict[str, int] = {}
    chosen: list[Segment] = []
    for segment in segments:
        if len(chosen) == count:
            break
        if seen.get(segment.path, 0) < PER_RECORDING:
            seen[segment.path] = seen.get(segment.path, 0) + 1
            chosen.append(segment)
    return chosen


def _log_odds(score: float) -> float:
    inside = min(max(score, 1e-6), 1 - 1e-6)
    return float(np.log(inside / (1 - inside)))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
