"""What a model has heard in training, in short: to tell when it is asked of the same again.

A clip is known by what is in its file, and by its name, for files that are gone or were encoded
anew; its author, or source recording, is known besides. Of each only a hash of 8 bytes is kept: the
list of a thousand clips is a few kilobytes, and nobody reads names out of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atgnn.errors import CheckpointError, counted

if TYPE_CHECKING:
    from atgnn.data.clips import Clips

__all__ = ["Heard", "Overlap"]

PARTS = ("sounds", "names", "owners")
EDGE = 1 << 16  # bytes at each end of a file that are looked at
FILES_UP_TO = 100_000  # clips; of more, names alone are noted: each file takes a moment


@dataclass(frozen=True)
class Overlap:
    """How many of some clips a model has heard, and of how many others only the authors."""

    clips: int
    heard: int
    by_owner: int

    def line(self) -> str:
        """In words; "" where there is nothing to say."""
        parts = []
        if self.heard:
            parts.append(f"learned from {self.heard} of {counted(self.clips, 'clip')}")
        if self.by_owner:
            more = "more, " if self.heard else f"of {counted(self.clips, 'clip')}, "
            parts.append(f"heard the author or recording of {self.by_owner} {more}".rstrip(", "))
        return f"the model has {' and '.join(parts)}: figures flatter it" if parts else ""


@dataclass(frozen=True, eq=False)
class Heard:
    """Sorted hashes, int64 each.

    Attributes:
        sounds: of the content and excerpt of clips whose files could be read.
        names: of name, folder and excerpt of all clips.
        owners: of authors, else of source recordings.
        complete: whether every clip is among the `sounds`.
    """

    sounds: np.ndarray
    names: np.ndarray
    owners: np.ndarray
    complete: bool

    @classmethod
    def of(cls, clips: Clips) -> Heard:
        """What a training run has heard."""
        sounds, names = _sounds(clips), _names(clips)
        owners = [_hash(name) for own in _owners(clips) for name in own]
        known = [one for one in sounds if one is not None]
        return cls(_sorted(known), _sorted(names), _sorted(owners), len(known) == len(sounds))

    def joined(self, other: Heard | None) -> Heard:
        """What either has heard: a run that starts from another one's weights."""
        if other is None:
            return self
        return Heard(
            np.union1d(self.sounds, other.sounds),
            np.union1d(self.names, other.names),
            np.union1d(self.owners, other.owners),
            self.complete and other.complete,
        )

    def overlap(self, clips: Clips) -> Overlap:
        """How many of the clips are among these.

        By content where both are known by it, else by name.
        """
        sounds, names = _sounds(clips), np.array(_names(clips), np.int64)
        unknown = np.array([one is None for one in sounds], bool)
        content = np.array([one or 0 for one in sounds], np.int64)
        heard = np.isin(content, self.sounds) & ~unknown
        heard |= np.isin(names, self.names) & (unknown | (not self.complete))
        owners = set(self.owners.tolist())
        related = [any(_hash(name) in owners for name in own) for own in _owners(clips)]
        by_owner = np.array(related, bool) & ~heard
        return Overlap(len(clips), int(heard.sum()), int(by_owner.sum()))

    # ------------------------------------------------------------------ in and out

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        from safetensors.numpy import save

        tensors = {part: np.ascontiguousarray(getattr(self, part)) for part in PARTS}
        return save(tensors, {"complete": str(self.complete)})

    @classmethod
    def read(cls, path: Path) -> Heard | None:
        """What `to_bytes` gave, or None where there is no file.

        Raises `CheckpointError` for a file that is anything else.
        """
        if not path.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                sounds, names, owners = (file.get_tensor(part) for part in PARTS)
                complete = (file.metadata() or {}).get("complete") == "True"
                return cls(sounds, names, owners, complete)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged: delete it or replace it ({error})") from None


def _sounds(clips: Clips) -> list[int | None]:
    """A hash of the content and excerpt of each clip; None where its file is not there."""
    if len(clips) > FILES_UP_TO:
        return [None] * len(clips)
    known: dict[Path, bytes | None] = {}
    hashes = []
    for path, place in zip(clips.paths, _excerpts(clips), strict=True):
        if path not in known:
            known[path] = _edges(path)
        content = known[path]
        hashes.append(None if content is None else _hash(content, place))
    return hashes


def _edges(path: Path) -> bytes | None:
    """Length, beginning and end of a file: enough to tell recordings apart."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(EDGE)
            file.seek(max(0, size - EDGE))
            return size.to_bytes(8, "big") + start + file.read(EDGE)
    except OSError:
        return None


def _names(clips: Clips) -> list[int]:
    """A hash of each file's name, its folder's, and the excerpt."""
    pairs = zip(clips.paths, _excerpts(clips), strict=True)
    return [_hash("/".join(path.parts[-2:]), place) for path, place in pairs]


def _excerpts(clips: Clips) -> list[str]:
    table = clips.table
    ends = np.nan_to_num(table["end"].to_numpy(float), nan=-1.0)
    pairs = zip(table["start"].tolist(), ends.tolist(), strict=True)
    return [f"{start:.3f} {end:.3f}" for start, end in pairs]


def _owners(clips: Clips) -> list[tuple[str, ...]]:
    """Authors or recordings of each clip; none where the table names none."""
    owners, paths = clips.owners, map(str, clips.paths)
    return [() if own == (path,) else own for own, path in zip(owners, paths, strict=True)]


def _hash(*parts: str | bytes) -> int:
    state = blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(state.digest(), "big", signed=True)


def _sorted(hashes: list[int]) -> np.ndarray:
    return np.unique(np.array(hashes, np.int64))
