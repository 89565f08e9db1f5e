"""The sounds of an archive, and which of several machines does which."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from atgnn.audio import no_sounds, walk_sounds
from atgnn.errors import AudioError, ClipsError, ConfigError

__all__ = ["Shard", "Sound", "file_at", "find"]

NUMBER = re.compile(r"\d{1,9}")
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")  # of a byte that is no text


@dataclass(frozen=True, order=True)
class Shard:
    """Share `number` of `count`, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``; ConfigError for anything else, and for an i that is not from 1 to n."""
        number, _, count = (part.strip() for part in text.partition("/"))
        if not (NUMBER.fullmatch(number) and NUMBER.fullmatch(count)):
            raise ConfigError(f"shard {text!r}: give i/n, such as 1/4 for the first of four")
        shard = cls(int(number), int(count))
        if not 1 <= shard.number <= shard.count:
            raise ConfigError(
                f"shard {text!r} does not exist: shards of {shard.count} are numbered from 1 to "
                f"{shard.count}"
                if shard.count
                else f"shard {text!r} does not exist: give i/n with n of 1 or more"
            )
        return shard

    @property
    def name(self) -> str:
        """What its files are called: ``shard-01-of-12``."""
        return f"shard-{self.number:0{len(str(self.count))}}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, path: str) -> bool:
        """Whether a sound belongs to it: a function of the path below the archive's folder alone.

        So a machine needs not know what the others see, and nothing moves when sounds are added.
        """
        digest = blake2b(path.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1


@dataclass(frozen=True)
class Sound:
    """A file of an archive.

    Attributes:
        path: below the archive's folder, with slashes; bytes that are no text are escaped.
        file: where it is.
        bytes: its size.
        modified: when it was last written to, nanoseconds since 1970.
    """

    path: str
    file: str
    bytes: int
    modified: int

    @classmethod
    def at(cls, file: str, folder: str) -> Sound:
        """Look at a file. OSError where it is gone or may not be looked at."""
        state = os.stat(file)
        return cls(_below(file, folder), file, state.st_size, state.st_mtime_ns)

    def unchanged(self) -> bool:
        """Whether the file still has the size and time that it had when it was looked at."""
        try:
            state = os.stat(self.file)
        except OSError:
            return False
        return (state.st_size, state.st_mtime_ns) == (self.bytes, self.modified)


def find(folder: Path, shard: Shard, leave_out: Path) -> list[Sound]:
    """The sounds of a folder that belong to a shard, in order of their paths.

    Those below `leave_out`, where results go, are none. AudioError where `folder` is no folder or
    holds no sounds at all; a shard may be empty.
    """
    results = os.path.join(os.path.realpath(leave_out), "")
    inside = results.startswith(os.path.join(os.path.realpath(folder), ""))
    found, seen = [], 0
    try:
        files = [*walk_sounds(folder)]
    except ClipsError as error:
        raise AudioError(str(error)) from None
    for file in files:
        if inside and os.path.realpath(file).startswith(results):
            continue
        seen += 1
        try:
            sound = Sound.at(file, os.fspath(folder))
        except OSError:  # a link to nowhere: it has no size, and decoding will say what is wrong
            sound = Sound(_below(file, os.fspath(folder)), file, 0, 0)
        if shard.holds(sound.path):
            found.append(sound)
    if not seen:
        raise AudioError(no_sounds(folder))
    return sorted(found, key=lambda sound: sound.path)


def file_at(folder: str | os.PathLike[str], path: str) -> str:
    """Where a sound of an archive is, by its `Sound.path`."""
    place = os.path.join(folder, path)
    if os.path.lexists(place):
        return place
    raw = ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), path.encode())
    return os.path.join(folder, os.fsdecode(raw))


def _below(file: str, folder: str) -> str:
    path = os.fsencode(os.path.relpath(file, folder).replace(os.sep, "/"))
    return path.decode("utf-8", "backslashreplace")
