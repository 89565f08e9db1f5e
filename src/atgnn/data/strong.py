"""Tables of events: when each label is heard in a clip ("strong labels").

A row for each event: the clip's file name, what is heard, from when to when in seconds. The columns
are those of ``events.csv`` (`atgnn.data.scenes`) or of DESED's tables (``filename``, ``onset``,
``offset``, ``event_label``; tab-separated where the name ends in ``.tsv``).

N clips, P moments, L labels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atgnn.errors import ClipsError, MissingExtraError
from atgnn.labels import Ontology, Vocabulary

__all__ = ["StrongLabel", "moment_targets", "read_strong"]

CLIP, LABELS = ("scene", "filename"), ("labels", "label", "event_label")


class StrongLabel(NamedTuple):
    """Labels that are heard in a clip from `onset` to `offset` seconds."""

    onset: float
    offset: float
    labels: tuple[str, ...]


def read_strong(path: str | os.PathLike[str]) -> dict[str, list[StrongLabel]]:
    """What is heard in each clip, by its file name. `ClipsError` for a table that does not fit."""
    try:
        import pandas
    except ImportError:
        raise MissingExtraError.of("pandas", "train", "a table of events") from None
    separator = "\t" if Path(path).suffix.lower() == ".tsv" else ","
    try:
        table = pandas.read_csv(path, sep=separator, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["damaged"])[0]
        raise ClipsError(f"{path}: no readable table of events ({reason})") from None
    clip, labels = (_column(table, names, path) for names in (CLIP, LABELS))
    onset, offset = (_seconds(table, _column(table, (name,), path), path)
                     for name in ("onset", "offset"))  # fmt: skip
    wrong = np.flatnonzero(~((onset >= 0) & (offset > onset)))
    if len(wrong):
        raise ClipsError(
            f"{path}, row {wrong[0] + 1}: an event from {onset[wrong[0]]:g} to "
            f"{offset[wrong[0]]:g} s: it must begin at 0 or later and end after that"
        )
    heard: dict[str, list[StrongLabel]] = {}
    for name, start, end, cell in zip(table[clip], onset, offset, table[labels], strict=True):
        names = tuple(part.strip() for part in str(cell).split(";") if part.strip())
        heard.setdefault(str(name), []).append(StrongLabel(float(start), float(end), names))
    return heard


def _column(table: Any, names: Sequence[str], path: str | os.PathLike[str]) -> str:
    found = next((name for name in names if name in table.columns), None)
    if found is None:
        raise ClipsError(
            f"{path} has no column {' or '.join(names)}; its columns are "
            f"{', '.join(map(str, table.columns[:8]))}"
        )
    return found


def _seconds(table: Any, column: str, path: str | os.PathLike[str]) -> np.ndarray:
    try:
        return table[column].to_numpy(np.float64)
    except (TypeError, ValueError):
        raise ClipsError(f"{path}: column {column} must hold seconds") from None


def moment_targets(
    names: Sequence[str],
    targets: np.ndarray,
    heard: Mapping[str, Iterable[StrongLabel]],
    edges: np.ndarray,
    vocabulary: Vocabulary,
    ontology: Ontology | None = None,
) -> np.ndarray:
    """The share of each moment in which each label is heard, float32 (N, P, L); NaN is unknown.

    Args:
        names: file names of the clips, (N,).
        targets: what is in the whole clips, (N, L): 1, 0 or NaN.
        heard: see `read_strong`.
        edges: where moments begin and the last one ends, (P + 1,) in seconds.
        vocabulary: the labels; events of others are passed over.
        ontology: with it, an event of a label is one of its ancestors too.

    What is not in a clip is in none of its moments; what may be in it may be in each. When a label
    is heard that no event is of, nobody knows. `ClipsError` for an event of a label that the clip
    is said not to hold.
    """
    share = np.repeat(targets[:, None].astype(np.float32), len(edges) - 1, axis=1)
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        covered = np.zeros(share.shape[1:])
        known = set()
        for one in heard.get(name, ()):
            inside = np.minimum(one.offset, edges[1:]) - np.maximum(one.onset, edges[:-1])
            part = inside.clip(min=0) / np.diff(edges)
            for label in one.labels:
                if label not in places:
                    places[label] = _places(label, vocabulary, ontology)
                for place in places[label]:
                    if targets[row, place] == 0:
                        raise ClipsError(
                            f"{name} has an event of {vocabulary.names[place]} and is said not to "
                            "hold it: give the table of clips the labels of its events"
                        )
                    known.add(place)
                    covered[:, place] = np.minimum(1, covered[:, place] + part)
        when_unknown = [place for place in np.flatnonzero(targets[row] == 1) if place not in known]
        share[row][:, when_unknown] = np.nan
        share[row][:, sorted(known)] = covered[:, sorted(known)]
    return share


def _places(label: str, vocabulary: Vocabulary, ontology: Ontology | None) -> list[int]:
    own = [vocabulary.index(label)] if label in vocabulary.names else []
    return [*own, *(ontology.implied(label, vocabulary) if ontology is not None else ())]
