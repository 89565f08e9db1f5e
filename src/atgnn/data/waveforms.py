"""The samples of a table of clips, from packed folders or decoded once and kept."""

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np

from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms, decode
from atgnn.errors import ClipsError, counted

__all__ = ["Kept", "Waveforms"]


class Kept:
    """Decoded sounds by their number, kept in memory while there is room; threads may share it."""

    def __init__(self, gigabytes: float) -> None:
        """`gigabytes`: GiB of samples."""
        self._room = int(gigabytes * 2**30)
        self._kept: dict[int, np.ndarray] = {}
        self._keeping = Lock()

    def get(self, number: int, decoded: Callable[[], np.ndarray]) -> np.ndarray:
        """The sound of this number, int16 (S,), decoded where it is not kept."""
        kept = self._kept.get(number)
        if kept is None:
            kept = decoded()
            with self._keeping:  # another thread may have decoded it too
                if number not in self._kept and kept.nbytes <= self._room:
                    self._room -= kept.nbytes
                    self._kept[number] = kept
        return kept


class Waveforms:
    """The clips of a table as 16-bit samples: item i is int16 (S_i,), at most `longest` seconds.

    `longest` None: whole clips, as far as packed folders have them.

    They come from packed folders where there are any, which must then hold every clip; else they
    are decoded when they are first asked for, and kept in memory while there is room.
    """

    def __init__(
        self,
        clips: Clips,
        rate: int,
        cache_gigabytes: float,
        longest: float | None,
        packed: Sequence[PackedWaveforms] = (),
    ) -> None:
        self.clips, self.rate, self.longest = clips, rate, longest
        self._kept = Kept(cache_gigabytes)
        self._packed = tuple(packed)
        if packed:
            self._store, self._position = _places(clips, rate, longest, packed)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> np.ndarray:
        if self._packed:
            wave = self._packed[self._store[index]][self._position[index]]
            return wave if self.longest is None else wave[: round(self.longest * self.rate)]
        return self._kept.get(index, lambda: decode(self.clips[index], self.rate, self.longest))


def _places(
    clips: Clips, rate: int, longest: float | None, packed: Sequence[PackedWaveforms]
) -> tuple[np.ndarray, np.ndarray]:
    """Which store holds each clip, and where in it; ClipsError for stores that do not fit."""
    store, position = np.zeros(len(clips), np.int64), np.full(len(clips), -1, np.int64)
    for number, one in enumerate(packed):
        if one.rate != rate:
            raise ClipsError(
                f"{one.folder} is packed at {one.rate} Hz, the front end needs {rate} Hz: pack it "
                "again at that rate"
            )
        if longest is not None and one.longest is not None and one.longest < longest:
            raise ClipsError(
                f"{one.folder} holds at most {one.longest:g} s of each clip, window_seconds is "
                f"{longest:g}: pack whole clips, or shorten the window"
            )
        found = one.positions(clips)
        store[found >= 0], position[found >= 0] = number, found[found >= 0]
    missing = np.flatnonzero(position < 0)
    if len(missing):
        names = ", ".join(str(one.folder) for one in packed)
        raise ClipsError(
            f"{len(missing)} of {counted(len(clips), 'clip')} are not packed in {names}, the first "
            "is "
            f"{clips.paths[int(missing[0])].name}: pack these clips too"
        )
    return store, position
