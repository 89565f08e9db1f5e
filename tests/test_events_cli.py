"""``atgnn tag`` with events, formats and pipes."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import RATE, sound, sparse_wav, tiny_checkpoint, write
from typer.testing import CliRunner

from atgnn import formats
from atgnn.cli import app
from atgnn.events import EventSettings, timelines
from atgnn.tagger import Tagger

ATGNN = [sys.executable, "-c", "from atgnn.cli import main; main()"]
EVENTS = ("--events", "--window", 1, "--hop", 0.3, "--on", 0.55, "--off", 0.45, "--ancestors")
LONG = ("--window", "10", "--hop", "10")
SETTINGS = EventSettings(window_s=1.0, hop_s=0.3, on=0.55, off=0.45, ancestors=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_checkpoint().save_pretrained(tmp_path_factory.mktemp("m") / "model"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write(folder / "b.wav", sound(5, seed=1))
    write(folder / "deep" / 'a "é"\t日.flac', sound(3, seed=2))
    return folder


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def expected(model, paths):
    """What is written: rounded, so by way of the JSON form."""
    out = io.BytesIO()
    writer = formats.writer("json", out)
    for timeline in timelines(Tagger.from_pretrained(model, "cpu"), paths, SETTINGS):
        writer.write(timeline)
    return formats._read_json(out.getvalue().decode())


@pytest.mark.parametrize("form", ["json", "csv", "parquet", "raven"])
def test_events_of_a_folder_in_one_file(model, sounds, tmp_path, form):
    out = tmp_path / "new" / "out"
    base = ("tag", sounds, "--model", model, *EVENTS, "--format", form, "--out", out)
    run(*base)
    found = formats.read(out, form)
    wanted = expected(model, sorted(sounds.rglob("*.*")))
    assert [one.path for one in found] == [one.path for one in wanted]
    assert [one.events for one in found] == [one.events for one in wanted]
    assert all(one.events for one in found)
    assert bool(found[0].tags) == (form == "json")
    assert "exists" in run(*base, code=2).stderr
    run(*base, "--force")


def test_audacity_labels_are_a_file_each(model, sounds, tmp_path, monkeypatch):
    monkeypatch.chdir(sounds.parent)
    base = ("tag", "--model", model, *EVENTS, "--format", "audacity")
    run(*base, sounds.name, "--out", tmp_path / "labels")
    written = sorted((tmp_path / "labels").rglob("*.txt"))
    names = [path.relative_to(tmp_path / "labels" / sounds.name) for path in written]
    assert [str(name) for name in names] == ["b.wav.txt", 'deep/a "é"\t日.flac.txt']
    wanted = expected(model, sorted(sounds.rglob("*.*")))
    for path, one in zip(written, wanted, strict=True):
        assert formats.read(path)[0].events == one.events
    shown = run(*base, sounds / "b.wav").stdout_bytes
    assert shown == written[0].read_bytes()
    assert "give --out FOLDER" in run(*base, sounds.name, code=2).stderr


def test_events_on_the_screen(model, sounds):
    shown = run("tag", sounds / "b.wav", "--model", model, *EVENTS).stdout
    lines = shown.splitlines()
    assert "b.wav" in lines[0]
    assert len(lines) == 1 + len(expected(model, [sounds / "b.wav"])[0].events)
    none = run("tag", sounds / "b.wav", "--model", model, "--events", "--on", 1).stdout
    assert "no events" in none


def test_tags_in_other_forms(model, sounds):
    shown = run("tag", sounds, "--model", model, "--format", "csv", "--top", 2)
    rows = shown.stdout_bytes.decode().split("\r\n")
    assert rows[0] == ",".join(formats.COLUMNS)
    assert len(rows) == 1 + 2 * 2 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hop", "1"], "--hop does nothing without --events"),
        (["--events", "--hop", "3", "--window", "1"], "no longer than the window"),
        (["--events", "--on", "Rian=0.5"], "did you mean 'Rain'"),
        (["--events", "--on", "loud"], "--on loud: give a score"),
        (["--events", "--on", "0.5", "--on", "Rain=0.5"], "with and without a label"),
        (["--events", "--on", "0.3", "--off", "0.6"], "off <= on"),
        (["--events", "--window", "-1"], "window_s"),
        (["--format", "xml"], "choose from table, json"),
        (["--format", "raven"], "add --events"),
        (["--format", "csv", "--json"], "leave one of them out"),
        (["--format", "parquet"], "give --out FILE"),
        (["--format", "table", "--out", "x"], "is for the screen"),
    ],
)
def test_wrong_usage(model, sounds, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("tag", sounds / "b.wav", "--model", model, *arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


# --- pipes -----------------------------------------------------------------------------------


def start(model: str, *arguments: object, **how) -> subprocess.Popen:
    command = [*ATGNN, "tag", "-", "--model", model, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **{**pipes, **how})


def test_standard_input_is_the_file(model, sounds):
    process = start(model, *EVENTS, "--format", "csv")
    out, errors = process.communicate((sounds / "b.wav").read_bytes(), timeout=120)
    assert (process.returncode, errors) == (0, b"")
    (found,) = formats._read_csv(out.decode())
    (wanted,) = expected(model, [sounds / "b.wav"])
    assert found.path == "-"
    assert sorted(found.events, key=lambda e: (e.start, e.end, e.label)) == list(wanted.events)


def test_bad_standard_input_is_one_line(model, tmp_path):
    video = tmp_path / "video.mp4"
    av = pytest.importorskip("av")
    with av.open(str(video), "w") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width = track.height = 64
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    for data, message in {
        b"": "empty",
        b"RIFF" + bytes(100): "cannot be decoded",
        b"plain text\n" * 99: "holds text",
        video.read_bytes(): "has no sound track",
    }.items():
        read, written = os.pipe()
        os.write(written, data)
        os.close(written)
        saved = os.dup(0)
        os.dup2(read, 0)
        try:
            for more in ((), (*EVENTS, "--format", "json"), (*EVENTS, "--format", "csv")):
                result = run("tag", "-", "--model", model, *more, code=1)
                assert len(result.stderr.splitlines()) == 1
                if not more:  # the pipe is empty afterwards
                    assert message in result.stderr
        finally:
            os.dup2(saved, 0)
            os.close(saved)
            os.close(read)


def wav(seconds: float) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, sound(seconds), RATE, format="WAV")
    return out.getvalue()


def test_events_of_a_pipe_come_while_it_goes_on_and_ctrl_c_ends_it(model):
    process = start(model, *EVENTS, "--format", "csv")
    try:
        process.stdin.write(wav(120)[: 44 + 2 * 60 * RATE])  # and then silence in the pipe
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"path,")
        assert process.stdout.readline().startswith(b"-,")
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert process.wait(timeout=60) == 130
        assert time.monotonic() - begin < 30
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def test_a_reader_of_the_output_that_leaves_is_no_error(model, sounds):
    with (sounds / "b.wav").open("rb") as file:
        process = start(model, *EVENTS, "--format", "csv", stdin=file)
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_ten_hours_take_no_more_memory(model, tmp_path):
    """An hour of silence and ten: both end, and the peaks differ by less than 100 MB."""
    peaks = []
    for hours in (1, 10):
        path = tmp_path / f"{hours}.wav"
        sparse_wav(path, seconds=3600 * hours, rate=RATE, channels=1)
        command = [*ATGNN, "tag", str(path), "--model", model, "--events", "--on", "0", *LONG]
        how = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE}
        with subprocess.Popen([*command, "--off", "0", "--format", "json"], **how) as process:
            (found,) = formats._read_json(process.stdout.read().decode())
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert found.duration == 3600 * hours
        assert {(event.start, event.end) for event in found.events} == {(0, 3600 * hours)}
        peaks.append(usage.ru_maxrss * 1024 / 1e6)
    assert peaks[1] < 1500
    assert peaks[1] - peaks[0] < 100
