"""Tags and events in the formats that people open elsewhere, and back.

| form | what it is | for |
|---|---|---|
| `json` | JSON lines, an object for each recording | programs |
| `csv` | RFC 4180 in UTF-8, a row for each tag and event | spreadsheets |
| `parquet` | the same columns | pandas, DuckDB, R, Spark |
| `audacity` | a label track: tab-separated, bands on a second line with a backslash | Audacity |
| `raven` | a selection table | Raven |

Audacity: https://manual.audacityteam.org/man/importing_and_exporting_labels.html. It knows neither
recordings nor scores; the score is a fourth field, which it passes over. A Raven table of several
recordings counts its time through all of them, as Raven does when it opens them one after another;
`File Offset (s)` is the time in each.

Tabs and line ends cannot be in a field of these two: they are written as Unicode's pictures of
them, and read back. What is no text in a file's name (bytes that are not UTF-8) survives but in
Parquet, where it is spelt out.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

from atgnn.errors import AtgnnError, AtgnnWarning, ConfigError, MissingExtraError, printable
from atgnn.files import check_new, new_file
from atgnn.tags import Event, Tag, Tagging, Timeline

__all__ = [
    "COLUMNS",
    "EVENTS_ONLY",
    "FORMS",
    "Record",
    "Writer",
    "as_dict",
    "check_form",
    "read",
    "writer",
    "writing",
]

Record: TypeAlias = Tagging | Timeline
"""A recording, heard for its tags alone or for its events."""

#: Columns of CSV and Parquet. A tag of the whole recording has no start and end; a recording in
#: which nothing was heard has a row without a label.
COLUMNS = ("path", "duration", "start", "end", "label", "score", "low_hz", "high_hz")

RAVEN_COLUMNS = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Begin Path",
    "File Offset (s)",
    "Label",
    "Score",
    "Band known",
)

TOP_HZ = 8000.0  # up to where an event is drawn in Raven whose band is not known


class Writer(Protocol):
    """Writes recordings to an open binary file as they come; `close` leaves the file open."""

    def write(self, record: Record) -> None:
        """A whole recording."""

    def close(self) -> None:
        """Whatever belongs to the end."""


def writer(form: str, out: BinaryIO, top_hz: float = TOP_HZ) -> Writer:
    """A writer of a form, see the table above; ConfigError for others.

    `top_hz` is the highest frequency that the model hears.
    """
    check_form(form)
    if form == "raven":
        return _Raven(out, top_hz)
    kinds: dict[str, Any] = {
        "json": _Json, "csv": _Csv, "parquet": _Parquet, "audacity": _Audacity
    }  # fmt: skip
    made: Writer = kinds[form](out)
    return made


def read(path: str | os.PathLike[str], form: str | None = None) -> list[Timeline]:
    """What a file of one of the forms says; by default the form is told by its name and content.

    Audacity labels name no recording and, like Raven tables and CSV from a pipe, give no duration:
    it is the end of the last event. AtgnnError for a file that is missing or is none.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        form = form or _form_of(path, data)
        if form == "parquet":
            return _joined(_parquet_rows(path))
        return _READERS[check_form(form)](data.decode("utf-8", "surrogateescape"))
    except OSError as error:
        raise AtgnnError(f"{path} cannot be read ({error.strerror or error})") from None
    except (KeyError, ValueError, IndexError, TypeError, AttributeError, csv.Error) as error:
        if isinstance(error, AtgnnError):
            raise
        raise AtgnnError(f"{path} is no {form} file of tags or events ({error})") from None


def check_form(name: str) -> str:
    """The name; `ConfigError` where there is no such form."""
    if name not in FORMS:
        raise ConfigError(f"unknown format {name!r}: choose from {', '.join(FORMS)}")
    return name


def _form_of(path: Path, data: bytes) -> str:
    named = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
    if path.suffix.lower() in named:
        return named[path.suffix.lower()]
    return "raven" if data.startswith(b"Selection\t") else "audacity"


# --- plain data ------------------------------------------------------------------------------


def as_dict(record: Record) -> dict[str, Any]:
    """Plain data: path, duration (s), tags and events; bands only where they are known.

    Without events where it was heard for its tags alone.
    """
    if isinstance(record, Tagging):
        return record.to_dict()
    timeline = record
    return {
        "path": timeline.path,
        "duration": _long(timeline),
        "tags": [{"label": tag.label, "score": _short(tag.score)} for tag in timeline.tags],
        "events": [
            {name: value for name, value in _fields(event).items() if _is_known(value)}
            for event in timeline.events
        ],
    }


def _fields(event: Event) -> dict[str, Any]:
    """An event's fields, rounded to what means something."""
    return {
        "label": event.label,
        "start": _short(event.start),
        "end": _short(event.end),
        "score": _short(event.score),
        "low_hz": None if event.low_hz is None else round(event.low_hz, 2),
        "high_hz": None if event.high_hz is None else round(event.high_hz, 2),
    }


def _long(record: Record) -> float | None:
    """Seconds, so exact that no event ends after them; None where they are not known."""
    if math.isnan(record.duration):
        return None
    return round(record.duration, 3) if isinstance(record, Tagging) else _short(record.duration)


def _is_known(value: Any) -> bool:
    """Whether it is neither None nor NaN, as scores are that another program has not written."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _short(number: float) -> float:
    return round(float(number), 6)


def _events(record: Record) -> tuple[Event, ...]:
    return () if isinstance(record, Tagging) else record.events


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    """A row (see `COLUMNS`) for each tag and event, or one that says that there are none."""
    about = {"path": record.path, "duration": _long(record)}
    empty = dict.fromkeys(COLUMNS)
    for tag in record.tags:
        yield {**empty, **about, "label": tag.label, "score": _short(tag.score)}
    for event in _events(record):
        yield {**empty, **about, **_fields(event)}
    if not record.tags and not _events(record):
        yield {**empty, **about}


def _joined(rows: Iterable[dict[str, Any]]) -> list[Timeline]:
    """Recordings from rows, those of one path that follow one another."""
    out = []
    for path, group in itertools.groupby(rows, key=lambda row: row["path"]):
        own = list(group)
        tags = tuple(Tag(r["label"], r["score"]) for r in own if r["label"] and r["start"] is None)
        events = tuple(
            Event(*(r[name] for name in ("label", "start", "end", "score", "low_hz", "high_hz")))
            for r in own
            if r["start"] is not None
        )
        known = [r["duration"] for r in own if r["duration"] is not None]
        out.append(Timeline(path, max(known) if known else _last(events), tags, events))
    return out


def _last(events: Sequence[Event]) -> float:
    """The end of the last event, where nothing says how long a recording is."""
    return max((event.end for event in events), default=0.0)


# --- JSON lines and CSV ----------------------------------------------------------------------


class _Text:
    """Writes text as UTF-8, at once, and file names with the bytes that they have."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def put(self, text: str) -> None:
        self._out.write(text.encode("utf-8", "surrogateescape"))
        self._out.flush()

    def close(self) -> None:
        pass


class _Json(_Text):
    def write(self, record: Record) -> None:
        self.put(json.dumps(as_dict(record)) + "\n")  # in ASCII, which nothing can upset


def _read_json(text: str) -> list[Timeline]:
    out = []
    for line in text.split("\n"):
        if line.strip():
            one = json.loads(line)
            tags = tuple(Tag(**tag) for tag in one["tags"])
            events = tuple(Event(**{"score": math.nan, **e}) for e in one.get("events", ()))
            length = _last(events) if one["duration"] is None else one["duration"]
            out.append(Timeline(one["path"], length, tags, events))
    return out


class _Csv(_Text):
    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._line(COLUMNS)

    def write(self, record: Record) -> None:
        for row in _rows(record):
            self._line([row[name] for name in COLUMNS])

    def _line(self, values: Sequence[Any]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(["" if value is None else value for value in values])
        self.put(text.getvalue())


def _read_csv(text: str) -> list[Timeline]:
    def row(raw: dict[str, str]) -> dict[str, Any]:
        numbers = {name: float(raw[name]) if raw[name] else None for name in _NUMBERS}
        return {"path": raw["path"] or None, "label": raw["label"], **numbers}

    return _joined(map(row, csv.DictReader(io.StringIO(text, newline=""))))


_NUMBERS = ("duration", "start", "end", "score", "low_hz", "high_hz")


# --- Parquet ---------------------------------------------------------------------------------


class _Parquet:
    """Rows go out in groups, so that memory does not grow."""

    GROUP = 100_000

    def __init__(self, out: BinaryIO) -> None:
        self._arrow, parquet = _pyarrow()
        text, number = self._arrow.string(), self._arrow.float64()
        kinds = [(name, number if name in _NUMBERS else text) for name in COLUMNS]
        self._schema = self._arrow.schema(kinds)
        self._out = parquet.ParquetWriter(out, self._schema)
        self._waiting: list[dict[str, Any]] = []

    def write(self, record: Record) -> None:
        for row in _rows(record):
            self._waiting.append({**row, "path": _spelt(row["path"])})
        if len(self._waiting) >= self.GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._out.close()

    def _flush(self) -> None:
        self._out.write_table(self._arrow.Table.from_pylist(self._waiting, self._schema))
        self._waiting = []


def _spelt(path: str | None) -> str | None:
    """A path as text; bytes that are none are spelt out, with a warning."""
    if path is None:
        return None
    try:
        path.encode()
    except UnicodeEncodeError:
        spelt = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        warnings.warn(
            f"{printable(spelt)}: its name is not UTF-8, which Parquet demands; it is written as "
            "shown here",
            AtgnnWarning,
            stacklevel=4,
        )
        return spelt
    return path


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    arrow, parquet = _pyarrow()
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path, columns=list(COLUMNS)).to_pylist()
    except arrow.ArrowException as error:
        raise ValueError(error) from None
    return rows


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.of("pyarrow", "train", "the format parquet") from None
    return pyarrow, pyarrow.parquet


# --- Audacity and Raven ----------------------------------------------------------------------

#: Characters that end a field or a line, and what stands for them; the last one marks a character
#: that stands for itself.
_PICTURES = {"\t": "␉", "\n": "␊", "\r": "␍"}
_ITSELF = "␛"


def _field(text: str) -> str:
    """A text without tabs and line ends."""
    for picture in (_ITSELF, *_PICTURES.values()):
        text = text.replace(picture, _ITSELF + picture)
    for character, picture in _PICTURES.items():
        text = text.replace(character, picture)
    return text


def _unfield(text: str) -> str:
    """What `_field` was given."""
    characters = {picture: character for character, picture in _PICTURES.items()}
    out, rest = [], iter(text)
    for character in rest:
        if character == _ITSELF:
            out.append(next(rest, ""))
        else:
            out.append(characters.get(character, character))
    return "".join(out)


class _Audacity(_Text):
    def write(self, record: Record) -> None:
        for event in _events(record):
            one = _fields(event)
            label = _field(event.label)
            self.put(f"{one['start']:.6f}\t{one['end']:.6f}\t{label}\t{one['score']:.6f}\n")
            if event.low_hz is not None or event.high_hz is not None:
                low, high = (
                    -1.0 if one[name] is None else one[name] for name in ("low_hz", "high_hz")
                )
                self.put(f"\\\t{low:.6f}\t{high:.6f}\n")


def _read_audacity(text: str) -> list[Timeline]:
    events: list[dict[str, Any]] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line:
            continue
        parts = line.split("\t")
        if parts[0] == "\\":
            band = [None if float(part) < 0 else float(part) for part in parts[1:3]]
            events[-1].update(zip(("low_hz", "high_hz"), band, strict=True))
            continue
        score = float(parts[3]) if len(parts) > 3 else math.nan
        name = _unfield(parts[2]) if len(parts) > 2 else ""
        events.append(
            {"label": name, "start": float(parts[0]), "end": float(parts[1]), "score": score}
        )
    found = tuple(Event(**event) for event in events)
    return [Timeline(None, _last(found), (), found)]


class _Raven(_Text):
    def __init__(self, out: BinaryIO, top_hz: float) -> None:
        super().__init__(out)
        self._top, self._count, self._before = top_hz, 0, 0.0
        self._line(RAVEN_COLUMNS)

    def write(self, record: Record) -> None:
        for event in _events(record):
            one = _fields(event)
            self._count += 1
            known = event.low_hz is not None and event.high_hz is not None
            low, high = (one["low_hz"], one["high_hz"]) if known else (0.0, self._top)
            begin, end = (_short(self._before + one[name]) for name in ("start", "end"))
            path = "" if record.path is None else record.path
            place = (self._count, "Spectrogram 1", 1, begin, end, low, high)
            label = (event.label, one["score"], "yes" if known else "no")
            self._line((*place, path, one["start"], *label))
        self._before = _short(self._before + (_long(record) or 0.0))

    def _line(self, values: Sequence[Any]) -> None:
        self.put("\t".join(_field(str(value)) for value in values) + "\n")


def _read_raven(text: str) -> list[Timeline]:
    lines = [line.split("\t") for line in text.replace("\r\n", "\n").split("\n") if line]
    head, rows = lines[0], [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    if not {"Begin Time (s)", "End Time (s)"} <= set(head):
        raise ValueError("no columns 'Begin Time (s)' and 'End Time (s)'")
    out = []
    for path, group in itertools.groupby(rows, key=lambda row: row.get("Begin Path", "")):
        events = tuple(_raven_event(row) for row in group)
        out.append(Timeline(_unfield(path) or None, _last(events), (), events))
    return out


def _raven_event(row: dict[str, str]) -> Event:
    begin, end = float(row["Begin Time (s)"]), float(row["End Time (s)"])
    start = float(row.get("File Offset (s)", begin))
    known = row.get("Band known", "yes") == "yes"
    return Event(
        _unfield(row.get("Label", "")),
        start,
        _short(start + end - begin),
        float(row.get("Score", "nan")),
        float(row["Low Freq (Hz)"]) if known else None,
        float(row["High Freq (Hz)"]) if known else None,
    )


_READERS: dict[str, Any] = {
    "json": _read_json,
    "csv": _read_csv,
    "audacity": _read_audacity,
    "raven": _read_raven,
}

#: The names of the forms.
FORMS = (*_READERS, "parquet")

#: Forms that hold events, no tags.
EVENTS_ONLY = ("audacity", "raven")


# --- files -----------------------------------------------------------------------------------


@contextmanager
def writing(
    form: str,
    out: Path | None,
    screen: BinaryIO,
    several: bool,
    force: bool = False,
    top_hz: float = TOP_HZ,
) -> Iterator[Writer]:
    """A writer to a file that takes its place when it is whole, or without one to the `screen`.

    Of `several` recordings Audacity labels are a folder with a file for each, by its path.

    Raises ConfigError for a form that needs a file or folder, AtgnnError where something is there
    already and `force` is not given, or the place cannot be written.
    """
    if out is None:
        if form == "parquet":
            raise ConfigError("--format parquet is no text for a screen: give --out FILE")
        if form == "audacity" and several:
            raise ConfigError(
                "Audacity labels are a file for each recording: give --out FOLDER, or one recording"
            )
        yield writer(form, screen, top_hz)
        return
    if form == "audacity" and several:
        yield _FileEach(form, check_new(out, force), force)
        return
    with new_file(out, force) as scratch, open(scratch, "wb") as file:
        made = writer(form, file, top_hz)
        yield made
        made.close()


class _FileEach:
    """A file for each recording, below a folder; ``-2`` and so on where names would be the same."""

    def __init__(self, form: str, folder: Path, force: bool) -> None:
        self._form, self._folder, self._force = form, folder, force
        self._names: Counter[str] = Counter()  # of ../a.wav and of a.wav it is the same

    def write(self, record: Record) -> None:
        name = Path(record.path or "recording")
        place = name.relative_to(name.anchor)  # below the folder, also of an absolute path
        parts = [part for part in place.parts if part != ".."]
        here = "/".join(parts)
        self._names[here] += 1
        number = "" if self._names[here] == 1 else f"-{self._names[here]}"
        out = self._folder.joinpath(*parts[:-1], f"{parts[-1]}{number}.txt")
        with new_file(out, self._force) as scratch, open(scratch, "wb") as file:
            one = writer(self._form, file)
            one.write(record)
            one.close()

    def close(self) -> None:
        pass
