"""Any recording in, mono float32 samples out: decoding, down-mixing, resampling.

WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF and their like are decoded by libsndfile; m4a, mp4,
webm and other containers by FFmpeg through PyAV (the extra ``video``). Every way of reading
goes through one chain, so they agree sample for sample:

    source -> reader -> (frames, channels) blocks -> mono blocks -> resampler -> samples

Samples are nominally in [-1, 1]: files that exceed full scale are not clipped. A damaged
file gives what can be decoded of it, with an `AudioWarning`; one that gives nothing, and
one that holds NaN or infinite samples, is an `AudioError` of one line.
"""

import io
import math
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
import soundfile
import soxr

from atgnn.errors import AudioError, ClipsError, MissingExtraError, printable
from atgnn.pipes import Pipe

__all__ = [
    "SUFFIXES",
    "AudioInfo",
    "AudioWarning",
    "BandMeter",
    "Framer",
    "Mixer",
    "Recording",
    "Resampler",
    "Source",
    "band_share",
    "find_sounds",
    "flac",
    "held",
    "is_sound",
    "load",
    "no_sounds",
    "occupied_band",
    "powers",
    "probe",
    "sounding",
    "stream",
    "walk_sounds",
]

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | tuple[np.ndarray, int]
"""A path, a file's bytes, a binary file object (read from its beginning, left open), or
(samples, rate). What cannot seek, such as a pipe, is decoded as it comes, see `atgnn.pipes`.

Samples are (T,), (T, channels) or (channels, T); the smaller axis is the channels, and of
two equal axes the second. Integers are divided by their type's full scale (int16: 32768).
"""

# fmt: off
CONTAINERS = frozenset({
    ".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".webm", ".mkv", ".mka", ".aac", ".wma", ".avi",
    ".flv", ".ogv", ".amr", ".ac3",
})
SUFFIXES = CONTAINERS | {
    ".wav", ".wave", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff",
    ".aifc", ".au", ".caf",
}
# fmt: on
"""File name endings, in lower case, that `is_sound` and `find_sounds` take for sound."""

BLOCK = 65_536  # frames decoded and fed to the resampler at a time
STRETCH = 0.01  # s, over which the power of a sound is measured
SLACK = 0.01  # s: an excerpt may end this far beyond its file, as tables round their seconds
RATES = range(100, 10_000_001)  # Hz: a rate outside comes from a damaged header
FLAC_RATES, FASTEST = 655_350, 192_000  # Hz: the highest in FLAC, and what becomes of higher ones
LEAD_IN = 0.2  # s decoded ahead of a seek in a container: codecs need it to settle


class AudioWarning(UserWarning):
    """A recording is damaged and only a part of it could be decoded."""


@dataclass(frozen=True)
class Recording:
    """Mono samples, float32 (T,), and their rate in Hz."""

    samples: np.ndarray
    rate: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. `frames` is None where only decoding could tell; then
    `duration` (s) is an estimate, or None too."""

    rate: int
    channels: int
    frames: int | None
    duration: float | None
    format: str


def probe(source: Source) -> AudioInfo:
    """Read the header alone. AudioError where `source` is no sound."""
    with _open(source) as reader:
        return AudioInfo(
            reader.rate, reader.channels, reader.frames, reader.duration, reader.format
        )


def load(
    source: Source, rate: int | None = None, *, start: float = 0.0, end: float | None = None
) -> Recording:
    """Decode a recording, or its excerpt from `start` to `end` seconds, to mono at `rate` Hz.

    Channels are averaged. `rate=None` keeps the recording's own. The excerpt is found by
    seeking where the format allows (to the sample; to the millisecond in webm and mkv). At
    least one sample comes out. AudioError when the source is missing, unreadable, empty or
    holds NaN or infinite samples, or the excerpt lies outside it (10 ms are forgiven).
    """
    with _open(source) as reader:
        out_rate = reader.rate if rate is None else _checked_rate(rate, "the rate asked for")
        resampler = Resampler(reader.rate, out_rate)
        blocks = list(_through(_mono(reader, start, end), resampler))
    return Recording(blocks[0] if len(blocks) == 1 else np.concatenate(blocks), out_rate)


def stream(
    source: Source,
    rate: int,
    *,
    block_seconds: float = 10.0,
    hop_seconds: float | None = None,
    start: float = 0.0,
    end: float | None = None,
    meter: "BandMeter | None" = None,
    stop: threading.Event | None = None,
) -> Iterator[np.ndarray]:
    """Decode a recording of any length in bounded memory, as mono float32 blocks at `rate` Hz.

    Each block has round(block_seconds * rate) samples, the last one what is left. Their
    concatenation is `load(source, rate)` bit for bit. With `hop_seconds` a block begins every so
    often and they overlap, see `Framer`. The source is opened, and errors are
    raised, as blocks are drawn; NaN or infinite samples end the blocks just before them. A
    `meter` hears the recording at its own rate. Once `stop` is set, a pipe is no longer waited for.
    """
    rate = _checked_rate(rate, "the rate asked for")
    framer = Framer.of_seconds(rate, block_seconds, hop_seconds)
    with _open(source, stop) as reader:
        blocks = _mono(reader, start, end)
        if meter is not None:
            blocks = meter.listen(blocks, reader.rate)
        samples = _through(blocks, Resampler(reader.rate, rate))
        yield from _through(samples, framer)


def sounding(
    source: Source,
    decibels: float = 60.0,
    *,
    start: float = 0.0,
    end: float | None = None,
    stop: threading.Event | None = None,
) -> tuple[float, float | None]:
    """Where, in seconds, a recording or its excerpt begins and ceases to sound; None: at its end.

    From the first to the last stretch of 10 ms whose power is at most `decibels` below that of the
    loudest one. What is silent throughout sounds from `start` to `end`. In bounded memory, but for
    one number for each stretch; errors are those of `load`, and a source is read once, see `held`.
    AudioError for `decibels` that are not above 0.
    """
    if not decibels > 0:
        raise AudioError(f"silence {decibels:g} dB below the loudest: give a number above 0, as 60")
    with _open(source, stop) as reader:
        size = max(1, round(STRETCH * reader.rate))
        blocks = _through(_mono(reader, start, end), Framer(100 * size))
        power = np.concatenate([powers(block, size) for block in blocks])
        rate = reader.rate
    loudest = power.max()
    if loudest == 0:
        return start, end
    heard = np.flatnonzero(power >= loudest * 10 ** (-decibels / 10))
    first, last = int(heard[0]), int(heard[-1]) + 1
    begin = start + first * size / rate
    return begin, end if last == len(power) else start + last * size / rate


def powers(samples: np.ndarray, size: int) -> np.ndarray:
    """The mean square of every `size` samples of (S,), float64 (ceil(S / size),).

    What the last ones lack counts as zeros.
    """
    count = math.ceil(len(samples) / size)
    padded = np.zeros(count * size)
    padded[: len(samples)] = samples
    squares: np.ndarray = np.square(padded.reshape(count, size)).mean(axis=1)
    return squares


def held(source: Source) -> Source:
    """A source that can be read twice: file objects and named pipes become bytes."""
    if isinstance(source, str | os.PathLike) and Path(os.fsdecode(source)).is_fifo():
        return Path(os.fsdecode(source)).read_bytes()
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | tuple):
        return source
    if hasattr(source, "read"):
        if source.seekable():
            source.seek(0)
        return source.read()
    raise AudioError(f"cannot read sound from {type(source).__name__}: give a path or bytes")


def flac(samples: np.ndarray, rate: int) -> bytes:
    """Mono samples (T,) in [-1, 1] as a FLAC file, 16 bits; what is louder is clipped.

    At their own rate, or at `FASTEST` where FLAC does not know that.
    """
    if rate > FLAC_RATES:
        samples, rate = load((samples, rate), FASTEST).samples, FASTEST
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def is_sound(path: str | os.PathLike[str]) -> bool:
    """Whether the file name ends as a sound's does (see `SUFFIXES`)."""
    return Path(path).suffix.lower() in SUFFIXES


def find_sounds(folder: str | os.PathLike[str]) -> list[Path]:
    """All sounds in a folder and its subfolders, sorted; hidden files and folders are skipped.

    ClipsError when it is not a folder or holds no sounds: the input, not a recording, is wrong.
    """
    found = [Path(path) for path in walk_sounds(folder)]
    if not found:
        raise ClipsError(no_sounds(folder))
    return sorted(found)


def no_sounds(folder: str | os.PathLike[str]) -> str:
    """What is said of a folder that holds no sounds."""
    endings = ".wav, .flac, .ogg, .mp3, .m4a and the like"
    return f"{printable(folder)}: no sounds in this folder (looked for {endings})"


def walk_sounds(
    folder: str | os.PathLike[str], links: bool = False, more: Iterable[str] = ()
) -> Iterator[str]:
    """Paths of the sounds in a folder and its subfolders, as they come; hidden ones are skipped.

    With `links`, links to folders are followed, each folder once. `more` are further file name
    endings to look for. ClipsError when it is no folder.
    """
    endings = SUFFIXES.union(more)
    if not os.path.isdir(folder):
        problem = "is a file, not a folder" if os.path.exists(folder) else "no such folder"
        raise ClipsError(f"{printable(folder)}: {problem}")
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=links):
        if links:  # a link may point to a folder above it
            place = os.stat(root)
            if (place.st_dev, place.st_ino) in seen:
                folders.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if os.path.splitext(name)[1].lower() in endings and not name.startswith("."):
                yield os.path.join(root, name)


def band_share(samples: np.ndarray, rate: int, f_min: float, f_max: float) -> float:
    """Share (0 to 1) of the energy of mono `samples` (T,) that lies from `f_min` to `f_max` Hz.

    Take the samples at the recording's original rate. A constant offset does not count;
    silence gives 1.0, as nothing of it lies outside.
    """
    return _share_within(_power_spectrum(samples, rate), rate, f_min, f_max)


def occupied_band(samples: np.ndarray, rate: int, share: float = 0.9) -> tuple[float, float]:
    """The band, in Hz, that holds `share` of the energy of mono `samples`, equal rests outside.

    Measured as `band_share` does; (0, rate / 2) where there is no energy.
    """
    power = _power_spectrum(samples, rate)
    power[0] = 0  # the mean is no sound
    below = np.cumsum(power)
    if below[-1] <= 0:
        return 0.0, rate / 2
    below /= below[-1]
    rest = (1 - share) / 2
    first, last = np.searchsorted(below, [rest, 1 - rest])
    width = rate / 2 / (len(power) - 1)
    return float(first * width), float(min(last, len(power) - 1) * width)


class BandMeter:
    """`band_share` of a recording that is being streamed, without decoding it twice.

    Of long recordings an eighth of the spectra that `band_share` adds up is measured, all over.
    """

    def __init__(self) -> None:
        self._power: np.ndarray | None = None
        self._rate = 0

    def listen(self, blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
        """The same blocks (T,), measured as they pass."""
        for block in blocks:
            power = _power_spectrum(block, rate, 8 if len(block) == BLOCK else 1)
            self._power = power if self._power is None else self._power + power
            self._rate = rate
            yield block

    def share(self, f_min: float, f_max: float) -> float:
        """Share (0 to 1) of the energy heard so far that lies from `f_min` to `f_max` Hz."""
        if self._power is None:
            return 1.0
        return _share_within(self._power, self._rate, f_min, f_max)


# --- what a signal passes through, piece by piece -------------------------------------------


class _Stage(Protocol):
    """Takes a signal in pieces of any size, gives what it can at once, and the rest at the end.

    What comes out does not depend on how the signal was cut.
    """

    def push(self, block: np.ndarray) -> list[np.ndarray]:
        """The next piece (T,) in, what is ready out."""

    def finish(self) -> list[np.ndarray]:
        """What is left when the signal has ended."""


def _through(blocks: Iterable[np.ndarray], stage: _Stage) -> Iterator[np.ndarray]:
    """What comes out of a stage for these blocks."""
    for block in blocks:
        yield from stage.push(block)
    yield from stage.finish()


class Mixer:
    """Pieces of a recording, (T,) or (T, channels), to mono float32 (T,), checked.

    Integers are divided by their full scale. AudioError for another shape, another type, NaN and
    infinite samples: what was fed before is not lost.
    """

    def __init__(self, rate: int, channels: int = 1, name: str = "the stream") -> None:
        self.rate, self.channels, self.name = _checked_rate(rate, name), channels, name
        self.position = 0  # samples that have passed
        if channels < 1:
            raise AudioError(f"{name}: {channels} channels; expected 1 or more")

    def push(self, block: np.ndarray) -> list[np.ndarray]:
        """The next piece in, its mean over channels out."""
        block = np.asarray(block)
        shape = block.shape
        if block.ndim == 1 and self.channels == 1:
            block = block[:, None]
        if block.ndim != 2 or block.shape[1] != self.channels:
            expected = "(T,)" if self.channels == 1 else f"(T, {self.channels})"
            raise AudioError(f"{self.name}: a piece has shape {shape}; expected {expected}")
        mono = _mixed_down(_as_float(block, self.name))
        finite = np.isfinite(mono)
        if not finite.all():
            place = (self.position + int(np.argmin(finite))) / self.rate
            raise AudioError(f"{self.name}: a sample at {place:.3f} s is NaN or infinite")
        self.position += len(mono)
        return [mono]

    def finish(self) -> list[np.ndarray]:
        """Nothing is kept back."""
        return []


class Resampler:
    """Mono samples from `rate` to `out_rate` Hz; at least one sample in all, if any came."""

    def __init__(self, rate: int, out_rate: int) -> None:
        self._soxr = None
        if rate != out_rate:
            self._soxr = soxr.ResampleStream(rate, out_rate, 1, dtype="float32", quality="HQ")
        self._opening = np.empty(0, np.float32)  # kept until something has come out
        self._out = 0  # samples that have come out

    def push(self, block: np.ndarray) -> list[np.ndarray]:
        """The next samples in, those that are ready out."""
        if self._soxr is None:
            return [block]
        if not len(self._opening):
            self._opening = block[:1].copy()
        return self._given(self._soxr.resample_chunk(block))

    def finish(self) -> list[np.ndarray]:
        """What is left; of a signal too short for one output sample, its first sample."""
        if self._soxr is None or not len(self._opening):
            return []
        rest = self._given(self._soxr.resample_chunk(np.empty(0, np.float32), last=True))
        return rest if self._out else [self._opening]

    def _given(self, samples: np.ndarray) -> list[np.ndarray]:
        self._out += len(samples)
        return [samples] if len(samples) else []


class Framer:
    """Windows of `size` samples, one every `hop` (by default `size`: no overlap).

    Window i begins at sample i * hop. The last one ends where the signal does and is shorter;
    it is there only where the windows before left some of the signal out.
    """

    def __init__(self, size: int, hop: int | None = None) -> None:
        self.size, self.hop = size, hop or size
        self._waiting: list[np.ndarray] = []
        self._count = 0  # samples waiting
        self._old = 0  # of them, those that a window has held already

    @classmethod
    def of_seconds(cls, rate: int, window: float, hop: float | None = None) -> "Framer":
        """For windows of `window` s, one every `hop` s; AudioError for what makes no sense."""
        if not (math.isfinite(window) and round(window * rate) >= 1):
            raise AudioError(f"blocks of {window} s: give a length above 0, such as 10")
        hop = window if hop is None else hop
        if not 1 <= round(hop * rate) <= round(window * rate):
            raise AudioError(
                f"a window every {hop:g} s: give a step above 0 and no longer than the window, "
                f"{window:g} s, so that nothing is passed over"
            )
        return cls(round(window * rate), round(hop * rate))

    def push(self, block: np.ndarray) -> list[np.ndarray]:
        """The next samples in, the windows that are full out."""
        self._waiting.append(block)
        self._count += len(block)
        if self._count < self.size:
            return []
        held = self._joined()
        starts = range(0, len(held) - self.size + 1, self.hop)
        begin = starts[-1] + self.hop
        self._waiting, self._count = [held[begin:]], len(held) - begin
        self._old = self.size - self.hop
        return [held[start : start + self.size] for start in starts]

    def finish(self) -> list[np.ndarray]:
        """The last, shorter window, if there is one."""
        return [self._joined()] if self._count > self._old else []

    def _joined(self) -> np.ndarray:
        parts = [part for part in self._waiting if len(part)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


# --- readers: one per kind of source, all giving (frames, channels) float32 blocks ---------


class _Reader(Protocol):
    """An open source. `damage` says, after reading, what went wrong in decoding it."""

    name: str
    rate: int
    channels: int
    frames: int | None
    duration: float | None
    format: str
    damage: str | None

    def read(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        """Blocks of frames `start` to `stop`; a block is valid until the next is drawn."""

    def close(self) -> None: ...


class _ArrayReader:
    """Samples that are already in memory."""

    format = "array"
    damage: str | None = None

    def __init__(self, samples: Any, rate: Any) -> None:
        self.name = "the array given"
        array = np.asarray(samples)
        if array.ndim not in (1, 2):
            raise AudioError(
                f"{self.name} has shape {array.shape}; "
                "expected (T,), (T, channels) or (channels, T)"
            )
        if array.ndim == 1:
            array = array[:, None]
        elif array.shape[0] < array.shape[1]:
            array = array.T
        _as_float(array[:0], self.name)  # refuses types without a full scale
        self._array = array
        self.rate = _checked_rate(rate, self.name)
        self.frames, self.channels = array.shape
        self.duration = self.frames / self.rate

    def read(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        stop = self.frames if stop is None else min(stop, self.frames)
        for begin in range(start, stop, BLOCK):
            yield _as_float(self._array[begin : min(begin + BLOCK, stop)], self.name)

    def close(self) -> None:
        pass


class _FileReader:
    """A file that libsndfile decodes."""

    damage: str | None = None

    def __init__(self, handle: Any, name: str) -> None:
        self.name, self._file = name, handle
        self._sound = self._opened()
        self.rate = _checked_rate(self._sound.samplerate, name)
        self.channels, self.format = self._sound.channels, self._sound.format
        frames = self._sound.frames
        known = frames < (2**36 if isinstance(handle, Pipe) else 2**60)
        self.frames: int | None = frames if known else None
        self.duration = None if self.frames is None else self.frames / self.rate
        if self.format == "MP3" and not _states_its_length(handle):
            self._file, self.frames, self.duration = _LongerFile(handle), None, None
            self._sound = self._opened()

    def _opened(self) -> soundfile.SoundFile:
        self._file.seek(0)
        try:
            return soundfile.SoundFile(self._file)
        except (soundfile.LibsndfileError, TypeError) as error:
            reason = getattr(error, "error_string", "headerless samples").rstrip(".")
            if "not a regular file" in reason:  # what libsndfile says of an MP3 without frames
                reason = "no MP3 frames found"
            raise AudioError(
                f"{self.name}: cannot be decoded as sound ({reason}); expected WAV, FLAC, OGG, "
                "MP3, AIFF, m4a, mp4 or webm"
            ) from None

    def read(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        position = start
        if start and isinstance(self._file, Pipe):  # it must be decoded up to the place
            return _cut(self._decoded(), 0, start, stop)
        try:
            if start:
                self._sound.seek(start)
        except soundfile.LibsndfileError:  # no index, or damaged: decode up to the place
            self._sound.close()
            self._sound, position = self._opened(), 0
        return _cut(self._decoded(), position, start, stop)

    def _decoded(self) -> Iterator[np.ndarray]:
        block = np.empty((max(1, 8 * BLOCK // max(8, self.channels)), self.channels), np.float32)
        while True:
            before = self._sound.tell()
            try:
                frames = self._sound.read(out=block, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                self.damage = error.error_string.removeprefix("Error : ").rstrip(".")
                yield block[: max(0, self._sound.tell() - before)]  # decoded before the fault
                return
            if len(frames) == 0:
                return
            yield frames

    def close(self) -> None:
        self._sound.close()


class _LongerFile:
    """An MP3 file, made to look 16 times as long.

    Without a header that states the length, libsndfile takes it from the bit rate of the
    first frame, and never reads on: a file of variable bit rate would lose its end. This
    factor covers the whole range of bit rates; reading stops where the data do.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self._asked_for_end = handle, False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._asked_for_end = whence == io.SEEK_END and offset == 0
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell() * (16 if self._asked_for_end else 1)

    def read(self, size: int = -1) -> bytes:
        self._asked_for_end = False
        return self._handle.read(size)


class _ContainerReader:
    """A file that FFmpeg decodes, through PyAV: its first sound track."""

    damage: str | None = None

    def __init__(self, handle: BinaryIO, name: str) -> None:
        try:
            import av
        except ImportError:
            raise MissingExtraError.of("PyAV", "video", f"reading {name}") from None
        self._av, self._file, self.name = av, handle, name
        self._container, track = self._opened()
        first = next(self._frames(), None)
        if first is None:
            raise AudioError(f"{name}: no sound could be decoded from its sound track")
        self.rate = _checked_rate(first.sample_rate, name)
        self.channels = first.layout.nb_channels
        self.format = track.codec_context.name.upper()
        self.frames: int | None = None
        length = track.duration and float(track.duration * track.time_base)
        if not length and self._container.duration:
            length = self._container.duration / av.time_base
        self.duration = length or None
        self._origin = self._seconds(first) or 0.0

    def _opened(self) -> tuple[Any, Any]:
        self._file.seek(0)
        try:
            container = self._av.open(self._file, "r", metadata_errors="ignore")
        except self._av.FFmpegError as error:
            raise AudioError(
                f"{self.name}: cannot be decoded as sound ({error.strerror}); expected WAV, FLAC, "
                "OGG, MP3, AIFF, m4a, mp4 or webm"
            ) from None
        if not container.streams.audio:
            container.close()
            raise AudioError(f"{self.name}: has no sound track")
        return container, container.streams.audio[0]

    def read(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        self.close()
        self._container, track = self._opened()
        position, frames = 0, self._frames()
        target = start / self.rate - LEAD_IN
        if target > 0:
            try:
                ticks = int((target + self._origin) / track.time_base)
                self._container.seek(ticks, stream=track, backward=True)
                first = next(frames, None)
                time = None if first is None else self._seconds(first)
            except self._av.FFmpegError:
                time = None
            if time is None:  # cannot seek, or lost its place: decode up to the place
                self.close()
                self._container, track = self._opened()
                frames = self._frames()
            else:
                position = round((time - self._origin) * self.rate)
                return _cut(self._decoded(chain([first], frames)), position, start, stop)
        return _cut(self._decoded(frames), position, start, stop)

    def _frames(self) -> Iterator[Any]:
        track = self._container.streams.audio[0]
        try:
            for packet in self._container.demux(track):
                try:
                    yield from packet.decode()
                except self._av.error.InvalidDataError as error:  # one bad packet: go on
                    self.damage = error.strerror
        except self._av.FFmpegError as error:
            self.damage = error.strerror

    def _decoded(self, frames: Iterable[Any]) -> Iterator[np.ndarray]:
        for frame in frames:
            if frame.sample_rate != self.rate:
                raise AudioError(
                    f"{self.name}: its rate changes from {self.rate} to {frame.sample_rate} Hz on "
                    "the way; convert it to one rate first"
                )
            block = frame.to_ndarray()  # (channels, T), or (1, T * channels) when interleaved
            channels = frame.layout.nb_channels
            block = block.T if frame.format.is_planar else block.reshape(-1, channels)
            yield _as_float(block, self.name)

    @staticmethod
    def _seconds(frame: Any) -> float | None:
        return None if frame.pts is None else float(frame.pts * frame.time_base)

    def close(self) -> None:
        self._container.close()


# --- opening -------------------------------------------------------------------------------


@contextmanager
def _open(source: Source, stop: threading.Event | None = None) -> Iterator[_Reader]:
    """A reader for any source, closed with what it opened itself."""
    if isinstance(source, tuple):
        if len(source) != 2:
            raise AudioError(f"a tuple of {len(source)} items came; expected (samples, rate)")
        yield _ArrayReader(*source)
        return
    handle, name, ours = _binary_file(source)
    file: Any = handle
    pipe = None
    try:
        if not (hasattr(handle, "seekable") and handle.seekable()):
            pipe = Pipe(handle, stop)
            file = pipe if pipe.forwards else pipe.whole()
        reader = _reader_for(file, name)
        try:
            yield reader
        finally:
            reader.close()
    finally:
        if pipe is not None:
            pipe.close()
        if ours:
            handle.close()


def _binary_file(source: Any) -> tuple[BinaryIO, str, bool]:
    """A binary file, the name to call it by, and whether it is ours to close."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), "the bytes given", True
    if isinstance(source, str | os.PathLike):
        name = printable(source)
        handle, ours = _opened_path(source, name), True
    elif hasattr(source, "read"):
        own_name = getattr(source, "name", None)
        name = printable(own_name) if isinstance(own_name, str) else "the file object given"
        handle, ours = source, False
    else:
        raise AudioError(
            f"cannot read sound from {type(source).__name__}: "
            "give a path, bytes, a binary file object or (samples, rate)"
        )
    if not isinstance(handle.read(0), bytes):
        raise AudioError(f'{name}: opened as text; open it in binary mode ("rb")')
    return handle, name, ours


def _opened_path(path: str | os.PathLike[str], name: str) -> BinaryIO:
    try:
        if os.path.isdir(path):
            raise AudioError(f"{name}: is a folder; give a sound file")
        return open(path, "rb")
    except FileNotFoundError:
        raise AudioError(f"{name}: no such file; check the path") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror})") from None
    except ValueError as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name}: not a valid path ({error})") from None


def _reader_for(handle: BinaryIO, name: str) -> _Reader:
    """Choose the decoder by the file's first bytes, then by the ending of its name."""
    handle.seek(0)
    head = handle.read(4096)
    if not head:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    if _is_text(head):
        raise AudioError(f"{name}: holds text, not sound")
    if _is_container(head) or Path(name).suffix.lower() in CONTAINERS:
        return _ContainerReader(handle, name)
    return _FileReader(handle, name)


def _is_text(head: bytes) -> bool:
    """Text in UTF-8 or UTF-16. (MP3 decoders search and complain long before they refuse it.)"""
    if head.startswith(b"NIST_1A"):  # a sound format with a header of text
        return False
    encoding, unit = "utf-8", 1
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding, unit = "utf-16", 2
    try:
        text = head[: len(head) // unit * unit].decode(encoding)
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3:  # anything but a character cut off at the end
            return False
        text = head[: error.start].decode(encoding)
    return bool(text) and all(char.isprintable() or char in "\t\n\v\f\r\ufeff" for char in text)


def _is_container(head: bytes) -> bool:
    return (
        head[4:8] == b"ftyp"  # mp4, m4a, mov, 3gp
        or head[:4] in (b"\x1a\x45\xdf\xa3", b"0&\xb2u", b"FLV\x01")  # webm, mkv; wma; flv
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or (head[0] == 0xFF and len(head) > 1 and head[1] & 0xF6 == 0xF0)  # aac
    )


def _states_its_length(mp3: BinaryIO) -> bool:
    """Whether the first frame of an MP3 carries a Xing, Info or VBRI header."""
    place = mp3.tell()  # a decoder is reading this file: leave it where it was
    mp3.seek(0)
    head = mp3.read(10)
    skip = 0
    if head[:3] == b"ID3" and len(head) == 10:
        skip = 10 + sum(byte << (7 * digit) for digit, byte in enumerate(reversed(head[6:])))
    mp3.seek(skip)
    frame = mp3.read(4096)
    mp3.seek(place)
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


# --- from blocks to samples ----------------------------------------------------------------


def _mono(reader: _Reader, start: float, end: float | None) -> Iterator[np.ndarray]:
    """Mean over channels in blocks of exactly `BLOCK` samples but the last, checked.

    AudioError for an excerpt outside the recording, no samples, NaN or infinite samples.
    """
    first, stop = _excerpt(reader, start, end)
    return _through(_checked_mono(reader, first, stop), Framer(BLOCK))


def _checked_mono(reader: _Reader, first: int, stop: int | None) -> Iterator[np.ndarray]:
    position, bad, first_bad = first, 0, 0
    for block in reader.read(first, stop):
        mono = _mixed_down(block)
        finite = np.isfinite(mono)
        if not finite.all():
            first_bad = first_bad if bad else position + int(np.argmin(finite))
            bad += len(mono) - int(np.count_nonzero(finite))
        position += len(mono)
        if not bad:
            yield mono
    seconds = position / reader.rate
    if bad:
        raise AudioError(
            f"{reader.name}: {bad} of {position - first} samples are NaN or infinite, the first "
            f"at {first_bad / reader.rate:.3f} s; repair it or cut them out"
        )
    if position == first:
        if first:
            lasts = f"; it lasts {reader.duration:.3f} s" if reader.duration else ""
            raise AudioError(
                f"{reader.name}: nothing can be decoded from {seconds:.3f} s on{lasts}"
            )
        damage = f" ({reader.damage})" if reader.damage else ""
        raise AudioError(f"{reader.name}: holds no samples{damage}")
    _check_end(reader, position, stop)


def _check_end(reader: _Reader, position: int, stop: int | None) -> None:
    """Refuse an excerpt that the data do not fill; warn of a recording that ends too early."""
    seconds = position / reader.rate
    if stop is not None and stop - position > math.ceil(SLACK * reader.rate):
        raise AudioError(
            f"{reader.name}: ends at {seconds:.3f} s, "
            f"before the end asked for, {stop / reader.rate:.3f} s"
        )
    expected = reader.frames if stop is None and reader.frames is not None else position
    missing = expected - position
    complete = stop is not None and position >= stop
    if (reader.damage and not complete) or missing > max(0.1 * reader.rate, 0.01 * expected):
        of_all = f" of {reader.duration:.2f} s" if reader.duration else ""
        warnings.warn(
            f"{reader.name}: damaged ({reader.damage or 'it ends too early'}); "
            f"decoded up to {seconds:.2f} s{of_all}",
            AudioWarning,
            stacklevel=2,
        )


def _excerpt(reader: _Reader, start: float, end: float | None) -> tuple[int, int | None]:
    """Seconds to frames, refusing what lies outside a recording of known length."""
    finish = math.inf if end is None else end
    if not (0 <= start < finish) or end == math.inf:
        raise AudioError(
            f"excerpt from {start} s to {end} s: expected 0 <= start < end, both in seconds"
        )
    first, stop = round(start * reader.rate), None if end is None else round(end * reader.rate)
    if reader.frames is not None:
        length = f"{reader.name}: lasts {reader.frames / reader.rate:.3f} s"
        if first and first >= reader.frames:
            raise AudioError(f"{length}, but the excerpt starts at {start:.3f} s")
        if end is not None and end > reader.frames / reader.rate + SLACK:
            raise AudioError(f"{length}, but the excerpt ends at {end:.3f} s")
    if stop is not None and stop <= first:
        stop = first + 1  # shorter than a sample: one sample
    return first, stop


def _mixed_down(block: np.ndarray) -> np.ndarray:
    """(T, channels) -> (T,), a new array. Column by column: numpy's mean is 5 times slower."""
    mono = block[:, 0].copy()
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf are reported by the caller
        for channel in range(1, block.shape[1]):
            mono += block[:, channel]
    if block.shape[1] > 1:
        mono /= block.shape[1]
    return mono


def _cut(
    blocks: Iterable[np.ndarray], position: int, start: int, stop: int | None
) -> Iterator[np.ndarray]:
    """Frames `start` to `stop` out of blocks whose first frame is number `position`."""
    for block in blocks:
        begin = max(start - position, 0)
        finish = len(block) if stop is None else min(len(block), stop - position)
        if begin < finish:
            yield block[begin:finish]
        position += len(block)
        if stop is not None and position >= stop:
            return


# --- small parts ---------------------------------------------------------------------------


def _as_float(samples: np.ndarray, name: str) -> np.ndarray:
    """float32, with integers divided by their type's full scale (unsigned: centred first)."""
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):
            return samples.astype(np.float32, copy=False)
    if kind not in "iu" or size > 4:
        raise AudioError(
            f"{name} holds {samples.dtype}, which has no agreed full scale; "
            "give floats in [-1, 1] or integers of 8, 16 or 32 bits"
        )
    full_scale = 2.0 ** (8 * size - 1)
    # float32 cannot hold 32-bit integers before they are centred
    scaled = samples.astype(np.float32 if size < 4 else np.float64)
    return ((scaled - full_scale if kind == "u" else scaled) / full_scale).astype(np.float32)


def _checked_rate(rate: Any, whose: str) -> int:
    try:
        whole = int(rate)
        if whole == rate and whole in RATES:
            return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise AudioError(
        f"{whose}: sample rate {rate!r}; expected whole Hz from {RATES[0]} to {RATES[-1]}"
    )


def _power_spectrum(samples: np.ndarray, rate: int, every: int = 1) -> np.ndarray:
    """Summed power (bins,) of half-overlapping Hann windows of at least 1/8 s, at rate/size Hz.

    It is estimated from one window in `every`.
    """
    size = 1 << math.ceil(math.log2(rate / 8))
    samples = np.asarray(samples, np.float32)
    width = min(size, len(samples))
    power = np.zeros(size // 2 + 1)
    if width == 0:
        return power
    starts = np.arange(0, len(samples) - width + 1, max(1, width // 2))
    if starts[-1] + width < len(samples):
        starts = np.append(starts, len(samples) - width)
    windows_in_all, starts = len(starts), starts[::every]
    windows = np.lib.stride_tricks.sliding_window_view(samples, width)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(width) + 0.5) / width)
    for some in np.array_split(starts, math.ceil(len(starts) / 64)):
        part = windows[some]
        part = (part - part.mean(axis=1, keepdims=True)) * hann.astype(np.float32)
        power += np.square(np.abs(np.fft.rfft(part, size))).sum(axis=0)
    return power * (windows_in_all / len(starts))


def _share_within(power: np.ndarray, rate: int, f_min: float, f_max: float) -> float:
    frequencies = np.linspace(0, rate / 2, len(power))
    inside = (frequencies >= f_min) & (frequencies <= f_max)
    total = power[1:].sum()
    return float(power[1:][inside[1:]].sum() / total) if total > 0 else 1.0
