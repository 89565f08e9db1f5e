"""Rows that are done but in no Parquet file yet: a file to which each is added as it comes.

A row is there once its bytes have been handed to the system: kill -9 takes back nothing. What a
crash leaves of the last one fails its checksum and is cut off when the work goes on.

A frame is its length (8 bytes), its CRC-32 (4 bytes), its content. The first frame is JSON that
says what the rows are of, and the number of the part that they will become; each of the others is a
record batch.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from atgnn.archive.arrow import pa
from atgnn.archive.rows import SCHEMA
from atgnn.files import appending, lock, write_all

__all__ = ["Journal", "read_journal"]

FRAME = struct.Struct("<QI")
SYNC_SECONDS = 5.0  # a power cut may take back this much


class Journal:
    """The journal of one shard, held by this process alone until it is closed."""

    def __init__(self, path: Path) -> None:
        """Open it and take up what it holds, in `head` and `rows`. BlockingIOError: it is held."""
        self._file = appending(path)
        # Whoever held it may have removed it between the two steps.
        if not lock(self._file) or not _is_at(self._file, path):
            self._file.close()
            raise BlockingIOError(f"{path} is held by another process")
        self.head, self.rows, end = _content(self._file)
        self._file.truncate(end)
        self._file.seek(end)
        self._synced = time.monotonic()

    def begin(self, head: dict[str, Any]) -> None:
        """Forget all rows; those that come are of `head`."""
        self._file.seek(0)
        self._file.truncate(0)
        self.head, self.rows = head, []
        self._write(json.dumps(head).encode())

    def add(self, row: Any) -> None:
        """One more row. OSError where the disk is full; the rows before are safe then."""
        self._write(row.serialize())
        self.rows.append(row)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Let go of it."""
        self._file.close()

    def _write(self, content: Any) -> None:
        content = memoryview(content)
        place = self._file.tell()
        try:
            write_all(self._file, FRAME.pack(content.nbytes, zlib.crc32(content)))
            write_all(self._file, content)
        except BaseException:  # half a frame would hide those that follow
            self._file.truncate(place)
            self._file.seek(place)
            raise


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def read_journal(path: Path) -> tuple[dict[str, Any] | None, list[Any]]:
    """Head and rows of a journal that another process may be writing; (None, []) for none."""
    try:
        with open(path, "rb") as file:
            head, rows, _ = _content(file)
    except FileNotFoundError:
        return None, []
    return head, rows


def _content(file: BinaryIO) -> tuple[dict[str, Any] | None, list[Any], int]:
    """Head, rows and where the last whole frame ends."""
    frames = _frames(file)
    head, end = next(frames, (None, 0))
    if head is None:
        return None, [], 0
    rows = []
    for content, place in frames:
        rows.append(pa.ipc.read_record_batch(pa.py_buffer(content), SCHEMA))
        end = place
    return json.loads(head), rows, end


def _frames(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The contents of whole frames, each with the place where it ends."""
    file.seek(0, os.SEEK_END)
    size, place = file.tell(), 0
    file.seek(0)
    while place + FRAME.size <= size:
        length, checksum = FRAME.unpack(file.read(FRAME.size))
        place += FRAME.size + length
        content = file.read(length) if place <= size else b""
        if len(content) < length or zlib.crc32(content) != checksum:
            return
        yield content, place
