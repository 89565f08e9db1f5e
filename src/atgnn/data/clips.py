"""The table of clips: which sounds, what is in them, and what nobody knows about them.

A target has three states: 1 (the label is marked), 0 (it is not there) and NaN (*unknown*:
it may be there, nobody marked it). Unknown cells take no part in loss and metrics.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from atgnn.errors import (
    AtgnnError,
    ClipsError,
    LabelError,
    MissingExtraError,
    counted,
    some_of,
)
from atgnn.files import new_file
from atgnn.labels import Ontology, Vocabulary

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Clip", "Clips", "connected", "seconds_of", "sounds_of_folders", "write_parquet"]

SEPARATOR = ";"
PATH_COLUMNS = ("path", "filename", "file")
LABEL_COLUMNS = ("labels", "label", "category")
GROUP_COLUMNS = ("group", "author", "source_id", "source", "src_file")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
#: Names, of folders too, that divide a data set, and the split that they stand for.
SPLIT_NAMES = {
    "train": "train", "training": "train", "dev": "train", "val": "val", "valid": "val",
    "validation": "val", "eval": "eval", "evaluation": "eval", "test": "test", "testing": "test",
}  # fmt: skip
# An excerpt may end this much after its file, in seconds: times in tables are rounded.
END_TOLERANCE = 0.01


@dataclass(frozen=True)
class Clip:
    """One row: a sound or an excerpt of it (`start` to `end`, seconds; None = to the end)."""

    path: Path
    labels: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    start: float = 0.0
    end: float | None = None
    collection: str = ""
    group: str | None = None
    split: str | None = None
    fold: int | None = None
    extra: dict[str, Any] = field(default_factory=dict, compare=False)


class Clips(Sequence[Clip]):
    """A table of clips. Immutable: `where`, `subset` and `concat` give new ones.

    `table` is the pandas table behind it, with these columns always: path (absolute `Path`),
    labels and unknown (tuples of names), start (s), end (s, NaN = to the end), collection; and
    these where the source has them: split, fold (int), group (author, else source recording).
    Every other column of the source is kept as it was.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        """`table` as `read` makes it; the row index is renumbered."""
        self.table = table.reset_index(drop=True)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, labelled: bool = True) -> Clips:
        """Read a table or a folder and check that every file is there.

        - a CSV, TSV or Parquet table: a column ``path`` (or ``filename``), ``labels`` (names
          separated by ``;``, or lists in Parquet) and optionally unknown, split, fold, start,
          end, group or author, collection. Relative paths start at the table's folder or at an
          ``audio`` folder inside or beside it.
        - a folder with ``meta.csv`` and ``audio/``;
        - ESC-50 or ESC-10: a folder with ``meta/esc50.csv`` and ``audio/``;
        - a folder of folders: a folder's name is the label of the sounds below it; or ``train``,
          ``val`` and ``test`` folders with such folders in them.

        What need not be `labelled` may lack the column, and sounds may lie in no label's folder.

        Raises `ClipsError` (one line) for missing columns, missing files, excerpts that end
        after their file, and anything else that is not such a table.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            for inside in (Path("meta.csv"), Path("meta.parquet"), Path("meta", "esc50.csv")):
                if (path / inside).is_file():
                    return cls._read_whole(path / inside, path.resolve().name, labelled)
            return cls._from_folders(path, labelled)
        return cls._read_whole(path, _collection(path), labelled)

    @classmethod
    def _read_whole(cls, path: Path, collection: str, labelled: bool) -> Clips:
        """A table whose sounds all have to be there."""
        clips, missing = cls._from_file(path, collection, labelled)
        if missing:
            raise ClipsError(
                f"{path} names {counted(len(clips) + len(missing), 'sound file')}, {len(missing)} "
                f"not there, the first {missing[0]}; paths start at {path.resolve().parent} or at "
                "an audio folder there"
            )
        clips._check_ends(path)
        return clips

    @classmethod
    def read_present(
        cls, path: str | os.PathLike[str], *, labelled: bool = True
    ) -> tuple[Clips, list[str]]:
        """The rows of a table whose sounds are there, and the sounds of the others.

        No sound is opened. A table that need not be `labelled` may lack the column. Raises
        `ClipsError` as `read`, except for missing files.
        """
        path = Path(path).expanduser()
        return cls._from_file(path, _collection(path), labelled)

    @staticmethod
    def label_sets(path: str | os.PathLike[str]) -> list[tuple[str, ...]]:
        """The labels of every row of a table, whether its sounds are there or not.

        Raises `ClipsError` where it is no table with a column of labels.
        """
        path = Path(path).expanduser()
        raw = _read_table(path)
        column = _first_column(raw, LABEL_COLUMNS, path, "what is in it")
        return [_names(cell, path) for cell in raw[column]]

    @classmethod
    def read_listed(cls, path: str | os.PathLike[str], *, labelled: bool = True) -> Clips:
        """As `read`, but the sounds of a table need not be there any more: they are packed."""
        path = Path(path).expanduser()
        if path.is_dir():
            return cls.read(path, labelled=labelled)
        return cls._from_file(path, _collection(path), labelled, absent=True)[0]

    @classmethod
    def concat(cls, parts: Iterable[Clips]) -> Clips:
        """All rows of `parts`, in order; `collection` still tells where each came from."""
        tables = [part.table for part in parts]
        if not tables:
            raise ClipsError("nothing to concatenate: give at least one table of clips")
        pandas = _pandas()
        # Object columns keep tuples and None as they are, whatever the other tables hold.
        joined = pandas.concat([table.astype(object) for table in tables], ignore_index=True)
        for name in ("start", "end"):
            joined[name] = joined[name].astype(float)
        if "fold" in joined:
            joined["fold"] = joined["fold"].astype("Int64")
        return cls(joined)

    @classmethod
    def _from_file(
        cls, path: Path, collection: str, labelled: bool = True, absent: bool = False
    ) -> tuple[Clips, list[str]]:
        """The rows of a table whose sounds are there, or `absent`, and what absent ones name."""
        raw = _read_table(path)
        if not len(raw):
            raise ClipsError(f"{path} lists no clips: it has a header and no rows")
        if not labelled and not any(name in raw for name in LABEL_COLUMNS):
            raw[LABEL_COLUMNS[0]] = ""
        table, there, missing = _checked_table(raw, path, collection)
        return cls(table if absent else table[there]), missing

    @classmethod
    def _from_folders(cls, folder: Path, labelled: bool) -> Clips:
        folder = folder.resolve()
        paths, labels, splits = zip(*sounds_of_folders(folder, labelled=labelled), strict=True)
        table = _pandas().DataFrame({"path": list(paths), "labels": list(labels)})
        table["unknown"] = [()] * len(table)
        table["start"], table["end"] = 0.0, np.nan
        if any(splits):
            table["split"] = list(splits)
        table["collection"] = folder.name
        return cls(table)

    def _check_ends(self, origin: Path) -> None:
        """Excerpts must lie inside their file; only files of rows that state one are opened."""
        start, end = self.table["start"].to_numpy(), self.table["end"].to_numpy()
        stated = np.flatnonzero(~np.isnan(end) | (start > 0))
        if not len(stated):
            return
        from atgnn.audio import probe

        durations: dict[Path, float | None] = {}
        late = []
        for row in stated:
            path = self.table["path"].iat[row]
            if path not in durations:
                durations[path] = _duration(probe, path, origin)
            duration = durations[path]
            limit = end[row] if not np.isnan(end[row]) else start[row]
            if duration is not None and limit > duration + END_TOLERANCE:
                late.append((path, float(limit), duration))
        if late:
            path, limit, duration = late[0]
            raise ClipsError(
                f"{origin}: {counted(len(late), 'clip goes', 'clips go')} beyond the end of their "
                "file; the "
                "first, "
                f"{path.name}, is asked for up to {limit:g} s but lasts {duration:.3f} s"
            )

    @property
    def paths(self) -> list[Path]:
        """Absolute path of every clip."""
        return list(self.table["path"])

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """Marked labels of every clip."""
        return list(self.table["labels"])

    def column(self, name: str) -> np.ndarray:
        """One column as an array. Raises `ClipsError` when the table has none of that name."""
        if name not in self.table:
            known = ", ".join(map(str, self.table.columns))
            raise ClipsError(f"these clips have no column {name!r}; there are: {known}")
        return self.table[name].to_numpy(dtype=object)

    @property
    def owners(self) -> list[tuple[str, ...]]:
        """Whose each clip is: the names in its group, separated by ``;``, or its own path."""
        own: list[tuple[str, ...]] = [(str(path),) for path in self.paths]
        if "group" not in self.table:
            return own
        return [
            _names(cell, Path("group")) or path
            for cell, path in zip(self.column("group"), own, strict=True)
        ]

    @property
    def groups(self) -> np.ndarray:
        """Who or what each clip comes from, (N,): its group, or its own path where none is given.

        Clips of one group resemble each other: never split one, and resample groups, not clips.
        A mixture belongs to everyone who has a part in it, and so clips that share an owner,
        directly or through others, are one group.
        """
        owners = self.owners
        if all(len(names) == 1 for names in owners):
            return np.array([name for (name,) in owners], dtype=object)
        numbers = connected(owners)
        names: dict[int, dict[str, None]] = {}
        for number, own in zip(numbers.tolist(), owners, strict=True):
            names.setdefault(number, {}).update(dict.fromkeys(own))
        titles = {
            number: next(iter(all_)) if len(all_) == 1 else f"{next(iter(all_))} (+{len(all_) - 1})"
            for number, all_ in names.items()
        }
        return np.array([titles[number] for number in numbers.tolist()], dtype=object)

    def vocabulary(self) -> Vocabulary:
        """All labels that some clip is marked with, in alphabetical order."""
        names = sorted({name for labels in self.labels for name in labels})
        if not names:
            raise ClipsError("no clip is marked with any label: there is nothing to learn")
        return Vocabulary.from_names(names)

    def targets(
        self,
        vocabulary: Vocabulary,
        ontology: Ontology | None = None,
        *,
        outside: Literal["error", "drop"] = "error",
    ) -> np.ndarray:
        """What is in each clip, float32 (N, L): 1 marked, 0 not there, NaN unknown.

        With an `ontology`, a marked label marks its ancestors inside the vocabulary, and an
        unknown one leaves them unknown. Unknown never overrides marked. A label that is not in
        the vocabulary is a `ClipsError`, or, with ``outside="drop"``, counts only through its
        ancestors. A name in `unknown` that is not in the vocabulary has no cell of its own.
        """
        if outside == "error":
            self._check_labels(vocabulary)
        cells: dict[str, list[int]] = {}

        def columns(names: tuple[str, ...]) -> list[int]:
            for name in names:
                if name not in cells:
                    own = [vocabulary.index(name)] if name in vocabulary else []
                    cells[name] = own + list(ontology.implied(name, vocabulary) if ontology else ())
            return [column for name in names for column in cells[name]]

        targets = np.zeros((len(self), len(vocabulary)), dtype=np.float32)
        rows = zip(self.table["labels"], self.table["unknown"], strict=True)
        for row, (labels, unknown) in enumerate(rows):
            targets[row, columns(unknown)] = np.nan
            targets[row, columns(labels)] = 1
        return targets

    def silent(self, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
        """The rows marked with none of a vocabulary's labels, nor with one that implies such.

        Returns their positions, int64 (M,), and which labels are known to be absent there, bool
        (M, L): an unknown one is not. Raises `ClipsError` where there is no such row.
        """
        targets = self.targets(vocabulary, Ontology.audioset(), outside="drop")
        rows = np.flatnonzero(~(targets == 1).any(axis=1))
        if not len(rows):
            raise ClipsError(
                f"no background: {counted(len(self), 'clip')}, and every one is marked with labels "
                "of the model"
            )
        return rows, targets[rows] == 0

    def _check_labels(self, vocabulary: Vocabulary) -> None:
        bad = [name for labels in self.labels for name in labels if name not in vocabulary]
        if bad:
            try:
                vocabulary.index(bad[0])
            except LabelError as error:
                others = len(set(bad)) - 1
                more = f" (and {others} other labels are not either)" if others else ""
                raise ClipsError(f"{error}{more}") from None

    def where(self, **conditions: Any) -> Clips:
        """The clips whose columns equal the given values; a list or set means any of them.

        Values are compared as text, as a CSV table has nothing else: 3 is ``"3"``.

        >>> clips.where(collection="esc10", fold=[1, 2])  # doctest: +SKIP
        """
        return self.subset(self.matching(**conditions))

    def matching(self, **conditions: Any) -> np.ndarray:
        """Mask (N,) of the clips that `where` would give; all of them without conditions."""
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in conditions.items():
            several = isinstance(wanted, (list, tuple, set, frozenset, range, np.ndarray))
            values = set(map(_as_text, wanted if several else [wanted]))
            keep &= np.array([_as_text(value) in values for value in self.column(name)], dtype=bool)
        return keep

    def distinct(self, name: str) -> str:
        """The different values of a column, for an error message."""
        return some_of(sorted({_as_text(value) for value in self.column(name)}), 20)

    def labelled_by(self, column: str) -> Clips:
        """The same clips with the labels of another column; ClipsError where it is empty.

        Of ``labels``, their own column, they are the same clips.
        """
        if column == "labels":
            return self
        labels = [
            _names(str(value), Path(column)) if not _blank(value) else ()
            for value in self.column(column)
        ]
        empty = [path for path, names in zip(self.paths, labels, strict=True) if not names]
        if empty:
            raise ClipsError(
                f"{len(empty)} of {counted(len(self), 'clip')} have no value in the column "
                f"{column!r}, the "
                f"first is {empty[0].name}: fill it, or take the labels from another column"
            )
        return Clips(self.table.assign(labels=labels))

    def subset(self, indices: Iterable[int] | np.ndarray) -> Clips:
        """The clips at `indices` (or under a boolean mask), in that order."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise ClipsError(
                    f"a mask of {chosen.shape} does not fit {counted(len(self), 'clip')}"
                )
            chosen = np.flatnonzero(chosen)
        return Clips(self.table.iloc[chosen.astype(int)])

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write a CSV or Parquet table (by suffix) that `read` reads back, whole or not at all.

        Files below the table's folder are written relative to it, others absolute.
        """
        path = Path(path)
        if path.suffix not in TABLE_SUFFIXES:
            raise ClipsError(f"cannot write {path.name}: the suffix must be .csv, .tsv or .parquet")
        table, folder = self.table.copy(), path.resolve().parent
        table["path"] = [
            (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()
            for file in table["path"]
        ]
        for name in ("labels", "unknown"):
            if any(SEPARATOR in label for labels in table[name] for label in labels):
                raise ClipsError(
                    f"a label contains {SEPARATOR!r}, which separates labels: rename it"
                )
            table[name] = [SEPARATOR.join(labels) for labels in table[name]]
        with new_file(path, force=True) as scratch:
            if path.suffix == ".parquet":
                write_parquet(table, scratch)
            else:
                table.to_csv(scratch, index=False, sep=_delimiter(path), lineterminator="\n")
        return path

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        """One `Clip` for an integer, `Clips` for a slice."""
        if isinstance(index, slice):
            return Clips(self.table.iloc[index])
        row = self.table.iloc[int(index)].to_dict()
        fields = {
            name: row.pop(name, None) for name in Clip.__dataclass_fields__ if name != "extra"
        }
        fields = {name: None if _blank(value) else value for name, value in fields.items()}
        fold = fields["fold"]
        return Clip(**{**fields, "fold": None if fold is None else int(fold), "extra": row})

    def __iter__(self) -> Iterator[Clip]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        collections = ", ".join(dict.fromkeys(map(str, self.table["collection"])))
        return f"Clips({counted(len(self), 'clip')} of {collections or 'nothing'})"


def connected(owners: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """A group number per clip, (N,): clips that share an owner, directly or not, share it."""
    leader: dict[Hashable, Hashable] = {}

    def find(item: Hashable) -> Hashable:
        leader.setdefault(item, item)
        while leader[item] != item:
            leader[item] = leader[leader[item]]
            item = leader[item]
        return item

    for items in owners:
        for item in items[1:]:
            leader[find(item)] = find(items[0])
    numbers: dict[Hashable, int] = {}
    return np.array(
        [numbers.setdefault(find(items[0]), len(numbers)) for items in owners], dtype=np.int64
    )


def seconds_of(clip: Clip) -> float:
    """Length of a clip. Where the header does not say it, the sound is decoded once.

    Raises `AudioError` for what cannot be read, `ClipsError` for an excerpt behind the end.
    """
    from atgnn import audio

    duration = audio.probe(clip.path).duration
    if duration is None:
        rate = 16_000
        blocks = audio.stream(clip.path, rate, start=clip.start, end=clip.end)
        return sum(len(block) for block in blocks) / rate
    end = duration if clip.end is None else min(clip.end, duration)
    if end <= clip.start:
        raise ClipsError(
            f"{clip.path}: lasts {duration:.3f} s, but the excerpt starts at {clip.start:.3f} s"
        )
    return end - clip.start


def sounds_of_folders(
    folder: Path, links: bool = False, *, labelled: bool = True
) -> list[tuple[Path, tuple[str, ...], str]]:
    """The sounds below a folder with the label and the split that their folders name, in order.

    The split is "" where the folders are not train, val, test and the like. With `links`, also
    behind links to folders. Sounds that lie in no label's folder have no label.

    Raises `ClipsError` where it is no folder, holds no sounds, or some have no label, `labelled`.
    """
    from atgnn.audio import walk_sounds

    sounds = sorted(map(Path, walk_sounds(folder, links)))
    if not sounds:
        raise ClipsError(
            f"no clips found in {folder}: expected a table (meta.csv beside audio/), ESC-50's "
            "meta/esc50.csv, or one folder of sounds per label"
        )
    parts = [sound.relative_to(folder).parts[:-1] for sound in sounds]
    loose = [sound for sound, part in zip(sounds, parts, strict=True) if not part]
    if loose and labelled:
        raise ClipsError(
            f"{counted(len(loose), 'sound lies', 'sounds lie')} directly in {folder} without a "
            f"label, the first is {loose[0].name}: put every sound into a folder named after its "
            "label"
        )
    divided = all(len(part) > 1 and part[0].casefold() in SPLIT_NAMES for part in parts)
    splits = [SPLIT_NAMES[part[0].casefold()] if divided else "" for part in parts]
    labels = [part[divided : divided + 1] for part in parts]
    return list(zip(sounds, labels, splits, strict=True))


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table; columns of other people's that hold unlike things are written as text."""
    try:
        table.to_parquet(path, index=False)
    except ImportError:
        raise MissingExtraError.of("pyarrow", "train", "writing Parquet") from None
    except (ValueError, TypeError):  # pyarrow's own are one of these
        table = table.copy()
        for name in table.columns.difference(["labels", "unknown"]):
            if table[name].dtype == object:
                table[name] = table[name].map(str, na_action="ignore")
        table.to_parquet(path, index=False)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingExtraError.of("pandas", "train", "a table of clips") from None
    return pandas


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _read_table(path: Path) -> pd.DataFrame:
    """The raw table; CSV cells stay text, empty ones are empty text."""
    pandas = _pandas()
    if not path.is_file():
        raise ClipsError(f"no table of clips at {path}: give a CSV or Parquet file or a folder")
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ClipsError(
            f"cannot read {path}: expected a .csv, .tsv or .parquet table, or a folder"
        )
    parquet = path.suffix.lower() == ".parquet"
    try:
        raw: pd.DataFrame = (
            pandas.read_parquet(path)
            if parquet
            else pandas.read_csv(
                path, sep=_delimiter(path), dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
        )
    except ImportError:
        raise MissingExtraError.of("pyarrow", "train", "reading Parquet") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        detail = (str(error).splitlines() or ["it cannot be parsed"])[0]
        raise ClipsError(f"{path} is not a readable {path.suffix} table: {detail}") from None
    if not parquet and not isinstance(raw.index, pandas.RangeIndex):
        raise ClipsError(
            f"{path}: the rows have more cells than the header: put a cell that contains the "
            "separator in quotes, and end no row with one"
        )
    raw.columns = [str(name).strip() for name in raw.columns]
    twice = raw.columns[raw.columns.duplicated()]
    if len(twice):
        raise ClipsError(f"{path} has two columns {twice[0]!r}: leave one of them out")
    return raw


def _collection(path: Path) -> str:
    """What the clips of a table are called together."""
    named = path.name in ("meta.csv", "meta.parquet")
    return path.resolve().parent.name if named else path.stem


def _checked_table(
    raw: pd.DataFrame, origin: Path, collection: str
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """The raw table with our columns in our types, and everything else as it was.

    And which rows have their sound (N,), and what the others name.
    """
    path_column = _first_column(raw, PATH_COLUMNS, origin, "which sound")
    label_column = _first_column(raw, LABEL_COLUMNS, origin, "what is in it")
    # A name that also says something else (ESC-50's category) stays beside our own column.
    table = raw.drop(columns=[name for name in ("path", "labels") if name in raw]).copy()
    found, there, missing = _existing_files(list(raw[path_column]), origin)
    table.insert(0, "path", found)
    table.insert(1, "labels", [_names(cell, origin) for cell in raw[label_column]])
    unknown = raw["unknown"] if "unknown" in raw else [""] * len(raw)
    table["unknown"] = [_names(cell, origin) for cell in unknown]
    table["start"] = _seconds(raw, "start", 0.0, origin)
    table["end"] = _seconds(raw, "end", np.nan, origin)
    wrong = np.flatnonzero((table["start"] < 0) | (table["end"] <= table["start"]))
    if len(wrong):
        start, end = table["start"].iat[wrong[0]], table["end"].iat[wrong[0]]
        raise ClipsError(
            f"{origin}, row {wrong[0] + 1}: an excerpt from {start:g} to {end:g} s is empty; start "
            "must be 0 or more and end beyond it"
        )
    if "fold" in raw:
        table["fold"] = _folds(raw["fold"], origin)
    if "split" in raw:
        table["split"] = [None if _blank(cell) else str(cell).strip() for cell in raw["split"]]
    group = next((name for name in GROUP_COLUMNS if name in raw), None)
    if group:
        table["group"] = [None if _blank(cell) else str(cell).strip() for cell in raw[group]]
    given = raw["collection"] if "collection" in raw else [""] * len(raw)
    table["collection"] = [collection if _blank(cell) else str(cell) for cell in given]
    return table, there, missing


def _first_column(raw: pd.DataFrame, names: Sequence[str], origin: Path, meaning: str) -> str:
    for name in names:
        if name in raw:
            return name
    has = ", ".join(map(str, raw.columns))
    raise ClipsError(
        f"{origin} has no column {names[0]!r} ({meaning}); it has: {has}; "
        f"accepted names: {', '.join(names)}"
    )


def _blank(cell: Any) -> bool:
    """Whether a cell says nothing: None, NaN, NA or empty text."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return True
    if isinstance(cell, (str, tuple, list, dict, np.ndarray, Path)):
        return False
    # NaN differs from itself; pandas' NA has no truth value.
    return type(cell).__name__ == "NAType" or bool(cell != cell)


def _names(cell: Any, origin: Path) -> tuple[str, ...]:
    """Label names of one cell, in order, each once: ``a;b`` or a list of texts."""
    if _blank(cell):
        return ()
    parts = cell.split(SEPARATOR) if isinstance(cell, str) else cell
    if not isinstance(parts, Iterable) or not all(isinstance(part, str) for part in parts):
        raise ClipsError(
            f"{origin}: expected label names, got {json.dumps(cell, default=str)[:80]}"
        )
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _seconds(raw: pd.DataFrame, name: str, default: float, origin: Path) -> np.ndarray:
    seconds = np.full(len(raw), default)
    for row, cell in enumerate(raw.get(name, ())):
        if _blank(cell):
            continue
        try:
            seconds[row] = float(cell)
        except (TypeError, ValueError):
            seconds[row] = np.inf
        if not np.isfinite(seconds[row]):
            raise ClipsError(f"{origin}, row {row + 1}: {name} is {cell!r}, expected seconds")
    return seconds


def _folds(column: Iterable[Any], origin: Path) -> Any:
    folds: list[int | None] = []
    for row, cell in enumerate(column):
        try:
            folds.append(None if _blank(cell) else _whole(cell))
        except (TypeError, ValueError, OverflowError):
            raise ClipsError(
                f"{origin}, row {row + 1}: fold is {cell!r}, expected a whole number"
            ) from None
    return _pandas().array(folds, dtype="Int64")


def _whole(cell: Any) -> int:
    number = float(cell)
    if number != int(number) or abs(number) > 2**53:
        raise ValueError("not a whole number")
    return int(number)


def _as_text(value: Any) -> str:
    """How a value is compared: as it would stand in a CSV table."""
    whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
    return str(int(value) if whole else value)


def _existing_files(cells: list[Any], origin: Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """Absolute paths, which of them are files (N,), and the cells of those that are not.

    A relative path starts at the table, its audio folder or the one beside it.
    """
    folder = origin.resolve().parent
    bases = (folder, folder / "audio", folder.parent / "audio", folder.parent)
    is_file = _directory_cache()
    found, there = [], np.ones(len(cells), dtype=bool)
    for row, cell in enumerate(cells):
        if _blank(cell):
            raise ClipsError(f"{origin}, row {row + 1}: the path is empty")
        given = Path(str(cell).strip()).expanduser()
        options = [given] if given.is_absolute() else [base / given for base in bases]
        path = next((option for option in options if is_file(option)), None)
        found.append(path or options[0])
        there[row] = path is not None
    return found, there, [str(cells[row]) for row in np.flatnonzero(~there)]


def _directory_cache() -> Callable[[Path], bool]:
    """A quick ``is_file``: every folder is listed once instead of asking for every file."""
    listings: dict[str, set[str]] = {}

    def is_file(path: Path) -> bool:
        folder, name = os.path.split(os.path.normpath(path))
        if folder not in listings:
            try:
                with os.scandir(folder) as entries:
                    listings[folder] = {entry.name for entry in entries if entry.is_file()}
            except OSError:
                listings[folder] = set()
        return name in listings[folder]

    return is_file


def _duration(probe: Callable[[Any], Any], path: Path, origin: Path) -> float | None:
    try:
        duration: float | None = probe(path).duration
    except AtgnnError as error:
        raise ClipsError(f"{origin}: {error}") from None
    return duration
