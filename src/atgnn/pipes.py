"""Sound from a pipe: read once, forwards, while decoders believe that it is a file.

libsndfile looks at the end of a file before it decodes the beginning. Here it finds nothing there,
which it takes for a file without trailing chunks. Ogg, MP3, mp4 and webm cannot be decoded so:
their pipe is read to its end into a temporary file first.
"""

import io
import os
import select
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, BinaryIO

__all__ = ["Pipe", "standard_input"]

HEAD = 1 << 20  # bytes at the beginning that can be read again
ENDLESS = 1 << 50  # bytes: the length that a pipe claims to have
LARGEST_HELD = 1 << 25  # bytes of a temporary file that are kept in memory
PATIENCE = 0.1  # s between looks whether to stop
UNKNOWN_FROM = 0x7FFF_F000  # programs that write WAV to a pipe give 0 or at least this as its size

#: First bytes of formats that are decoded as they come.
_FORWARDS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b".snd", b"caff", b"fLaC")


def standard_input() -> BinaryIO:
    """Standard input, unbuffered, so that waiting for it can be ended; its name is ``-``."""
    handle = io.FileIO(0, "rb", closefd=False)
    handle.name = "-"
    return handle


class Pipe:
    """A binary stream that cannot seek, as a file for decoders.

    Any place can be sought, but there are bytes only from where the last ones ended, and at the
    beginning. With `stop` set, waiting for more ends, as if the pipe had; a raw file alone can be
    waited for so.
    """

    def __init__(self, handle: BinaryIO, stop: threading.Event | None = None) -> None:
        self._handle, self._stop = handle, stop
        self._head = bytearray()
        self._position = 0
        self._reached = 0  # bytes that have been read from the pipe
        self._file: IO[bytes] | None = None
        start = self._fetched(4096)
        self._head += _without_length(bytes(start))
        self._reached = len(start)

    @property
    def forwards(self) -> bool:
        """Whether its format can be decoded as it comes."""
        return self._head.startswith(_FORWARDS) and self._head[8:12] != b"AVI "

    def seekable(self) -> bool:
        """For decoders it is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Only says where the next read is."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: ENDLESS}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Where the next read is."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Nothing at places that the pipe has not come to; OSError at those it has left behind."""
        position = self._position
        if position > self._reached:
            return b""
        if position < self._reached:
            again = bytes(self._head[position : position + size])
            if not again:
                raise OSError("a pipe cannot be read twice")
            self._position += len(again)
            return again + (self.read(size - len(again)) if len(again) < size else b"")
        fetched = self._fetched(size)
        self._head += fetched[: max(0, HEAD - len(self._head))]
        self._reached += len(fetched)
        self._position = self._reached
        return bytes(fetched)

    def readinto(self, buffer: bytearray) -> int:
        """As `read`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def whole(self) -> IO[bytes]:
        """Everything, to its end, as a temporary file that can seek; large ones are on the disk."""
        self._file = tempfile.SpooledTemporaryFile(max_size=LARGEST_HELD)  # noqa: SIM115
        self._file.write(self._head[: self._reached])
        self._position = self._reached
        for data in self._rest():
            self._file.write(data)
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Let go of the temporary file; the pipe itself belongs to whoever opened it."""
        if self._file is not None:
            self._file.close()

    def _rest(self) -> Iterator[bytes]:
        while data := self.read(shutil.COPY_BUFSIZE):  # type: ignore[attr-defined]
            yield data

    def _fetched(self, size: int) -> bytearray:
        """The next bytes, fewer only at the end of the pipe."""
        out = bytearray()
        while len(out) < size and self._ready():
            data = self._handle.read(size - len(out))
            if not data:
                break
            out += data
        return out

    def _ready(self) -> bool:
        """Wait for the pipe where that can be ended; False when it was."""
        if self._stop is None:
            return True
        if isinstance(self._handle, io.FileIO) and os.name == "posix":
            while not self._stop.is_set():
                if select.select([self._handle], [], [], PATIENCE)[0]:
                    return True
        return not self._stop.is_set()


def _without_length(head: bytes) -> bytes:
    """The beginning of a WAV file that was written without knowing its length, so marked.

    libsndfile reads one whose RIFF chunk has 8 bytes and whose data chunk has none to its end.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return head
    place = 12
    while place + 8 <= len(head):
        (size,) = struct.unpack_from("<I", head, place + 4)
        if head[place : place + 4] == b"data":
            if 0 < size < UNKNOWN_FROM:
                return head
            fixed = bytearray(head)
            struct.pack_into("<I", fixed, 4, 8)
            struct.pack_into("<I", fixed, place + 4, 0)
            return bytes(fixed)
        place += 8 + size + size % 2
    return head
