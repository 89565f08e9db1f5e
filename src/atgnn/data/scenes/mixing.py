"""Scenes made from events, a background and a set of labels. S samples, N scenes, L labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atgnn.data.cooccurrence import CoOccurrence, Sampler
from atgnn.data.events import Activity, find_activity, level
from atgnn.data.scenes.ingredients import Ingredients, Part, Source
from atgnn.data.scenes.sound import coloured_noise, faded, repeated
from atgnn.data.store import SCALE
from atgnn.errors import AtgnnError, ClipsError, counted

__all__ = ["Cast", "Event", "Scene", "Scenes"]

PEAK = 0.98  # a mixture that would exceed full scale is turned down to this
CROSSING = 0.05  # s by which a short background overlaps with itself where it is repeated


@dataclass(frozen=True)
class Event:
    """One event of a scene: what, when (s), in which band (Hz), how loud, and where from."""

    label: str
    labels: tuple[str, ...]
    onset: float
    offset: float
    active_seconds: float
    low_hz: float
    high_hz: float
    level_db: float
    source: str


@dataclass(frozen=True)
class Cast:
    """The clips that a scene is made of, and what follows from them."""

    background: Source | None
    events: tuple[Source, ...]

    @property
    def _all(self) -> tuple[Source, ...]:
        return self.events if self.background is None else (self.background, *self.events)

    @property
    def labels(self) -> tuple[str, ...]:
        """What is there: whatever some part is marked with."""
        return tuple(sorted({label for source in self._all for label in source.labels}))

    @property
    def unknown(self) -> tuple[str, ...]:
        """What may be there: unknown in some part, and marked in none."""
        maybe = {label for source in self._all for label in source.unknown}
        return tuple(sorted(maybe - set(self.labels)))

    @property
    def owners(self) -> tuple[str, ...]:
        """Everyone who has a part in it."""
        return tuple(sorted({owner for source in self._all for owner in source.owners}))


@dataclass(frozen=True)
class Scene:
    """A mixture: int16 samples (S,), its events in time, and what it was made of."""

    samples: np.ndarray
    events: tuple[Event, ...]
    cast: Cast


class Scenes:
    """A plan of N scenes, each made when it is asked for: item i is a `Scene`.

    What a scene is depends on the ingredients, the settings and its number alone, so that threads
    change nothing and the same seed gives the same samples.

    Attributes:
        part_of: the part of each scene, (N,).
        drawn: labels of the events of each scene, bool (N, L), columns as in the matrix.
        distance: see `atgnn.data.cooccurrence.Sampler`.
    """

    def __init__(self, ingredients: Ingredients, matrix: CoOccurrence, count: int) -> None:
        """`count` scenes of every part, labels together as `matrix` says.

        Raises `ClipsError` for an impossible matrix or one of other labels than the events.
        """
        if count < 1:
            raise ClipsError(f"{counted(count, 'scene')}: expected 1 or more")
        self.ingredients, self.settings = ingredients, ingredients.settings
        self.matrix = (
            matrix.of_labels(ingredients.labels)
            if (set(matrix.labels) >= set(ingredients.labels))
            else _refuse_labels(matrix, ingredients)
        )
        generator = np.random.default_rng((self.settings.seed, 0))
        sampler = Sampler(self.matrix, self.settings.events, generator)
        self.distance = sampler.distance
        self.part_of: list[Part] = [part for part in ingredients.parts for _ in range(count)]
        sizes = sampler.sizes(len(self.part_of), generator)
        self.drawn = sampler.draw(sizes, generator)

    def __len__(self) -> int:
        return len(self.part_of)

    def drawn_pairs(self) -> np.ndarray:
        """The shares of all pairs in what was drawn, (L, L), as `CoOccurrence.pairs` has them."""
        drawn = self.drawn.astype(float)
        together = drawn.T @ drawn * (1 - np.eye(drawn.shape[1]))
        out: np.ndarray = together * (2 / max(together.sum(), 1))
        return out

    def cast(self, number: int) -> Cast:
        """Who takes part in a scene; nothing is decoded for this."""
        part = self.part_of[number]
        generator = np.random.default_rng((self.settings.seed, 1, number))

        def one(choices: list[Source]) -> Source:
            return choices[int(generator.integers(len(choices)))]

        backgrounds = self.ingredients.backgrounds
        background = None if backgrounds is None else one(backgrounds[part])
        names = [self.matrix.labels[i] for i in np.flatnonzero(self.drawn[number])]
        events = self.ingredients.events[part]
        return Cast(background, tuple(one(events[name]) for name in names))

    def __getitem__(self, number: int) -> Scene:
        cast, settings = self.cast(number), self.settings
        generator = np.random.default_rng((settings.seed, 2, number))
        length = round(settings.seconds * settings.rate)
        mixture = self._background(cast.background, length, generator)
        floor = level(mixture)
        events = []
        for source in cast.events:
            event, sound, at = self._event(source, floor, length, generator)
            mixture[at : at + len(sound)] += sound
            events.append(event)
        mixture *= min(1.0, PEAK / max(float(np.abs(mixture).max()), 1e-9))
        return Scene(
            samples=np.rint(mixture / SCALE).astype(np.int16),
            events=tuple(sorted(events, key=lambda event: (event.onset, event.label))),
            cast=cast,
        )

    def _background(
        self, source: Source | None, length: int, generator: np.random.Generator
    ) -> np.ndarray:
        """Float samples (S,), ours to change, at a level that is drawn."""
        if source is None:
            sound = coloured_noise(length, generator)
        else:
            whole = self.ingredients.samples(source)
            sound = repeated(whole, length, round(CROSSING * self.settings.rate), generator)
        wanted = 10 ** (generator.uniform(*self.settings.background_dbfs) / 20)
        return sound * (wanted / max(level(sound), 1e-9))

    def _event(
        self, source: Source, over: float, length: int, generator: np.random.Generator
    ) -> tuple[Event, np.ndarray, int]:
        """What is added (S',), the sample where it begins, and what to write down of it."""
        settings, rate = self.settings, self.settings.rate
        activity = source.activity
        sound = self.ingredients.samples(source)[activity.start : activity.stop]
        if len(sound) > length:
            first = int(generator.integers(len(sound) - length + 1))
            sound, activity = _excerpt(sound, first, length, rate, settings.audible_db)
        decibels = generator.uniform(*settings.level_db)
        sound = faded(sound, round(settings.fade * rate))
        sound = sound * (over * 10 ** (decibels / 20) / activity.rms)
        at = int(generator.integers(length - len(sound) + 1))
        event = Event(
            label=source.label,
            labels=source.labels,
            onset=round(at / rate, 4),
            offset=round((at + len(sound)) / rate, 4),
            active_seconds=round(activity.seconds, 4),
            low_hz=round(activity.low, 1),
            high_hz=round(activity.high, 1),
            level_db=round(decibels, 2),
            source=source.name,
        )
        return event, sound, at


def _excerpt(
    sound: np.ndarray, first: int, length: int, rate: int, audible_db: float
) -> tuple[np.ndarray, Activity]:
    """A part of a long event, trimmed to where it can be heard; from its beginning if silent."""
    for start in (first, 0):
        piece = sound[start : start + length]
        try:
            activity = find_activity(piece, rate, audible_db)
        except AtgnnError:
            continue
        return piece[activity.start : activity.stop], activity
    raise AssertionError("a trimmed event begins with sound")


def _refuse_labels(matrix: CoOccurrence, ingredients: Ingredients) -> CoOccurrence:
    missing = [name for name in ingredients.labels if name not in matrix.labels]
    raise ClipsError(
        f"the co-occurrence lacks {counted(len(missing), 'label')} of the events, the first is "
        f"{missing[0]}: "
        "add them to the matrix, or name the labels to use"
    )
