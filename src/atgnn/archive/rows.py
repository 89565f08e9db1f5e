"""What is kept of a recording: one row of a Parquet table.

    path           below the archive's folder, with slashes
    digest         of the file's content; null where it could not be read
    bytes          the file's size
    modified       when it was last written to, nanoseconds since 1970
    recorded_at    when the recording began, as the recorder's clock showed it; null: not known
    utc_offset     minutes that this clock was ahead of UTC; null where nobody says
    recorded_from  who says when: guano, audiomoth or name (see `atgnn.recorders`)
    duration       seconds
    tags           of the whole recording, best first: label, score
    best           the label with the highest score, whether or not it is a tag; and best_score
    events         label, start, end (s), score, low_hz, high_hz; null where they were not asked for
    windows        how many windows it was heard in
    scores         of every label in every window, one window after another, in steps of 0.0001
    error          why it could not be tagged; null where it could

The schema's metadata say under ``atgnn_archive`` what all rows have in common: labels, model,
settings, length and step of the windows.

L labels, W windows of a recording.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from atgnn.archive.arrow import pa
from atgnn.archive.listing import Sound
from atgnn.recorders import when_recorded
from atgnn.tags import Event, Tagging

__all__ = ["INDEX", "REMOVED", "SCHEMA", "failed", "moved", "removed", "tagged"]

STEPS = 10_000  # of a score: what lies between has no meaning, and rounded scores pack well

TAG = pa.struct([("label", pa.string()), ("score", pa.float32())])
EVENT = pa.struct(
    [
        ("label", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("score", pa.float32()),
        ("low_hz", pa.float32()),
        ("high_hz", pa.float32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("digest", pa.string()),
        ("bytes", pa.int64()),
        ("modified", pa.int64()),
        ("recorded_at", pa.timestamp("us")),
        ("utc_offset", pa.int16()),
        ("recorded_from", pa.string()),
        ("duration", pa.float64()),
        ("tags", pa.list_(TAG)),
        ("best", pa.string()),
        ("best_score", pa.float32()),
        ("events", pa.list_(EVENT)),
        ("windows", pa.int32()),
        ("scores", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)
REMOVED = -1  # bytes of a row that says that there is none for this path any more
INDEX = ("path", "digest", "bytes", "modified", "windows", "error")  # to find rows by


def tagged(
    sound: Sound,
    digest: str,
    tagging: Tagging,
    scores: np.ndarray,
    events: Iterable[Event] | None = None,
) -> Any:
    """The row (a record batch of one) of a recording whose windows have these scores (W, L)."""
    return _row(
        _place(sound)
        | {
            "digest": digest,
            "duration": tagging.duration,
            "tags": [vars(tag) for tag in tagging.tags],
            "best": tagging.best.label,
            "best_score": tagging.best.score,
            "events": None if events is None else [vars(event) for event in events],
            "windows": len(scores),
        },
        (np.rint(scores * np.float32(STEPS)) / np.float32(STEPS)).astype(np.float32),
    )


def failed(sound: Sound, reason: str) -> Any:
    """The row of a recording that could not be tagged."""
    return _row(_place(sound) | {"windows": 0, "error": reason})


def removed(path: str) -> Any:
    """The row that takes those of a path away: its recording is elsewhere now."""
    return _row({"path": path, "bytes": REMOVED, "modified": 0, "windows": 0})


def moved(row: Any, sound: Sound) -> Any:
    """A row's content for the same recording in another place."""
    for name, value in _place(sound).items():
        place = row.schema.get_field_index(name)
        row = row.set_column(place, SCHEMA.field(name), pa.array([value], SCHEMA.field(name).type))
    return row


def _place(sound: Sound) -> dict[str, Any]:
    """The columns that say where a recording is, and when it was made."""
    began = when_recorded(sound.file)
    when = (None, None, None) if began is None else (began.clock, began.utc_offset, began.source)
    return {
        "path": sound.path,
        "bytes": sound.bytes,
        "modified": sound.modified,
        **dict(zip(("recorded_at", "utc_offset", "recorded_from"), when, strict=True)),
    }


def _row(values: dict[str, Any], scores: np.ndarray | None = None) -> Any:
    columns = [
        pa.array([values.get(field.name)], field.type) for field in SCHEMA if field.name != "scores"
    ]
    if scores is None:
        packed = pa.array([None], SCHEMA.field("scores").type)
    else:  # not through Python's numbers, of which a long recording has millions
        packed = pa.ListArray.from_arrays([0, scores.size], pa.array(scores.reshape(-1)))
    columns.insert(SCHEMA.get_field_index("scores"), packed)
    return pa.record_batch(columns, schema=SCHEMA)
