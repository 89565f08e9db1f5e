"""Unpacking zip archives, those in several parts (.z01, .z02, ..., .zip) included.

Parts are read where they lie: joining FSD50K's first would cost its size once more. Every file is
checked against the archive's CRC-32 before it gets its name, so that an interrupted unpacking goes
on. Source of the layout: PKWARE's APPNOTE.TXT, sections 4.3 to 4.5 and 8.
"""

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from atgnn.errors import DownloadError

__all__ = ["parts_of", "unpack"]

BLOCK = 1 << 20
END, END64, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # a field that is too small: look into the extra fields
STORED, DEFLATED = 0, 8


class _Entry(NamedTuple):
    """A file of the archive; `offset` counts from the beginning of all parts together."""

    name: str
    method: int
    encrypted: bool
    crc: int
    packed: int
    size: int
    offset: int


def parts_of(archive: Path) -> list[Path]:
    """All parts of an archive, in order, given its last one, ``NAME.zip``."""
    stem = archive.with_suffix("")
    parts = (p for p in archive.parent.glob(f"{stem.name}.z[0-9]*") if p.suffix[2:].isdecimal())
    return [*sorted(parts, key=lambda part: int(part.suffix[2:])), archive]


def unpack(
    archive: Path,
    folder: Path,
    *,
    strip: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Unpack NAME.zip, with the parts beside it, into `folder`; returns the number of files.

    `strip` leaves out so many folders at the beginning of each name. Files that are there with the
    right size are left as they are. `progress` is told files done and all files.

    Raises `DownloadError`, in one line, for a missing part, a damaged archive and a full disk.
    """
    with ExitStack() as stack:
        try:
            parts = _Parts(stack, parts_of(archive))
            entries = [entry for entry in _entries(parts) if not entry.name.endswith("/")]
            for number, entry in enumerate(entries):
                target = _target(archive, folder, entry.name, strip)
                if target is not None:
                    _unpack_one(parts, entry, target)
                if progress is not None:
                    progress(number + 1, len(entries))
        except (struct.error, zlib.error, IndexError, UnicodeDecodeError) as error:
            raise _damaged(archive, str(error)) from None
        except OSError as error:
            raise DownloadError(
                f"{error.filename or folder}: {archive.name} cannot be unpacked "
                f"({error.strerror or error}); the same command goes on"
            ) from None
    return len(entries)


class _Parts:
    """Several files, read as one."""

    def __init__(self, stack: ExitStack, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._files = [stack.enter_context(path.open("rb")) for path in paths]
        self.bases = [0]  # where each part begins, and where the last one ends
        for path in paths:
            self.bases.append(self.bases[-1] + path.stat().st_size)

    @property
    def archive(self) -> Path:
        """The last part, by which the archive is called."""
        return self.paths[-1]

    @property
    def size(self) -> int:
        """Bytes of all parts together."""
        return self.bases[-1]

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on, or what there is of them."""
        content = b""
        while count > 0 and 0 <= offset < self.size:
            part = bisect_right(self.bases, offset) - 1
            self._files[part].seek(offset - self.bases[part])
            block = self._files[part].read(min(count, self.bases[part + 1] - offset))
            if not block:
                break
            content, offset, count = content + block, offset + len(block), count - len(block)
        return content


def _entries(parts: _Parts) -> Iterator[_Entry]:
    """The archive's own list of its files."""
    count, offset = _directory(parts)
    for _ in range(count):
        fixed = parts.read(offset, 46)
        if fixed[:4] != CENTRAL:
            raise _damaged(parts.archive, "its list of files is not where it should be")
        flags, method, _, _, crc, packed, size = struct.unpack("<4H3L", fixed[8:28])
        name_length, extra_length, comment_length, part = struct.unpack("<4H", fixed[28:36])
        (place,) = struct.unpack("<L", fixed[42:])
        name = parts.read(offset + 46, name_length)
        extra = parts.read(offset + 46 + name_length, extra_length)
        size, packed, place, part = _wide(extra, size, packed, place, part)
        if part >= len(parts.paths):
            raise _damaged(parts.archive, f"it names a part {part + 1} that is not there")
        yield _Entry(
            name.decode("utf-8" if flags & 0x800 else "cp437"),
            method, bool(flags & 1), crc, packed, size, parts.bases[part] + place,
        )  # fmt: skip
        offset += 46 + name_length + extra_length + comment_length


def _directory(parts: _Parts) -> tuple[int, int]:
    """How many files the archive lists, and where its list begins."""
    tail_at = max(0, parts.size - 22 - FULL16)
    tail = parts.read(tail_at, parts.size - tail_at)
    at = tail.rfind(END)
    if at < 0:
        raise _damaged(parts.archive, "it has no end: it is cut off, or no zip archive")
    last, first, _, count, _, place = struct.unpack("<4H2L", tail[at + 4 : at + 20])
    locator = parts.read(tail_at + at - 20, 20)
    if locator[:4] == LOCATOR64:
        part, where, _ = struct.unpack("<LQL", locator[4:])
        _check_parts(parts, part)
        wide = parts.read(parts.bases[part] + where, 56)
        if wide[:4] != END64:
            raise _damaged(parts.archive, "the end of its list is not where it should be")
        last, first, _, count, _, place = struct.unpack("<2L4Q", wide[16:])
    _check_parts(parts, last)
    if last + 1 != len(parts.paths):
        raise _damaged(parts.archive, f"it has {last + 1} parts, {len(parts.paths)} are here")
    return count, parts.bases[first] + place


def _check_parts(parts: _Parts, last: int) -> None:
    """Say which part is missing, by its name."""
    names = {path.suffix for path in parts.paths}
    missing = [f".z{i:02d}" for i in range(1, last + 1) if f".z{i:02d}" not in names]
    if missing:
        raise DownloadError(
            f"{parts.archive} has {last + 1} parts, {', '.join(missing[:5])} are not beside it: "
            "download them too"
        )


def _wide(extra: bytes, size: int, packed: int, place: int, part: int) -> tuple[int, int, int, int]:
    """Numbers that do not fit into their fields stand in an extra field, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            at += 4
            if size == FULL32:
                (size,), at = struct.unpack_from("<Q", extra, at), at + 8
            if packed == FULL32:
                (packed,), at = struct.unpack_from("<Q", extra, at), at + 8
            if place == FULL32:
                (place,), at = struct.unpack_from("<Q", extra, at), at + 8
            if part == FULL16:
                (part,) = struct.unpack_from("<L", extra, at)
            break
        at += 4 + length
    return size, packed, place, part


def _target(archive: Path, folder: Path, name: str, strip: int) -> Path | None:
    """Where a file goes; None for one that `strip` leaves no name. Never outside `folder`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise _damaged(archive, f"it wants to write to {name!r}, outside its folder")
    kept = path.parts[strip:]
    return folder.joinpath(*kept) if kept else None


def _unpack_one(parts: _Parts, entry: _Entry, target: Path) -> None:
    if target.is_file() and target.stat().st_size == entry.size:
        return
    if entry.encrypted or entry.method not in (STORED, DEFLATED):
        raise _damaged(parts.archive, f"{entry.name} is encrypted or packed in an unknown way")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not put on the disk one by one, which takes longer than unpacking: a file that a power cut
    # leaves empty has the wrong size and is unpacked again.
    scratch, size, crc = target.with_name(f".{target.name}.part"), 0, 0
    try:
        with scratch.open("wb") as file:
            for block in _content(parts, entry):
                file.write(block)
                size, crc = size + len(block), zlib.crc32(block, crc)
        if (size, crc) != (entry.size, entry.crc):
            raise _damaged(parts.archive, f"{entry.name} has not the checksum it should have")
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def _content(parts: _Parts, entry: _Entry) -> Iterator[bytes]:
    """A file's bytes, in blocks."""
    head = parts.read(entry.offset, 30)
    if head[:4] != LOCAL:
        raise _damaged(parts.archive, f"{entry.name} is not where it should be")
    name_length, extra_length = struct.unpack("<2H", head[26:])
    offset = entry.offset + 30 + name_length + extra_length
    end = offset + entry.packed
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == DEFLATED else None
    while offset < end:
        block = parts.read(offset, min(BLOCK, end - offset))
        if not block:
            return
        offset += len(block)
        yield inflate.decompress(block) if inflate else block
    if inflate:
        yield inflate.flush()


def _damaged(archive: Path, what: str) -> DownloadError:
    return DownloadError(f"{archive}: {what}; delete it and download it again")
