"""The clips in which each label scores highest, cut out to be listened to.

L labels, N clips of a label, W windows of a recording.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from atgnn import audio
from atgnn.archive.listing import file_at
from atgnn.archive.reading import Results, with_scores
from atgnn.errors import AtgnnError, AudioError, ConfigError
from atgnn.files import replacing_folder, write_rows

__all__ = ["Segment", "best_segments", "export_segments"]

TABLE = "segments.csv"
HEADER = ("label", "rank", "score", "file", "source", "start", "end", "time", "utc_offset")


@dataclass(frozen=True)
class Segment:
    """A window of a recording, among the best of a label; rank 1 is the best."""

    label: str
    rank: int
    score: float
    source: str
    start: float
    end: float
    recorded_at: Any = None
    utc_offset: int | None = None

    @property
    def file(self) -> str:
        """Where its clip goes: a folder for the label; rank, score, source and start."""
        stem = _safe(os.path.splitext(self.source)[0].replace("/", "-"))[-80:]
        stem = stem.encode()[-160:].decode("utf-8", "ignore")  # file systems count bytes
        name = f"{self.rank:03}_{self.score:.3f}_{stem}_{self.start:.1f}s.flac"
        return f"{_safe(self.label).encode()[:200].decode('utf-8', 'ignore')}/{name}"


def best_segments(results: Results, count: int) -> list[Segment]:
    """The `count` best windows of every label, in order of the labels, best first.

    Memory is bounded by L * N windows. Of equal scores, the first path and start comes first.
    """
    if count < 1:
        raise ConfigError(f"{count} segments of a label: give 1 or more")
    labels = results.labels
    best = _Best(len(labels), count)
    columns = ["path", "recorded_at", "utc_offset", "duration", "windows", "scores"]
    for table in results.scan(columns):
        for row, scores in with_scores(table, len(labels)):
            best.add(row, scores)
    hop, window = results.about["hop_s"], results.about["window_s"]
    found = []
    for label, name in enumerate(labels):
        for rank, (score, path, place) in enumerate(best.of(label), start=1):
            row, start = best.rows[path], place * hop
            end = min(start + window, row["duration"])
            when = row["recorded_at"], row["utc_offset"]
            found.append(Segment(name, rank, score, path, start, end, *when))
    return found


class _Best:
    """The best windows of every label so far."""

    def __init__(self, labels: int, count: int) -> None:
        self.count = count
        self.rows: dict[str, dict[str, Any]] = {}  # of recordings that are among the best
        self._best: list[list[tuple[float, str, int]]] = [[] for _ in range(labels)]

    def add(self, row: dict[str, Any], scores: np.ndarray) -> None:
        """Another recording with the scores (W, L) of its windows."""
        path = row["path"]
        floor = np.array(
            [best[-1][0] if len(best) == self.count else -1.0 for best in self._best], np.float32
        )
        for label in np.flatnonzero(scores.max(axis=0) >= floor):
            column = scores[:, label]
            places = np.argsort(-column, kind="stable")[: self.count]
            some = [(float(column[place]), path, int(place)) for place in places]
            merged = sorted([*self._best[label], *some], key=lambda one: (-one[0], *one[1:]))
            self._best[label] = merged[: self.count]
            self.rows[path] = row
        if len(self.rows) > 4 * self.count * len(self._best):
            self._forget()

    def _forget(self) -> None:
        used = {path for best in self._best for _, path, _ in best}
        self.rows = {path: row for path, row in self.rows.items() if path in used}

    def of(self, label: int) -> Iterator[tuple[float, str, int]]:
        """Score, path and number of the windows of a label, best first."""
        yield from self._best[label]


def export_segments(
    results: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    count: int,
    out: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    on_failure: Callable[[str], None] | None = None,
) -> Path:
    """Write the `count` best windows of every label as FLAC files, and a table of them.

    The clips are mono, at the rate of their recording, which is only read. What an earlier export
    wrote to `out` (by default ``RESULTS/segments``) is replaced, when all is written. A recording
    that cannot be read any more is reported to `on_failure` and has no clip.

    Raises:
        AtgnnError: there are no results or no such folder, `out` holds something else, or the disk
            is full.
    """
    found = Results(results)
    found.warn()
    if not os.path.isdir(folder):
        raise AtgnnError(f"{folder}: no such folder: give the archive that {results} was made from")
    out = Path(results, "segments") if out is None else Path(out)
    if out.exists() and not (out / TABLE).is_file():
        raise AtgnnError(f"{out} exists and holds no segments: give another name")
    segments = best_segments(found, count)
    rows: list[tuple[Any, ...]] = [HEADER]
    try:
        with replacing_folder(out) as new:
            for done, segment in enumerate(segments, start=1):
                try:
                    _cut(file_at(folder, segment.source), segment, new / segment.file)
                    rows.append(_line(segment))
                except AudioError as error:
                    if on_failure is not None:
                        on_failure(str(error))
                if progress is not None:
                    progress(done, len(segments))
            write_rows(new / TABLE, rows)
    except OSError as error:
        raise AtgnnError(
            f"{out} cannot be written ({error.strerror or error}); what was there is unchanged"
        ) from None
    return out


def _cut(source: str, segment: Segment, place: Path) -> None:
    clip = audio.load(source, start=segment.start, end=segment.end)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(audio.flac(clip.samples, clip.rate))


def _line(segment: Segment) -> tuple[Any, ...]:
    time = ""
    if segment.recorded_at is not None:
        time = (segment.recorded_at + timedelta(seconds=segment.start)).isoformat()
    offset = "" if segment.utc_offset is None else segment.utc_offset
    score, start, end = f"{segment.score:.4f}", f"{segment.start:g}", f"{segment.end:g}"
    return (
        *(segment.label, segment.rank, score, segment.file),
        *(segment.source, start, end, time, offset),
    )


def _safe(name: str) -> str:
    """A name that every file system takes, with letters of any alphabet as they are."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "_"
