"""What is left to do: which recordings are known, which have moved, which are new or changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from atgnn.archive.listing import Sound, file_at
from atgnn.archive.store import Known, Shelf, Store, differences, shards_in
from atgnn.errors import AtgnnError
from atgnn.files import content_digest

__all__ = ["Plan", "make_plan"]


@dataclass
class Plan:
    """What becomes of every recording.

    Attributes:
        todo: new, changed, or failed the last time.
        known: how many have their row already.
        moved: recordings whose row lies under another name, with that row and its shard's shelf.
        left: paths of rows that nobody needs: their recording is under another name now, or they
            say no more than that a file, since gone, could not be read.
        gone: how many rows are of recordings that are no longer there.
    """

    todo: list[Sound] = field(default_factory=list)
    known: int = 0
    moved: list[tuple[Sound, Shelf, Known]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    gone: int = 0


def make_plan(
    store: Store,
    sounds: Sequence[Sound],
    folder: str,
    *,
    verify: bool = False,
    looked: Callable[[int], None] | None = None,
) -> Plan:
    """Compare the recordings of a shard with what its store knows.

    A recording whose size and time of change are those of its row is taken for the same. Otherwise
    its content decides; with `verify`, always. A recording under a new name is looked for among the
    rows, of all shards, whose own recording is gone. `looked` is told how many have been seen.
    """
    plan, here = Plan(), {sound.path for sound in sounds}
    lost = _Lost(store, here, folder)
    for number, sound in enumerate(sounds):
        row = store.known.get(sound.path)
        if row is None:
            found = lost.find(sound)
            if found is None:
                plan.todo.append(sound)
            else:
                plan.moved.append((sound, *found))
        elif not _same(sound, row, verify):
            plan.todo.append(sound)
        elif row.modified == sound.modified:
            plan.known += 1
        else:
            plan.moved.append((sound, store.shelf, row))
        if looked is not None:
            looked(number + 1)
    plan.left, plan.gone = lost.found_again()
    return plan


def _same(sound: Sound, row: Known, verify: bool) -> bool:
    """Whether a row is of what its recording holds now."""
    if row.failed or row.bytes != sound.bytes:
        return False
    return (row.modified == sound.modified and not verify) or _digest(sound) == row.digest


class _Lost:
    """Rows whose recording is no longer where it was, in this shard and in those beside it."""

    def __init__(self, store: Store, here: set[str], folder: str) -> None:
        self._store = store
        self._sizes: dict[int, list[tuple[str, Shelf, Known]]] = {}
        self._elsewhere: set[str] = set()  # digests of what is there, in other shards
        self._found: set[str] = set()  # own rows whose recording is under another name here
        self._own = [(path, row) for path, row in store.known.items() if path not in here]
        self._add(store.shelf, self._own)
        for shard in shards_in(store.results):
            if shard == store.shard or shard.count != store.shard.count:
                continue
            try:
                shelf = Shelf(store.results, shard)
                known = shelf.known()
            except AtgnnError:  # damaged, or its own process is putting it together right now
                continue
            if shelf.about is None or differences(shelf.about, store.about):
                continue
            gone = []
            for path, row in known.items():
                if not os.path.lexists(file_at(folder, path)):
                    gone.append((path, row))
                elif row.digest is not None:
                    self._elsewhere.add(row.digest)
            self._add(shelf, gone)

    def _add(self, shelf: Shelf, rows: Iterable[tuple[str, Known]]) -> None:
        for path, row in rows:
            if not row.failed:
                self._sizes.setdefault(row.bytes, []).append((path, shelf, row))

    def find(self, sound: Sound) -> tuple[Shelf, Known] | None:
        """The row of this recording under its old name, which is then no one else's."""
        candidates = self._sizes.get(sound.bytes, [])
        digest = _digest(sound) if candidates else None
        for place, (path, shelf, row) in enumerate(candidates):
            if row.digest == digest and digest is not None:
                del candidates[place]
                if shelf is self._store.shelf:
                    self._found.add(path)
                return shelf, row
        return None

    def found_again(self) -> tuple[list[str], int]:
        """Own rows that nobody needs any more, and how many of the others there are."""
        left = [
            path
            for path, row in self._own
            if row.failed or path in self._found or row.digest in self._elsewhere
        ]
        return left, len(self._own) - len(left)


def _digest(sound: Sound) -> str | None:
    try:
        return content_digest(sound.file)
    except OSError:
        return None
