"""Packing clips: decoded in threads, appended in the order of the table, resumable.

While it goes on, a working folder holds the samples and a journal, one line for each row that is
done: its length and checksum, or why it could not be decoded and in which state its file was then,
so that another try is made once it has changed. Whoever goes on after a crash checks the samples
against the journal, drops what is not in both, and ends with the same bytes as if nothing had
happened.
The files of a finished folder are described in `atgnn.data.store`.
"""

import contextlib
import hashlib
import json
import os
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atgnn import audio
from atgnn.data.ahead import map_ahead
from atgnn.data.clips import Clip, Clips, write_parquet
from atgnn.data.hdf5 import is_hdf5, read_hdf5
from atgnn.errors import AtgnnError, AudioError, ClipsError, counted
from atgnn.files import appending, lock, write_all

__all__ = [
    "SCALE",
    "BadClip",
    "Decoded",
    "PackSettings",
    "Packing",
    "decode",
    "fingerprint",
    "stamp_of",
]

FORMAT = "atgnn packed waveforms"
VERSION = 1
HEADER, SAMPLES, TABLE = "store.json", "samples.i16", "clips.parquet"
JOURNAL, JOURNAL_VERSION = "journal.jsonl", 1
INDEX = ("packed_offset", "packed_samples", "packed_crc32")  # columns of the table that are ours
SOURCE_RATE = "packed_source_rate"  # so is this; folders of older versions lack it
SAMPLE = np.dtype("<i2")

#: A waveform in [-1, 1] is the stored samples times this. A power of two: 16-bit recordings that
#: need no resampling are stored without loss.
SCALE = 1 / 32768


class BadClip(NamedTuple):
    """A row that could not be packed, or only in part; `stamp` is its file's, see `stamp_of`."""

    path: str
    start: float
    end: float | None
    reason: str
    stamp: str = ""  # "" in folders of older versions, and where there was no file


class PackSettings(NamedTuple):
    """What the samples of a packed folder depend on, besides the clips.

    Attributes:
        rate: samples a second.
        longest: clips are cut to so many seconds; None: they are whole.
        strict_ends: a recording that ends before the `end` of its row is an error; else the clip is
            what there is.
    """

    rate: int
    longest: float | None = None
    strict_ends: bool = True


def decode(
    clip: Clip,
    rate: int,
    longest: float | None = None,
    *,
    strict_end: bool = True,
    meter: Any = None,
) -> np.ndarray:
    """A clip's samples at `rate` Hz, int16 (S,): at most the first `longest` seconds of it.

    What is beyond full scale is clipped. `meter` hears the recording as in `atgnn.audio.stream`.
    Raises `AudioError` as that does; without `strict_end`, not for a recording that ends early.
    """
    end = clip.end
    if end is not None and not strict_end:
        longest = min(end - clip.start, np.inf if longest is None else longest)
        end = None
    # Blocks of a stream, not an excerpt: what a file's header says of its length is not always
    # true, and only a row that states an end may insist on it.
    seconds = 60.0 if longest is None else longest
    source: Any = read_hdf5(clip.path) if is_hdf5(clip.path) else clip.path
    blocks: Any = audio.stream(
        source, rate, block_seconds=seconds, start=clip.start, end=end, meter=meter
    )
    try:
        parts = list(blocks if longest is None else islice(blocks, 1))
    except AudioError as error:
        if source is clip.path:
            raise
        raise AudioError(str(error).replace("the array given", str(clip.path), 1)) from None
    finally:
        blocks.close()
    wave = parts[0] if len(parts) == 1 else np.concatenate(parts)
    wave = wave * np.float32(1 / SCALE)
    return np.clip(np.rint(wave, out=wave), -32768, 32767, out=wave).astype(SAMPLE)


def fingerprint(clips: Clips, settings: PackSettings) -> str:
    """A digest of everything that decides what a packed folder holds, but the sounds themselves."""
    digest = hashlib.sha256(repr(tuple(settings)).encode())
    for name in clips.table.columns:
        cells = "\0".join(map(str, clips.table[name]))
        digest.update(f"\0{name}\0{cells}".encode())
    return digest.hexdigest()


def stamp_of(path: str | os.PathLike[str]) -> str:
    """Size and time of the last change of a file; "" where there is none."""
    try:
        about = os.stat(path)
    except OSError:
        return ""
    return f"{about.st_size} {about.st_mtime_ns}"


class Decoded(NamedTuple):
    """A row's samples, int16 (S,), its own rate in Hz, what was wrong, and its file's stamp."""

    samples: np.ndarray
    source_rate: int
    damage: str | None
    stamp: str = ""


class _Failed(NamedTuple):
    error: AtgnnError
    stamp: str


class _RateNote:
    """A meter that only notes a recording's own rate."""

    rate = 0

    def listen(self, blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
        self.rate = rate
        return blocks


class Packing:
    """A packed folder on its way, in a working folder. Use as a context: it holds the files open.

    Attributes:
        done: rows that are packed or have failed.
        failures: rows that could not be decoded.
        damaged: rows of which only a part could be decoded.
    """

    def __init__(
        self,
        clips: Clips,
        folder: Path,
        settings: PackSettings,
        digest: str,
        sound: Callable[[int], np.ndarray] | None = None,
        earlier: Callable[[int], Decoded | None] | None = None,
    ) -> None:
        """Go on with what is in `folder`, or begin. `sound` makes a row's samples without a file;
        `earlier` gives those that were packed before, and None for rows to decode.

        Raises `ClipsError` where another packing is or was going on there, `OSError` where it
        cannot be written.
        """
        self.clips, self.folder, self.settings, self.digest = clips, folder, settings, digest
        self.sound, self.earlier = sound, earlier
        self.done, self.size = 0, 0
        self.rows: list[int] = []
        self.index: list[tuple[int, int, int, int]] = []  # offset, samples, crc32, source rate
        self.failures: list[BadClip] = []
        self.damaged: list[BadClip] = []
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self._journal = stack.enter_context(appending(folder / JOURNAL))
            if not lock(self._journal):
                raise ClipsError(f"another process is packing into {folder}: wait for it")
            self._samples = stack.enter_context(appending(folder / SAMPLES))
            self._take_up()
            self._open = stack.pop_all()

    def __enter__(self) -> "Packing":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    # ------------------------------------------------------------------ the journal

    def _take_up(self) -> None:
        """Count what journal and samples agree on as done, and cut off the rest."""
        lines = self._journal.readlines()
        good = 0
        if lines and lines[0].endswith(b"\n"):
            self._check_begun(lines[0])
            good = len(lines[0])
            for line in lines[1:]:
                if not self._accept(line):
                    break
                good += len(line)
        self._journal.truncate(good)
        self._samples.truncate(self.size * SAMPLE.itemsize)
        for file in (self._journal, self._samples):
            file.seek(0, os.SEEK_END)
        if not good:
            begun = {"version": JOURNAL_VERSION, "rows": len(self.clips), "digest": self.digest}
            write_all(self._journal, _line(begun))

    def _check_begun(self, line: bytes) -> None:
        try:
            begun = json.loads(line)
            same = begun["digest"] == self.digest and begun["version"] == JOURNAL_VERSION
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise ClipsError(
                f"{self.folder} was begun with other clips or settings: give the same ones to go "
                "on, --restart to throw it away, or another --out"
            )

    def _accept(self, line: bytes) -> bool:
        """Take one line of the journal for done, if it is whole and its samples are there."""
        try:
            content: list[Any] = json.loads(line) if line.endswith(b"\n") else []
        except ValueError:
            return False
        if not content or content[0] != self.done:
            return False
        entry = content[1:]
        if len(entry) <= 2:  # older versions wrote no stamp, here and below
            self._failed(*entry)
            return True
        samples, checksum, source_rate, damage, *stamp = entry
        there = self._samples.read(samples * SAMPLE.itemsize) or b""
        if len(there) != samples * SAMPLE.itemsize or zlib.crc32(there) != checksum:
            return False
        self._packed(samples, checksum, source_rate, damage, *stamp)
        return True

    def _failed(self, reason: str, stamp: str = "") -> None:
        self.failures.append(self._bad(reason, stamp))
        self.done += 1

    def _packed(
        self, samples: int, checksum: int, source_rate: int, damage: str | None, stamp: str = ""
    ) -> None:
        if damage:
            self.damaged.append(self._bad(damage, stamp))
        self.rows.append(self.done)
        self.index.append((self.size, samples, checksum, source_rate))
        self.size += samples
        self.done += 1

    def _bad(self, reason: str, stamp: str) -> BadClip:
        clip: Clip = self.clips[self.done]
        return BadClip(str(clip.path), clip.start, clip.end, reason, stamp)

    # ------------------------------------------------------------------ the work

    def run(self, threads: int, collect: bool, progress: Callable[[int], None] | None) -> None:
        """Decode ahead in threads, append in the order of the table; `progress` is told rows done.

        Raises `ClipsError` where no clip could be decoded; unless failures are collected, the first
        one's `AtgnnError`; `OSError` where the folder cannot be written (a full disk).
        """
        rows = range(self.done, len(self.clips))
        with _heard_by_thread() as heard:

            def attempt(row: int) -> Decoded | _Failed:
                heard.warnings = []
                before = None if self.earlier is None else self.earlier(row)
                return before or self._attempt(row, heard.warnings)

            with contextlib.closing(map_ahead(attempt, rows, threads, 4 * threads)) as results:
                for result in results:
                    self._append(result, collect)
                    if progress is not None:
                        progress(self.done)
        if not self.rows:
            first = f": {self.failures[0].reason}" if self.failures else ""
            self._journal.truncate(0)  # nothing to go on with: the next call tries all of them anew
            raise ClipsError(f"none of {counted(len(self.clips), 'clip')} could be packed{first}")
        os.fsync(self._samples.fileno())

    def _attempt(self, row: int, heard: list[str]) -> Decoded | _Failed:
        clip = self.clips[row]
        stamp = stamp_of(clip.path) if self.sound is None else ""  # before: it may change meanwhile
        try:
            return self._decoded(row, clip, heard)._replace(stamp=stamp)
        except AtgnnError as error:
            return _Failed(error, stamp)
        except OSError as error:  # a drive that fails while it is read
            return _Failed(ClipsError(f"{clip.path}: cannot be read ({error.strerror})"), stamp)

    def _decoded(self, row: int, clip: Clip, heard: list[str]) -> Decoded:
        rate, longest, strict = self.settings
        if self.sound is not None:
            return Decoded(self.sound(row), rate, None)
        note = _RateNote()
        wave = decode(clip, rate, longest, strict_end=strict, meter=note)
        return Decoded(wave, note.rate, heard[0] if heard else None)

    def _append(self, result: Decoded | _Failed, collect: bool) -> None:
        """Samples first, then the line that says that they are there."""
        row = self.done
        if isinstance(result, _Failed):
            if not collect:
                raise result.error
            write_all(self._journal, _line([row, str(result.error), result.stamp]))
            self._failed(str(result.error), result.stamp)
            return
        wave, source_rate, damage, stamp = result
        checksum = zlib.crc32(wave.data)
        write_all(self._samples, wave.data.cast("B") if len(wave) else b"")
        write_all(self._journal, _line([row, len(wave), checksum, source_rate, damage, stamp]))
        self._packed(len(wave), checksum, source_rate, damage, stamp)

    def describe(self) -> None:
        """Write the table, then the header that says that all is there."""
        table = self.clips.subset(np.array(self.rows)).table.copy()
        columns = np.array(self.index, np.int64).T
        for name, column in zip((*INDEX, SOURCE_RATE), columns, strict=True):
            table[name] = column
        _write_table(table, self.folder / TABLE)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "rate": self.settings.rate,
            "longest": self.settings.longest,
            "clips": len(self.rows),
            "samples": self.size,
            "table_crc32": zlib.crc32((self.folder / TABLE).read_bytes()),
            "digest": self.digest,
            "failures": self.failures,
            "damaged": self.damaged,
        }
        with (self.folder / HEADER).open("w", encoding="utf-8") as file:
            file.write(json.dumps(header, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())


# --- small parts -----------------------------------------------------------------------------


def _line(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


@contextlib.contextmanager
def _heard_by_thread() -> Iterator[threading.local]:
    """Put warnings of damaged recordings into ``.warnings`` of the thread that they come from."""
    heard = threading.local()
    with warnings.catch_warnings():
        warnings.simplefilter("always", audio.AudioWarning)
        plain = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, audio.AudioWarning) and hasattr(heard, "warnings"):
                heard.warnings.append(str(message))
            else:
                plain(message, category, *rest, **more)

        warnings.showwarning = show
        yield heard


def _write_table(table: Any, path: Path) -> None:
    table["path"] = [str(file) for file in table["path"]]
    for name in ("labels", "unknown"):
        table[name] = [list(names) for names in table[name]]
    write_parquet(table, path)
