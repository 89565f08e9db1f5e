"""The results of an archive, read back: all its shards as one table.

L labels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atgnn.archive.arrow import pa
from atgnn.archive.listing import Shard
from atgnn.archive.rows import SCHEMA
from atgnn.archive.store import About, Shelf, differences, shards_in
from atgnn.errors import (
    AtgnnError,
    AtgnnWarning,
    LabelError,
    MissingExtraError,
    did_you_mean,
    some_of,
)

if TYPE_CHECKING:
    import pandas

__all__ = ["Results", "events", "read", "tags", "windows", "with_scores"]

PLACE = ("path", "recorded_at", "utc_offset")


class Results:
    """All shards in a folder.

    Attributes:
        about: what all rows have in common.
        shelves: the shards that are there.
        unfinished: the shards that are not, or not whole.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """AtgnnError where there is nothing, or what does not belong together."""
        self.folder = Path(folder)
        shards = shards_in(self.folder)
        self.shelves = [shelf for shard in shards if (shelf := Shelf(self.folder, shard)).about]
        if not self.shelves:
            raise AtgnnError(
                f"{folder} holds no results of an archive: `atgnn tag FOLDER --out {folder}` "
                "makes them"
            )
        first = self.shelves[0]
        self.about: About = first.about or {}
        for other in self.shelves[1:]:
            unlike = differences(self.about, other.about or {})
            if other.shard.count != first.shard.count:
                unlike = [f"{first.shard.count} shards and {other.shard.count} shards"]
            if unlike:
                raise AtgnnError(
                    f"{folder} holds what does not belong together: shards {first.shard} and "
                    f"{other.shard} were made with {' and '.join(unlike)}"
                )
        whole = {shelf.shard for shelf in self.shelves if shelf.finished}
        every = (Shard(number + 1, first.shard.count) for number in range(first.shard.count))
        self.unfinished = tuple(shard for shard in every if shard not in whole)

    @property
    def labels(self) -> list[str]:
        """In the order of the scores."""
        labels: list[str] = self.about["labels"]
        return labels

    def scan(self, columns: Sequence[str]) -> Iterator[Any]:
        """Arrow tables of these columns, in bounded memory: a row for each recording."""
        for shelf in self.shelves:
            yield from shelf.scan(columns)

    def warn(self) -> None:
        """Say what is missing, if anything is."""
        if self.unfinished:
            names = some_of([str(shard) for shard in self.unfinished])
            warnings.warn(
                f"{self.folder}: not all is there, unfinished or missing: shard {names}",
                AtgnnWarning,
                stacklevel=3,
            )


def read(results: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """A row for each recording, in order of their paths; see `atgnn.archive.rows` for the columns.

    All but `scores` are there, or those named. Shards that are not finished give what they have,
    with an `AtgnnWarning`.

    Raises:
        AtgnnError: nothing is there, a file is damaged, or shards do not belong together.
    """
    if columns is None:
        columns = [name for name in SCHEMA.names if name != "scores"]
    unknown = [name for name in columns if name not in SCHEMA.names]
    if unknown:
        raise AtgnnError(
            f"results have no column {unknown[0]!r}{did_you_mean(unknown[0], SCHEMA.names)}"
        )
    found = Results(results)
    found.warn()
    names = list(dict.fromkeys(["path", *columns]))
    table = pa.concat_tables(found.scan(names)).sort_by("path")
    return _frame(table.select(list(columns)))


def tags(results: str | os.PathLike[str]) -> pandas.DataFrame:
    """A row for each tag: path, recorded_at, utc_offset, label, score; errors as `read`."""
    return _unfolded(results, "tags", ("label", "score"))


def events(results: str | os.PathLike[str]) -> pandas.DataFrame:
    """A row for each event: path, label, start, end, score, low_hz, high_hz, and `time`.

    `start` and `end` are seconds from the recording's beginning; `time` is when the event began by
    the recorder's clock, whose minutes ahead of UTC are in `utc_offset` where they are known.
    Errors as `read`, and where events were not asked for.
    """
    if Results(results).about["settings"]["events"] is None:
        raise AtgnnError(f"{results} was made without events: tag the archive with --events")
    names = ("label", "start", "end", "score", "low_hz", "high_hz")
    return _timed(_unfolded(results, "events", names))


def windows(
    results: str | os.PathLike[str], labels: Sequence[str] | None = None
) -> pandas.DataFrame:
    """A row for each window: path, start, end, `time` (as `events`), and a column for each label.

    `labels`: those wanted; None is all of them, which is large. Errors as `read`; LabelError for a
    label that the model did not know.
    """
    import pandas

    found = Results(results)
    found.warn()
    wanted = found.labels if labels is None else list(labels)
    for name in wanted:
        if name not in found.labels:
            raise LabelError(f"no label {name!r} in {results}{did_you_mean(name, found.labels)}")
    places = [found.labels.index(name) for name in wanted]
    frames = []
    for table in found.scan([*PLACE, "duration", "windows", "scores"]):
        for row, scores in with_scores(table, len(found.labels)):
            starts = np.arange(len(scores)) * found.about["hop_s"]
            ends = np.minimum(starts + found.about["window_s"], row["duration"])
            place = {name: row[name] for name in PLACE}
            frames.append(pandas.DataFrame({**place, "start": starts, "end": ends}))
            frames[-1][wanted] = scores[:, places]
    if not frames:
        return pandas.DataFrame(columns=[*PLACE, "time", "start", "end", *wanted])
    whole = pandas.concat(frames, ignore_index=True).sort_values(["path", "start"])
    return _timed(whole.reset_index(drop=True))


def with_scores(table: Any, labels: int) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every row that was tagged, and the scores (windows, labels) of it."""
    lists = table["scores"].combine_chunks()
    rest = table.drop_columns(["scores"]).to_pylist()
    for row, values in zip(rest, lists, strict=True):
        if values.is_valid:
            yield row, values.values.to_numpy(zero_copy_only=False).reshape(-1, labels)


def _unfolded(
    results: str | os.PathLike[str], column: str, names: Sequence[str]
) -> pandas.DataFrame:
    """One row for each entry of a column of lists."""
    import pandas

    found = Results(results)
    found.warn()
    frames = [pandas.DataFrame(columns=[*PLACE, *names])]
    for table in found.scan([*PLACE, column]):
        lists = table[column].combine_chunks()
        parents, entries = lists.value_parent_indices(), lists.flatten()
        columns = {name: table[name].take(parents) for name in PLACE}
        columns |= {name: entries.field(name) for name in names}
        frames.append(_frame(pa.table(columns)))
    whole = [frame for frame in frames if len(frame)] or frames[:1]
    return pandas.concat(whole, ignore_index=True).sort_values(
        "path", kind="stable", ignore_index=True
    )


def _timed(frame: pandas.DataFrame) -> pandas.DataFrame:
    """With the clock's time at `start` in place of the recording's beginning."""
    import pandas

    micros = (frame["start"].astype(float) * 1e6).round().astype("int64")
    time = pandas.to_datetime(frame["recorded_at"]) + pandas.to_timedelta(micros, unit="us")
    frame = frame.drop(columns="recorded_at")
    frame.insert(1, "time", time)
    return frame


def _frame(table: Any) -> pandas.DataFrame:
    try:
        frame: pandas.DataFrame = table.to_pandas()
    except ImportError:
        raise MissingExtraError.of("pandas", "archive", "reading results") from None
    return frame
