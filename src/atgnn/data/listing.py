"""What a data set's own lists say, and what of it is here.

Every reader of a public data set (`fsd50k`, `audioset`, `esc50`, `manifest`, `tables`) gives a
`Listing`: the clips that are there, the rows that have no sound, and everything that is odd about
the lists, counted. A list that cannot be understood at all is a `ClipsError`.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from atgnn.audio import walk_sounds
from atgnn.data.clips import SPLIT_NAMES, Clips
from atgnn.errors import ClipsError, MissingExtraError, counted
from atgnn.labels import Vocabulary

__all__ = [
    "EXAMPLES",
    "Draft",
    "Listing",
    "Missing",
    "Oddity",
    "from_training",
    "place_of",
    "read_rows",
    "sounds_by_stem",
]

#: So many examples of an oddity are kept.
EXAMPLES = 5

#: Where one clip lies there in several forms, the first of these is taken: lossless ones.
PREFERRED = (".wav", ".wave", ".flac", ".w64", ".aif", ".aiff")


#: A clip by its name and where it begins in a longer recording, in seconds.
Key: TypeAlias = tuple[str, float]


class Missing(NamedTuple):
    """A row of an official list that has no sound here. `end` is None where the list has none."""

    name: str
    split: str
    start: float
    end: float | None


@dataclass(frozen=True)
class Oddity:
    """Something about the lists or files that a reader of the report should know."""

    kind: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """A data set as its lists describe it, matched with the sounds that are here."""

    name: str
    clips: Clips
    vocabulary: Vocabulary
    listed: Mapping[str, int]  # different clips in the lists, by split
    missing: tuple[Missing, ...] = ()
    oddities: tuple[Oddity, ...] = ()


@dataclass
class Draft:
    """A listing on its way: readers add rows, whatever is odd is counted.

    Splits are given in the order of their rank: a clip that is listed in two of them stays in the
    last one only, so that nothing is trained on that is tested with.
    """

    name: str
    vocabulary: Vocabulary
    splits: tuple[str, ...] = ()
    rows: dict[Key, dict[str, Any]] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=dict)
    odd_counts: Counter[str] = field(default_factory=Counter)

    def note(self, kind: str, example: str, count: int = 1) -> None:
        """Count an oddity; its first examples are kept."""
        self.odd_counts[kind] += count
        kept = self.odd.setdefault(kind, [])
        if len(kept) < EXAMPLES:
            kept.append(example)

    def add(
        self,
        name: str,
        labels: Iterable[str],
        split: str = "",
        segment: tuple[float, float] | None = None,
        **columns: Any,
    ) -> None:
        """One row of a list; `segment` is its place in a longer recording, in seconds.

        `columns` are kept beside our own. The same name and beginning is the same clip.
        """
        known = self.known(name, list(labels))
        if known is None:
            return
        row = {"name": name, "labels": known, "split": split, **columns}
        if segment:
            row["segment_start"], row["segment_end"] = segment
        key = (name, segment[0] if segment else 0.0)
        before = self.rows.setdefault(key, row)
        if before is row:
            return
        if before["split"] == split:
            same = before["labels"] == known
            kind = (
                "duplicate rows" if same else "duplicate rows with other labels (the first holds)"
            )
            self.note(kind, f"{name}" + (f" in {split}" if split else ""))
            return
        first, last = sorted((before["split"], split), key=self._rank)
        self.note("clips listed in two splits", f"{name} in {first} and {last}: stays in {last}")
        if last == split:
            self.rows[key] = row

    def _rank(self, split: str) -> int:
        return self.splits.index(split) if split in self.splits else -1

    def known(self, name: str, labels: Sequence[str]) -> tuple[str, ...] | None:
        """The labels that the vocabulary has; None where it has none of several."""
        known = tuple(dict.fromkeys(label for label in labels if label in self.vocabulary))
        for label in labels:
            if label not in self.vocabulary:
                self.note("labels outside the vocabulary, left out", f"{label} (of {name})")
        if labels and not known:
            self.note("clips left out: no label of theirs is in the vocabulary", name)
            return None
        return known

    def listing(self, places: Mapping[Key, Path], cut: bool = False) -> Listing:
        """The finished listing: `places` says where the rows' sounds are, by name and beginning.

        With `cut`, the sounds are the longer recordings and a clip is its segment of one. Raises
        `ClipsError` where no sound is here.
        """
        if not self.rows:
            why = "; ".join(f"{one.kind}: {one.count}" for one in self.oddities())
            raise ClipsError(
                f"the lists of {self.name} name no clips that can be used"
                f"{f' ({why})' if why else ''}"
            )
        found = [(places[key], row) for key, row in self.rows.items() if key in places]
        missing = tuple(
            Missing(
                row["name"], row["split"], row.get("segment_start", 0.0), row.get("segment_end")
            )
            for key, row in self.rows.items()
            if key not in places
        )
        if not found:
            raise ClipsError(
                f"none of the {counted(len(self.rows), 'clip')} that the lists of {self.name} name "
                "is here; "
                f"the first would be {missing[0].name}: check the folder of sounds"
            )
        counts = Counter(row["split"] for row in self.rows.values())
        order = [*self.splits, *sorted(set(counts) - set(self.splits))]
        listed = {split: counts[split] for split in order if counts[split]}
        clips = _clips(found, self.name, cut)
        return Listing(self.name, clips, self.vocabulary, listed, missing, self.oddities())

    def oddities(self) -> tuple[Oddity, ...]:
        """What was noted, the most frequent first."""
        return tuple(
            Oddity(kind, count, tuple(self.odd[kind]))
            for kind, count in self.odd_counts.most_common()
        )


def _clips(found: list[tuple[Path, dict[str, Any]]], collection: str, cut: bool) -> Clips:
    """The table of clips; a column that no row fills is left out."""
    try:
        import pandas
    except ImportError:
        raise MissingExtraError.of("pandas", "train", "a table of clips") from None
    rows = [row for _, row in found]
    table = pandas.DataFrame({"path": [path for path, _ in found]})
    table["labels"] = [row["labels"] for row in rows]
    table["unknown"] = [()] * len(rows)
    table["start"], table["end"] = 0.0, np.nan
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if name != "labels" and any(value not in (None, "") for value in values):
            table[name] = values
    if cut:
        table["start"], table["end"] = table["segment_start"], table["segment_end"]
    if "fold" in table:
        table["fold"] = table["fold"].astype("Int64")
    table["collection"] = collection
    return Clips(table)


def from_training(split: str | None) -> int:
    """How far a split is from training, by its name; a name that says nothing counts as training.

    >>> sorted(["test", "dev", "valid"], key=from_training)
    ['dev', 'valid', 'test']
    """
    order = ("train", "val", "eval", "test")
    return order.index(SPLIT_NAMES.get((split or "").casefold(), "train"))


def place_of(files: list[Path]) -> Path:
    """The file to take where a clip is there several times: lossless before lossy, then by name."""
    if len(files) == 1:
        return files[0]
    rank = {suffix: number for number, suffix in enumerate(PREFERRED)}
    return min(files, key=lambda file: (rank.get(file.suffix.lower(), len(rank)), str(file)))


def sounds_by_stem(folder: Path, links: bool = False) -> dict[str, list[Path]]:
    """Absolute paths of all sounds below a folder by their names without the ending.

    With `links`, also behind links to folders. Raises `AudioError` where it is no folder.
    """
    found: dict[str, list[Path]] = {}
    for path in walk_sounds(os.path.abspath(folder), links):
        stem = os.path.splitext(os.path.basename(path))[0]
        found.setdefault(stem, []).append(Path(path))
    return found


def read_rows(path: Path, *, spaced: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of a CSV file without its empty lines; `spaced`: ", " separates.

    Raises `ClipsError` where it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=spaced)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClipsError(f"{path} cannot be read as a list of clips ({reason})") from None
