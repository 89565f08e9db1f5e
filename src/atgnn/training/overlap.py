"""Whether what a run validates on has been learned by heart: sounds or authors on both sides."""

import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

from atgnn.data.clips import Clips
from atgnn.errors import AtgnnWarning, ClipsError, counted

__all__ = ["check_apart"]


def check_apart(training: Clips, validation: Clips) -> None:
    """Raises `ClipsError` where a piece of sound is in both; warns of authors that are.

    Excerpts of one file are apart where their times do not overlap. Authors (the table's groups)
    are only warned of: official folds of public data sets share some.
    """
    spans = _spans(validation)
    both = [
        path
        for path, pieces in _spans(training).items()
        if any(_meet(one, other) for one in pieces for other in spans.get(path, ()))
    ]
    if both:
        raise ClipsError(
            f"{counted(len(both), 'recording is', 'recordings are')} both trained and validated "
            "on, the first is "
            f"{both[0]}: "
            "give each of them one fold or split, or name disjoint rows in data.train and "
            "data.validation"
        )
    groups = _groups(training) & _groups(validation)
    if groups:
        warnings.warn(
            f"{counted(len(groups), 'author or source is', 'authors or sources are')} both trained "
            "and validated "
            "on, "
            f"{min(groups)} say: the validation metric will flatter",
            AtgnnWarning,
            stacklevel=2,
        )


def _spans(clips: Clips) -> dict[Path, list[tuple[float, float]]]:
    """Excerpts of each file, (start, end) in seconds."""
    spans: dict[Path, list[tuple[float, float]]] = defaultdict(list)
    starts = clips.table["start"].to_numpy(float)
    ends = np.nan_to_num(clips.table["end"].to_numpy(float), nan=np.inf)
    for path, start, end in zip(clips.paths, starts.tolist(), ends.tolist(), strict=True):
        spans[path].append((start, end))
    return spans


def _meet(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _groups(clips: Clips) -> set[str]:
    """Those that the table names, each author of a mixture; a clip's own path is none."""
    if "group" not in clips.table:
        return set()
    named = zip(clips.column("group"), clips.owners, strict=True)
    return {name for group, names in named if isinstance(group, str) for name in names}
