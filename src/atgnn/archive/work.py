"""Recordings in, rows out: on this machine, whichever way they were handed to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

from atgnn.archive.listing import Sound
from atgnn.archive.rows import failed, tagged
from atgnn.archive.settings import ArchiveSettings
from atgnn.events import heard
from atgnn.files import content_digest
from atgnn.tagger import Scores, Tagger
from atgnn.tags import Event, Failure

__all__ = ["make_rows"]

DIGESTS_AHEAD = 2  # files: beside their decoding, so that a drive delivers them once


def make_rows(
    tagger: Tagger,
    sounds: Iterable[Sound],
    settings: ArchiveSettings,
    batch_size: int | None = None,
) -> Generator[Any, None, None]:
    """A row for every recording, in order, each as soon as it is done.

    Decoding runs ahead of the network, and windows of several recordings share a batch; what waits
    in memory is bounded by a few batches, and by the scores of one recording.
    """
    with (
        _Digests(sounds) as digests,
        closing(_results(tagger, settings, digests.files(), batch_size)) as results,
    ):
        for result, events in results:
            yield _row(tagger, settings, *digests.next(), result, events)


def _results(
    tagger: Tagger, settings: ArchiveSettings, files: Iterator[str], batch_size: int | None
) -> Generator[tuple[Scores | Failure, tuple[Event, ...] | None], None, None]:
    """What was heard in every file, with its events where they are asked for."""
    if settings.events is not None:
        yield from heard(tagger, files, settings.events, batch_size=batch_size, on_error="collect")
        return
    with closing(tagger.score_many(files, batch_size=batch_size, on_error="collect")) as results:
        for result in results:
            yield result, None


def _row(
    tagger: Tagger,
    settings: ArchiveSettings,
    sound: Sound,
    digest: str | OSError,
    result: Scores | Failure,
    events: tuple[Event, ...] | None,
) -> Any:
    if isinstance(result, Failure):
        return failed(sound, str(result))
    if isinstance(digest, OSError):
        return failed(sound, f"{sound.path}: cannot be read ({digest.strerror or digest})")
    if not sound.unchanged():
        return failed(
            sound, f"{sound.path}: was written to while it was tagged; --resume does it again"
        )
    tagging = tagger.selector.tagging(
        result.path,
        result.duration,
        result.mean,
        top=settings.top,
        threshold=settings.threshold,
        ancestors=settings.ancestors,
    )
    return tagged(sound, digest, tagging, result.windows, events)


class _Digests:
    """Digests of the files that are being tagged, computed beside that in a thread."""

    def __init__(self, sounds: Iterable[Sound]) -> None:
        self._sounds = iter(sounds)
        self._drawn: deque[Sound] = deque()
        self._begun: deque[Future[str]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="atgnn-digest")

    def __enter__(self) -> _Digests:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def files(self) -> Iterator[str]:
        """The files to tag, drawn from as far ahead as the tagger likes."""
        for sound in self._sounds:
            self._drawn.append(sound)
            self._begin()
            yield sound.file

    def next(self) -> tuple[Sound, str | OSError]:
        """The next recording, in the order in which they were drawn, with its digest."""
        future, sound = self._begun.popleft(), self._drawn.popleft()
        self._begin()
        try:
            return sound, future.result()
        except OSError as error:
            return sound, error

    def _begin(self) -> None:
        for sound in islice(self._drawn, len(self._begun), DIGESTS_AHEAD):
            self._begun.append(self._pool.submit(content_digest, sound.file))
