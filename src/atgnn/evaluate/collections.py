"""Collections that give labels away, and two ways to measure without that help.

A label that occurs in one collection only can be guessed from what marks the collection: length,
silence at the ends, codec, bandwidth. With negatives of the same collections that helps no more;
a model trained without a collection has never met its marks at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from atgnn.data.clips import Clips
from atgnn.errors import ClipsError
from atgnn.evaluate.owners import owners_of
from atgnn.labels import Ontology, Vocabulary

__all__ = ["LeftOut", "collection_negatives", "leave_one_collection_out"]


def collection_negatives(targets: np.ndarray, collections: np.ndarray) -> np.ndarray:
    """`targets` (N, L) where negatives count only in collections (N,) that hold the label.

    Elsewhere they become NaN. A label that has no negative left can be wrong nowhere: all of its
    cells become NaN, so that it has no part in any mean.
    """
    own = targets.copy()
    names = np.asarray(collections).astype(str)
    for name in np.unique(names):
        rows = names == name
        foreign = ~(targets[rows] == 1).any(axis=0)
        block = own[rows]
        block[(block == 0) & foreign] = np.nan
        own[rows] = block
    own[:, ~(own == 0).any(axis=0)] = np.nan
    return own


@dataclass(frozen=True, eq=False)
class LeftOut:
    """One collection as the test set, and the others to learn from.

    `train` and `test` are masks (N,) of the clips; no author of a test clip is in `train`. `labels`
    have positives on both sides: only these can be measured.
    """

    collection: str
    train: np.ndarray
    test: np.ndarray
    labels: tuple[str, ...]


def leave_one_collection_out(
    clips: Clips, vocabulary: Vocabulary, ontology: Ontology | None = None
) -> Iterator[LeftOut]:
    """Each collection that shares a label with the others, as `LeftOut`.

    Raises:
        ClipsError: there is one collection only, or no label occurs in two.
    """
    names = np.asarray(clips.column("collection")).astype(str)
    present = clips.targets(vocabulary, ontology, outside="drop") == 1
    authors = owners_of(clips).owners.authors
    found = False
    for name in np.unique(names):
        test = names == name
        heard = {author for row in np.flatnonzero(test) for author in authors[row]}
        train = ~test & np.array([heard.isdisjoint(people) for people in authors])
        both = present[test].any(axis=0) & present[train].any(axis=0)
        if both.any():
            found = True
            labels = tuple(vocabulary.names[column] for column in np.flatnonzero(both))
            yield LeftOut(str(name), train, test, labels)
    if not found:
        there = ", ".join(np.unique(names))
        raise ClipsError(f"no label occurs in two collections of different authors, of: {there}")
