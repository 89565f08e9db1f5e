"""Which clips an encoder may hear, which teach a new label, and which are scored.

The new labels are ESC-10's ten classes. `others` are the sounds of the other collections that have
no part in them: none whose label is one of ESC-10's or more special (a chainsaw is a power tool,
rain is rain in any collection), and none by an author of an ESC-10 clip. ESC-10 itself is divided
into folds by author: whoever made a scored clip made none that taught.
"""

from pathlib import Path

import numpy as np

from atgnn.data.clips import Clips, connected
from atgnn.labels import Ontology
from benchmarks.everyday.clips import author_names, spread

__all__ = ["FOLDS", "draw", "esc10", "folds_by_author", "others"]

OTHERS = ("cc_sounds", "ambient", "sonicpi")
FOLDS = 5
LEAST = 8  # clips of a label that an encoder is taught


def esc10(data: Path) -> Clips:
    """ESC-10's 400 clips."""
    return Clips.read(data / "esc10")


def others(data: Path) -> Clips:
    """The sounds without any part in ESC-10; of their labels those with 8 clips or more."""
    scored = esc10(data)
    theirs = {name for cell in scored.column("author") for name in author_names(cell)}
    taken = _with_descendants({name for labels in scored.labels for name in labels})
    clips = Clips.concat([Clips.read(data / name) for name in OTHERS])
    ontology = Ontology.audioset()
    keep = [
        row
        for row, (labels, author) in enumerate(
            zip(clips.labels, clips.column("author"), strict=True)
        )
        if not ({ontology.find(name) for name in labels} & taken)
        and not (set(author_names(author)) & theirs)
    ]
    clips = clips.subset(keep)
    names = [name for labels in clips.labels for name in labels]
    common = {name for name in names if names.count(name) >= LEAST}
    table = clips.table.copy()
    table["labels"] = [tuple(name for name in own if name in common) for own in clips.labels]
    return Clips(table)


def _with_descendants(names: set[str]) -> set[str]:
    ontology = Ontology.audioset()
    mids = {ontology.resolve(name) for name in names}
    return mids | {below for mid in mids for below in ontology.descendants(mid)}


def folds_by_author(clips: Clips) -> np.ndarray:
    """A fold of each clip, int (N,) from 0: no author in two, classes even. Nothing is drawn."""
    owners = [[*author_names(cell)] for cell in clips.column("author")]
    classes = np.asarray(clips.column("category"), str)
    return spread(connected(owners), classes[:, None] == np.unique(classes), FOLDS)


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows of `count` clips of each class, at random; all of a class that has fewer."""
    rng = np.random.default_rng((seed, count))
    chosen = [rng.permutation(np.flatnonzero(labels == name))[:count] for name in np.unique(labels)]
    return np.sort(np.concatenate(chosen))
