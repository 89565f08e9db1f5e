"""Formats of other programs: what was written is read back, and is what their manuals say."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from atgnn import formats
from atgnn.errors import AtgnnError, AtgnnWarning, ConfigError
from atgnn.tags import Event, Tag, Timeline

NASTY = 'a\tb\nc\r\n"d",\\t; ␉␛ 日本語 ñ\u2028\x85.wav'
EVENTS = (
    Event("Rain", 0.0, 2.25, 0.5),
    Event("Bark", 1.125, 1.5, 0.875, 250.0, 4000.5),
    Event(NASTY, 3600.000001, 3601.5, 1.0, 0.0, 8000.0),
)
TIMELINES = [
    Timeline(NASTY, 3700.5, (), EVENTS),
    Timeline("empty.wav", 10.0),
    Timeline("b/wind.flac", 20.0, (), EVENTS[:1]),
]


def written(form: str, timelines, **more) -> bytes:
    out = io.BytesIO()
    writer = formats.writer(form, out, **more)
    for timeline in timelines:
        writer.write(timeline)
    writer.close()
    return out.getvalue()


def read_back(tmp_path, form: str, timelines) -> list[Timeline]:
    path = tmp_path / "file"
    path.write_bytes(written(form, timelines))
    return formats.read(path, form)


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_everything_survives(tmp_path, form):
    tagged = [Timeline(NASTY, 3.25, (Tag(NASTY, 0.75), Tag("Rain", 0.5)), EVENTS), *TIMELINES[1:]]
    assert read_back(tmp_path, form, tagged) == tagged
    assert read_back(tmp_path, form, []) == []


def test_audacity_keeps_events(tmp_path):
    for timeline in TIMELINES:
        (back,) = read_back(tmp_path, "audacity", [timeline])
        assert back.events == timeline.events
        assert back.path is None


def test_raven_keeps_recordings_with_events(tmp_path):
    back = read_back(tmp_path, "raven", TIMELINES)
    assert [one.path for one in back] == [NASTY, "b/wind.flac"]
    assert [one.events for one in back] == [EVENTS, EVENTS[:1]]
    assert read_back(tmp_path, "raven", TIMELINES[1:2]) == []


def test_audacity_s_manual(tmp_path):
    """Times, then the text; the band on a line of its own after a backslash; -1 for no limit."""
    text = written("audacity", TIMELINES[:1]).decode()
    lines = text.removesuffix("\n").split("\n")
    assert lines[:3] == [
        "0.000000\t2.250000\tRain\t0.500000",
        "1.125000\t1.500000\tBark\t0.875000",
        "\\\t250.000000\t4000.500000",
    ]
    assert len(lines) == 5
    assert all(len(line.split("\t")) in (3, 4) for line in lines)
    manual = tmp_path / "label.txt"
    manual.write_bytes(
        b"1.000000\t1.000000\tpoint\r\n\\\t6928.456055\t6928.456055\r\n"
        b"2.000000\t2.500000\tno low\r\n\\\t-1.000000\t6334.588867\r\n3.4\t6.1\tplain text\r\n"
    )
    (labels,) = formats.read(manual)
    assert [(e.label, e.start, e.end, e.low_hz, e.high_hz) for e in labels.events] == [
        ("point", 1.0, 1.0, 6928.456055, 6928.456055),
        ("no low", 2.0, 2.5, None, 6334.588867),
        ("plain text", 3.4, 6.1, None, None),
    ]


def test_raven_s_manual(tmp_path):
    """Tab-separated with its column names; rows are numbered; time counts through all sounds."""
    text = written("raven", TIMELINES, top_hz=4000.0).decode()
    rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    assert rows[0][:7] == [
        "Selection",
        "View",
        "Channel",
        "Begin Time (s)",
        "End Time (s)",
        "Low Freq (Hz)",
        "High Freq (Hz)",
    ]
    assert {len(row) for row in rows} == {len(rows[0])}
    table = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert [row["Selection"] for row in table] == ["1", "2", "3", "4"]
    assert {(row["View"], row["Channel"]) for row in table} == {("Spectrogram 1", "1")}
    assert float(table[0]["High Freq (Hz)"]) == 4000  # not known: all that the model hears
    assert float(table[3]["Begin Time (s)"]) == 3710.5  # after the two recordings before
    assert float(table[3]["File Offset (s)"]) == 0
    own = tmp_path / "x.Table.1.selections.txt"  # as Raven saves one
    own.write_bytes(
        b"Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\r\n"
        b"1\tSpectrogram 1\t1\t0.5\t1.75\t100.0\t900.0\r\n"
    )
    ((event,),) = [one.events for one in formats.read(own)]
    assert (event.start, event.end, event.low_hz, event.high_hz) == (0.5, 1.75, 100.0, 900.0)


def test_csv_is_rfc_4180_and_json_is_ascii_lines():
    data = written("csv", TIMELINES)
    table = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    assert tuple(table[0]) == formats.COLUMNS
    assert {len(row) for row in table} == {len(formats.COLUMNS)}
    assert table[1][0] == NASTY
    assert data.count(b"\r\n") >= len(table)
    lines = written("json", TIMELINES).decode("ascii").splitlines()
    assert [json.loads(line)["path"] for line in lines] == [one.path for one in TIMELINES]
    assert "low_hz" not in json.loads(lines[0])["events"][0]


def test_parquet_has_the_columns_and_types(tmp_path):
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    path.write_bytes(written("parquet", TIMELINES))
    table = pyarrow.parquet.read_table(path)
    assert tuple(table.column_names) == formats.COLUMNS
    assert {str(kind) for kind in table.schema.types} == {"string", "double"}
    assert formats.read(path) == TIMELINES


@pytest.mark.parametrize("form", ["json", "csv", "raven"])
def test_names_that_are_no_text_survive(tmp_path, form):
    name = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    assert read_back(tmp_path, form, [Timeline(name, 2.25, (), EVENTS[:1])])[0].path == name


def test_parquet_spells_such_names_out(tmp_path):
    name = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    with pytest.warns(AtgnnWarning, match=r"caf\\xe9\.wav"):
        (back,) = read_back(tmp_path, "parquet", [Timeline(name, 1.0)])
    assert back.path == "caf\\xe9.wav"


def test_numpy_numbers_are_written_too(tmp_path):
    one = Timeline("a", 2.0, (), (Event("Rain", np.float64(0.5), np.float32(1), np.float32(0.25)),))
    for form in ("json", "csv", "parquet", "raven", "audacity"):
        (back,) = read_back(tmp_path, form, [one])
        assert back.events == one.events


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="choose from json"):
        formats.writer("xml", io.BytesIO())
    with pytest.raises(AtgnnError, match="cannot be read"):
        formats.read(tmp_path / "none.csv")
    for name, content in {
        "a.json": b"[1",
        "b.csv": b"x,y\n1,2\n",
        "c.parquet": b"PAR1",
        "d.txt": b"words\twords\twords\n",
        "e.txt": b"Selection\tView\n1\tx\n",
        "f.json": b"[1]\n",
        "g.jsonl": b'{"path": null, "duration": 1, "tags": [{"x": 1}]}\n',
        "h.csv": b"path,duration,start,end,label,score,low_hz,high_hz\na,b\x00",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(AtgnnError, match=f"{name} is no") as caught:
            formats.read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_no_event_ends_after_its_recording(tmp_path, form):
    length = 4.03925
    one = Timeline("a.wav", length, (), (Event("Rain", 0.0, length, 0.5),))
    (back,) = read_back(tmp_path, form, [one])
    assert back.events[0].end == back.duration


def test_no_event_of_raven_ends_after_its_recording(tmp_path):
    """Its times count through all recordings, whose lengths need more digits than are written."""
    length = 4.0369375
    several = [Timeline(f"{i}.wav", length, (), (Event("Rain", 0.0, length, 1.0),)) for i in "ab"]
    assert [one.duration for one in read_back(tmp_path, "raven", several)] == [round(length, 6)] * 2


def test_a_length_that_is_not_known_is_left_out(tmp_path):
    """As of a pipe that goes on; then it is the end of the last event that is read back."""
    pipe = [Timeline("-", float("nan"), (), (one,)) for one in EVENTS[:2]]
    assert written("csv", pipe).decode().splitlines()[1] == "-,,0.0,2.25,Rain,0.5,,"
    for form in ("csv", "parquet"):
        assert read_back(tmp_path, form, pipe) == [Timeline("-", 2.25, (), EVENTS[:2])]
    assert written("csv", [Timeline("-", float("nan"))]).endswith(b"-,,,,,,,\r\n")


def test_scores_that_nobody_has_written_are_no_numbers_in_json(tmp_path):
    one = Timeline("a", 2.0, (), (Event("Rain", 0.0, 1.0, float("nan")),))
    assert "score" not in json.loads(written("json", [one]))["events"][0]
    ((back,),) = [line.events for line in read_back(tmp_path, "json", [one])]
    assert np.isnan(back.score)


def test_recordings_whose_files_would_have_one_name_keep_a_file_each(tmp_path):
    named = [dataclasses.replace(TIMELINES[0], path=path) for path in ("a.wav", "../a.wav")]
    with formats.writing(
        "audacity", tmp_path / "out", io.BytesIO(), several=True, force=True
    ) as out:
        for record in named:
            out.write(record)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.wav-2.txt",
        "a.wav.txt",
    ]
