"""The vectors of recordings in one SQLite file: each recording is in it whole, or not at all.

Whatever stops a process, what was committed stays, so that indexing goes on where it was.

N windows of a recording, D width of a vector, F rows, T columns, C channels of nodes.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atgnn.errors import AtgnnError

__all__ = ["Entry", "SearchError", "Store"]

FORMAT, VERSION = "atgnn index", 1
PATIENCE = 60.0  # s to wait for another process that writes
_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS recordings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    duration REAL NOT NULL,
    windows INTEGER NOT NULL,
    vectors BLOB NOT NULL,
    nodes BLOB
);
CREATE INDEX IF NOT EXISTS by_digest ON recordings (digest);
"""


class SearchError(AtgnnError):
    """An index is missing, damaged, or of another model; or what is asked for is not in it."""


@dataclass(frozen=True)
class Entry:
    """A recording in the index.

    Attributes:
        id: its number, which no other recording ever has.
        path: where it was, absolute.
        digest: of the file's content.
        size, modified: bytes, and nanoseconds; while both are the same the content is not read.
        duration: seconds.
        windows: N.
    """

    id: int
    path: str
    digest: str
    size: int
    modified: int
    duration: float
    windows: int


_FIELDS = "id, path, digest, size, modified, duration, windows"


class Store:
    """The file. SearchError where it is no index, or cannot be read."""

    def __init__(self, path: Path, about: dict[str, Any] | None = None) -> None:
        """Open it; `about` is what a new one says of itself. Without `about` it must be there."""
        self.path = path
        if about is None and not path.is_file():
            raise SearchError(f"no index {path.parent}: `atgnn index SOUNDS --out {path.parent}`")
        self._changed = False  # since the last commit
        try:
            self._base = sqlite3.connect(path, timeout=PATIENCE)
            if about is not None:
                self._base.executescript(_TABLES)
                whole = json.dumps({"format": FORMAT, "version": VERSION, **about})
                self._base.execute(
                    "INSERT OR IGNORE INTO about VALUES ('index', ?), ('generation', '0')",
                    (whole,),
                )
                self._base.commit()
            self.about: dict[str, Any] = json.loads(self._value("index"))
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise SearchError(f"{path} is damaged or not an index: {error}") from None
        if self.about.get("format") != FORMAT or self.about.get("version") != VERSION:
            raise SearchError(
                f"{path.parent} has version {self.about.get('version')} of indexes, this atgnn "
                f"reads {VERSION}: index the recordings anew, or install a matching version"
            )

    def close(self) -> None:
        """Close the file; what was not committed is lost."""
        self._base.close()

    def _do(self, words: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        with self._told():
            return self._base.execute(words, values)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors in one line."""
        try:
            yield
        except sqlite3.Error as error:
            raise SearchError(
                f"{self.path}: {error}; is another process indexing into it, or the disk full? "
                "What was done is kept, the same command goes on"
            ) from None

    def _value(self, key: str) -> Any:
        row = self._base.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    @property
    def generation(self) -> int:
        """Grows with every change."""
        return int(self._value("generation"))

    # ------------------------------------------------------------------ reading

    def entries(self) -> list[Entry]:
        """All recordings, by number."""
        with self._told():
            rows = self._base.execute(f"SELECT {_FIELDS} FROM recordings ORDER BY id")
            return [_entry(row) for row in rows]

    def find(self, path: str) -> Entry | None:
        """The recording at a place."""
        row = self._do(
            f"SELECT {_FIELDS} FROM recordings WHERE path = ?", (os.fsencode(path),)
        ).fetchone()
        return None if row is None else _entry(row)

    def same_content(self, digest: str) -> Entry | None:
        """A recording with this content, wherever it is."""
        row = self._do(f"SELECT {_FIELDS} FROM recordings WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else _entry(row)

    def vectors(self, width: int) -> Iterator[np.ndarray]:
        """float32 (N, D) of every recording, by number."""
        for (data,) in self._do("SELECT vectors FROM recordings ORDER BY id"):
            yield np.frombuffer(data, np.float32).reshape(-1, width)

    def nodes(self, number: int | None = None) -> Iterator[bytes]:
        """The nodes of every recording, by number, or of one: int8, as they were put."""
        where = "" if number is None else f"WHERE id = {int(number)}"
        for (data,) in self._do(f"SELECT nodes FROM recordings {where} ORDER BY id"):
            yield data or b""

    # ------------------------------------------------------------------ writing

    def put(self, entry: Entry, vectors: bytes, nodes: bytes | None) -> None:
        """A recording in, in the place of what was at its path; its number is given here."""
        self.drop(entry.path)
        self._change(
            "INSERT INTO recordings (path, digest, size, modified, duration, windows, vectors, "
            "nodes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*_stored(entry), vectors, nodes),
        )

    def copy(self, old: Entry, entry: Entry) -> None:
        """The vectors of another recording with the same content, at a new place."""
        self.drop(entry.path)
        self._change(
            "INSERT INTO recordings (path, digest, size, modified, duration, windows, vectors, "
            "nodes) SELECT ?, ?, ?, ?, ?, ?, vectors, nodes FROM recordings WHERE id = ?",
            (*_stored(entry), old.id),
        )

    def touched(self, entry: Entry, size: int, modified: int) -> None:
        """The same content was written again."""
        self._do(
            "UPDATE recordings SET size = ?, modified = ? WHERE id = ?", (size, modified, entry.id)
        )

    def drop(self, path: str) -> None:
        """A recording out."""
        self._change("DELETE FROM recordings WHERE path = ?", (os.fsencode(path),))

    def _change(self, words: str, values: tuple[Any, ...]) -> None:
        self._changed = self._do(words, values).rowcount > 0 or self._changed

    def commit(self) -> None:
        """What was written since is on the disk from now on."""
        if self._changed:
            self._do("UPDATE about SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")
        with self._told():
            self._base.commit()
        self._changed = False


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(row[0], os.fsdecode(row[1]), *row[2:])


def _stored(entry: Entry) -> tuple[Any, ...]:
    return (
        os.fsencode(entry.path),
        entry.digest,
        entry.size,
        entry.modified,
        entry.duration,
        entry.windows,
    )
