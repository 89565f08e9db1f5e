"""Sound from pipes: decoded as it comes where the format can be, and left at once when told to."""

import io
import os
import struct
import threading
import time

import numpy as np
import pytest
import soundfile
from helpers import RATE, sound

from atgnn import audio
from atgnn.errors import AudioError
from atgnn.pipes import HEAD, Pipe


class Forwards(io.RawIOBase):
    """Bytes that can be read once; `given` of them have been."""

    def __init__(self, data: bytes, at_once: int = 4096) -> None:
        self._data, self.given, self.at_once = io.BytesIO(data), 0, at_once

    def read(self, size: int = -1) -> bytes:
        size = self.at_once if size < 0 else min(size, self.at_once)
        data = self._data.read(size)
        self.given += len(data)
        return data


def encoded(samples: np.ndarray, **how: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, RATE, **how)
    return out.getvalue()


FORMS = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "float": {"format": "WAV", "subtype": "FLOAT"},
    "rf64": {"format": "RF64", "subtype": "PCM_24"},
    "w64": {"format": "W64", "subtype": "PCM_16"},
    "aiff": {"format": "AIFF"},
    "au": {"format": "AU"},
    "caf": {"format": "CAF"},
    "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG"},
    "mp3": {"format": "MP3"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("error")
def test_a_pipe_is_its_file(form):
    data = encoded(sound(3), **FORMS[form])
    expected = audio.load(data, 11_025).samples
    np.testing.assert_array_equal(audio.load(Forwards(data), 11_025).samples, expected)
    part = audio.load(data, start=1, end=2.5).samples
    np.testing.assert_array_equal(audio.load(Forwards(data, 100), start=1, end=2.5).samples, part)


@pytest.mark.parametrize("form", ["wav", "flac", "aiff", "au", "caf"])
def test_it_is_decoded_as_it_comes(form):
    data = encoded(sound(60), **FORMS[form])
    pipe = Forwards(data)
    first = next(audio.stream(pipe, RATE, block_seconds=4))
    assert len(first) == 4 * RATE
    assert pipe.given < 0.4 * len(data)


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF])
@pytest.mark.filterwarnings("error")
def test_wav_of_unknown_length(size):
    """What ffmpeg, sox and arecord write to a pipe."""
    samples = (sound(2) * 30_000).astype("<i2")
    head = b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFF_FFFF)) + b"WAVELIST"
    head += struct.pack("<I", 5) + b"INFOx\0fmt "
    head += struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16) + b"data"
    data = head + struct.pack("<I", size) + samples.tobytes()
    decoded = audio.load(Forwards(data)).samples
    np.testing.assert_array_equal(decoded, samples / np.float32(32_768))


def test_a_pipe_that_closes_early_gives_what_came():
    data = encoded(sound(3), **FORMS["wav"])
    with pytest.warns(audio.AudioWarning, match=r"decoded up to 1\.50 s of 3\.00 s"):
        samples = audio.load(Forwards(data[: 44 + 3 * RATE])).samples
    assert len(samples) == 1.5 * RATE
    for closed in (b"", data[:20], encoded(np.zeros(0, np.float32), **FORMS["wav"])):
        with pytest.raises(AudioError):
            audio.load(Forwards(closed))


def test_memory_does_not_grow_with_a_pipe():
    pipe = Pipe(Forwards(bytes(3 * HEAD), 65_536))
    while pipe.read(100_000):
        pass
    assert pipe.tell() == 3 * HEAD
    assert len(pipe._head) == HEAD
    pipe.seek(10)
    assert pipe.read(5) == bytes(5)
    pipe.seek(2 * HEAD)
    with pytest.raises(OSError, match="twice"):
        pipe.read(1)
    pipe.seek(0, io.SEEK_END)
    assert pipe.read(1) == b""


@pytest.mark.skipif(os.name != "posix", reason="needs select on pipes")
def test_waiting_for_a_pipe_can_be_ended():
    reading, writing = os.pipe()
    data = encoded(sound(3), **FORMS["wav"])
    os.write(writing, data[:8000])
    stop = threading.Event()
    with os.fdopen(reading, "rb", buffering=0) as handle:
        blocks = audio.stream(handle, RATE, block_seconds=0.1, stop=stop)
        threading.Timer(0.2, stop.set).start()
        begin = time.monotonic()
        with pytest.warns(audio.AudioWarning):
            assert sum(map(len, blocks)) == (8000 - 44) // 2
        assert time.monotonic() - begin < 5
    os.close(writing)
