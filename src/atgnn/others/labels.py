"""Whose label is whose: lists of labels as other tools keep them, and columns for a vocabulary.

Two labels are the same if they have the same AudioSet identifier, however they are spelt; labels
that the ontology does not know, if they have the same name.

N clips, L labels of the scores, S labels of the vocabulary that is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.errors import LabelError, counted, some_of
from atgnn.labels import Label, Ontology, Vocabulary
from atgnn.others.arrays import load_torch
from atgnn.scoring import ScoresError, ScoreTable

__all__ = ["LabelMap", "mapped", "named_labels", "read_labels", "target_labels"]

SHIPPED = ("audioset", "fsd50k")
MID = ("/m/", "/t/", "/g/")  # how AudioSet identifiers begin


def read_labels(given: str) -> Vocabulary:
    """A list of labels, in the order of somebody's columns.

    ``audioset``, ``fsd50k``, or a file: a label file (`Vocabulary.from_csv`), text with a label on
    each line, JSON (a list, or labels by their index, also under ``id2label``), or a checkpoint of
    BEATs, whose ``label_dict`` has an order of its own. A label is an AudioSet identifier, the
    index of one of AudioSet's 527 classes where all are, or a name.

    Raises:
        LabelError: no such file, it is no list, or two of its labels are the same.
    """
    path = Path(given)
    if given in SHIPPED:
        return Vocabulary.named(given)
    if not path.is_file():
        raise LabelError(f"no list of labels {given!r}: give audioset, fsd50k or a file")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _distinct(Vocabulary.from_csv(path), given)
    if suffix in (".pt", ".pth"):
        try:
            content = load_torch(path)
        except ScoresError as error:
            raise LabelError(f"{given}: {error}") from None
        return named_labels(_in_order(content, given), given)
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = json.loads(text) if suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise LabelError(f"cannot read the list of labels {given}: {error}") from None
    return named_labels(_in_order(entries, given), given)


def target_labels(given: str) -> Vocabulary:
    """The labels that are wanted: as `read_labels`, or those of a model of ours.

    Raises:
        LabelError: as `read_labels`.
        CheckpointError: it is no list, and no model either.
    """
    if given in SHIPPED or Path(given).is_file():
        return read_labels(given)
    return Checkpoint.from_pretrained(given).vocabulary


def named_labels(entries: Sequence[Any], origin: str) -> Vocabulary:
    """Labels from identifiers, indices of AudioSet's classes, or names; LabelError as above."""
    words = [str(entry).strip() for entry in entries if str(entry).strip()]
    if not words:
        raise LabelError(f"{origin} names no labels")
    official = Vocabulary.audioset()
    if all(word.isdigit() for word in words):
        far = [word for word in words if int(word) >= len(official)]
        if far:
            raise LabelError(
                f"{origin}: {far[0]} is no index of AudioSet's {len(official)} classes (from 0): "
                "name the labels"
            )
        return _distinct_of([official[int(word)] for word in words], origin)
    ontology = Ontology.audioset()
    by_mid = {label.mid: label for label in official}
    labels = []
    for word in words:
        if word in by_mid:
            labels.append(by_mid[word])
        elif word.startswith(MID) and word in ontology:
            labels.append(Label(name=ontology[word].name, mid=word))
        else:
            labels.append(ontology.label(word, word if word.startswith(MID) else None))
    return _distinct_of(labels, origin)


def _in_order(content: Any, origin: str) -> Sequence[Any]:
    """The labels of a list, or of a mapping from 0, 1, 2, ..."""
    if isinstance(content, Mapping):
        for key in ("label_dict", "id2label"):
            content = content.get(key, content)
        try:
            by_index = {int(index): label for index, label in content.items()}
            return [by_index[index] for index in range(len(by_index))]
        except (KeyError, TypeError, ValueError):
            raise LabelError(
                f"{origin} is no list of labels: its keys must be 0, 1, 2, ... , here or under "
                "'id2label' or 'label_dict'"
            ) from None
    if not isinstance(content, list):
        raise LabelError(f"{origin} is no list of labels: expected a list, or labels by index")
    return content


def _distinct_of(labels: list[Label], origin: str) -> Vocabulary:
    try:
        return _distinct(Vocabulary(labels), origin)
    except LabelError as error:
        raise LabelError(f"{origin}: {error}") from None


def _distinct(vocabulary: Vocabulary, origin: str) -> Vocabulary:
    """The vocabulary, if no two of its names are of one sound."""
    seen: dict[str, str] = {}
    for label in vocabulary:
        if label.mid is not None and seen.setdefault(label.mid, label.name) != label.name:
            raise LabelError(
                f"{origin}: {seen[label.mid]!r} and {label.name!r} are both {label.mid} in "
                "AudioSet: which of them is meant? Keep one, or give identifiers"
            )
    return vocabulary


@dataclass(frozen=True)
class LabelMap:
    """The columns of scores that make up the labels of a vocabulary.

    Attributes:
        columns: for each label that there is something for, its name, the columns (L) it is made
            of: one, or several that lie below it in the ontology.
        filled: the labels that are made of what lies below them.
        lacking: labels of the vocabulary that there is nothing for.
        unused: names of columns that no label is made of.
        target: how many labels the vocabulary has.
    """

    columns: Mapping[str, tuple[int, ...]]
    filled: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    target: int = field(default=0, compare=False)

    @classmethod
    def of(cls, source: Vocabulary, target: Vocabulary, *, fill: bool = False) -> LabelMap:
        """Match the labels of scores with those of a vocabulary.

        With `fill`, a label without a column is made of those below it: a human voice is speech,
        or singing, or a shout.

        Raises:
            LabelError: two labels of one list are of the same sound, or there is no match at all.
        """
        _distinct(source, "the scores")
        _distinct(target, "the vocabulary")
        place = {_identity(label): column for column, label in enumerate(source)}
        columns: dict[str, tuple[int, ...]] = {}
        filled, lacking = [], []
        for label in target:
            own = place.get(_identity(label))
            below = _below(label, place) if fill and own is None else ()
            if own is not None:
                columns[label.name] = (own,)
            elif below:
                columns[label.name] = below
                filled.append(label.name)
            else:
                lacking.append(label.name)
        if not columns:
            raise LabelError(
                f"none of the {counted(len(target), 'label')} ({some_of(target.names, 3)}) is "
                f"among the {counted(len(source), 'label')} of the scores "
                f"({some_of(source.names, 3)})"
            )
        used = {column for own in columns.values() for column in own}
        unused = tuple(label.name for at, label in enumerate(source) if at not in used)
        return cls(columns, tuple(filled), tuple(lacking), unused, len(target))

    def apply(self, table: ScoreTable) -> ScoreTable:
        """The scores of the vocabulary's labels, in its order, those that are lacking left out.

        Of several columns the highest counts, or their sum where labels exclude one another.
        """
        values = np.empty((len(table), len(self.columns)), np.float32)
        for at, own in enumerate(self.columns.values()):
            parts = table.values[:, list(own)]
            one = parts.sum(1) if table.activation == "softmax" else parts.max(1)
            values[:, at] = np.minimum(one, 1)
        return replace(table, labels=tuple(self.columns), values=values)

    def notes(self) -> list[str]:
        """What became of the labels, in a few lines."""
        kept = len(self.columns) - len(self.filled)
        lines = [f"{kept} of {counted(self.target, 'label')} have a column of their own"]
        if self.filled:
            lines.append(f"{len(self.filled)} made of those below: {some_of(self.filled)}")
        if self.lacking:
            lines.append(f"{len(self.lacking)} without scores: {some_of(self.lacking, 10)}")
        if self.unused:
            lines.append(
                f"{counted(len(self.unused), 'column')} left over: {some_of(self.unused, 3)}"
            )
        return lines


def mapped(
    table: ScoreTable, target: Vocabulary, *, fill: bool = False
) -> tuple[ScoreTable, list[str]]:
    """The scores of a vocabulary's labels, and what became of the labels; errors as `LabelMap`."""
    found = LabelMap.of(Vocabulary.from_names(table.labels), target, fill=fill)
    return found.apply(table), found.notes()


def _identity(label: Label) -> str:
    """What labels of the same sound share."""
    ontology = Ontology.audioset()
    return label.mid or ontology.find(label.name) or label.name


def _below(label: Label, place: Mapping[str, int]) -> tuple[int, ...]:
    """Columns of the labels below one, over all paths of the ontology."""
    ontology, own = Ontology.audioset(), _identity(label)
    if own not in ontology:
        return ()
    return tuple(sorted(place[mid] for mid in ontology.descendants(own) if mid in place))
