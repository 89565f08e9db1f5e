"""Packed waveforms: the clips of a table, decoded once, as one file of 16-bit samples.

FOLDER/store.json    what it is: format, version, rate, number of clips and samples, failures
FOLDER/samples.i16   the mono samples of all clips, one after another, little-endian
FOLDER/clips.parquet the table of clips, and of each its place, length, checksum and original rate

Clips may differ in length. The file of samples is mapped, not read: a store may be larger than
memory, processes share what is read of it, and a clip costs a copy.
"""

import contextlib
import json
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atgnn.data.clips import Clips
from atgnn.data.packing import (
    FORMAT,
    HEADER,
    INDEX,
    JOURNAL,
    SAMPLE,
    SAMPLES,
    SCALE,
    SOURCE_RATE,
    TABLE,
    VERSION,
    BadClip,
    Decoded,
    Packing,
    PackSettings,
    decode,
    fingerprint,
    stamp_of,
)
from atgnn.errors import ClipsError, MissingExtraError, counted

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


def is_packed(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder says of itself that it holds packed waveforms."""
    return (Path(folder) / HEADER).is_file()


def open_clips(path: str | os.PathLike[str], *, labelled: bool = True) -> "Clips | PackedWaveforms":
    """What lies at `path`: a folder of packed waveforms, or whatever `Clips.read` takes."""
    if is_packed(path):
        return PackedWaveforms.open(path)
    return Clips.read(path, labelled=labelled)


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
        source_rates: int64 (N,), Hz, the recordings' own rates; 0 where nobody noted them.
        failures: rows that could not be packed and are in no clip.
        damaged: rows of which only a part could be decoded.
        digest: of the clips and settings that it was made of; "" in folders of older versions.
    """

    def __init__(self, folder: Path, header: dict[str, Any], table: Any, mapped: mmap.mmap) -> None:
        """Use `open` or `write`."""
        self.folder = folder
        self.rate: int = header["rate"]
        self.longest: float | None = header["longest"]
        self.failures = tuple(BadClip(*entry) for entry in header["failures"])
        self.damaged = tuple(BadClip(*entry) for entry in header.get("damaged", ()))
        self.digest: str = header.get("digest", "")
        self.offsets, self.lengths, self._sums = (table[name].to_numpy() for name in INDEX)
        noted = table[SOURCE_RATE].to_numpy() if SOURCE_RATE in table else 0
        self.source_rates = np.broadcast_to(noted, self.offsets.shape)
        self.clips = Clips(table.drop(columns=[*INDEX, SOURCE_RATE], errors="ignore"))
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
        strict_ends: bool = True,
        threads: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
        progress: Callable[[int], None] | None = None,
        resume: bool = False,
        restart: bool = False,
        retry: bool = False,
        sound: Callable[[int], np.ndarray] | None = None,
    ) -> "PackedWaveforms":
        """Decode and resample every clip once, in threads, and open the result.

        It is written beside its place and moved there when complete: no crash leaves half a store.
        With ``on_error="collect"``, rows that cannot be decoded are left out and listed in
        `failures`. `progress` is told the number of rows done. `sound` makes the samples of a row,
        int16 (S,), where they are not decoded from its file.

        With `resume`, what an error or a crash (kill -9 too) leaves is kept in ``.FOLDER.packing``
        beside the folder; the same call goes on there, and ends with the same bytes as if nothing
        had happened. Where it is complete, it is only opened, unless files that could not be
        decoded, or in part, have changed since (with `retry`: whether or not): these are decoded
        again, and all others copied. `restart` throws away what was begun.

        Raises:
            ClipsError: `folder` is in use or cannot be written, no clip could be decoded, or what
                was begun, or is there, was made of other clips or with other settings.
            AudioError: a clip cannot be decoded.
        """
        folder = Path(folder)
        settings = PackSettings(rate, longest, strict_ends)
        digest = fingerprint(clips, settings)
        pack = partial(
            cls._pack,
            folder,
            partial(Packing, clips, settings=settings, digest=digest, sound=sound),
            lambda packing: packing.run(
                threads or os.cpu_count() or 1, on_error == "collect", progress
            ),
        )
        begun = _work_of(folder).exists() and not restart
        if resume and is_packed(folder):
            packed = cls._complete(folder, digest)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ClipsError(f"{folder} is not empty: choose another folder, nothing was written")
        else:
            packed = pack(resume, restart)
            if not (resume and begun):
                return packed  # what could not be decoded was tried just now
        again = packed._worth_another_try(retry)
        return pack(True, restart, packed._as_decoded(clips, again)) if again else packed

    @classmethod
    def _pack(
        cls,
        folder: Path,
        begin: Callable[..., Packing],
        run: Callable[[Packing], None],
        resume: bool,
        restart: bool,
        earlier: Callable[[int], Decoded | None] | None = None,
    ) -> "PackedWaveforms":
        """Begin or go on beside the folder, and put the result in its place."""
        kept = ""
        try:
            with _workplace(folder, resume, restart) as work:
                with begin(folder=work, earlier=earlier) as packing:
                    if resume:
                        kept = f"; make room, and the same command goes on with what is in {work}"
                    run(packing)
                    packing.describe()
                _put_in_place(work, folder)
            (folder / JOURNAL).unlink()
        except OSError as error:
            raise ClipsError(
                f"{folder} cannot be written ({error.strerror or error}){kept}"
            ) from None
        return cls.open(folder)

    def _worth_another_try(self, all_of_them: bool) -> list[BadClip]:
        """Rows that failed, or were packed in part, and whose files have changed since."""
        bad = [*self.failures, *self.damaged]
        if all_of_them:
            return bad
        now = {one.path: stamp_of(one.path) for one in bad}
        return [one for one in bad if now[one.path] not in ("", one.stamp)]

    def _as_decoded(
        self, clips: Clips, again: Sequence[BadClip]
    ) -> Callable[[int], Decoded | None]:
        """Gives the rows of `clips` that are here, and None for those to decode (again)."""
        places = self.positions(clips)
        damaged = {(one.path, one.start, one.end): one for one in self.damaged}
        anew = {(one.path, one.start, one.end) for one in again}

        def earlier(row: int) -> Decoded | None:
            place, clip = int(places[row]), clips[row]
            key = (str(clip.path), clip.start, clip.end)
            if place < 0 or key in anew:
                return None
            bad = damaged.get(key)
            about = (None, "") if bad is None else (bad.reason, bad.stamp)
            return Decoded(self[place], int(self.source_rates[place]), *about)

        return earlier

    @classmethod
    def _complete(cls, folder: Path, digest: str) -> "PackedWaveforms":
        """A folder that is there already, if it is what would be written."""
        packed = cls.open(folder)
        if packed.digest != digest:
            raise ClipsError(
                f"{folder} is packed already, from other clips or with other settings: choose "
                "another folder, or delete this one"
            )
        (folder / JOURNAL).unlink(missing_ok=True)  # a crash came between the last two steps
        return packed

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
        return f"PackedWaveforms({counted(len(self), 'clip')}, {hours:.2f} h at {self.rate} Hz)"


@contextlib.contextmanager
def _workplace(folder: Path, keep: bool, restart: bool) -> Iterator[Path]:
    """A folder beside another to work in: one that stays until it is done, or a passing one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if keep:
        work = _work_of(folder)
        if restart and work.exists():
            shutil.rmtree(work)
        yield work
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        # One below, with the usual permissions: the passing folder itself has none for others.
        yield Path(beside) / "new"


def _work_of(folder: Path) -> Path:
    """Where the work on a folder stays until it is done."""
    return folder.parent / f".{folder.name}.packing"


def _put_in_place(work: Path, folder: Path) -> None:
    """Move the finished work to its place; of what was packed there before, other files stay."""
    old = folder.parent / f".{folder.name}.old"
    shutil.rmtree(old, ignore_errors=True)  # a crash came between the steps below
    if folder.exists():
        for path in folder.iterdir():
            if path.name not in (HEADER, SAMPLES, TABLE, JOURNAL):
                os.replace(path, work / path.name)
        os.replace(folder, old)
    os.replace(work, folder)
    shutil.rmtree(old, ignore_errors=True)


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
