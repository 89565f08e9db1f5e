"""`atgnn import`: files of other tools become one score file.

N rows, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from atgnn.data.clips import Clips
from atgnn.errors import LabelError, counted
from atgnn.labels import Vocabulary
from atgnn.others.arrays import Found, read_scores
from atgnn.others.labels import LabelMap, named_labels, read_labels
from atgnn.others.names import clips_named, read_names
from atgnn.scoring import ScoresError, ScoreTable

__all__ = ["Imported", "import_scores"]


@dataclass(frozen=True)
class Imported:
    """A score file on its way, and what a person should know of how it came to be."""

    table: ScoreTable
    notes: tuple[str, ...]


def import_scores(
    files: Sequence[Path],
    *,
    names: Path | None = None,
    labels: str | None = None,
    clips: Clips | None = None,
    to: Vocabulary | None = None,
    fill: bool = False,
    logits: bool = False,
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
    array: str | None = None,
    join: bool = False,
    source: str = "",
) -> Imported:
    """Scores that another tool wrote, of these clips, for these labels.

    Args:
        files: in any form of `atgnn.others.arrays`; several hold the scores of different clips.
        names: the clips of the rows, in order, where the file does not say (`read_names`); the
            rows of all `files` together.
        labels: the labels of the columns (`read_labels`), where the file does not say.
        clips: find the names in this table, and take its paths, starts and ends. Where nothing
            names the rows, they are its rows.
        to: the vocabulary whose labels are wanted, by AudioSet identifier (`LabelMap`); `fill` as
            there.
        logits: the files hold logits.
        activation: what they are, or become, with; files of ours say it themselves.
        array: which array of a file with several.
        join: rows of one clip are windows of it: their mean is its scores, by length where it is
            known.
        source: what made the scores, for people.

    Raises:
        ScoresError: files that do not fit one another, or rows that nobody can name.
        LabelError: labels that do not fit the columns, or mean the same.
    """
    if not files:
        raise ScoresError("nothing to import: give at least one file of scores")
    listed = None if labels is None else read_labels(labels)
    found = _joined([_read(path, listed, array) for path in files])
    vocabulary = _labels(found, listed, files[0])
    notes = _presumed(found, listed)
    named: Sequence[str] = _named(found, names, clips)
    known: Sequence[Hashable] = named
    if clips is not None:  # first of all: teachers of all AudioSet have two million rows
        known = _places(named, clips, notes, found.starts)
        keep = [at for at, row in enumerate(known) if row != -1]
        found, named = _kept(found, keep), [named[at] for at in keep]
        known = [known[at] for at in keep]
    values = found.values if found.ready else _probabilities(found.values, logits, activation)
    table = _table(found, named, vocabulary, values, activation, source or _stems(files))
    if join:
        table, known = _means(table, known)
    _check_once(table, known)
    if clips is not None:
        table = _placed(table, cast(Sequence[int], known), clips)
    if to is not None:
        matched = LabelMap.of(vocabulary, to, fill=fill)  # knows identifiers that names do not
        table, notes = matched.apply(table), [*notes, *matched.notes()]
    return Imported(table, tuple(notes))


def _read(path: Path, listed: Vocabulary | None, array: str | None) -> Found:
    return read_scores(path, None if listed is None else len(listed), array)


def _joined(parts: Sequence[Found]) -> Found:
    """The rows of several files."""
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        alike = part.values.shape[1] == first.values.shape[1] and part.labels == first.labels
        if not alike or any(
            (getattr(part, name) is None) != (getattr(first, name) is None)
            for name in ("names", "starts", "ready")
        ):
            raise ScoresError(
                "the files do not have the same labels, or do not name their clips in the same way"
            )
    ready = None if first.ready is None else ScoreTable.concat([one.ready for one in parts])  # type: ignore[misc]
    names = None if first.names is None else tuple(n for one in parts for n in one.names or ())

    def column(get: Callable[[Found], np.ndarray | None]) -> np.ndarray | None:
        values = [value for value in map(get, parts) if value is not None]
        return np.concatenate(values) if values else None

    return Found(
        np.concatenate([one.values for one in parts]),
        names,
        first.labels,
        column(lambda one: one.starts),
        column(lambda one: one.ends),
        ready,
    )


def _labels(found: Found, listed: Vocabulary | None, path: Path) -> Vocabulary:
    """The labels of the columns."""
    width = found.values.shape[1]
    if listed is None and found.labels is not None:
        if found.ready is not None:
            return Vocabulary.from_names(found.labels)
        return named_labels(found.labels, str(path))
    if listed is None:
        if width == len(Vocabulary.audioset()):
            return Vocabulary.audioset()
        raise LabelError(
            f"{path} has {counted(width, 'column')} and does not name them: give their labels "
            "with --labels (audioset, fsd50k or a list)"
        )
    if len(listed) != width:
        raise LabelError(
            f"{path} has {counted(width, 'column')}, the list {counted(len(listed), 'label')}: "
            "they must be the same, in the same order"
        )
    return listed


def _named(found: Found, names: Path | None, clips: Clips | None) -> tuple[str, ...]:
    """A name for each row."""
    count = len(found.values)
    if names is not None:
        given = tuple(read_names(names))
        if len(given) != count:
            raise ScoresError(
                f"{names} has {counted(len(given), 'name')}, the scores {counted(count, 'row')}: "
                "they must be the same clips, in the same order"
            )
        return given
    if found.names is not None:
        return found.names
    if clips is None:
        raise ScoresError(
            "nothing says which clip each row is: give --names, or with --clips the table of clips "
            "that was scored, in its order"
        )
    if len(clips) != count:
        raise ScoresError(
            f"the scores have {counted(count, 'row')} without names, the table "
            f"{counted(len(clips), 'clip')}: give --names"
        )
    return tuple(map(str, clips.paths))


def _probabilities(given: np.ndarray, logits: bool, activation: str) -> np.ndarray:
    """Scores from 0 to 1, float32; ScoresError where the values are not what was said."""
    values = np.array(given, np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():  # NaN is the least and the greatest
        raise ScoresError("some scores are not finite: the file is damaged, or the model was")
    within = low >= 0 and high <= 1
    if not logits:
        if not within:
            raise ScoresError(
                f"scores lie between {low:g} and {high:g}, not 0 and 1: if they are logits, give "
                "--logits"
            )
        return values
    if within:
        raise ScoresError("--logits was given, but all values lie between 0 and 1: leave it out")
    if activation == "softmax":
        values -= values.max(axis=1, keepdims=True)
        np.exp(values, out=values)
        values /= values.sum(axis=1, keepdims=True)
        return values
    with np.errstate(over="ignore"):  # of a logit below -88 the score is 0
        np.exp(np.negative(values, out=values), out=values)
    values += 1
    return np.reciprocal(values, out=values)


def _table(
    found: Found,
    names: Sequence[str],
    vocabulary: Vocabulary,
    values: np.ndarray,
    activation: Literal["sigmoid", "softmax"],
    source: str,
) -> ScoreTable:
    if found.ready is not None:
        return replace(found.ready, paths=tuple(names), labels=vocabulary.names)
    starts = np.zeros(len(names)) if found.starts is None else found.starts
    ends = np.full(len(names), np.nan) if found.ends is None else found.ends
    return ScoreTable(tuple(names), starts, ends, vocabulary.names, values, activation, source)


def _presumed(found: Found, listed: Vocabulary | None) -> list[str]:
    """What was taken for granted, and may be wrong."""
    if listed is not None or found.labels is not None:
        return []
    return [
        "the columns are taken for AudioSet's classes in the official order; BEATs, for one, has "
        "another: then give --labels"
    ]


def _places(
    names: Sequence[str], clips: Clips, notes: list[str], starts: np.ndarray | None
) -> list[int]:
    """The clip of each row, or -1; what is missing is noted."""
    rows = clips_named(names, clips, starts)
    foreign = [name for name, row in zip(names, rows, strict=True) if row < 0]
    if len(foreign) == len(rows):
        raise ScoresError(
            f"none of {counted(len(names), 'name')} is a clip of the table: the first is "
            f"{names[0]}, the table's first {clips.paths[0]}"
        )
    if foreign:
        notes.append(
            f"{counted(len(foreign), 'row')} left out, of clips that the table does not have; the "
            f"first is {foreign[0]}"
        )
    lacking = len(clips) - len({row for row in rows if row >= 0})
    if lacking:
        notes.append(f"{lacking} of {counted(len(clips), 'clip')} have no scores")
    return rows


def _kept(found: Found, rows: Sequence[int]) -> Found:
    """Some rows of what was read."""

    def some(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[rows]

    return replace(
        found,
        values=found.values[rows],
        names=None if found.names is None else tuple(found.names[row] for row in rows),
        starts=some(found.starts),
        ends=some(found.ends),
        ready=None if found.ready is None else _rows(found.ready, rows),
    )


def _rows(table: ScoreTable, rows: Sequence[int]) -> ScoreTable:
    """Some rows of a table."""
    return replace(
        table,
        paths=tuple(table.paths[row] for row in rows),
        starts=table.starts[rows],
        ends=table.ends[rows],
        values=table.values[rows],
    )


def _means(table: ScoreTable, keys: Sequence[Hashable]) -> tuple[ScoreTable, Sequence[Hashable]]:
    """One row for each key: the mean of its rows, by their lengths; it is of the whole file."""
    own: dict[Hashable, list[int]] = {}
    for at, key in enumerate(keys):
        own.setdefault(key, []).append(at)
    lengths = np.nan_to_num(table.ends - table.starts, nan=1.0)
    means = [np.average(table.values[rows], 0, lengths[rows]) for rows in own.values()]
    first = _rows(table, [rows[0] for rows in own.values()])
    starts, ends = np.zeros(len(own)), np.full(len(own), np.nan)
    return replace(first, values=np.stack(means), starts=starts, ends=ends), list(own)


def _check_once(table: ScoreTable, keys: Sequence[Hashable]) -> None:
    """ScoresError where a clip has two rows."""
    seen: set[Hashable] = set()
    ends = np.nan_to_num(table.ends, nan=-1.0).tolist()
    for path, key, *place in zip(table.paths, keys, table.starts.tolist(), ends, strict=True):
        one = key if isinstance(key, int) else (key, *place)
        if one in seen:
            raise ScoresError(
                f"{path} has several rows: if they are windows of it, --join takes their mean; "
                "else leave one"
            )
        seen.add(one)


def _placed(table: ScoreTable, rows: Sequence[int], clips: Clips) -> ScoreTable:
    """The scores under the paths, starts and ends of a table's rows."""
    columns = clips.table
    return replace(
        table,
        paths=tuple(str(clips.paths[row]) for row in rows),
        starts=columns["start"].to_numpy(float)[list(rows)],
        ends=columns["end"].to_numpy(float)[list(rows)],
    )


def _stems(files: Sequence[Path]) -> str:
    return ", ".join(dict.fromkeys(path.stem for path in files))
