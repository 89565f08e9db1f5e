"""Packing that is stopped, killed, cut off or changed: it goes on, to the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import RATE, sound, write

from atgnn.data import packing, store
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms
from atgnn.errors import ClipsError, MissingExtraError

FILES = (store.SAMPLES, store.TABLE, store.HEADER)
SCRIPT = """
import os, resource, signal, sys
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms
from atgnn.errors import AtgnnError
table, folder, rows, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
def progress(done):
    if done == rows:
        os.kill(os.getpid(), signal.SIGKILL)
try:
    PackedWaveforms.write(Clips.read(table), folder, 16000, on_error="collect", threads=2,
                          resume=True, progress=progress)
except AtgnnError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Eight rows: the second is no sound, the fifth is cut off, the seventh has no samples."""
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(8):
        rate = (RATE, 44_100)[i % 2]
        write(folder / f"{i}.wav", sound(0.2 + 0.1 * i, rate, seed=i), rate)
    (folder / "1.wav").write_text("no sound")
    content = write(folder / "4.flac", sound(2.0)).read_bytes()
    (folder / "4.flac").write_bytes(content[: len(content) * 2 // 3])
    soundfile.write(folder / "6.wav", np.zeros(0, np.float32), RATE)
    names = [f"{i}.wav" if i != 4 else "4.flac" for i in range(8)]
    (folder / "t.csv").write_text("\n".join(["path,labels", *(f"{n},Dog" for n in names)]))
    return folder / "t.csv"


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """Packed without an interruption."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    return PackedWaveforms.write(Clips.read(table), folder, RATE, on_error="collect", resume=True)


def work(folder):
    return folder.parent / f".{folder.name}.packing"


def content(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def begin(table, folder, rows):
    """Pack the first rows and stop."""

    def stop(done):
        if done == rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_on(table, folder, progress=stop)


def go_on(table, folder, **options):
    options = {"on_error": "collect", "resume": True, **options}
    return PackedWaveforms.write(Clips.read(table), folder, RATE, **options)


def test_bad_clips_are_passed_over_and_counted(whole):
    assert len(whole) == 6
    assert [os.path.basename(bad.path) for bad in whole.failures] == ["1.wav", "6.wav"]
    assert "holds text" in whole.failures[0].reason
    assert "holds no samples" in whole.failures[1].reason
    (damaged,) = whole.damaged
    assert damaged.path.endswith("4.flac")
    assert "damaged" in damaged.reason
    assert whole.source_rates.tolist() == [RATE, RATE, 44_100, RATE, 44_100, 44_100]
    assert not (whole.folder / store.JOURNAL).exists()
    assert not work(whole.folder).exists()
    assert whole.verify().tolist() == []


def _run(table, folder, rows=0, limit=0):
    command = [sys.executable, "-c", SCRIPT, str(table), str(folder), str(rows), str(limit)]
    return subprocess.run(command, capture_output=True, text=True)


def test_killed_twice_it_ends_with_the_same_bytes(table, whole, tmp_path):
    folder = tmp_path / "store"
    for rows in (3, 6):
        assert _run(table, folder, rows).returncode == -signal.SIGKILL
        assert not folder.exists()
    seen = []
    again = go_on(table, folder, progress=seen.append)
    assert seen == [7, 8], "what was done is not done again"
    assert content(folder) == content(whole.folder)
    assert again.verify().tolist() == []
    assert os.listdir(tmp_path) == ["store"]


def test_a_full_disk_is_one_line_and_nothing_is_lost(table, whole, tmp_path):
    folder = tmp_path / "store"
    result = _run(table, folder, limit=20_000)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "cannot be written (File too large); make room, and the same command goes on" in line
    assert (work(folder) / store.SAMPLES).stat().st_size == 20_000  # a part of the third clip
    seen = []
    go_on(table, folder, progress=seen.append)
    assert seen[0] == 4
    assert content(folder) == content(whole.folder)


def _cut_journal(folder):
    place = folder / store.JOURNAL
    place.write_bytes(place.read_bytes()[:-5])


def _flip(folder):
    place = folder / store.SAMPLES
    data = bytearray(place.read_bytes())
    data[8000] ^= 1  # in the second packed clip
    place.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "first"),
    [
        (lambda folder: None, 6),
        (_cut_journal, 5),
        (_flip, 3),
        (lambda folder: os.truncate(folder / store.SAMPLES, 100), 1),
        (lambda folder: (folder / store.SAMPLES).unlink(), 1),
        (lambda folder: (folder / store.JOURNAL).unlink(), 1),
        (lambda folder: (folder / store.JOURNAL).write_bytes(b'{"ver'), 1),
    ],
)
def test_what_journal_and_samples_do_not_agree_on_is_done_again(
    table, whole, tmp_path, damage, first
):
    folder = tmp_path / "store"
    begin(table, folder, 5)
    damage(work(folder))
    seen = []
    go_on(table, folder, progress=seen.append)
    assert seen[0] == first
    assert content(folder) == content(whole.folder)


def test_a_crash_between_the_last_steps(table, whole, tmp_path):
    folder = tmp_path / "store"
    begin(table, folder, 8)  # all rows done, nothing described
    go_on(table, folder)
    assert content(folder) == content(whole.folder)
    (folder / store.JOURNAL).write_text("left over")
    seen = []
    assert len(go_on(table, folder, progress=seen.append)) == 6
    assert seen == []
    assert not (folder / store.JOURNAL).exists()


def test_other_clips_or_settings_do_not_go_on(table, whole, tmp_path):
    folder = tmp_path / "store"
    begin(table, folder, 3)
    clips = Clips.read(table)
    relabelled = Clips(clips.table.assign(labels=[("Cat",)] * 8))
    for other, rate, options in (
        (clips, 8000, {}),
        (clips, RATE, {"longest": 0.1}),
        (relabelled, RATE, {}),
        (clips[:7], RATE, {}),
    ):
        with pytest.raises(ClipsError, match="was begun with other clips or settings") as error:
            PackedWaveforms.write(other, folder, rate, resume=True, on_error="collect", **options)
        assert "\n" not in str(error.value)
        with pytest.raises(ClipsError, match="is packed already, from other clips or with other"):
            PackedWaveforms.write(other, whole.folder, rate, resume=True, **options)
    packed = PackedWaveforms.write(
        relabelled, folder, RATE, resume=True, restart=True, on_error="collect"
    )
    assert packed.clips.labels == [("Cat",)] * 6


def test_two_processes_do_not_pack_into_one_folder(table, tmp_path):
    pytest.importorskip("fcntl")
    folder = tmp_path / "store"
    clips = Clips.read(table)
    settings = packing.PackSettings(RATE)
    digest = packing.fingerprint(clips, settings)
    with (
        packing.Packing(clips, work(folder), settings, digest),
        pytest.raises(ClipsError, match="another process is packing into"),
    ):
        go_on(table, folder)


def test_a_container_without_pyav_is_passed_over(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    clips = Clips.read(table)[:3]
    place = tmp_path / "x.m4a"
    place.write_bytes(b"\0\0\0\x18ftypM4A " + bytes(4000))
    paths = [place, *clips.paths[1:]]
    packed = PackedWaveforms.write(
        Clips(clips.table.assign(path=paths)), tmp_path / "store", RATE, on_error="collect"
    )
    assert len(packed) == 1
    assert 'pip install ".[video]"' in packed.failures[0].reason
    with pytest.raises(MissingExtraError, match="PyAV"):
        PackedWaveforms.write(Clips(clips.table.assign(path=paths)), tmp_path / "other", RATE)


def test_a_video_that_ends_early_gives_what_there_is(tmp_path):
    write(tmp_path / "a.wav", sound(1.0))
    (tmp_path / "t.csv").write_text("path,labels\na.wav,Dog\n")
    clips = Clips.read(tmp_path / "t.csv")
    cut = Clips(clips.table.assign(start=0.4, end=1.5))
    packed = PackedWaveforms.write(cut, tmp_path / "store", RATE, strict_ends=False)
    assert packed.lengths.tolist() == [round(0.6 * RATE)]
    inside = Clips(clips.table.assign(start=0.4, end=0.7))
    packed = PackedWaveforms.write(inside, tmp_path / "other", RATE, strict_ends=False)
    np.testing.assert_array_equal(packed[0], packing.decode(inside[0], RATE))
    with pytest.raises(ClipsError, match="none of 1 clip"):
        PackedWaveforms.write(cut, tmp_path / "third", RATE, on_error="collect")


def test_where_no_clip_could_be_packed_the_next_call_tries_again(tmp_path):
    """A missing package, or a disk that was not there, is set right between the calls."""
    (tmp_path / "a.wav").write_text("no sound")
    (tmp_path / "t.csv").write_text("path,labels\na.wav,Dog\n")
    clips = Clips.read(tmp_path / "t.csv")
    for _ in range(2):
        with pytest.raises(ClipsError, match="none of 1 clip"):
            PackedWaveforms.write(clips, tmp_path / "s", RATE, on_error="collect", resume=True)
    write(tmp_path / "a.wav", sound(0.3))
    packed = PackedWaveforms.write(clips, tmp_path / "s", RATE, on_error="collect", resume=True)
    assert len(packed) == 1
    assert not packed.failures


def again(folder, **options):
    """Pack what lies in a folder, as often as one likes; the rows that were decoded this time."""
    clips, decoded = Clips.read(folder / "t.csv"), []
    plain = packing.decode

    def counted(clip, *rest, **more):
        decoded.append(clip.path.name)
        return plain(clip, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "decode", counted)
        packed = PackedWaveforms.write(
            clips, folder / "store", RATE, on_error="collect", resume=True, **options
        )
    return packed, sorted(decoded)


@pytest.fixture
def broken(table, tmp_path):
    """A copy of the sounds, packed: rows 1 and 6 failed, row 4 is damaged."""
    shutil.copytree(table.parent, tmp_path / "sounds")
    again(tmp_path / "sounds")
    (tmp_path / "sounds" / "store" / "report.md").write_text("what else lies there")
    return tmp_path / "sounds"


def test_files_that_have_changed_are_tried_again_and_no_others(broken):
    assert again(broken)[1] == []
    write(broken / "1.wav", sound(0.5, seed=30))
    write(broken / "2.wav", sound(0.5, seed=31))  # was packed: the packed folder stays what it is
    packed, decoded = again(broken)
    assert decoded == ["1.wav", "6.wav"]  # what failed has no samples to copy
    assert [Path(bad.path).name for bad in packed.failures] == ["6.wav"]
    assert [Path(bad.path).name for bad in packed.damaged] == ["4.flac"]
    write(broken / "4.flac", sound(2.0))
    packed, decoded = again(broken)
    assert decoded == ["4.flac", "6.wav"]
    assert not packed.damaged
    assert (packed.folder / "report.md").is_file()
    assert again(broken)[1] == []
    assert not packed.verify().size
    assert not [path for path in broken.iterdir() if path.name.startswith(".")]


def test_another_try_ends_with_the_bytes_of_a_first_one(broken, tmp_path):
    write(broken / "1.wav", sound(0.5, seed=30))
    packed, _ = again(broken)
    fresh = PackedWaveforms.write(
        Clips.read(broken / "t.csv"), tmp_path / "fresh", RATE, on_error="collect", resume=True
    )
    assert content(packed.folder) == content(fresh.folder)


def test_retry_tries_all_that_failed(broken):
    packed, decoded = again(broken, retry=True)
    assert decoded == ["1.wav", "4.flac", "6.wav"]
    assert len(packed.failures) == 2


def test_another_try_that_is_stopped_goes_on_and_loses_nothing(broken):
    write(broken / "1.wav", sound(0.5, seed=30))
    before = content(broken / "store")

    def stop(done):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(broken, progress=stop)
    assert content(broken / "store") == before
    seen = []
    packed, decoded = again(broken, progress=seen.append)
    assert seen[0] > 4
    assert "1.wav" not in decoded  # that one was done
    assert len(packed) == len(PackedWaveforms.open(broken / "store")) == 7


def test_what_failed_before_an_interruption_is_tried_again_too(table, tmp_path):
    folder = tmp_path / "sounds"
    shutil.copytree(table.parent, folder)

    def stop(done):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(folder, progress=stop)
    write(folder / "1.wav", sound(0.5, seed=30))
    packed, decoded = again(folder)
    assert "1.wav" in decoded
    assert [Path(bad.path).name for bad in packed.failures] == ["6.wav"]


def test_hdf5_clips_are_packed(tmp_path):
    h5py = pytest.importorskip("h5py")
    for name, key in (("1.h5", "audio"), ("2.h5", "other")):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset(key, data=sound(0.3), compression="gzip")
    with h5py.File(tmp_path / "3.h5", "w") as file:
        file.create_dataset("audio", data=np.full(100, np.nan, np.float32))
    (tmp_path / "t.csv").write_text("path,labels\n1.h5,Dog\n2.h5,Dog\n3.h5,Dog\n")
    clips = Clips.read(tmp_path / "t.csv")
    packed = PackedWaveforms.write(clips, tmp_path / "store", RATE, on_error="collect")
    np.testing.assert_allclose(packed[0] * store.SCALE, sound(0.3), atol=store.SCALE)
    assert "2.h5: has no dataset 'audio'" in packed.failures[0].reason
    assert "3.h5" in packed.failures[1].reason
    assert "the array given" not in packed.failures[1].reason


def test_folders_of_the_first_version_are_read(whole, tmp_path):
    import pandas as pd

    for name in FILES:
        (tmp_path / name).write_bytes((whole.folder / name).read_bytes())
    table = pd.read_parquet(tmp_path / store.TABLE).drop(columns=packing.SOURCE_RATE)
    table.to_parquet(tmp_path / store.TABLE, index=False)
    header = json.loads((tmp_path / store.HEADER).read_text())
    for key in ("digest", "damaged"):
        del header[key]
    header["table_crc32"] = __import__("zlib").crc32((tmp_path / store.TABLE).read_bytes())
    (tmp_path / store.HEADER).write_text(json.dumps(header))
    old = PackedWaveforms.open(tmp_path)
    assert old.source_rates.tolist() == [0] * 6
    assert old.verify().tolist() == []
