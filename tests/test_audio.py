"""Decoding, down-mixing, resampling: every source and format, and every kind of bad input."""

import io
import math
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from atgnn import audio
from atgnn.errors import AtgnnError, AudioError, ClipsError, MissingExtraError

RNG = np.random.default_rng(7)
NOISE = (0.1 * RNG.standard_normal(30_000)).astype(np.float32)


def tone(seconds: float, rate: int, frequency: float = 440.0, peak: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int, **how: str) -> Path:
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(path, "w", samplerate=rate, channels=channels, **how) as sound:
        for begin in range(0, len(samples), 4096):  # one long Vorbis write can crash
            sound.write(samples[begin : begin + 4096])
    return path


def write_container(path: Path, samples: np.ndarray, rate: int, codec: str) -> Path:
    """`samples` is (T, 2)."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate, layout="stereo")
        for begin in range(0, len(samples), 960):
            part = np.ascontiguousarray(samples[begin : begin + 960].T)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def is_close(decoded: np.ndarray, original: np.ndarray, share: float) -> bool:
    """Whether the decoded samples, in place and in level, differ by less than this share."""
    length = min(len(decoded), len(original))
    difference = np.linalg.norm(decoded[:length] - original[:length])
    return bool(difference < share * np.linalg.norm(original))


def message_of(source: audio.Source, **how: float) -> str:
    with pytest.raises(AudioError) as caught:
        audio.load(source, 16_000, **how)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- formats and sources -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "how", "share"),
    [
        ("a.wav", 44_100, {"subtype": "PCM_16"}, 1e-3),
        ("a.wav", 22_050, {"subtype": "PCM_U8"}, 3e-2),
        ("a.wav", 96_000, {"subtype": "PCM_24"}, 1e-5),
        ("a.wav", 8_000, {"subtype": "FLOAT"}, 1e-7),
        ("a.wav", 192_000, {"subtype": "DOUBLE"}, 1e-6),
        ("a.flac", 44_100, {}, 1e-3),
        ("a.aiff", 44_100, {}, 1e-3),
        ("a.ogg", 44_100, {}, 5e-2),
        ("a.opus", 48_000, {"format": "OGG", "subtype": "OPUS"}, 1e-1),
        ("a.mp3", 44_100, {}, 5e-2),
    ],
)
def test_formats_and_bit_depths(tmp_path, name, rate, how, share):
    original = tone(1.0, rate)
    recording = audio.load(write(tmp_path / name, original, rate, **how))
    assert recording.rate == rate
    assert recording.samples.dtype == np.float32
    assert recording.samples.shape == (rate,)
    assert recording.duration == 1.0
    assert is_close(recording.samples, original, share)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.m4a", "aac"),
        ("b.m4a", "alac"),
        ("a.mp4", "aac"),
        ("a.webm", "libopus"),
        ("a.mov", "pcm_s16le"),
    ],
)
def test_containers(tmp_path, name, codec):
    left, right = tone(6.0, 48_000), tone(6.0, 48_000, 660)
    path = write_container(tmp_path / name, np.stack([left, right], 1), 48_000, codec)
    info = audio.probe(path)
    assert (info.rate, info.channels) == (48_000, 2)
    assert info.duration == pytest.approx(6.0, abs=0.03)
    mean = (left + right) / 2
    whole = audio.load(path).samples
    assert abs(len(whole) - len(mean)) <= 1024
    assert is_close(whole, mean, 0.1)
    assert np.array_equal(audio.load(path.read_bytes()).samples, whole)
    blocks = list(audio.stream(path, 16_000, block_seconds=1.0))
    assert np.array_equal(np.concatenate(blocks), audio.load(path, 16_000).samples)
    excerpt = audio.load(path, start=4.0, end=5.0).samples
    assert excerpt.shape == (48_000,)
    lag = 100 if name.endswith("webm") else 0  # time stamps of whole milliseconds
    slices = [whole[192_000 + d : 240_000 + d] for d in range(-lag, lag + 1)]
    assert any(is_close(excerpt, piece, 0.02) for piece in slices)
    assert "before the end asked for, 30.000 s" in message_of(path, end=30.0)
    assert "from 25.000 s on; it lasts 6.0" in message_of(path, start=25.0)


def test_a_container_that_calls_itself_something_else_is_recognised(tmp_path):
    original = np.stack([tone(1.0, 48_000)] * 2, 1)
    path = write_container(tmp_path / "a.m4a", original, 48_000, "aac")
    renamed = path.rename(tmp_path / "a.wav")
    assert is_close(audio.load(renamed).samples, original[:, 0], 0.05)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"PyAV.*\.\[video\]"):
        audio.load(tmp_path / "a.m4a")


def test_a_video_without_sound(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "silent film.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=25)
        track.width = track.height = 64
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    assert "has no sound track" in message_of(path)


class Pipe(io.RawIOBase):
    """A binary stream that cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self._data.readinto(buffer)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_every_kind_of_source_gives_the_same_samples(tmp_path, name):
    path = write(tmp_path / name, NOISE, 22_050)
    expected = audio.load(path, 16_000).samples
    assert len(expected) == round(30_000 * 16_000 / 22_050)
    data = path.read_bytes()
    with open(path, "rb") as file:
        file.seek(100)
        for source in (str(path), data, io.BytesIO(data), Pipe(data), file, file):
            assert np.array_equal(audio.load(source, 16_000).samples, expected)
        assert not file.closed
    native = audio.load(path)
    assert np.array_equal(audio.load((native.samples, native.rate), 16_000).samples, expected)


def test_arrays_of_any_type_and_layout():
    half = {np.int8: 64, np.int16: 16_384, np.int32: 2**30, np.uint8: 192, np.uint16: 49_152}
    for kind, value in half.items():
        samples = audio.load((np.full(5, value, kind), 8_000)).samples
        assert samples.dtype == np.float32
        assert np.array_equal(samples, np.full(5, 0.5))
    for kind in (np.float16, np.float32, np.float64):
        assert np.array_equal(audio.load((np.full(5, -0.25, kind), 8_000)).samples, [-0.25] * 5)
    pair = np.stack([np.linspace(0, 0.5, 50), np.linspace(0.5, 0, 50)])
    for layout in (pair, pair.T):
        assert np.allclose(audio.load((layout, 8_000)).samples, 0.25)
    assert np.array_equal(audio.load((np.eye(2), 8_000)).samples, [0.5, 0.5])


def test_the_callers_array_is_never_shared():
    mine = np.ones(10, np.float32)
    audio.load((mine, 8_000)).samples[:] = 0
    assert mine.all()


def test_eight_channels_are_averaged(tmp_path):
    channels = (0.1 * RNG.standard_normal((9_000, 8))).astype(np.float32)
    path = write(tmp_path / "a.wav", channels, 48_000, subtype="FLOAT")
    assert audio.probe(path).channels == 8
    assert np.allclose(audio.load(path).samples, channels.mean(axis=1), atol=1e-7)


def test_probe(tmp_path):
    path = write(tmp_path / "a.flac", np.stack([NOISE] * 2, 1), 12_000)
    assert audio.probe(path) == audio.AudioInfo(12_000, 2, 30_000, 2.5, "FLAC")
    assert audio.probe((NOISE, 10_000)) == audio.AudioInfo(10_000, 1, 30_000, 3.0, "array")


# --- resampling ----------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_a_tone_survives_resampling(rate):
    resampled = audio.load((tone(1.0, rate, 1_000), rate), 16_000).samples
    assert resampled.shape == (16_000,)
    difference = resampled - tone(1.0, 16_000, 1_000)
    assert np.abs(difference[800:-800]).max() < 1e-4


@pytest.mark.parametrize("frequency", [9_000, 12_000, 20_000])
def test_what_lies_above_nyquist_does_not_fold_back(frequency):
    resampled = audio.load((tone(1.0, 44_100, frequency), 44_100), 16_000).samples
    assert np.abs(resampled[800:-800]).max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
def test_one_sample(tmp_path, rate):
    path = write(tmp_path / "a.wav", np.array([0.5], np.float32), rate)
    samples = audio.load(path, 16_000).samples
    assert len(samples) == max(1, 16_000 // rate)
    assert np.isfinite(samples).all()
    assert [len(block) for block in audio.stream(path, 16_000)] == [len(samples)]


@pytest.mark.parametrize(("rate", "out"), [(44_100, 16_000), (8_000, 32_000), (16_000, 16_000)])
@pytest.mark.parametrize("block_seconds", [0.25, 1.7, 60.0])
def test_stream_is_load_in_pieces(tmp_path, rate, out, block_seconds):
    samples = (0.1 * RNG.standard_normal((5 * rate + 123, 2))).astype(np.float32)
    path = write(tmp_path / "a.ogg", samples, rate)
    whole = audio.load(path, out).samples
    blocks = list(audio.stream(path, out, block_seconds=block_seconds))
    size = round(block_seconds * out)
    assert all(len(block) == size for block in blocks[:-1])
    assert 0 < len(blocks[-1]) <= size
    assert all(block.dtype == np.float32 for block in blocks)
    assert np.array_equal(np.concatenate(blocks), whole)
    pieces = list(audio.stream(path, out, block_seconds=block_seconds, start=1, end=3.5))
    assert np.array_equal(np.concatenate(pieces), audio.load(path, out, start=1, end=3.5).samples)


def test_two_hours_in_bounded_memory(tmp_path):
    rate, seconds = 16_000, 7_200
    path, size = tmp_path / "long.wav", 2 * rate * seconds
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size),
    )
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + size)  # sparse: silence that takes no space
    tracemalloc.start()
    try:
        meter = audio.BandMeter()
        total = sum(len(block) for block in audio.stream(path, 8_000, meter=meter))
        share = meter.share(20, 8_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 8_000 * seconds
    assert share == 1.0
    assert peak < 20e6


# --- excerpts ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
def test_an_excerpt_is_a_slice(tmp_path, name):
    path = write(tmp_path / name, NOISE, 10_000 if name != "a.mp3" else 12_000)
    whole = audio.load(path)
    rate = whole.rate
    excerpt = audio.load(path, start=1.2345, end=2.0)
    first, last = round(1.2345 * rate), 2 * rate
    assert np.allclose(excerpt.samples, whole.samples[first:last], atol=1e-6)
    assert excerpt.samples.shape == (last - first,)
    tail = audio.load(path, start=2.0).samples
    assert np.allclose(tail, whole.samples[2 * rate :], atol=1e-6)
    end = whole.duration + 0.005  # tables round: 10 ms are forgiven
    assert len(audio.load(path, start=2.0, end=end).samples) == len(tail)


@pytest.mark.parametrize("as_array", [True, False])
def test_excerpts_outside_the_recording(tmp_path, as_array):
    source = (NOISE, 10_000) if as_array else write(tmp_path / "a.wav", NOISE, 10_000)
    assert "lasts 3.000 s, but the excerpt ends at 3.100 s" in message_of(source, end=3.1)
    assert "lasts 3.000 s, but the excerpt starts at 3.000 s" in message_of(source, start=3.0)
    for start, end in ((-1.0, 2.0), (2.0, 1.0), (1.0, 1.0), (math.nan, 1.0), (0.0, math.nan)):
        assert "expected 0 <= start < end" in message_of(source, start=start, end=end)
    assert np.array_equal(audio.load(source, start=1, end=1.000001).samples.shape, [1])


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.ogg", "a.flac", "a.au", "a.mp4", "a"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_text_is_not_sound(tmp_path, capfd, name, encoding):
    (tmp_path / name).write_bytes(
        ("# Größe\r\nthis is a tale\tand no sound\n" * 300).encode(encoding)
    )
    assert "holds text, not sound" in message_of(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_files_that_are_no_sound(tmp_path):
    assert "no such file" in message_of(tmp_path / "missing.wav")
    assert "is a folder" in message_of(tmp_path)
    (tmp_path / "empty.wav").touch()
    assert "empty (0 bytes)" in message_of(tmp_path / "empty.wav")
    for name in ("junk.wav", "junk.mp3", "junk.raw", "junk.au", "junk.m4a", "junk"):
        (tmp_path / name).write_bytes(b"\x80\0\x01" + RNG.bytes(5_000))
        assert f"{name}: cannot be decoded as sound" in message_of(tmp_path / name)
    assert "no samples" in message_of(write(tmp_path / "a.wav", NOISE[:0], 8_000))
    assert r"a\nb.wav: no such file" in message_of(tmp_path / "a\nb.wav")
    assert "not a valid path" in message_of("a\0b.wav")
    for error in (AtgnnError, ValueError):
        with pytest.raises(error):
            audio.probe(tmp_path / "missing.wav")


def test_things_that_are_no_source():
    assert "0 bytes" in message_of(b"")
    assert "opened as text" in message_of(io.StringIO("sound"))
    assert "cannot read sound from int" in message_of(5)
    assert "cannot read sound from NoneType" in message_of(None)
    assert "3 items" in message_of((NOISE, 8_000, 2))
    assert "no samples" in message_of((NOISE[:0], 8_000))
    assert "shape (1, 1, 30000)" in message_of((NOISE[None, None], 8_000))
    assert "int64" in message_of((np.zeros(5, np.int64), 8_000))
    for bad_rate in (0, -8_000, 0.5, 44_100.5, math.nan, "fast", None, 10**12):
        assert "expected whole Hz" in message_of((NOISE, bad_rate))
        if bad_rate is not None:
            with pytest.raises(AudioError, match="expected whole Hz"):
                audio.load((NOISE, 8_000), bad_rate)
    for seconds in (0, -1, math.nan):
        with pytest.raises(AudioError, match="length above 0"):
            next(audio.stream((NOISE, 8_000), 8_000, block_seconds=seconds))


def test_nan_and_infinity_are_counted_and_placed(tmp_path):
    samples = np.zeros((200_000, 2), np.float32)
    samples[150_000, 1] = np.nan
    samples[160_000] = np.inf
    samples[199_999] = (np.inf, -np.inf)
    path = write(tmp_path / "a.wav", samples, 50_000, subtype="FLOAT")
    expected = "3 of 200000 samples are NaN or infinite, the first at 3.000 s"
    assert expected in message_of(path)
    assert expected in message_of((samples, 50_000))
    later = message_of(path, start=3.1, end=3.9)
    assert "1 of 40000 samples are NaN or infinite, the first at 3.200 s" in later
    blocks = audio.stream(path, 50_000, block_seconds=1.0)
    assert [len(next(blocks)), len(next(blocks))] == [50_000, 50_000]
    with pytest.raises(AudioError, match=r"first at 3\.000 s"):
        list(blocks)
    assert len(audio.load(path, end=2.9).samples) == 145_000


@pytest.mark.filterwarnings("error")
def test_silence_is_a_recording():
    samples = audio.load((np.zeros(44_100), 44_100), 16_000).samples
    assert samples.shape == (16_000,)
    assert not samples.any()


@pytest.mark.parametrize("name", ["a.mp3", "a.flac"])
def test_a_truncated_file_gives_what_is_there(tmp_path, name):
    sound = (0.1 * RNG.standard_normal(300_000)).astype(np.float32)
    path = write(tmp_path / name, sound, 48_000)
    whole = audio.load(path).samples
    half = tmp_path / f"half-{name}"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(audio.AudioWarning, match=r"damaged .*decoded up to [23]\.\d\d s of 6.25 s"):
        part = audio.load(half).samples
    assert 0.4 * len(whole) < len(part) < 0.6 * len(whole)
    assert np.allclose(part[:-2304], whole[: len(part) - 2304], atol=1e-6)
    assert "before the end asked for, 6.000 s" in message_of(half, end=6.0)
    assert np.allclose(audio.load(half, start=1, end=2).samples, whole[48_000:96_000], atol=1e-6)
    assert "nothing can be decoded from 5.000 s on" in message_of(half, start=5.0)
    half.write_bytes(path.read_bytes()[:60])
    assert message_of(half)


def test_a_container_with_a_damaged_middle_goes_on(tmp_path):
    original = np.stack([tone(6.0, 48_000)] * 2, 1)
    path = write_container(tmp_path / "a.mka", original, 48_000, "flac")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2_000] = RNG.bytes(2_000)
    with pytest.warns(audio.AudioWarning, match="damaged"):
        samples = audio.load(bytes(data)).samples
    assert 0.55 * len(original) < len(samples) <= len(original)
    assert is_close(samples[:96_000], original[:96_000, 0], 1e-3)


def test_an_mp3_that_does_not_state_its_length_is_read_to_its_end(tmp_path):
    quiet_then_loud = np.concatenate([np.zeros(48_000, np.float32), np.tile(NOISE, 10)])
    path = write(tmp_path / "a.mp3", quiet_then_loud[::-1], 48_000)
    data = path.read_bytes()
    assert b"Xing" in data[:200] or b"Info" in data[:200]
    bare = data[data.index(b"\xff\xfb", 10) :]
    tagged = b"ID3\x04\0\0\0\0\x02\x10" + bytes(2 * 128 + 16) + bare
    for file in (bare, tagged):
        info = audio.probe(file)
        assert (info.frames, info.duration) == (None, None)
        samples = audio.load(file).samples
        assert abs(len(samples) - len(quiet_then_loud)) < 3 * 1152
        excerpt = audio.load(file, start=3.0, end=4.0).samples
        assert np.allclose(excerpt, samples[144_000:192_000], atol=1e-6)


# --- folders -------------------------------------------------------------------------------


def test_find_sounds(tmp_path):
    for name in ("b.wav", "a.FLAC", "deep/er/c.mp3", "deep/film.webm", "notes.txt", "._b.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "d.wav").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in audio.find_sounds(tmp_path)]
    assert found == ["a.FLAC", "b.wav", "deep/er/c.mp3", "deep/film.webm"]
    (tmp_path / "none").mkdir()
    for folder, problem in (("none", "no sounds"), ("b.wav", "is a file"), ("no", "no such")):
        with pytest.raises(ClipsError, match=problem):
            audio.find_sounds(os.path.join(tmp_path, folder))


def test_is_sound():
    assert audio.is_sound("A.WaV")
    assert audio.is_sound(Path("x/y.opus"))
    assert not audio.is_sound("table.csv")
    assert not audio.is_sound("wav")


# --- the band ------------------------------------------------------------------------------


def test_band_share_of_known_spectra():
    white = RNG.standard_normal(441_000).astype(np.float32)
    assert audio.band_share(white, 44_100, 20, 8_000) == pytest.approx(8 / 22.05, abs=0.01)
    assert audio.band_share(tone(1.0, 44_100, 1_000) + 0.5, 44_100, 20, 8_000) > 0.999
    assert audio.band_share(tone(1.0, 44_100, 12_000) + 0.5, 44_100, 20, 8_000) < 0.001
    low_and_high = tone(1.0, 44_100, 1_000, 0.1) + tone(1.0, 44_100, 12_000, 0.2)
    assert audio.band_share(low_and_high, 44_100, 20, 8_000) == pytest.approx(0.2, abs=0.005)
    click = np.zeros(10_000, np.float32)
    click[-3_000] = 1.0  # near the end, where whole windows no longer fit
    assert audio.band_share(click, 44_100, 11_025, 22_050) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("samples", [np.zeros(1), np.ones(1), np.zeros(50_000), np.zeros(0)])
def test_band_share_of_silence_is_one(samples):
    assert audio.band_share(samples, 44_100, 20, 8_000) == 1.0


def test_a_meter_hears_all_of_a_stream(tmp_path):
    rate = 20_000
    parts = [
        tone(20, rate, 500),
        tone(10, rate, 9_000),
        tone(9.5, rate, 500),
        tone(0.5, rate, 9_000),
    ]
    path = write(tmp_path / "a.wav", np.concatenate(parts), rate)
    meter = audio.BandMeter()
    assert meter.share(20, 8_000) == 1.0
    heard = np.concatenate(list(audio.stream(path, 16_000, meter=meter)))
    np.testing.assert_array_equal(heard, audio.load(path, 16_000).samples)
    assert meter.share(20, 8_000) == pytest.approx(29.5 / 40, abs=0.02)
    short = audio.BandMeter()
    samples = tone(1.5, rate, 9_000) + tone(1.5, rate, 500)
    list(audio.stream((samples, rate), 16_000, meter=short))
    assert short.share(20, 8_000) == audio.band_share(samples, rate, 20, 8_000)


# --- cost ----------------------------------------------------------------------------------


def test_importing_is_light():
    heavy = "{'torch', 'av', 'pandas', 'scipy'}"
    code = f"import sys, atgnn.audio; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def padded(before, sound_seconds, after, rate=16_000, level=0.5):
    """A tone in digital silence."""
    tone = level * np.sin(np.arange(round(sound_seconds * rate)) * 0.3).astype(np.float32)
    silence = [np.zeros(round(seconds * rate), np.float32) for seconds in (before, after)]
    return np.concatenate([silence[0], tone, silence[1]])


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize(("before", "after"), [(0.0, 0.0), (0.5, 0.0), (0.0, 1.25), (5.0, 70.0)])
def test_where_a_recording_sounds(rate, before, after):
    wave = padded(before, 0.4, after, rate)
    start, end = audio.sounding((wave, rate))
    assert before - 0.01 <= start <= before
    assert end is None if after == 0 else before + 0.4 <= end <= before + 0.4 + 0.01
    kept = audio.load((wave, rate), start=start, end=end).samples
    assert np.square(kept).sum() == pytest.approx(np.square(wave).sum())


def test_silence_is_relative_to_the_loudest_stretch_and_none_is_left_out_of_silence():
    rate = 16_000
    wave = padded(1.0, 1.0, 1.0) + 0.5 * 10 ** (-70 / 20) * np.sin(np.arange(3 * rate) * 0.7)
    assert audio.sounding((wave, rate), 60) == (pytest.approx(1.0), pytest.approx(2.0))
    assert audio.sounding((wave, rate), 80) == (0.0, None)
    assert audio.sounding((np.zeros(rate), rate)) == (0.0, None)
    within = audio.sounding((padded(1.0, 1.0, 1.0), rate), start=0.5, end=1.5)
    assert within == (pytest.approx(1.0), 1.5)
    with pytest.raises(AudioError):
        audio.sounding((np.full(rate, np.nan), rate))
    for decibels in (0, -3, math.nan):
        with pytest.raises(AudioError, match="give a number above 0"):
            audio.sounding((wave, rate), decibels)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_can_be_held(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    writer = threading.Thread(target=(tmp_path / "pipe.wav").write_bytes, args=(b"sound",))
    writer.start()
    assert audio.held(tmp_path / "pipe.wav") == b"sound"
    writer.join()
    assert audio.held(tmp_path / "not-there.wav") == tmp_path / "not-there.wav"
