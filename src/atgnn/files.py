"""Files that are whole whenever somebody looks: the old content or the new one, never a part."""

import csv
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from atgnn.errors import AtgnnError

__all__ = [
    "appending",
    "cache_folder",
    "check_new",
    "content_digest",
    "lock",
    "new_file",
    "replacing",
    "replacing_folder",
    "write_all",
    "write_rows",
    "write_text",
]


def cache_folder(name: str) -> Path:
    """Where we keep what can be made again, one folder for each kind of thing.

    RuntimeError for a user without a home.
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "atgnn" / name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write the new content to; it takes the place of `path` at the end.

    What was written is on the disk before the old content goes. An error or a full disk leaves the
    old file as it was and nothing beside it; after a power cut it is the one or the other.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to fill; it takes the place of `folder` at the end.

    An error or a crash leaves the old folder as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        new = Path(scratch) / "new"  # with the usual permissions; the scratch folder has none
        new.mkdir()
        yield new
        if folder.exists():
            os.replace(folder, Path(scratch) / "old")
        os.replace(new, folder)


def _sync_folder(folder: Path) -> None:
    """Put the folder's list of names on the disk, where the system has such a thing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse; the names are then theirs to keep
        pass
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves the old one or the new one."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a small CSV file, header first, as `write_text` does."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def content_digest(path: str | os.PathLike[str]) -> str:
    """32 hex digits that say what is in a file, whatever it is called; OSError if unreadable."""
    state, piece = blake2b(digest_size=16), memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(piece):
            state.update(piece[:count])
    return state.hexdigest()


def appending(path: Path) -> BinaryIO:
    """A file to read and go on with. Unbuffered: after an error nothing waits to be written."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    return os.fdopen(handle, "r+b", buffering=0)


def lock(file: BinaryIO) -> bool:
    """Take a file for this process; False where another one has it. A crash lets go of it.

    True as well where the system, or the file system, knows no locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def write_all(file: BinaryIO, content: bytes | memoryview) -> None:
    """An unbuffered file may take less than all at once; a full disk is an `OSError`."""
    rest = memoryview(content)
    while len(rest):
        rest = rest[file.write(rest) :]


def check_new(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The path, if nothing is there or it may be replaced.

    Commands ask this before they compute. Raises `AtgnnError` where something is there, or where
    nothing can be: below a file.
    """
    path = Path(path)
    if os.path.exists(path) and not force:  # Path.exists raises for a name that is too long
        raise AtgnnError(f"{path} exists: give another name, or --force to replace it")
    above = next((parent for parent in path.parents if os.path.lexists(parent)), None)
    if above is not None and not os.path.isdir(above):
        raise AtgnnError(f"{path} cannot be written: {above} is a file, no folder")
    return path


@contextmanager
def new_file(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """As `replacing`, for a result that the user named: its folders are made.

    Raises `AtgnnError` where something is there already, or the place cannot be written.
    """
    path = check_new(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            yield scratch
    except OSError as error:
        raise AtgnnError(f"{path} cannot be written ({error.strerror or error})") from None
