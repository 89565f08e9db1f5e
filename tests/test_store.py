"""Packed waveforms: what goes in comes out, and nothing else is taken for it."""

import json
import pickle
import threading
import zlib
from contextlib import closing

import numpy as np
import pytest
import soundfile
from helpers import RATE, sound, write

from atgnn import audio
from atgnn.data import store
from atgnn.data.ahead import map_ahead
from atgnn.data.clips import Clips
from atgnn.data.store import SCALE, PackedWaveforms, decode, is_packed
from atgnn.errors import AudioError, ClipsError

LENGTHS = (0.5, 1.0, 0.25, 0.8)  # s


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of several lengths and rates, with unknown labels, excerpts and a column of its own."""
    folder = tmp_path_factory.mktemp("sounds")
    for i, seconds in enumerate(LENGTHS):
        write(
            folder / f"{i}.wav",
            sound(seconds, (RATE, 44_100)[i % 2], seed=i),
            (RATE, 44_100)[i % 2],
        )
    rows = [
        "0.wav,Dog;Bark,,,,ann,1,x",
        "1.wav,Rain,Siren,,,ben,2,",
        "2.wav,,,,,ann,1,y",
        "3.wav,Siren,,0.2,0.6,,2,z",
        "3.wav,Siren,,0.1,,,2,z",
    ]
    table = folder / "clips.csv"
    table.write_text("\n".join(["path,labels,unknown,start,end,author,fold,note", *rows]))
    return Clips.read(table)


@pytest.fixture(scope="module")
def packed(clips, tmp_path_factory):
    return PackedWaveforms.write(clips, tmp_path_factory.mktemp("packed") / "store", RATE)


def test_clips_come_back_as_they_were_decoded(clips, packed):
    assert len(packed) == len(clips) == 5
    assert packed.rate == RATE
    assert packed.longest is None
    for index, clip in enumerate(clips):
        whole = audio.load(clip.path, RATE, start=clip.start, end=clip.end).samples
        assert packed[index].dtype == np.int16
        np.testing.assert_allclose(packed[index] * SCALE, whole, atol=SCALE * 0.51)
    assert packed.lengths[3] == round(0.4 * RATE)


def test_16_bit_recordings_are_stored_without_loss(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    samples[:2] = -32768, 32767
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    (clip,) = Clips.read(_labelled(tmp_path, "a.wav"))
    np.testing.assert_array_equal(decode(clip, RATE), samples)
    loud = write(tmp_path / "b.wav", np.array([2.0, -2.0, 1.0], np.float32), subtype="FLOAT")
    (clip,) = Clips.read(_labelled(tmp_path, loud.name))
    np.testing.assert_array_equal(decode(clip, RATE), [32767, -32768, 32767])


def test_clips_are_cut_to_the_longest(clips, tmp_path):
    short = PackedWaveforms.write(clips, tmp_path / "store", RATE, longest=0.3)
    assert short.longest == 0.3
    assert short.lengths.tolist() == [4800, 4800, 4000, 4800, 4800]
    np.testing.assert_array_equal(short[0], decode(clips[0], RATE)[:4800])


def test_the_table_comes_back_and_finds_its_rows(clips, packed):
    again = packed.clips
    assert list(again) == list(clips)
    assert list(again.table.columns) == list(clips.table.columns)
    assert [clip.extra["note"] for clip in again] == [clip.extra["note"] for clip in clips]
    np.testing.assert_array_equal(
        again.targets(again.vocabulary()), clips.targets(clips.vocabulary())
    )
    mixed = Clips.concat([clips[4:], clips[:2]])
    assert packed.positions(mixed).tolist() == [4, 0, 1]
    moved = Clips(clips.table.assign(start=0.05, end=0.2))
    assert packed.positions(moved).tolist() == [-1] * 5


def test_columns_of_mixed_types_become_text(clips, tmp_path):
    odd = Clips(clips.table.assign(note=[1, "two", None, 4.5, "five"]))
    again = PackedWaveforms.write(odd, tmp_path / "store", RATE).clips
    assert again.column("note")[[0, 1, 3, 4]].tolist() == ["1", "two", "4.5", "five"]
    assert again.table["note"].isna().tolist() == [False, False, True, False, False]
    assert again.table["fold"].tolist() == clips.table["fold"].tolist()


def test_batches_are_filled_at_once(packed):
    waves, lengths = packed.batch([1, 0, 4], 0.6, [0.5, 0.0, 0.65])
    assert waves.shape == (3, 9600)
    assert waves.dtype == np.int16
    assert lengths.tolist() == [8000, 8000, 800]
    np.testing.assert_array_equal(waves[0, :8000], packed[1][8000:])
    np.testing.assert_array_equal(waves[1, :8000], packed[0])
    np.testing.assert_array_equal(waves[2, :800], packed[4][10400:])
    assert not waves[0, 8000:].any()
    room = np.ones((2, 1600), np.int16)
    filled, lengths = packed.batch(np.array([2, 2]), 0.1, [0.0, 0.5], room)
    assert filled is room
    assert lengths.tolist() == [1600, 0]
    assert not room[1].any()


def test_samples_are_mapped_and_read_only(packed):
    with pytest.raises(ValueError, match="read-only"):
        packed[0][0] = 1
    content = pickle.dumps(packed)
    assert len(content) < 1000, "a process maps the store, it is not sent it"
    np.testing.assert_array_equal(pickle.loads(content)[2], packed[2])


def test_verify_finds_the_clip_that_changed(packed, clips, tmp_path):
    assert packed.verify().tolist() == []
    PackedWaveforms.write(clips, tmp_path / "store", RATE)
    place = tmp_path / "store" / store.SAMPLES
    content = bytearray(place.read_bytes())
    content[2 * int(packed.offsets[1]) + 77] ^= 1
    place.write_bytes(content)
    assert PackedWaveforms.open(tmp_path / "store").verify().tolist() == [1]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(clips, packed, tmp_path, threads):
    done = []
    other = PackedWaveforms.write(
        clips, tmp_path / "store", RATE, threads=threads, progress=done.append
    )
    assert done == [1, 2, 3, 4, 5]
    ours, theirs = ((one.folder / store.SAMPLES).read_bytes() for one in (packed, other))
    assert ours == theirs


# ---------------------------------------------------------------------- bad input


def test_a_bad_file_is_one_line_and_leaves_nothing(clips, tmp_path):
    bad = _with_a_bad_file(clips, tmp_path)
    with pytest.raises(AudioError, match=r"bad\.wav") as error:
        PackedWaveforms.write(bad, tmp_path / "packed" / "store", RATE)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "packed").iterdir()) == []


def test_bad_files_can_be_collected(clips, tmp_path):
    bad = _with_a_bad_file(clips, tmp_path)
    packed = PackedWaveforms.write(bad, tmp_path / "store", RATE, on_error="collect")
    assert len(packed) == len(clips)
    (failure,) = packed.failures
    assert failure.path.endswith("bad.wav")
    assert "sound" in failure.reason
    assert packed.positions(bad).tolist() == [-1, 0, 1, 2, 3, 4]
    assert packed.verify().tolist() == []
    with pytest.raises(ClipsError, match=r"none of 1 clip could be packed: .*bad\.wav"):
        PackedWaveforms.write(bad[:1], tmp_path / "none", RATE, on_error="collect")


def test_folders_in_use_are_refused(clips, packed, tmp_path):
    with pytest.raises(ClipsError, match="is not empty"):
        PackedWaveforms.write(clips, packed.folder, RATE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ClipsError, match="is not empty"):
        PackedWaveforms.write(clips, tmp_path / "file", RATE)
    with pytest.raises(ClipsError, match="cannot be written"):
        PackedWaveforms.write(clips, tmp_path / "file" / "below", RATE)
    (tmp_path / "empty").mkdir()
    assert len(PackedWaveforms.write(clips[:2], tmp_path / "empty", RATE)) == 2


def test_a_full_disk_is_one_line_and_leaves_nothing(clips, tmp_path, monkeypatch):
    def full(self, result, collect):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.Packing, "_append", full)
    with pytest.raises(ClipsError, match=r"cannot be written \(No space left on device\)"):
        PackedWaveforms.write(clips, tmp_path / "store", RATE)
    assert list(tmp_path.iterdir()) == []


def _header(**changes):
    def change(folder):
        place = folder / store.HEADER
        place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))

    return change


def _cut(name, keep):
    def change(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut(store.SAMPLES, 100), "samples.i16 has 100 bytes, expected "),
        (_cut(store.SAMPLES, 0), "has 0 bytes"),
        (lambda folder: (folder / store.SAMPLES).unlink(), "samples.i16 cannot be read"),
        (lambda folder: (folder / store.TABLE).unlink(), "clips.parquet cannot be read"),
        (_cut(store.TABLE, 500), "clips.parquet is damaged"),
        (_cut(store.HEADER, 20), "store.json is not readable"),
        (lambda folder: (folder / store.HEADER).unlink(), "holds no packed waveforms"),
        (lambda folder: (folder / store.HEADER).write_text("{}"), "something else's"),
        (lambda folder: (folder / store.HEADER).write_text("[1]"), "something else's"),
        (_header(version=9), "has version 9 of packed waveforms, this atgnn reads 1"),
    ],
)
def test_damaged_and_foreign_folders_are_one_line(clips, tmp_path, damage, words):
    PackedWaveforms.write(clips, tmp_path / "store", RATE)
    assert is_packed(tmp_path / "store")
    damage(tmp_path / "store")
    with pytest.raises(ClipsError) as error:
        PackedWaveforms.open(tmp_path / "store")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_header_must_be_whole(clips, tmp_path):
    PackedWaveforms.write(clips, tmp_path / "store", RATE)
    place = tmp_path / "store" / store.HEADER
    header = json.loads(place.read_text())
    assert header["table_crc32"] == zlib.crc32((tmp_path / "store" / store.TABLE).read_bytes())
    place.write_text(json.dumps({"format": header["format"], "version": 1, "rate": RATE}))
    with pytest.raises(ClipsError, match="lacks failures, longest, samples, table_crc32"):
        PackedWaveforms.open(tmp_path / "store")


# ---------------------------------------------------------------------- threads


def test_map_ahead_keeps_order_bounds_and_raises_in_turn():
    drawn, seen = [], []

    def items():
        for number in range(50):
            drawn.append(number)
            yield number

    def function(number):
        if number == 20:
            raise KeyError(number)
        return number * number

    with closing(map_ahead(function, items(), threads=3, ahead=5)) as results:
        for expected in range(20):
            assert next(results) == expected * expected
            seen.append(expected)
            assert len(drawn) <= len(seen) + 5
        with pytest.raises(KeyError):
            next(results)
    assert not [one for one in threading.enumerate() if one.name.startswith("atgnn-ahead")]


# ---------------------------------------------------------------------- helpers


def _labelled(folder, name):
    table = folder / f"{name}.csv"
    table.write_text(f"path,labels\n{name},Dog\n")
    return table


def _with_a_bad_file(clips, folder):
    (folder / "bad.wav").write_text("this is no sound")
    return Clips.concat([Clips.read(_labelled(folder, "bad.wav")), clips])


def test_samples_may_be_made_instead_of_decoded(clips, tmp_path):
    made = PackedWaveforms.write(
        clips, tmp_path / "store", RATE, sound=lambda row: np.full(10 + row, row, np.int16)
    )
    assert made.lengths.tolist() == [10, 11, 12, 13, 14]
    assert [set(made[row].tolist()) for row in range(5)] == [{0}, {1}, {2}, {3}, {4}]
    assert made.clips.labels == clips.labels
