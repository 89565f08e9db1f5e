"""Any sound in, its tags out.

A recording is decoded in windows (10 s in most checkpoints), without overlap unless asked for;
windows of several recordings share a batch; a recording's scores are the mean of its windows'.
Decoding runs in background threads, a little ahead of the network, so that memory does not grow
with the length of a recording or the number of them.

B windows in a batch, S samples, L labels, W windows of a recording, N windows of a piece of it.
"""

from __future__ import annotations

import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from atgnn import audio
from atgnn.checkpoint import DEFAULT_MODEL, Checkpoint
from atgnn.crew import Crew
from atgnn.errors import AtgnnError, AudioError, ConfigError, printable
from atgnn.model.graphs import CapturedModel
from atgnn.model.inference import best_dtype
from atgnn.networks import for_inference
from atgnn.packs import LabelPack, with_packs
from atgnn.tags import Failure, Selector, Tagging, check_choice

__all__ = [
    "BandWarning",
    "Excerpt",
    "Piece",
    "Reading",
    "Scores",
    "Tagger",
    "WindowScorer",
    "choose_device",
    "choose_dtype",
]

DECODERS = max(2, min(4, os.cpu_count() or 2))  # threads
PRECISIONS = ("float32", "bfloat16", "float16")
FIRST_DRAW = 4  # windows: most clips have fewer, so that their end is seen at once


class BandWarning(UserWarning):
    """Most of a recording's energy lies where the model does not listen."""


@dataclass(frozen=True)
class Excerpt:
    """The part of a source from `start` to `end` seconds (None: to its end).

    With `trim_db` without the silence at both ends of it: what is so much below its loudest 10 ms,
    see `atgnn.audio.sounding`. Times of windows then count from the first sound.
    """

    source: audio.Source
    start: float = 0.0
    end: float | None = None
    trim_db: float | None = None

    def trimmed(self, stop: threading.Event | None = None) -> Excerpt:
        """The same by its own start and end. AudioError where it cannot be decoded."""
        if self.trim_db is None:
            return self
        source = audio.held(self.source)
        start, end = audio.sounding(source, self.trim_db, start=self.start, end=self.end, stop=stop)
        return Excerpt(source, start, end)


_ARRAYS = ("windows", "seconds", "starts")

Taggable: TypeAlias = "audio.Source | Excerpt"


@dataclass(frozen=True)
class Piece:
    """The scores of some consecutive windows of a recording, as they come.

    Attributes:
        path: what was given; None for samples and bytes.
        starts: float64 (N,), where every window begins, in seconds.
        seconds: float64 (N,), the length of every window; all but a recording's last are equal.
        windows: float32 (N, L), the scores of every window.
        last: whether the recording ends with it. The last piece may be empty.
    """

    path: str | None
    starts: np.ndarray
    seconds: np.ndarray
    windows: np.ndarray
    last: bool


class Reading(NamedTuple):
    """What to take from windows in the place of scores, say embeddings."""

    take: Callable[[Tensor, Tensor | None], Tensor]
    """Features (B, T, F) and their valid frames (B,), None for all, to (B, D)."""

    width: int  # D


@dataclass(frozen=True)
class Scores:
    """The scores of one recording.

    Attributes:
        path: what was given; None for samples and bytes.
        windows: float32 (W, L), the scores of every window.
        seconds: float64 (W,), the length of every window; all but the last are equal.
        starts: float64 (W,), where every window begins, in seconds.
    """

    path: str | None
    windows: np.ndarray
    seconds: np.ndarray
    starts: np.ndarray

    @classmethod
    def joined(cls, pieces: Sequence[Piece]) -> Scores:
        """All pieces of one recording."""
        parts = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in _ARRAYS)
        return cls(pieces[0].path, *parts)

    @property
    def duration(self) -> float:
        """Length of the recording in seconds."""
        return float(self.starts[-1] + self.seconds[-1])

    @property
    def mean(self) -> np.ndarray:
        """float32 (L,): the mean over windows, each counting by its length.

        So the 0.2 s left over at the end of a recording do not weigh as much as 10 s.
        """
        mean: np.ndarray = np.average(self.windows, axis=0, weights=self.seconds)
        return mean.astype(np.float32)


class WindowScorer(ABC):
    """Scores of recordings, window by window, from whatever scores the windows.

    Decoding, batches and order are here; what the network is, `_network` says.

    Attributes:
        device: where the network is.
    """

    device: torch.device

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Batches whose scores are not fetched yet: a GPU works on while the host does not wait.
        self._late = 1 if device.type == "cuda" else 0
        self._crew = Crew(None if device.type == "cpu" else 1)
        self._warned = False

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores."""

    @property
    @abstractmethod
    def rate(self) -> int:
        """Samples a second of what the network hears."""

    @property
    @abstractmethod
    def band(self) -> tuple[float, float]:
        """Lowest and highest frequency that it can hear, in Hz."""

    @property
    @abstractmethod
    def window_seconds(self) -> float:
        """Length of a window unless another one is asked for."""

    @property
    @abstractmethod
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """How scores come from logits: independent ones, or ones that add up to 1."""

    @property
    @abstractmethod
    def calibrated(self) -> bool:
        """Whether a calibration is in the scores."""

    @abstractmethod
    def _network(self, windows: list[np.ndarray]) -> Tensor:
        """Scores (B, L), on the device, of windows (S,) of unequal length."""

    def _read(self, windows: list[np.ndarray], reading: Reading) -> Tensor:
        """What a reading takes of windows (S,): (B, D). ConfigError where there is none."""
        raise ConfigError("this model gives scores and nothing else: choose a model of atgnn")

    # ------------------------------------------------------------------ recordings

    def scores(self, source: Taggable) -> np.ndarray:
        """float32 (L,): the score of every label, from 0 to 1; errors as `tag`."""
        return self._score_one(source).mean

    def window_scores(self, source: Taggable) -> np.ndarray:
        """float32 (W, L): scores of every window; window i starts at i * window_seconds."""
        return self._score_one(source).windows

    def _score_one(self, source: Taggable) -> Scores:
        (scores,) = self.score_many([source])
        assert isinstance(scores, Scores)
        return scores

    def score_many(
        self,
        sources: Iterable[Taggable],
        *,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int | None = None,
        share_batches: bool = True,
        on_error: Literal["raise", "collect"] = "raise",
        reading: Reading | None = None,
    ) -> Generator[Scores | Failure, None, None]:
        """As `tag_many`, but the scores of all labels in every window.

        Windows are `window` seconds long, by default as the checkpoint says, and begin every `hop`
        seconds, by default where the one before ends. `batch_size` is the number of windows that
        go through the network together: by default 4 on a CPU and 32 elsewhere; `share_batches`
        and `reading` as in `pieces`.
        """
        parts: list[Piece] = []
        pieces = self.pieces(
            sources,
            window=window,
            hop=hop,
            batch_size=batch_size,
            share_batches=share_batches,
            on_error=on_error,
            reading=reading,
        )
        with closing(pieces):
            for piece in pieces:
                if isinstance(piece, Failure):
                    parts = []
                    yield piece
                    continue
                parts.append(piece)
                if piece.last:
                    yield Scores.joined(parts)
                    parts = []

    def pieces(
        self,
        sources: Iterable[Taggable],
        *,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int | None = None,
        share_batches: bool = True,
        on_error: Literal["raise", "collect"] = "raise",
        reading: Reading | None = None,
    ) -> Generator[Piece | Failure, None, None]:
        """As `score_many`, but each window's scores as soon as they are there.

        Pieces of a recording follow one another, and recordings in order; a `Failure` ends a
        recording, perhaps after some pieces. Without `share_batches` no batch holds windows of
        two recordings, so that what else is scored changes not even the last bit; on a processor
        several batches are in the network at once then. With `reading` the windows of a piece hold
        what that takes, not scores.
        """
        width = len(self.labels) if reading is None else reading.width
        size = self.checked_batch_size(batch_size)
        framing = self.framing(window, hop)
        begun: deque[_Job] = deque()
        batch: list[tuple[_Job, np.ndarray]] = []
        flights: deque[_Flight] = deque()
        crew = None if share_batches or self._crew.count == 1 else self._crew
        late = self._late if crew is None else crew.count
        with closing(self._decoded(sources, size, framing)) as decoded:
            for job, samples in decoded:
                if not begun or begun[-1] is not job:
                    begun.append(job)
                if samples is not None:
                    batch.append((job, samples))
                elif crew is not None and not job.decoded:  # a slow pipe perhaps
                    while flights:
                        flights.popleft().land()
                if len(batch) == size or (batch and job.decoded and not share_batches):
                    flights.append(self._launch(batch, reading, crew))
                    batch = []
                    if len(flights) > late:
                        flights.popleft().land()
                yield from self._news(begun, on_error, width)
        if batch:
            flights.append(self._launch(batch, reading, crew))
        for flight in flights:
            flight.land()
        yield from self._news(begun, on_error, width)

    def framing(self, window: float | None = None, hop: float | None = None) -> tuple[int, int]:
        """Length and step of windows in samples, from seconds.

        Without `window` they are the checkpoint's; without `hop` they do not overlap. ConfigError
        for a window or step that makes no sense.
        """
        window = self.window_seconds if window is None else window
        try:
            framer = audio.Framer.of_seconds(self.rate, window, hop)
        except AudioError as error:
            raise ConfigError(str(error)) from None
        return framer.size, framer.hop

    def checked_batch_size(self, batch_size: int | None) -> int:
        """The number of windows that go through the network together; ConfigError below 1."""
        if batch_size is None:
            return 4 if self.device.type == "cpu" else 32
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: give the number of windows, 1 or more")
        return batch_size

    # ------------------------------------------------------------------ decoding, ahead

    def _decoded(
        self, sources: Iterable[Taggable], batch_size: int, framing: tuple[int, int]
    ) -> Generator[tuple[_Job, np.ndarray | None], None, None]:
        """Windows of all recordings in order, and None after the last window of each.

        None too, while the recording is not `decoded`, where the next window is to be waited for.

        The next recordings have their first windows decoded meanwhile, and the current one its
        next batch: this bounds what waits in memory to a few batches of windows.
        """
        waiting = iter(sources)
        ahead: deque[_Job] = deque()
        stop = threading.Event()  # a thread may wait for a pipe
        pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="atgnn-decoder")
        try:
            while True:
                for source in islice(waiting, 2 * batch_size - len(ahead)):
                    ahead.append(_Job(self, source, pool, framing, stop))
                if not ahead:
                    return
                job = ahead.popleft()
                yield from ((job, window) for window in job.all_windows(batch_size))
                job.decoded = True
                yield job, None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _windows_of(
        self, excerpt: Excerpt, framing: tuple[int, int], stop: threading.Event
    ) -> Iterator[np.ndarray]:
        """Windows (S,) of a recording; runs on a decoder's thread."""
        rate, excerpt = self.rate, excerpt.trimmed(stop)
        whole = excerpt.start == 0 and excerpt.end is None
        meter = audio.BandMeter() if whole and not self._warned else None
        yield from audio.stream(
            excerpt.source,
            rate,
            block_seconds=framing[0] / rate,
            hop_seconds=framing[1] / rate,
            start=excerpt.start,
            end=excerpt.end,
            meter=meter,
            stop=stop,
        )
        if meter is not None:
            self._check_band(excerpt, meter)

    def _check_band(self, excerpt: Excerpt, meter: audio.BandMeter) -> None:
        """Warn, once in a tagger's life, of a whole recording that the model can hardly hear."""
        low, high = self.band
        share = meter.share(low, high)
        if share < 0.5 and not self._warned:
            self._warned = True
            warnings.warn(
                f"{printable(_name(excerpt.source) or 'the recording given')}: only {share:.0%} "
                f"of its energy lies between {low:g} and {high:g} Hz, where the model listens, so "
                "its tags may be wrong (this is said once, for the first such recording)",
                BandWarning,
                stacklevel=2,
            )

    # ------------------------------------------------------------------ the network

    def _launch(
        self, batch: list[tuple[_Job, np.ndarray]], reading: Reading | None, crew: Crew | None
    ) -> _Flight:
        """Put windows through the network together; neither a GPU nor a crew is waited for."""
        jobs, windows = [job for job, _ in batch], [window for _, window in batch]
        if crew is not None:
            return _Flight(jobs, crew.run(self._taken, windows, reading))
        scores = self._taken(windows, reading)
        if scores.device.type != "cuda":
            return _Flight(jobs, scores.cpu())
        landing = scores.to("cpu", non_blocking=True)  # into pinned memory
        return _Flight(jobs, landing, torch.cuda.current_stream(scores.device).record_event())

    def _news(self, begun: deque[_Job], on_error: str, width: int) -> Iterator[Piece | Failure]:
        """What has come of the first recordings on their way; those that are complete leave."""
        while begun:
            job = begun[0]
            if job.error is None and not np.isfinite(job.scores).all():
                job.error = not_finite(job.path)
            if job.error is not None:
                job.scores.clear()
            last = job.decoded and not job.missing
            if job.error is None and (job.scores or last):
                yield job.piece(last, self.rate, width)
            if not last:
                return
            begun.popleft()
            if job.error is not None and on_error == "raise":
                raise job.error
            if job.error is not None:
                yield Failure(job.path, job.error)

    def score_windows(
        self, windows: Sequence[np.ndarray], reading: Reading | None = None
    ) -> np.ndarray:
        """float32 (B, L): scores of windows (S,), mono at the model's rate, as one batch.

        With `reading` (B, D), what that takes. To the last bit what `pieces` gives of such a batch
        without `share_batches`.
        """
        scores: Tensor = self._crew.run(self._taken, list(windows), reading).result()
        return scores.cpu().numpy()

    @torch.inference_mode()
    def _taken(self, windows: list[np.ndarray], reading: Reading | None) -> Tensor:
        return self._network(windows) if reading is None else self._read(windows, reading)


class Tagger(WindowScorer):
    """A model ready to tag recordings.

    >>> tagger = Tagger.from_pretrained()  # doctest: +SKIP
    >>> for tag in tagger.tag("dog.wav"):  # doctest: +SKIP
    ...     print(tag.label, tag.score)

    A recording may be a path, a file's bytes, a binary file object, ``(samples, rate)`` or an
    `Excerpt` of one. Whatever it is batched with, its scores are the same (within 1e-4).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str | torch.device | None = None,
        precision: str = "float32",
    ) -> None:
        """Takes the checkpoint's model over: moves it to `device` and into evaluation mode.

        `precision` is that of the network; "auto" is the fastest that the device is made for.
        """
        super().__init__(choose_device(device))
        self.checkpoint = checkpoint
        self.model = checkpoint.model.to(self.device).eval()
        self.dtype = choose_dtype(precision, self.device)
        self.network = CapturedModel(for_inference(self.model, self.dtype))
        self.front_end = checkpoint.make_front_end().to(self.device)
        self.selector = Selector(checkpoint.vocabulary, checkpoint.thresholds)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
        device: str | torch.device | None = None,
        precision: str = "float32",
        packs: Iterable[LabelPack | str | os.PathLike[str]] = (),
        **hub: Any,
    ) -> Tagger:
        """A tagger from a shipped model, a checkpoint folder or a hub repository.

        `device` is "cpu", "cuda", "cuda:1", "mps" or "auto" (also None): an accelerator where
        there is one. `precision` is "float32", "bfloat16", "float16" or "auto", the fastest that
        the device is made for; scores in bfloat16 differ by some thousandths, at most by a few
        hundredths (`tests/test_precision.py`). `packs`
        are label packs (`atgnn.packs`), whose labels come after the model's own and leave the
        scores of those as they are. Further arguments go to `Checkpoint.from_pretrained`.

        Raises:
            CheckpointError: no such model or pack, it is damaged, or a pack is another model's.
            LabelError: a pack has a label that the model or another pack has.
            ConfigError: no such device.
        """
        device = choose_device(device)
        checkpoint = with_packs(Checkpoint.from_pretrained(name_or_path, **hub), packs)
        return cls(checkpoint, device, precision)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores."""
        return self.checkpoint.vocabulary.names

    @property
    def rate(self) -> int:
        """Samples a second of what the network hears."""
        return self.front_end.config.sample_rate

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest frequency that it can hear, in Hz."""
        return self.front_end.config.band

    @property
    def window_seconds(self) -> float:
        """Length of a window unless another one is asked for."""
        return self.checkpoint.window_seconds

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """How scores come from logits: independent ones, or ones that add up to 1."""
        return self.checkpoint.activation

    @property
    def calibrated(self) -> bool:
        """Whether the checkpoint's calibration is in the scores."""
        return self.checkpoint.calibration is not None

    # ------------------------------------------------------------------ one recording

    def tag(
        self,
        source: Taggable,
        top: int | None = None,
        threshold: float | None = None,
        ancestors: bool = False,
    ) -> Tagging:
        """The tags of one recording, best first; see `atgnn.tags.Selector` for the choice.

        Raises:
            AudioError: the recording is missing, unreadable, empty or not finite.
        """
        taggings = self.tag_many([source], top=top, threshold=threshold, ancestors=ancestors)
        (tagging,) = taggings
        assert isinstance(tagging, Tagging)
        return tagging

    # ------------------------------------------------------------------ many recordings

    def tag_many(
        self,
        sources: Iterable[Taggable],
        *,
        top: int | None = None,
        threshold: float | None = None,
        ancestors: bool = False,
        batch_size: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> Iterator[Tagging | Failure]:
        """Tag any number of recordings; yields in order, as soon as results are there.

        `sources` may be a generator: it is drawn from two batches ahead. With
        ``on_error="collect"`` a bad recording gives a `Failure` in its place and the rest go on.
        """
        check_choice(top, threshold)
        for result in self.score_many(sources, batch_size=batch_size, on_error=on_error):
            if isinstance(result, Failure):
                yield result
                continue
            yield self.selector.tagging(
                result.path,
                result.duration,
                result.mean,
                top=top,
                threshold=threshold,
                ancestors=ancestors,
            )

    # ------------------------------------------------------------------ the network

    def _features(self, windows: list[np.ndarray]) -> tuple[Tensor, Tensor | None]:
        """Features (B, T, F), on the device, of windows (S,), and frames (B,) of unequal ones."""
        sizes = [len(window) for window in windows]
        pinned = self.device.type == "cuda"
        wave = torch.zeros(len(windows), max(sizes), pin_memory=pinned)
        for row, window in zip(wave.numpy(), windows, strict=True):
            row[: len(window)] = window
        wave, lengths = wave.to(self.device, non_blocking=pinned), None
        if min(sizes) < max(sizes):
            lengths = torch.tensor(sizes, pin_memory=pinned).to(self.device, non_blocking=pinned)
        features, frames = self.front_end(wave, lengths)
        return features, None if lengths is None else frames

    def _network(self, windows: list[np.ndarray]) -> Tensor:
        """Scores (B, L), on the device, of windows (S,) of unequal length.

        A window whose samples are all the same holds no sound: its scores are 0.
        """
        scores = self.checkpoint.scores(self.network(*self._features(windows)))
        silent = [row for row, window in enumerate(windows) if window.min() == window.max()]
        if silent:  # models learn from sounds: what they say of digital silence means nothing
            scores[silent] = 0
        return scores

    def _read(self, windows: list[np.ndarray], reading: Reading) -> Tensor:
        return reading.take(*self._features(windows))


def not_finite(path: str | None) -> AudioError:
    """What is said of a recording whose scores are NaN or infinite."""
    return AudioError(
        f"{printable(path or 'the recording given')}: its scores are not finite: its "
        "samples are far beyond [-1, 1], or the model is damaged"
    )


@dataclass(eq=False)
class _Flight:
    """A batch in the network: whose windows they are, and the scores that are to come."""

    jobs: list[_Job]
    scores: Tensor | Future[Tensor]  # (B, L) in main memory, once `arrived` or done
    arrived: torch.cuda.Event | None = None

    def land(self) -> None:
        """Wait for the scores and hand them to their recordings."""
        if self.arrived is not None:
            self.arrived.synchronize()
        scores = self.scores if isinstance(self.scores, Tensor) else self.scores.result()
        for job, row in zip(self.jobs, scores.numpy(), strict=True):
            job.scores.append(row)
            job.missing -= 1


@dataclass(eq=False)
class _Job:
    """One recording on its way: its windows as they are decoded, its scores as they come."""

    scorer: WindowScorer
    source: Taggable
    pool: ThreadPoolExecutor
    framing: tuple[int, int]
    stop: threading.Event
    path: str | None = None
    decoded: bool = False
    error: AtgnnError | None = None
    scores: list[np.ndarray] = field(default_factory=list)  # that no piece has taken yet
    sizes: list[int] = field(default_factory=list)  # of windows that no piece has taken yet
    missing: int = 0  # windows without scores yet
    taken: int = 0  # windows that were in a piece

    def __post_init__(self) -> None:
        excerpt = self.source if isinstance(self.source, Excerpt) else Excerpt(self.source)
        self.path = _name(excerpt.source)
        self._windows = self.scorer._windows_of(excerpt, self.framing, self.stop)
        self._asked = FIRST_DRAW
        self._drawn: Future[list[np.ndarray]] = self.pool.submit(self._draw, FIRST_DRAW)

    def piece(self, last: bool, rate: int, width: int) -> Piece:
        """The windows whose scores have come, which are then no longer kept."""
        rows, count = self.scores, len(self.scores)
        windows = np.stack(rows) if rows else np.empty((0, width), np.float32)
        starts = np.arange(self.taken, self.taken + count) * self.framing[1] / rate
        seconds = np.asarray(self.sizes[:count]) / rate
        self.scores, self.sizes, self.taken = [], self.sizes[count:], self.taken + count
        return Piece(self.path, starts, seconds, windows, last)

    def _draw(self, count: int) -> list[np.ndarray]:
        return list(islice(self._windows, count))

    def all_windows(self, batch_size: int) -> Iterator[np.ndarray | None]:
        """Every window; while one batch is used, the next is decoded. Errors end it quietly.

        None before a wait.
        """
        while True:
            if not self._drawn.done():
                yield None
            try:
                windows = self._drawn.result()
            except AtgnnError as error:
                self.error = error
                return
            except OSError as error:  # a disk or a network drive that fails on the way
                name = printable(self.path or "the file given")
                self.error = AudioError(f"{name}: cannot be read ({error.strerror or error})")
                return
            last = len(windows) < self._asked
            if not last:
                self._asked = batch_size
                self._drawn = self.pool.submit(self._draw, batch_size)
            for window in windows:
                self.sizes.append(len(window))
                self.missing += 1
                yield window
            if last:
                return


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype called `precision`; for "auto" the fastest that the device is made for.

    ConfigError when there is no such precision, or it would be slower than float32 here.
    """
    if precision == "auto":
        return best_dtype(device)
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: give {', '.join(PRECISIONS)} or auto")
    dtype: torch.dtype = getattr(torch, precision)
    if device.type == "cpu" and dtype != torch.float32 and best_dtype(device) != dtype:
        raise ConfigError(
            f"precision {precision} on this processor is many times slower than float32, as it "
            "has no instructions for it: give float32 or auto"
        )
    return dtype


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device called `device`; for "auto" or None CUDA, else MPS, else the CPU.

    ConfigError when this machine has no such device.
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(
            f"device {str(device)!r} is not available here: give auto, cpu, cuda or mps"
        ) from None
    if chosen.type == "meta":
        raise ConfigError("device 'meta' computes nothing: give auto, cpu, cuda or mps")
    return chosen


def _name(source: audio.Source) -> str | None:
    """What to call a source: its path, or None."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else None
