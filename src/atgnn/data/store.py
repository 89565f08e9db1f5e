"""Packed waveforms: the clips of a table, decoded once, as one file of 16-bit samples.

FOLDER/store.json    what it is: format, version, rate, number of clips and samples, failures
FOLDER/samples.i16   the mono samples of all clips, one after another, little-endian
FOLDER/clips.parquet the table of clips, and of each its place, length and checksum

Clips may differ in length. The file of samples is mapped, not read: a store may be larger than
memory, processes share what is read of it, and a clip costs a copy.
"""

import contextlib
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from atgnn import audio
from atgnn.data.ahead import map_ahead
from atgnn.data.clips import Clip, Clips
from atgnn.errors import AtgnnError, ClipsError, MissingExtraError

__all__ = [
    "SCALE",
    "BadClip",
    "PackedWaveforms",
    "clips_of",
    "decode",
    "is_packed",
    "open_clips",
    "table_of",
]

FORMAT = "atgnn packed waveforms"
VERSION = 1
HEADER, SAMPLES, TABLE = "store.json", "samples.i16", "clips.parquet"
INDEX = ("packed_offset", "packed_samples", "packed_crc32")  # columns of the table that are ours
SAMPLE = np.dtype("<i2")

#: A waveform in [-1, 1] is the stored samples times this. A power of two: 16-bit recordings that
#: need no resampling are stored without loss.
SCALE = 1 / 32768


class BadClip(NamedTuple):
    """A row that could not be packed."""

    path: str
    start: float
    end: float | None
    reason: str


def decode(clip: Clip, rate: int, longest: float | None = None) -> np.ndarray:
    """A clip's samples at `rate` Hz, int16 (S,): at most the first `longest` seconds of it.

    What is beyond full scale is clipped. Raises `AudioError` as `atgnn.audio.stream`.
    """
    # Blocks of a stream, not an excerpt: what a file's header says of its length is not always
    # true, and only a row that states an end may insist on it.
    seconds = 60.0 if longest is None else longest
    blocks: Any = audio.stream(
        clip.path, rate, block_seconds=seconds, start=clip.start, end=clip.end
    )
    try:
        parts = list(blocks if longest is None else islice(blocks, 1))
    finally:
        blocks.close()
    wave = parts[0] if len(parts) == 1 else np.concatenate(parts)
    wave = wave * np.float32(1 / SCALE)
    return np.clip(np.rint(wave, out=wave), -32768, 32767, out=wave).astype(SAMPLE)


def is_packed(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder says of itself that it holds packed waveforms."""
    return (Path(folder) / HEADER).is_file()


def open_clips(path: str | os.PathLike[str]) -> "Clips | PackedWaveforms":
    """What lies at `path`: a folder of packed waveforms, or a table or folder of clips."""
    return PackedWaveforms.open(path) if is_packed(path) else Clips.read(path)


def table_of(folder: str | os.PathLike[str]) -> Path:
    """The file of a packed folder that lists its clips, with a checksum of each one's samples."""
    return Path(folder) / TABLE


def clips_of(opened: "Clips | PackedWaveforms") -> Clips:
    """The table of what `open_clips` gave."""
    return opened.clips if isinstance(opened, PackedWaveforms) else opened


class PackedWaveforms:
    """The samples of many clips, mapped from a folder: item i is int16 (S_i,), read-only.

    Attributes:
        folder: where it is.
        rate: samples a second.
        longest: clips were cut to so many seconds when it was written; None: they are whole.
        clips: the table of clips, row for row; its sources need not be there any more.
        offsets, lengths: int64 (N,), each clip's place in the file and its number of samples.
        failures: rows that could not be packed and are in no clip.
    """

    def __init__(self, folder: Path, header: dict[str, Any], table: Any, mapped: mmap.mmap) -> None:
        """Use `open` or `write`."""
        self.folder = folder
        self.rate: int = header["rate"]
        self.longest: float | None = header["longest"]
        self.failures = tuple(BadClip(*entry) for entry in header["failures"])
        self.offsets, self.lengths, self._sums = (table[name].to_numpy() for name in INDEX)
        self.clips = Clips(table.drop(columns=list(INDEX)))
        self._mapped = mapped
        self._samples = np.frombuffer(mapped, SAMPLE)

    # ------------------------------------------------------------------ in and out

    @classmethod
    def write(
        cls,
        clips: Clips,
        folder: str | os.PathLike[str],
        rate: int,
        *,
        longest: float | None = None,
        threads: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
        progress: Callable[[int], None] | None = None,
    ) -> "PackedWaveforms":
        """Decode and resample every clip once, in threads, and open the result.

        It is written beside its place and moved there when complete: no crash leaves half a store.
        With ``on_error="collect"``, rows that cannot be decoded are left out and listed in
        `failures`. `progress` is told the number of rows done.

        Raises:
            ClipsError: `folder` is in use or cannot be written, or no clip could be decoded.
            AudioError: a clip cannot be decoded.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ClipsError(f"{folder} is not empty: choose another folder, nothing was written")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=folder.parent, prefix=f".{folder.name}-"
            ) as beside:
                new = (
                    Path(beside) / "new"
                )  # with the usual permissions; the scratch folder has none
                new.mkdir()
                with (new / SAMPLES).open("wb") as file:
                    packing = _Packing(clips, rate, longest, on_error == "collect", file)
                    packing.run(threads or os.cpu_count() or 1, progress)
                    file.flush()
                    os.fsync(file.fileno())
                packing.describe(new)
                if folder.exists():  # and is empty
                    folder.rmdir()
                os.replace(new, folder)
        except OSError as error:
            raise ClipsError(f"{folder} cannot be written ({error.strerror or error})") from None
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "PackedWaveforms":
        """Map a folder that `write` made.

        Raises `ClipsError`, in one line, where it is missing, foreign, truncated or damaged; the
        samples themselves are checked by `verify` alone.
        """
        folder = Path(folder).expanduser()
        header = _read_header(folder)
        try:
            content = (folder / TABLE).read_bytes()
            with (folder / SAMPLES).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        except OSError as error:
            name = Path(str(error.filename or folder)).name
            raise ClipsError(f"{folder}: {name} cannot be read ({error.strerror})") from None
        expected = header["samples"] * SAMPLE.itemsize
        if mapped is None or size != expected:
            raise ClipsError(
                f"{folder}: {SAMPLES} has {size} bytes, expected {expected}: it is cut off or "
                "belongs to another store; pack the clips again"
            )
        if zlib.crc32(content) != header["table_crc32"]:
            raise ClipsError(f"{folder}: {TABLE} is damaged; pack the clips again")
        return cls(folder, header, _read_table(folder / TABLE), mapped)

    def __reduce__(self) -> Any:
        return PackedWaveforms.open, (self.folder,)  # a process maps it, instead of being sent it

    # ------------------------------------------------------------------ samples

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> np.ndarray:
        """A view of one clip's samples, int16 (S,)."""
        start = self.offsets[index]
        return self._samples[start : start + self.lengths[index]]

    def batch(
        self,
        indices: Sequence[int] | np.ndarray,
        seconds: float,
        starts: Sequence[float] | np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Excerpts of clips as one array, int16 (B, S), and how many samples of each are sound.

        `starts` are in seconds (None: 0); past a clip's end there are zeros. `out` is filled where
        it is given.
        """
        samples = round(seconds * self.rate)
        if out is None:
            out = np.empty((len(indices), samples), np.int16)
        begins = np.zeros(len(indices)) if starts is None else np.asarray(starts)
        first = np.rint(begins * self.rate).astype(np.int64)
        offsets, lengths = self.offsets[indices], self.lengths[indices]
        there = np.clip(lengths - first, 0, samples)
        for row, start, count in zip(out, (offsets + first).tolist(), there.tolist(), strict=True):
            row[:count] = self._samples[start : start + count]
            row[count:] = 0
        return out, there

    def verify(self) -> np.ndarray:
        """Positions of the clips whose samples are not those written, int64; none if all is well.

        Reads the whole store.
        """
        sums = np.array([zlib.crc32(self[index].data) for index in range(len(self))], np.int64)
        return np.flatnonzero(sums != self._sums)

    def positions(self, clips: Clips) -> np.ndarray:
        """Where the rows of a table are in this store, int64 (N,); -1 where they are not.

        Rows are the same when path, start and end are.
        """
        place = {key: index for index, key in enumerate(_keys(self.clips))}
        return np.array([place.get(key, -1) for key in _keys(clips)], np.int64)

    def __repr__(self) -> str:
        hours = self.lengths.sum() / self.rate / 3600
        return f"PackedWaveforms({len(self)} clips, {hours:.2f} h at {self.rate} Hz)"


class _Packing:
    """A store on its way to disk."""

    def __init__(
        self, clips: Clips, rate: int, longest: float | None, collect: bool, file: BinaryIO
    ) -> None:
        self.clips, self.rate, self.longest, self.collect = clips, rate, longest, collect
        self.file, self.samples = file, 0
        self.rows: list[int] = []
        self.index: list[tuple[int, int, int]] = []  # offset, samples, crc32
        self.failures: list[BadClip] = []

    def run(self, threads: int, progress: Callable[[int], None] | None) -> None:
        """Decode ahead in threads; append in the order of the table."""

        def attempt(row: int) -> np.ndarray | AtgnnError:
            try:
                return decode(self.clips[row], self.rate, self.longest)
            except AtgnnError as error:
                return error
            except OSError as error:  # a drive that fails while it is read
                return ClipsError(f"{self.clips.paths[row]}: cannot be read ({error.strerror})")

        results = map_ahead(attempt, range(len(self.clips)), threads, 4 * threads)
        with contextlib.closing(results):
            for row, result in enumerate(results):
                if isinstance(result, AtgnnError):
                    self._note(row, result)
                else:
                    self._append(row, result)
                if progress is not None:
                    progress(row + 1)
        if not self.rows:
            first = f": {self.failures[0].reason}" if self.failures else ""
            raise ClipsError(f"none of {len(self.clips)} clips could be packed{first}")

    def _note(self, row: int, error: AtgnnError) -> None:
        if not self.collect:
            raise error
        clip: Clip = self.clips[row]
        self.failures.append(BadClip(str(clip.path), clip.start, clip.end, str(error)))

    def _append(self, row: int, wave: np.ndarray) -> None:
        self.file.write(wave.data)
        self.rows.append(row)
        self.index.append((self.samples, len(wave), zlib.crc32(wave.data)))
        self.samples += len(wave)

    def describe(self, folder: Path) -> None:
        """Write the table, then the header that says that all is there."""
        table = self.clips.subset(np.array(self.rows)).table.copy()
        for name, column in zip(INDEX, np.array(self.index, np.int64).T, strict=True):
            table[name] = column
        _write_table(table, folder / TABLE)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "rate": self.rate,
            "longest": self.longest,
            "clips": len(self.rows),
            "samples": self.samples,
            "table_crc32": zlib.crc32((folder / TABLE).read_bytes()),
            "failures": self.failures,
        }
        (folder / HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def _keys(clips: Clips) -> Iterator[tuple[str, float, float]]:
    """Path, start and end of every row; -1 for an end that is the file's."""
    table = clips.table
    ends = np.nan_to_num(table["end"].to_numpy(float), nan=-1.0)
    return zip(map(str, table["path"]), table["start"].tolist(), ends.tolist(), strict=True)


# --- files ---------------------------------------------------------------------------------


def _read_header(folder: Path) -> dict[str, Any]:
    if not is_packed(folder):
        raise ClipsError(f"{folder} holds no packed waveforms: it has no {HEADER}")
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClipsError(f"{folder}: {HEADER} is not readable: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ClipsError(f"{folder} holds no packed waveforms: its {HEADER} is something else's")
    if header.get("version") != VERSION:
        raise ClipsError(
            f"{folder} has version {header.get('version')} of packed waveforms, this atgnn reads "
            f"{VERSION}: pack the clips again, or install a matching version"
        )
    missing = {"rate", "longest", "samples", "table_crc32", "failures"} - header.keys()
    if missing:
        raise ClipsError(f"{folder}: {HEADER} lacks {', '.join(sorted(missing))}")
    return header


def _write_table(table: Any, path: Path) -> None:
    table["path"] = [str(file) for file in table["path"]]
    for name in ("labels", "unknown"):
        table[name] = [list(names) for names in table[name]]
    try:
        table.to_parquet(path, index=False)
    except ImportError:
        raise MissingExtraError.of("pyarrow", "train", "packing waveforms") from None
    except (ValueError, TypeError):  # foreign columns of mixed types: as text
        for name in table.columns.difference(["labels", "unknown"]):
            if table[name].dtype == object:
                table[name] = table[name].map(str, na_action="ignore")
        table.to_parquet(path, index=False)


def _read_table(path: Path) -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingExtraError.of("pandas", "train", "reading packed waveforms") from None
    try:
        table: Any = pandas.read_parquet(path)
    except ImportError:
        raise MissingExtraError.of("pyarrow", "train", "reading packed waveforms") from None
    table["path"] = [Path(file) for file in table["path"]]
    for name in ("labels", "unknown"):
        table[name] = [tuple(names) for names in table[name]]
    return table
