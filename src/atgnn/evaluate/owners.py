"""Whose the clips of a table are, for resampling."""

from __future__ import annotations

from dataclasses import dataclass

from atgnn.data.clips import Clips
from atgnn.errors import counted
from atgnn.metrics import Owners
from atgnn.metrics.resampling import SEPARATOR

__all__ = ["SOURCE_COLUMNS", "Ownership", "owners_of"]

SOURCE_COLUMNS = ("source_id", "source", "src_file")
#: With fewer authors than this, an interval is a rough guess.
FEW = 10


@dataclass(frozen=True)
class Ownership:
    """The owners of clips, what they are called, and what has to be said of them."""

    owners: Owners
    noun: str
    notes: tuple[str, ...] = ()


def owners_of(clips: Clips) -> Ownership:
    """The author of each clip, else its source recording, else itself; and its recording.

    The author is the column ``group`` of a table, which is the first of group, author, source_id,
    source and src_file that it has (`Clips`), or several authors separated by ``;``. The recording
    is source_id, source or src_file. A clip is never drawn by itself if anything else is known.
    """
    table = clips.table
    column = next((name for name in SOURCE_COLUMNS if name in table), None)
    sources = [_text(cell) for cell in table[column]] if column else [""] * len(clips)
    authors = [_text(cell) for cell in table["group"]] if "group" in table else sources
    # A path names nobody else, whatever separates authors.
    alone = [str(path).replace(SEPARATOR, " ") for path in clips.paths]
    names = [
        author or (f"recording {source}" if source else f"clip {path}")
        for author, source, path in zip(authors, sources, alone, strict=True)
    ]
    # Clips of an author whose recording nobody knows count as one recording.
    owners = Owners.of(names, sources if column else None)
    known = sum(bool(author or source) for author, source in zip(authors, sources, strict=True))
    return Ownership(owners, _noun(clips, authors, sources), tuple(_notes(owners, known)))


def _noun(clips: Clips, authors: list[str], sources: list[str]) -> str:
    if not any(authors) and not any(sources):
        return "clips"
    if authors == sources:
        return "recordings"
    return "authors" if "author" in clips.table else "groups"


def _notes(owners: Owners, known: int) -> list[str]:
    notes = []
    if known < len(owners):
        which = (
            "no clip names its"
            if not known
            else f"{counted(len(owners) - known, 'clip names', 'clips name')} no"
        )
        notes.append(
            f"{which} author or recording, so each of them counts as independent: intervals are "
            "too narrow where such clips are related"
        )
    if owners.single:
        notes.append("all clips come from one author or recording: there is no interval")
    elif owners.count == 1:
        notes.append(
            "all clips are one author's: intervals are for other recordings of that author, not "
            "for other authors"
        )
    elif owners.count < FEW:
        notes.append(
            f"only {counted(owners.count, 'author or recording', 'authors or recordings')}: "
            "intervals are rough"
        )
    if owners.spread > 1:
        notes.append(
            f"clips are mixtures of up to {counted(owners.spread, 'author')}: a mixture moves with "
            "each of "
            "them, and intervals are a little too wide rather than too narrow"
        )
    return notes


def _text(cell: object) -> str:
    """A cell as text; empty where it says nothing (None, NaN, NA, blank)."""
    from pandas import isna

    return "" if isna(cell) else str(cell).strip()  # type: ignore[call-overload]
