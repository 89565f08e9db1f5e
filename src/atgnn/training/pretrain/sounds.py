"""Recordings without labels, of any length and number, and random stretches of them.

Short recordings are decoded once and kept while there is room; of long ones the stretch alone is
decoded. Every draw is a function of the generator it is given, so that a run can be repeated.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from atgnn import audio
from atgnn.data.ahead import map_ahead
from atgnn.data.clips import Clip, Clips, seconds_of
from atgnn.data.store import PackedWaveforms, decode, is_packed
from atgnn.data.waveforms import Kept
from atgnn.errors import AtgnnError, ClipsError, counted
from atgnn.training import augment
from atgnn.training.pretrain.settings import SoundSettings

__all__ = ["Recording", "Sounds", "find_recordings"]

WHOLE = 30.0  # s: recordings up to this length are decoded whole and kept
SHARE = 10.0  # s: a recording is drawn once more often for each further part of this length
TRIES = 50  # recordings drawn one after another that cannot be read, until a run gives up
THREADS = 4  # that read headers: they wait for the disk


class Recording(NamedTuple):
    """A sound, or an excerpt of one, and its length in seconds."""

    clip: Clip
    seconds: float
    packed: tuple[PackedWaveforms, int] | None = None


def find_recordings(
    paths: Iterable[str | Path],
    rate: int,
    on_failure: Callable[[Path, str], None],
    progress: Callable[[int, int], None] | None = None,
) -> list[Recording]:
    """All sounds of folders, tables of clips, packed folders and files; headers alone are read.

    What cannot be read is told to `on_failure` and passed over. `progress` is told the
    numbers of files looked at and in all.

    Raises:
        ClipsError: a path is missing, a packed folder has another rate, or nothing can be read.
    """
    recordings: list[Recording] = []
    clips: list[Clip] = []
    for path in map(Path, paths):
        if is_packed(path):
            recordings += _packed(PackedWaveforms.open(path), rate)
        else:
            clips += _clips_of(path, on_failure)

    def measured(clip: Clip) -> Recording | str:
        try:
            return Recording(clip, seconds_of(clip))
        except AtgnnError as error:
            return str(error)
        except OSError as error:  # a drive that fails while it is read
            return f"{clip.path}: cannot be read ({error.strerror})"

    with closing(map_ahead(measured, clips, THREADS, 16 * THREADS)) as results:
        for done, (clip, result) in enumerate(zip(clips, results, strict=True)):
            if isinstance(result, str):
                on_failure(clip.path, result)
            else:
                recordings.append(result)
            if progress is not None:
                progress(done + 1, len(clips))
    if not recordings:
        raise ClipsError(
            f"none of {counted(len(clips), 'sound')} could be read: there is nothing to learn"
        )
    return recordings


def _packed(store: PackedWaveforms, rate: int) -> Iterator[Recording]:
    if store.rate != rate:
        raise ClipsError(
            f"{store.folder} is packed at {store.rate} Hz, the front end needs {rate} Hz: pack it "
            "again at that rate"
        )
    for row, (clip, samples) in enumerate(zip(store.clips, store.lengths.tolist(), strict=True)):
        if samples:
            yield Recording(clip, samples / rate, (store, row))


def _clips_of(path: Path, on_failure: Callable[[Path, str], None]) -> list[Clip]:
    """Every sound in a folder, whatever tables lie there; the rows of a table; or one file."""
    if path.is_dir():
        return [Clip(file.resolve(), ()) for file in audio.find_sounds(path)]
    if audio.is_sound(path) and path.is_file():
        return [Clip(path.resolve(), ())]
    clips, missing = Clips.read_present(path, labelled=False)
    for name in missing:
        on_failure(Path(name), f"{name}: no such file")
    return list(clips)


class Sounds:
    """Random stretches of recordings, int16 at `rate` Hz.

    A recording is drawn in proportion to its length, counted in started parts of 10 s: every part
    of an archive has its turn, and so has the shortest clip.

    Attributes:
        failures: path and reason of recordings that could not be decoded when they were drawn.
    """

    def __init__(self, recordings: Sequence[Recording], rate: int, settings: SoundSettings) -> None:
        self.recordings, self.rate, self.reach = recordings, rate, settings.reach_seconds
        seconds = np.array([recording.seconds for recording in recordings])
        self._ladder = np.cumsum(np.ceil(seconds / SHARE).clip(min=1))
        self._kept = Kept(settings.cache_gigabytes)
        self._lock = Lock()
        self.failures: dict[Path, str] = {}

    @property
    def hours(self) -> float:
        """Length of all recordings."""
        return sum(recording.seconds for recording in self.recordings) / 3600

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random stretch (S,) of at most `reach_seconds`, without digital silence at its ends.

        A recording that cannot be decoded is noted, and another one drawn.
        """
        reason = ""
        for _ in range(TRIES):
            rung = rng.random() * self._ladder[-1]
            number = int(np.searchsorted(self._ladder, rung, side="right"))
            place = rng.random()
            recording = self.recordings[number]
            try:
                wave = self._stretch(number, place * max(0.0, recording.seconds - self.reach))
            except (AtgnnError, OSError) as error:
                reason = str(error)
                self._note(recording.clip.path, reason)
                continue
            if len(wave):
                return augment.trim(wave)
        raise ClipsError(
            f"{counted(TRIES, 'recording')} in a row could not be decoded, the last: {reason}"
        )

    def _stretch(self, number: int, start: float) -> np.ndarray:
        clip, seconds, packed = self.recordings[number]
        first = round(start * self.rate)
        part = slice(first, first + round(self.reach * self.rate))
        if packed is not None:
            store, row = packed
            return store[row][part]
        if seconds <= WHOLE:
            return self._whole(number)[part]
        # Up to the end of the stretch, not of the file: its header may promise more than there is.
        moved = replace(clip, start=clip.start + start, end=None)
        return decode(moved, self.rate, min(self.reach, seconds - start))

    def _whole(self, number: int) -> np.ndarray:
        clip, seconds, _ = self.recordings[number]
        return self._kept.get(number, lambda: decode(replace(clip, end=None), self.rate, seconds))

    def _note(self, path: Path, reason: str) -> None:
        with self._lock:
            self.failures.setdefault(path, reason)
