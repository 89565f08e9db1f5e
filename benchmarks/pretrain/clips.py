"""Which clips are heard without labels, which are labelled, which are scored.

The fold that is scored (ESC-10's fold 2) is called validation: settings may be chosen on it, and it
is no test. Nothing by an author of one of its clips is heard in pre-training, from whatever
collection, nor are the two clips under a Sampling+ licence.
"""

from pathlib import Path

import numpy as np

from atgnn.data.clips import Clips

COLLECTIONS = ("esc10", "cc_sounds", "ambient", "sonicpi")
LEFT_OUT = ("1-40730-A-rooster", "2-96460-A-rooster")


def authors(clips: Clips) -> np.ndarray:
    """Who made each clip, spelled one way, (N,)."""
    return np.array([str(name).strip().lower() for name in clips.column("author")])


def unlabelled(data: Path, fold: int) -> Clips:
    """All sounds that may be heard without labels."""
    everything = Clips.concat([Clips.read(data / name) for name in COLLECTIONS])
    scored = everything.matching(collection="esc10", fold=fold)
    names = authors(everything)
    keep = ~np.isin(names, names[scored]) & ~scored
    keep &= np.array([path.stem not in LEFT_OUT for path in everything.paths])
    return everything.subset(keep)


def esc10(data: Path, fold: int) -> tuple[Clips, Clips]:
    """ESC-10's clips to draw labelled ones from, and those that are scored."""
    clips = Clips.read(data / "esc10")
    scored = clips.matching(fold=fold)
    return clips.subset(~scored), clips.subset(scored)


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows of `count` clips of each class, at random."""
    rng = np.random.default_rng((seed, count))
    chosen = [rng.permutation(np.flatnonzero(labels == name))[:count] for name in np.unique(labels)]
    return np.sort(np.concatenate(chosen))
