"""Which clips a run learns from, which it validates on, and what is in them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms, is_packed
from atgnn.errors import ClipsError, ConfigError, counted
from atgnn.labels import Ontology, Vocabulary
from atgnn.training.overlap import check_apart
from atgnn.training.recipe import DataSettings, Recipe

__all__ = ["Division", "divide", "read_clips", "rows_of"]


@dataclass(frozen=True)
class Division:
    """The clips of a run, their vocabulary and their targets."""

    vocabulary: Vocabulary
    train: Clips
    validation: Clips | None
    train_targets: np.ndarray  # (N, L): 1, 0 or NaN
    validation_targets: np.ndarray | None


def read_clips(settings: DataSettings) -> Clips:
    """All clips of a recipe, labelled by its label column."""
    if not settings.clips:
        raise ConfigError("the recipe names no clips: add --clips PATH or --set data.clips=PATH")
    read = Clips.read_listed if settings.packed else Clips.read
    own = settings.label_column == "labels"
    clips = Clips.concat(
        PackedWaveforms.open(path).clips if is_packed(path) else read(path, labelled=own)
        for path in settings.clips
    )
    return clips.labelled_by(settings.label_column)


def rows_of(recipe: Recipe, part: Literal["validation", "test"]) -> Clips:
    """The clips of a recipe that a run does not learn from, labelled by its label column.

    Raises `ClipsError` where there are none.
    """
    chosen: Clips | None
    if part == "test":
        clips = read_clips(recipe.data)
        chosen = clips.subset(_rows(clips, recipe.data.test))
    else:
        chosen = divide(recipe).validation
    if chosen is None or not len(chosen):
        raise ClipsError(f"the recipe {recipe.name} has no {part} clips: name them in data.{part}")
    return chosen


def divide(recipe: Recipe) -> Division:
    """Read the clips and divide them into training and validation, never by chance alone.

    Rows that `validation` or `test` name are never trained on. Where no validation rows are
    named, a share of the authors (or source recordings) is held out. A piece of sound on both
    sides is a `ClipsError`, an author a warning.
    """
    settings = recipe.data
    clips = read_clips(settings)
    held_out = _rows(clips, settings.validation)
    hidden = _rows(clips, settings.test)
    chosen = _rows(clips, settings.train) if settings.train else np.ones(len(clips), dtype=bool)
    if settings.train and (chosen & (held_out | hidden)).any():
        raise ConfigError("data.train names clips that data.validation or data.test names too")
    chosen &= ~held_out & ~hidden
    if not settings.validation and settings.validation_share:
        held_out = _hold_out(clips, chosen, settings.validation_share, recipe.seed)
        chosen &= ~held_out
    if not chosen.any():
        raise ClipsError("no clips to train on: data.train, validation and test leave none")
    return _with_targets(recipe, clips, chosen, held_out)


def _with_targets(
    recipe: Recipe, clips: Clips, chosen: np.ndarray, held_out: np.ndarray
) -> Division:
    settings = recipe.data
    check_apart(clips.subset(chosen), clips.subset(held_out))
    vocabulary = _vocabulary(settings, clips)
    one_label = recipe.task == "single_label"  # no ancestors there: they would be a second one
    targets = clips.targets(
        vocabulary,
        Ontology.audioset() if settings.ontology and not one_label else None,
        outside="drop" if settings.drop_other_labels else "error",
    )
    if one_label:
        _check_one_label(clips, targets)
    has_validation = bool(held_out.any())
    return Division(
        vocabulary,
        clips.subset(chosen),
        clips.subset(held_out) if has_validation else None,
        targets[chosen],
        targets[held_out] if has_validation else None,
    )


def _check_one_label(clips: Clips, targets: np.ndarray) -> None:
    odd = np.flatnonzero(np.nansum(targets, axis=1) != 1)
    if len(odd):
        raise ClipsError(
            f"task single_label needs one label a clip: {len(odd)} of "
            f"{counted(len(clips), 'clip')} differ, "
            f"the first is {clips.paths[int(odd[0])].name}; use task=multi_label"
        )


def _rows(clips: Clips, conditions: dict[str, Any]) -> np.ndarray:
    """Mask of the rows that a recipe's conditions name; none where there are no conditions."""
    if not conditions:
        return np.zeros(len(clips), dtype=bool)
    keep = clips.matching(**conditions)
    if not keep.any():
        there = "; ".join(f"{name}: {clips.distinct(name)}" for name in conditions)
        raise ClipsError(
            f"no clip has {conditions}: check the recipe's data settings; there are {there}"
        )
    return keep


def _hold_out(clips: Clips, chosen: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of the groups (authors, else recordings), drawn with the recipe's seed."""
    groups = np.asarray(clips.groups)
    names = np.unique(groups[chosen].astype(str))
    count = max(1, round(share * len(names)))
    if count >= len(names):
        raise ClipsError(
            f"{counted(len(names), 'author or recording', 'authors or recordings')}: too few to "
            "hold any out"
        )
    drawn = np.random.default_rng(seed).permutation(names)[:count]
    return chosen & np.isin(groups.astype(str), drawn)


def _vocabulary(settings: DataSettings, clips: Clips) -> Vocabulary:
    if settings.vocabulary is None:
        return clips.vocabulary()
    return Vocabulary.named(settings.vocabulary)
