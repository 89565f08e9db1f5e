"""What scenes are made of: events and backgrounds, measured, each in one part alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atgnn.data.ahead import map_ahead
from atgnn.data.clips import Clips
from atgnn.data.events import Activity, SilenceError, find_activity
from atgnn.data.scenes.settings import SceneSettings
from atgnn.data.store import SCALE
from atgnn.data.waveforms import Waveforms
from atgnn.errors import AtgnnError, ClipsError, counted
from atgnn.labels import most_specific

__all__ = ["Ingredients", "Part", "Source", "part_name"]

Part = tuple[str | None, int | None]  # split and fold


@dataclass(frozen=True)
class Source:
    """A clip that scenes are made of."""

    row: int
    name: str
    label: str  # "" for a background
    labels: tuple[str, ...]
    unknown: frozenset[str]
    owners: tuple[str, ...]
    part: Part
    activity: Activity


class Ingredients:
    """The events and backgrounds at hand, measured, by part and label.

    Attributes:
        vocabulary: every label that some clip is marked with.
        events: sources of each part and label.
        backgrounds: sources of each part; None: coloured noise, which holds no label.
        passed_over: how many clips are not used, by the reason.
        examples: the first clip of each reason.
    """

    def __init__(self, settings: SceneSettings) -> None:
        """Use `of`."""
        self.settings = settings
        self.vocabulary: tuple[str, ...] = ()
        self.events: dict[Part, dict[str, list[Source]]] = {}
        self.backgrounds: dict[Part, list[Source]] | None = None
        self.passed_over: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._waves: Waveforms
        self._background_waves: Waveforms

    @classmethod
    def of(
        cls,
        waves: Waveforms,
        backgrounds: Waveforms | None,
        settings: SceneSettings,
        *,
        labels: Sequence[str] | None = None,
        label_column: str | None = None,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> Ingredients:
        """Measure every clip of a table of single events, and of one of backgrounds.

        A clip's event is its most specific label, or what `label_column` says; a clip with two
        that do not imply each other is no single event and is passed over, as are silent, empty
        and unreadable ones. `labels` are the events to use, by default all.

        Raises:
            ClipsError: a background with a label of the vocabulary, one of another part's author,
                a label with too few clips in a part, an owner in two parts (where refused).
        """
        own = cls(settings)
        own._waves = waves
        own.vocabulary = tuple(sorted({name for names in waves.clips.labels for name in names}))
        named = _event_labels(waves.clips, label_column)
        sources = own._measured(waves, named, labels, threads, progress)
        beds: list[Source] = []
        if backgrounds is not None:
            _check_backgrounds(backgrounds.clips, waves.clips, own.vocabulary)
            own._background_waves = backgrounds
            done = len(waves)
            further = None if progress is None else lambda number: progress(done + number)
            beds = own._measured(backgrounds, [("",)] * len(backgrounds), None, threads, further)
        everything = own._one_part_each([*sources, *beds])
        if backgrounds is not None:
            own.backgrounds = {}
        for source in everything:
            if source.label:
                own.events.setdefault(source.part, {}).setdefault(source.label, []).append(source)
            elif own.backgrounds is not None:
                own.backgrounds.setdefault(source.part, []).append(source)
        own._check(labels)
        return own

    @property
    def parts(self) -> list[Part]:
        """All splits and folds there are events of, in order."""
        return sorted(
            self.events, key=lambda part: (part[0] or "", -1 if part[1] is None else part[1])
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of events."""
        return tuple(sorted({label for by_label in self.events.values() for label in by_label}))

    def samples(self, source: Source) -> np.ndarray:
        """A source's sound, float64 (S,)."""
        waves = self._waves if source.label else self._background_waves
        return waves[source.row] * np.float64(SCALE)

    # ------------------------------------------------------------------ how

    def _measured(
        self,
        waves: Waveforms,
        named: Sequence[tuple[str, ...]],
        wanted: Sequence[str] | None,
        threads: int,
        progress: Callable[[int], None] | None,
    ) -> list[Source]:
        """Every clip that can be used, in order."""
        clips, rate = waves.clips, self.settings.rate
        owners, unknown = clips.owners, self._unknown(clips)
        parts = _parts(clips)

        def attempt(row: int) -> Source | str:
            names = named[row]
            if len(names) != 1:
                return "not a single event" if names else "no label"
            if wanted is not None and names[0] and names[0] not in wanted:
                return "another label"
            try:
                activity = find_activity(waves[row] * SCALE, rate, self.settings.audible_db)
            except AtgnnError as error:
                return str(error) if isinstance(error, SilenceError) else "cannot be read"
            return Source(
                row, clips.paths[row].name, names[0], clips.labels[row], unknown[row],
                owners[row], parts[row], activity,
            )  # fmt: skip

        found = []
        for row, result in enumerate(map_ahead(attempt, range(len(clips)), threads, 4 * threads)):
            if isinstance(result, Source):
                found.append(result)
            else:
                self._pass_over(result, clips.paths[row].name)
            if progress is not None:
                progress(row + 1)
        return found

    def _pass_over(self, reason: str, name: str) -> None:
        self.passed_over[reason] += 1
        self.examples.setdefault(reason, name)

    def _unknown(self, clips: Clips) -> list[frozenset[str]]:
        """Labels of the vocabulary that may or may not be in each clip."""
        stated = [frozenset(names) for names in clips.table["unknown"]]
        if self.settings.unmarked == "absent":
            return stated
        collections = list(clips.table["collection"])
        marked: dict[str, set[str]] = {}
        for place, names in zip(collections, clips.labels, strict=True):
            marked.setdefault(place, set()).update(names)
        foreign = {place: frozenset(self.vocabulary) - own for place, own in marked.items()}
        return [names | foreign[place] for names, place in zip(stated, collections, strict=True)]

    def _one_part_each(self, sources: list[Source]) -> list[Source]:
        """The sources without those whose owner has more clips in another part."""
        held: dict[str, Counter[Part]] = {}
        for source in sources:
            for owner in source.owners:
                held.setdefault(owner, Counter())[source.part] += 1
        shared = {owner: parts for owner, parts in held.items() if len(parts) > 1}
        if not shared or self.settings.shared_owners == "keep":
            return sources
        if self.settings.shared_owners == "refuse":
            owner, parts = next(iter(shared.items()))
            raise ClipsError(
                f"{counted(len(shared), 'author has', 'authors have')} clips in several parts, the "
                "first is "
                f"{owner} in "
                f"{' and '.join(map(part_name, parts))}: give each author one fold, or drop or "
                "keep shared owners"
            )
        kept = []
        for source in sources:
            if all(source.part == _home(shared[o]) for o in source.owners if o in shared):
                kept.append(source)
            else:
                self._pass_over("its author is in another part", source.name)
        return kept

    def _check(self, labels: Sequence[str] | None) -> None:
        if not self.events:
            why = "; ".join(f"{count} {reason}" for reason, count in self.passed_over.items())
            raise ClipsError(f"no clip can be used as an event: {why or 'the table is empty'}")
        wanted = tuple(labels) if labels is not None else self.labels
        least = self.settings.least_clips
        for part in self.parts:
            few = {name: len(self.events[part].get(name, ())) for name in wanted}
            few = {name: count for name, count in few.items() if count < least}
            if few:
                listed = ", ".join(f"{name} ({count})" for name, count in list(few.items())[:5])
                raise ClipsError(
                    f"{part_name(part)} has fewer than {counted(least, 'clip')} of "
                    f"{counted(len(few), 'label')}: "
                    f"{listed}; name the labels to use, or ask for fewer clips"
                )
            if self.backgrounds is not None and not self.backgrounds.get(part):
                raise ClipsError(
                    f"{part_name(part)} has no background: every part needs its own, as no two "
                    "may share one; give the table of backgrounds the same splits and folds"
                )


def part_name(part: Part) -> str:
    """``split train, fold 2``, for people."""
    split, fold = part
    names = [f"split {split}"] if split is not None else []
    names += [f"fold {fold}"] if fold is not None else []
    return ", ".join(names) or "the table"


def _home(parts: Counter[Part]) -> Part:
    """Where an owner has most clips; the first of equals."""
    return max(parts, key=lambda part: parts[part])


def _parts(clips: Clips) -> list[Part]:
    splits = list(clips.table["split"]) if "split" in clips.table else [None] * len(clips)
    folds = list(clips.table["fold"]) if "fold" in clips.table else [None] * len(clips)
    return [
        (split if isinstance(split, str) else None, _whole(fold))
        for split, fold in zip(splits, folds, strict=True)
    ]


def _whole(fold: Any) -> int | None:
    return None if fold is None or type(fold).__name__ == "NAType" else int(fold)


def _event_labels(clips: Clips, column: str | None) -> list[tuple[str, ...]]:
    """The labels that name each clip's event: one, where it is a single event."""
    if column is not None:
        return [tuple(names) for names in clips.labelled_by(column).labels]
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    for names in clips.labels:
        if names not in known:
            known[names] = tuple(most_specific(names))
    return [known[names] for names in clips.labels]


def _check_backgrounds(backgrounds: Clips, events: Clips, vocabulary: Iterable[str]) -> None:
    """ClipsError where a background holds a label, or cannot be kept to one part."""
    names = set(vocabulary)
    wrong = [row for row, labels in enumerate(backgrounds.labels) if names & set(labels)]
    if wrong:
        labels = ", ".join(sorted(names & set(backgrounds.labels[wrong[0]])))
        raise ClipsError(
            f"{len(wrong)} of {len(backgrounds)} backgrounds carry a label of the events, the "
            f"first, {backgrounds.paths[wrong[0]].name}, is marked {labels}: leave them out"
        )
    for name in ("split", "fold"):
        if name in events.table and name not in backgrounds.table:
            raise ClipsError(
                f"the events have a column {name!r}, the backgrounds have none: give it to them, "
                "so that no background is heard on two sides"
            )
