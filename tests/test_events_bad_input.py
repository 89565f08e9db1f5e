"""What events make of bad input: endless silence, ends in mid-window, pipes that close, video."""

import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from helpers import RATE, sound, sparse_wav, tiny_checkpoint
from typer.testing import CliRunner

from atgnn import formats
from atgnn.cli import app
from atgnn.errors import AudioError
from atgnn.events import EventSettings, Stream, detect
from atgnn.tagger import Tagger

FINE = EventSettings(window_s=1.0, hop_s=0.3, on=0.55, off=0.45, ancestors=True)
OPTIONS = ("--events", "--window", "1", "--hop", "0.3", "--on", "0.55", "--off", "0.45")


@pytest.fixture(scope="module", params=[False, True], ids=["windows", "moments"])
def tagger(request) -> Tagger:
    return Tagger(tiny_checkpoint(moments=request.param), "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_checkpoint().save_pretrained(tmp_path_factory.mktemp("m") / "model"))


def test_an_hour_of_silence_holds_no_event(tagger, tmp_path):
    path = tmp_path / "silence.wav"
    sparse_wav(path, seconds=3600, rate=RATE, channels=1)
    long = EventSettings(window_s=10.0, hop_s=10.0, on=0.01, off=0.01)
    assert list(detect(tagger, path, long)) == []
    everything = list(detect(tagger, path, long.model_copy(update={"on": 0.0, "off": 0.0})))
    assert {(event.start, event.end, event.score) for event in everything} == {(0.0, 3600.0, 0.0)}


@pytest.mark.parametrize("samples", [1, 100, RATE // 2, RATE, int(3.17 * RATE)])
def test_a_stream_may_stop_anywhere(tagger, samples):
    wave = sound(4)[:samples]
    stream = Stream(tagger, RATE, FINE)
    found = stream.feed(wave) + stream.finish()
    assert found == list(detect(tagger, (wave, RATE), FINE))
    assert all(0 <= event.start < event.end <= samples / RATE + 1e-9 for event in found)
    assert stream.finish() == []
    with pytest.raises(AudioError, match="ended"):
        stream.feed(wave)


def test_a_pipe_that_closes_early_gives_the_events_of_what_came(model, tmp_path):
    whole = io.BytesIO()
    soundfile.write(whole, sound(20), RATE, format="WAV")
    came = whole.getvalue()[: 44 + 2 * int(7.21 * RATE)]
    process = subprocess.run(
        [sys.executable, "-m", "atgnn", "tag", "-", "--model", model, *OPTIONS, "--format", "json"],
        input=came, capture_output=True, timeout=120,
    )  # fmt: skip
    assert process.returncode == 0
    (warning,) = process.stderr.decode().splitlines()
    assert "warning" in warning.lower()
    (found,) = formats._read_json(process.stdout.decode())
    assert found.duration == pytest.approx(7.21, abs=1e-3)
    part = tmp_path / "part.wav"
    wave, _ = soundfile.read(io.BytesIO(whole.getvalue()), dtype="int16")
    soundfile.write(part, wave[: int(7.21 * RATE)], RATE)
    shown = CliRunner().invoke(app, ["tag", str(part), "--model", model, *OPTIONS, "--json"])
    (wanted,) = formats._read_json(shown.stdout)
    assert found.events == wanted.events
    assert len(found.events) > 1


def test_a_container_with_video_only_is_one_line(model, tmp_path):
    av = pytest.importorskip("av")
    video = tmp_path / "video.mp4"
    with av.open(str(video), "w") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width = track.height = 64
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    result = CliRunner().invoke(app, ["tag", str(video), "--model", model, *OPTIONS])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "video.mp4" in line
    assert "has no sound track" in line
    with pytest.raises(AudioError, match="has no sound track"):
        list(detect(Tagger.from_pretrained(model, "cpu"), video, FINE))
