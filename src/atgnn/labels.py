"""Vocabularies (which labels a model has) and the AudioSet ontology (what implies what).

A *vocabulary* is an ordered list of labels; the order is the order of a model's outputs. The
*ontology* knows that a bark is a dog and a dog is an animal. The two meet in
`Ontology.ancestors_within`, which tells which labels of a vocabulary a label implies.

Sources: AudioSet ontology and labels (Google), FSD50K vocabulary; see ``assets/README.md``.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, overload

import numpy as np
from pydantic import BaseModel, ConfigDict

from atgnn.errors import LabelError, counted, did_you_mean, some_of

__all__ = ["Label", "Node", "Ontology", "Vocabulary", "most_specific"]


class Label(BaseModel):
    """One output of a model: `name` as it is written, `mid` as AudioSet and Freesound know it.

    `display` is the name for people where it differs from `name`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mid: str | None = None
    display: str | None = None

    @property
    def title(self) -> str:
        """The name for people: ``Chirp, tweet`` for ``Chirp_and_tweet``."""
        return self.display or self.name.replace("_", " ")


class Node(BaseModel):
    """One node of the ontology. `restrictions` may hold ``abstract`` and ``blacklist``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    children: tuple[str, ...] = ()
    restrictions: tuple[str, ...] = ()

    @property
    def abstract(self) -> bool:
        """Whether the node only holds others together and is never marked itself."""
        return "abstract" in self.restrictions


def _key(name: str) -> str:
    """What two spellings of a label share: ``Chirp_and_tweet`` and ``Chirp, tweet``."""
    words = re.findall(r"\w+", name.casefold().replace("_", " ").replace("'", ""))
    return " ".join(word for word in words if word != "and")


def _suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'Bark'?`` or nothing, for the end of an error message."""
    by_key = {_key(other): other for other in known}
    near = difflib.get_close_matches(_key(name), by_key, n=1, cutoff=0.6)
    return f"; did you mean {by_key[near[0]]!r}?" if near else ""


class Vocabulary(Sequence[Label]):
    """The ordered, distinct labels of a model or a data set.

    >>> Vocabulary.from_names(["Bark", "Rain"]).index("Rain")
    1
    """

    def __init__(self, labels: Iterable[Label]) -> None:
        """Raises `LabelError` when there is no label or one name comes twice."""
        self._labels = tuple(labels)
        self._index: dict[str, int] = {}
        for position, label in enumerate(self._labels):
            if not label.name.strip():
                raise LabelError(f"label {position} has no name: give every label one")
            if label.name in self._index:
                raise LabelError(f"label {label.name!r} is listed twice: list every label once")
            self._index[label.name] = position
        if not self._labels:
            raise LabelError("a vocabulary needs at least one label, none was given")

    @classmethod
    def from_names(cls, names: Iterable[str], mids: Mapping[str, str] | None = None) -> Vocabulary:
        """Labels from their names, with `mids` or else what the AudioSet ontology knows.

        A name that the ontology does not know keeps ``mid=None``: any label is allowed.
        """
        if isinstance(names, str):
            raise LabelError(f"expected a list of label names, got the text {names!r}")
        ontology = Ontology.audioset()
        given = mids or {}
        return cls(ontology.label(name, given.get(name)) for name in names)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read a label file: with a header, or FSD50K's ``vocabulary.csv`` without one.

        Known headers: ``index,mid,display_name`` (AudioSet, FSD50K), and any with a column
        ``name``, ``label`` or ``display_name`` and optionally ``mid`` and ``index``. Without a
        header the columns are ``index,name,mid``. Raises `LabelError` for anything else.
        """
        path = Path(path)
        try:
            rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise LabelError(f"cannot read the label file {path}: {reason}") from None
        return cls(_labels_from_rows(rows, str(path)))

    @classmethod
    def audioset(cls) -> Vocabulary:
        """The 527 classes of AudioSet, in the official order."""
        return _packaged_vocabulary("audioset_labels.csv")

    @classmethod
    def fsd50k(cls) -> Vocabulary:
        """The 200 classes of FSD50K, in the official order."""
        return _packaged_vocabulary("fsd50k_labels.csv")

    @classmethod
    def named(cls, name: str) -> Vocabulary:
        """``audioset``, ``fsd50k``, or the label file of that name (`from_csv`)."""
        shipped = {"audioset": cls.audioset, "fsd50k": cls.fsd50k}
        if name in shipped:
            return shipped[name]()
        if not os.path.exists(name):
            raise LabelError(
                f"no vocabulary {name!r}: give audioset, fsd50k or a label file (CSV)"
                f"{did_you_mean(name, shipped)}"
            )
        return cls.from_csv(name)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vocabulary:
        """The inverse of `to_dict`. Raises `LabelError` for another shape of data."""
        entries = data.get("labels") if isinstance(data, Mapping) else None
        if not isinstance(entries, list):
            raise LabelError("expected a vocabulary as {'labels': [...]}: the file is damaged")
        try:
            return cls(Label.model_validate(entry) for entry in entries)
        except LabelError:
            raise
        except ValueError as error:
            detail = str(error).splitlines()[0]
            raise LabelError(f"a label of the vocabulary is damaged: {detail}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return {"labels": [label.model_dump() for label in self._labels]}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of a model's outputs."""
        return tuple(label.name for label in self._labels)

    @property
    def mids(self) -> tuple[str | None, ...]:
        """The AudioSet identifiers, None where there is none."""
        return tuple(label.mid for label in self._labels)

    def index(self, name: Any, start: int = 0, stop: int | None = None) -> int:
        """The position of the label called `name`. Raises `LabelError` naming the nearest."""
        position = self._index.get(name.name if isinstance(name, Label) else name)
        if position is None or position < start or (stop is not None and position >= stop):
            raise LabelError(
                f"label {name!r} is not among the {counted(len(self), 'label')} of the vocabulary"
                f"{_suggestion(str(name), self._index)}"
            )
        return position

    def encode(self, names: Iterable[str], unknown: Iterable[str] = ()) -> np.ndarray:
        """Targets of one clip, float32 (L,): 1 present, NaN unknown, 0 otherwise.

        A name listed in both is present. Raises `LabelError` for a name outside.
        """
        if isinstance(names, str):
            raise LabelError(f"expected a list of label names, got the text {names!r}")
        targets = np.zeros(len(self), dtype=np.float32)
        targets[[self.index(name) for name in unknown]] = np.nan
        targets[[self.index(name) for name in names]] = 1
        return targets

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self._labels)

    def __contains__(self, name: object) -> bool:
        return (name.name if isinstance(name, Label) else name) in self._index

    @overload
    def __getitem__(self, position: int) -> Label: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Label, ...]: ...
    def __getitem__(self, position: int | slice) -> Label | tuple[Label, ...]:
        return self._labels[position]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._labels == other._labels

    def __hash__(self) -> int:
        return hash(self._labels)

    def __repr__(self) -> str:
        shown = some_of(self.names, 4)
        return f"Vocabulary({counted(len(self), 'label')}: {shown})"


class Ontology:
    """A directed acyclic graph of sounds; a node may have several parents.

    Wherever a node is asked for, its identifier or any spelling of its name will do.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Raises `LabelError` when a node comes twice, a child is missing or a loop exists."""
        self._nodes: dict[str, Node] = {}
        for node in nodes:
            if node.id in self._nodes:
                raise LabelError(f"ontology node {node.id} is listed twice")
            self._nodes[node.id] = node
        self._parents: dict[str, list[str]] = {mid: [] for mid in self._nodes}
        for node in self._nodes.values():
            for child in node.children:
                if child not in self._nodes:
                    raise LabelError(f"ontology node {node.name!r} lists a missing child {child}")
                self._parents[child].append(node.id)
        self._by_key = {_key(node.name): mid for mid, node in self._nodes.items()}
        self._ancestors = {mid: self._walk(mid, self._parents) for mid in self._nodes}
        for mid, above in self._ancestors.items():
            if mid in above:
                raise LabelError(f"ontology node {self._nodes[mid].name!r} is its own ancestor")

    @classmethod
    def audioset(cls) -> Ontology:
        """The packaged AudioSet ontology, 632 nodes."""
        return _packaged_ontology()

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Ontology:
        """Read AudioSet's ``ontology.json``. Raises `LabelError` for anything else."""
        try:
            return cls._parse(Path(path).read_text(encoding="utf-8"))
        except LabelError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabelError(f"{path} is not an AudioSet ontology file: {error}") from None

    @classmethod
    def _parse(cls, text: str) -> Ontology:
        return cls(
            Node(
                id=entry["id"],
                name=entry["name"],
                children=entry["children"] if "children" in entry else entry["child_ids"],
                restrictions=entry["restrictions"],
            )
            for entry in json.loads(text)
        )

    @staticmethod
    def _walk(start: str, edges: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """Everything reachable from `start`, nearest first, each node once."""
        found: dict[str, None] = {}
        waiting = deque(edges[start])
        while waiting:
            mid = waiting.popleft()
            if mid not in found:
                found[mid] = None
                waiting.extend(edges[mid])
        return tuple(found)

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def __getitem__(self, name: str) -> Node:
        return self._nodes[self.resolve(name)]

    def find(self, name: str) -> str | None:
        """The identifier behind an identifier or a spelling of a name; None when unknown."""
        return name if name in self._nodes else self._by_key.get(_key(name))

    def resolve(self, name: str) -> str:
        """Like `find`, but raises `LabelError` with the nearest name when unknown."""
        mid = self.find(name)
        if mid is None:
            names = (node.name for node in self._nodes.values())
            raise LabelError(f"the ontology knows no {name!r}{_suggestion(name, names)}")
        return mid

    def label(self, name: str, mid: str | None = None) -> Label:
        """A `Label` spelt `name`, completed with what the ontology knows about it."""
        mid = mid or self.find(name)
        node = self._nodes.get(mid) if mid else None
        display = node.name if node and node.name != name else None
        return Label(name=name, mid=mid, display=display)

    def parents(self, name: str) -> tuple[str, ...]:
        """Identifiers one level up; there may be several."""
        return tuple(self._parents[self.resolve(name)])

    def children(self, name: str) -> tuple[str, ...]:
        """Identifiers one level down."""
        return self[name].children

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Identifiers of everything above, over all paths, nearest first."""
        return self._ancestors[self.resolve(name)]

    def descendants(self, name: str) -> tuple[str, ...]:
        """Identifiers of everything below, over all paths, nearest first."""
        below = {mid: node.children for mid, node in self._nodes.items()}
        return self._walk(self.resolve(name), below)

    def implied(self, name: str, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Ascending positions in `vocabulary` of the ancestors of `name`.

        `name` itself need not be in the vocabulary. A name that the ontology does not know
        implies nothing.
        """
        own = vocabulary[vocabulary.index(name)].mid if name in vocabulary else None
        mid = self.find(own or name)
        if mid is None:
            return ()
        above = set(self._ancestors[mid])
        return tuple(i for i, other in enumerate(self._mids(vocabulary)) if other in above)

    def ancestors_within(self, vocabulary: Vocabulary) -> dict[int, tuple[int, ...]]:
        """For every label of `vocabulary`, by position, the positions of its ancestors there."""
        return {i: self.implied(name, vocabulary) for i, name in enumerate(vocabulary.names)}

    def _mids(self, vocabulary: Vocabulary) -> list[str | None]:
        return [self.find(label.mid or label.name) for label in vocabulary]


def most_specific(names: Iterable[str], ontology: Ontology | None = None) -> list[str]:
    """The names without those that are ontology ancestors of another one, order kept.

    >>> most_specific(["Dog", "Bark", "Rain"])
    ['Bark', 'Rain']
    """
    graph = ontology or Ontology.audioset()
    names = list(names)
    mids = [graph.find(name) for name in names]
    implied = {above for mid in mids if mid for above in graph.ancestors(mid)}
    return [name for name, mid in zip(names, mids, strict=True) if mid not in implied]


def _labels_from_rows(rows: list[list[str]], origin: str) -> list[Label]:
    """Labels in index order, from the rows of a label file."""
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    header = [cell.casefold() for cell in rows[0]] if rows else []
    names = [column for column in ("name", "label", "display_name") if column in header]
    if names:
        rows = rows[1:]
        columns = {column: header.index(column) for column in (*header,)}
        name_at = columns[names[0]]
        mid_at, index_at = columns.get("mid"), columns.get("index")
    elif rows and len(rows[0]) == 3 and rows[0][0].isdecimal():
        index_at, name_at, mid_at = 0, 1, 2
    else:
        raise LabelError(
            f"{origin} is not a label file: expected the columns index,mid,display_name with "
            "that header, or index,name,mid without one"
        )
    width = 1 + max(at for at in (name_at, mid_at, index_at) if at is not None)
    ontology = Ontology.audioset()
    labels: dict[int, Label] = {}
    for number, row in enumerate(rows):
        if len(row) < width:
            raise LabelError(f"{origin}: entry {number + 1} has {len(row)} columns, not {width}")
        index = row[index_at] if index_at is not None else str(number)
        if not index.isdecimal() or int(index) in labels:
            raise LabelError(f"{origin}: index {index!r} of entry {number + 1} is not new")
        mid = row[mid_at] or None if mid_at is not None else None
        labels[int(index)] = ontology.label(row[name_at], mid)
    if sorted(labels) != list(range(len(labels))):
        raise LabelError(f"{origin}: the indices must be 0 to {len(labels) - 1}, each once")
    return [labels[index] for index in range(len(labels))]


def _asset(name: str) -> str:
    return (resources.files("atgnn") / "assets" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _packaged_ontology() -> Ontology:
    return Ontology._parse(_asset("audioset_ontology.json"))


@lru_cache(maxsize=2)
def _packaged_vocabulary(name: str) -> Vocabulary:
    rows = list(csv.reader(_asset(name).splitlines()))
    return Vocabulary(_labels_from_rows(rows, name))
