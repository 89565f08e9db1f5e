"""From tables by their names to scenes on disk: what ``atgnn prepare scenes`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from atgnn.data.scenes.choosing import choose_matrix, open_sounds
from atgnn.data.scenes.ingredients import Ingredients
from atgnn.data.scenes.mixing import Scenes
from atgnn.data.scenes.settings import SceneSettings
from atgnn.data.scenes.writing import Form, SceneReport, check_free, write_scenes

__all__ = ["Wishes", "make_scenes"]

#: Opens something that is told how many of so many are done: `atgnn.terminal.counter`.
Counter = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Wishes:
    """What scenes are made of, by name.

    Attributes:
        events, background: tables, folders or packed folders; no background: noise.
        count: scenes of every part.
        cooccurrence, like: see `atgnn.data.scenes.choosing.choose_matrix`.
        labels: events to use; None: all.
        label_column: column that names the event; None: a clip's most specific label.
        form: packed, flac or both.
    """

    events: str
    background: str | None = None
    count: int = 100
    cooccurrence: str = "independent"
    like: str | None = None
    labels: Sequence[str] | None = None
    label_column: str | None = None
    form: Form = "packed"


def make_scenes(
    wishes: Wishes, settings: SceneSettings, out: Path, threads: int, counter: Counter
) -> SceneReport:
    """Measure the sounds, draw, mix and write.

    Raises `ClipsError` for tables, matrices and folders that do not fit, in one line each.
    """
    check_free(out)
    waves = open_sounds(wishes.events, settings.rate)
    beds = None
    if wishes.background is not None:
        beds = open_sounds(wishes.background, settings.rate, labelled=False)
    with counter(len(waves) + (0 if beds is None else len(beds))) as progress:
        ingredients = Ingredients.of(
            waves, beds, settings,
            labels=wishes.labels, label_column=wishes.label_column,
            threads=threads, progress=progress,
        )  # fmt: skip
    matrix = choose_matrix(wishes.cooccurrence, ingredients.labels, wishes.like)
    scenes = Scenes(ingredients, matrix, wishes.count)
    with counter(len(scenes)) as progress:
        return write_scenes(scenes, out, form=wishes.form, threads=threads, progress=progress)
