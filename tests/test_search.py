"""An index of recordings: what is found, what is kept, what is refused."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from helpers import RATE, sound, tiny_checkpoint, write
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.embeddings import Embedder
from atgnn.errors import AudioError, ConfigError, MissingExtraError
from atgnn.frontend import FrontEndConfig
from atgnn.model.config import preset as model_preset
from atgnn.model.geometry import NodePlaces
from atgnn.search import Box, Index, IndexSettings, SearchError
from atgnn.search.index import _places, _Scale
from atgnn.search.regions import label_node, nearest_region, nodes_inside

pytest.importorskip("faiss")
SETTINGS = IndexSettings(segment_s=1, hop_s=0.5, regions=True)


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint().save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def sounds(tmp_path):
    return [write(tmp_path / "s" / f"{i}.wav", sound(2, seed=i)) for i in range(5)]


@pytest.fixture
def index(tmp_path, embedder):
    one = Index.create(tmp_path / "INDEX", embedder, SETTINGS)
    yield one
    one.close()


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_cut_of_a_recording_finds_where_it_was_cut_from(index, sounds, tmp_path):
    done = index.update(sounds)
    assert (done.new, done.failed, len(index)) == (5, 0, 5)
    cut = write(tmp_path / "cut.wav", soundfile.read(sounds[3])[0][RATE // 2 : 3 * RATE // 2])
    matches = index.search(cut, top=4)
    assert (matches[0].path, matches[0].start, matches[0].end) == (str(sounds[3]), 0.5, 1.5)
    assert matches[0].similarity > 0.999
    assert [m.similarity for m in matches] == sorted((m.similarity for m in matches), reverse=True)
    for a in matches:
        assert not any(
            a is not b and a.path == b.path and a.start < b.end and b.start < a.end for b in matches
        )


def test_likeness_is_the_cosine(index, sounds, embedder):
    index.update(sounds)
    (match,) = index.search(sounds[0], top=1, start=0, end=1)
    vectors = next(embedder.windows([match.path], 1.0, 0.5)).values
    theirs = vectors[round(match.start / 0.5)]
    own = embedder.clip((soundfile.read(sounds[0])[0][:RATE], RATE))
    cosine = theirs @ own / np.linalg.norm(theirs) / np.linalg.norm(own)
    assert match.similarity == pytest.approx(float(cosine), abs=1e-3)


def test_the_query_does_not_find_itself_but_the_rest_of_its_recording(index, sounds):
    index.update(sounds)
    whole = index.search(sounds[0], top=50)
    assert str(sounds[0]) not in {match.path for match in whole}
    part = index.search(sounds[0], top=50, start=0, end=0.9)
    own = [match for match in part if match.path == str(sounds[0])]
    assert own
    assert all(match.start >= 0.9 for match in own)


def test_large_indexes_are_searched_on_one_scale(index, tmp_path, monkeypatch, embedder):
    monkeypatch.setattr("atgnn.search.index.FEWEST", 10)
    paths = [write(tmp_path / f"{i}.wav", sound(2, seed=i)) for i in range(5)]
    index.update(paths)
    (match,) = index.search(paths[0], top=1)
    vectors = np.concatenate([v.values for v in embedder.windows(paths, 1.0, 0.5)])
    scale = vectors.std(0) + 1e-6 + 1e-3 * vectors.std(0).max()
    scaled = (vectors - vectors.mean(0)) / scale
    query = (embedder.clip(paths[0]) - vectors.mean(0)) / scale
    cosines = scaled @ query / np.linalg.norm(scaled, axis=1) / np.linalg.norm(query)
    assert match.similarity == pytest.approx(float(cosines[3:].max()), abs=1e-3)


# ------------------------------------------------------------------ what is kept


def test_only_what_is_new_or_changed_is_embedded(index, sounds, tmp_path, monkeypatch):
    index.update(sounds)
    heard = []
    original = Embedder.read

    def read(self, paths, *rest, **more):
        def noted():
            for path in paths:
                heard.append(os.path.basename(path))
                yield path

        return original(self, noted(), *rest, **more)

    monkeypatch.setattr(Embedder, "read", read)
    os.utime(sounds[0])  # touched, not changed
    write(sounds[1], sound(1, seed=9))  # changed
    sounds[2].rename(sounds[2].with_name("moved.wav"))
    sounds[4].unlink()
    fresh = write(tmp_path / "s" / "new.wav", sound(1, seed=8))
    broken = tmp_path / "s" / "broken.wav"
    broken.write_bytes(b"RIFF nothing")
    failures = []
    done = index.update(
        sorted((tmp_path / "s").iterdir()),
        gone_below=[tmp_path / "s"],
        on_failure=failures.append,
    )
    assert sorted(heard) == ["1.wav", "broken.wav", "new.wav"]
    assert (done.new, done.unchanged, done.moved, done.removed, done.failed) == (2, 2, 1, 2, 1)
    assert [failure.path for failure in failures] == [str(broken)]
    assert len(index) == 5
    monkeypatch.undo()
    assert index.search(fresh, top=50)
    names = {os.path.basename(match.path) for match in index.search((sound(1, seed=3), RATE), 50)}
    assert names == {"0.wav", "1.wav", "3.wav", "moved.wav", "new.wav"}


def test_a_copy_is_not_heard_again(index, sounds, tmp_path):
    index.update(sounds[:1])
    copy = tmp_path / "copy.wav"
    shutil.copy(sounds[0], copy)
    assert index.update([copy]).moved == 1
    paths = {match.path for match in index.search((sound(1), RATE), 50)}
    assert paths == {str(copy), str(sounds[0])}


def test_unreadable_recordings_are_an_error_without_anybody_to_tell(index, tmp_path):
    with pytest.raises(AudioError, match=r"none\.wav: cannot be read"):
        index.update([tmp_path / "none.wav"])


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.slow
def test_what_is_done_stays_and_the_same_command_goes_on(stop, model, tmp_path, monkeypatch):
    for i in range(200):
        write(tmp_path / "s" / f"{i:02}.wav", sound(20, seed=i))
    command = [sys.executable, "-m", "atgnn", "index", tmp_path / "s", "--out", tmp_path / "I",
               "--model", model, "--segment", "1", "--hop", "0.25"]  # fmt: skip
    child = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    base = tmp_path / "I" / "index.sqlite"
    while child.poll() is None and count(base) < 3:
        time.sleep(0.05)
    child.send_signal(stop)
    _, said = child.communicate(timeout=60)
    before = count(base)
    assert 3 <= before < 200
    if stop == signal.SIGINT:
        assert child.returncode == 130
        assert said.splitlines()[-1].endswith("the same command goes on")
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert f"{before} unchanged" in done.stderr
    assert count(base) == 200


def count(base):
    try:
        with sqlite3.connect(f"file:{base}?mode=ro", uri=True) as file:
            return file.execute("SELECT COUNT(*) FROM recordings").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_a_stop_keeps_what_is_done(index, sounds, monkeypatch):
    seen = []

    def stop_at_two(done):
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"2 recordings are in .*same command goes on"):
        index.update(sounds, progress=stop_at_two)
    done = index.update(sounds)
    assert (done.unchanged, done.new) == (2, 3)


def test_a_missing_or_damaged_faiss_file_is_made_again(index, sounds):
    index.update(sounds)
    before = index.search(sounds[0], top=3)
    (file,) = index.folder.glob("segments-*.faiss")
    file.unlink()
    index._nearest = None
    assert index.search(sounds[0], top=3) == before
    index.update([write(sounds[0].parent / "more.wav", sound(1, seed=7))])
    index.search(sounds[0])
    assert [f.name for f in index.folder.glob("segments-*.faiss")] != [file.name]


def test_an_index_is_searched_when_a_recording_of_it_can_no_longer_be_read(index, sounds):
    index.update(sounds)
    index.search(sounds[0])
    sounds[1].write_text("no sound any more")
    failures = []
    assert index.update(sounds, on_failure=failures.append).failed == 1
    found = {match.path for match in index.search(sounds[0], top=99)}
    assert found == {str(path) for path in sounds[2:]}


def test_a_damaged_faiss_file_is_one_line_and_made_again(index, sounds):
    index.update(sounds[:2])
    before = index.search(sounds[0])
    (file,) = index.folder.glob("segments-*.faiss")
    file.write_bytes(b"damaged")
    index._nearest = None
    with pytest.raises(SearchError, match="search again") as error:
        index.search(sounds[0])
    assert "\n" not in str(error.value)
    assert index.search(sounds[0]) == before


def test_another_process_that_writes_for_long_is_one_line(embedder, sounds, tmp_path, monkeypatch):
    monkeypatch.setattr("atgnn.search.store.PATIENCE", 0.01)
    index = Index.create(tmp_path / "busy", embedder, SETTINGS)
    other = sqlite3.connect(tmp_path / "busy" / "index.sqlite")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SearchError, match="is locked; is another process indexing into it"):
        index.update(sounds[:1])
    other.rollback()
    other.close()
    assert index.update(sounds[:1]).new == 1
    index.close()


# ------------------------------------------------------------------ what is refused
# ------------------------------------------------------------------ what is refused


def test_another_models_index_is_refused(index, sounds, tmp_path):
    other = tiny_checkpoint()
    other.model.encoder.stem.convs[0].conv.weight.data += 0.1
    with pytest.raises(SearchError, match="made with another model"):
        Index.open(index.folder, Embedder(other, "cpu"))
    with pytest.raises(SearchError, match=r"segments of 1 s every 0\.5 s, with regions, this asks"):
        Index.create(index.folder, index.embedder, IndexSettings(segment_s=2, hop_s=1))
    with pytest.raises(SearchError, match="holds other files"):
        Index.create(sounds[0].parent, index.embedder)
    with pytest.raises(SearchError, match="no index"):
        Index.open(tmp_path / "none", index.embedder)
    with pytest.raises(SearchError, match="nothing is in"):
        index.search(sounds[0])
    with pytest.raises(ConfigError, match="segment_s: Input should be a finite number"):
        IndexSettings.of(segment_s=float("inf"))
    with pytest.raises(ConfigError, match="whole number of steps"):
        IndexSettings.of(segment_s=1, hop_s=0.4)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "index.sqlite").write_bytes(b"no base" * 999)
    with pytest.raises(SearchError, match="damaged or not an index"):
        Index.open(tmp_path / "bad", index.embedder)


def test_without_the_library_the_extra_is_named(index, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[search\]"'):
        Index.open(index.folder, index.embedder)


# ------------------------------------------------------------------ regions


def chirps(at, hertz, seconds=2.0, seed=0):
    """Faint noise with a loud trill at a moment and a pitch."""
    time = np.arange(round(seconds * RATE)) / RATE
    trill = np.sin(2 * np.pi * hertz * time + 30 * np.sin(2 * np.pi * 25 * time))
    noise = 0.003 * np.random.default_rng(seed).standard_normal(len(time))
    return (noise + 0.3 * trill * (np.abs(time - at) < 0.12)).astype(np.float32)


def test_a_box_finds_the_same_sound_elsewhere(index, tmp_path):
    query = write(tmp_path / "query.wav", chirps(0.5, 2500))
    index.update([
        write(tmp_path / "s" / "low.wav", chirps(0.7, 400, seed=1)),
        write(tmp_path / "s" / "same.wav", chirps(1.4, 2500, seed=2)),
        write(tmp_path / "s" / "none.wav", chirps(9.0, 2500, seed=3)),
    ])  # fmt: skip
    first, *_ = index.search_region(query, Box(0.35, 0.65, 1500, 4000), top=3)
    assert os.path.basename(first.path) == "same.wav"
    assert first.start < 1.4 < first.end
    assert first.low_hz < 2500 < first.high_hz
    assert first.end - first.start < 1.0


def test_the_box_itself_is_not_found(index, tmp_path):
    query = write(tmp_path / "query.wav", chirps(0.5, 2500))
    index.update([query])
    for match in index.search_region(query, Box(0.35, 0.65, 1500, 4000), top=20):
        assert match.start >= 0.65 or match.end <= 0.35 or match.low_hz >= 4000


def test_regions_need_their_nodes_and_a_box_that_holds_something(tmp_path, embedder, sounds, index):
    bare = Index.create(tmp_path / "bare", embedder, IndexSettings(segment_s=1, hop_s=1))
    bare.update(sounds[:1])
    with pytest.raises(SearchError, match="--regions"):
        bare.search_region(sounds[0], Box(0, 1, 0, 8000))
    bare.close()
    index.update(sounds[:1])
    with pytest.raises(ConfigError, match="give a shorter one"):
        index.search_region(sounds[0], Box(0, 1.5, 0, 8000))
    with pytest.raises(AudioError, match=r"lasts 2\.000 s"):
        index.search_region(sounds[0], Box(7, 7.5, 0, 8000))
    with pytest.raises(ConfigError, match="holds nothing"):
        Box(1, 1, 0, 8000)


@pytest.mark.parametrize(
    ("preset", "stage"), [("mini", 1), ("mini-lite0", 0), ("iso-ti", 0), ("pyr-s", 2)]
)
def test_nodes_of_regions_are_no_coarser_than_sixteen_bins(preset, stage):
    embedder = SimpleNamespace(config=model_preset(preset), front_end=FrontEndConfig())
    places = _places(embedder)
    assert (places.stage, places.stride) == (stage, 16)
    assert places.rows == 8


def test_a_region_is_where_the_nearest_patches_lie_together(embedder):
    places = NodePlaces(embedder.config, embedder.front_end, 0)
    likeness = np.zeros((places.rows, 20))
    likeness[1, 5:8] = 0.9, 1.0, 0.8  # hang together
    likeness[3, 15] = 0.85  # does not
    found = nearest_region(likeness, 4, places, 10.0, 12.0)
    times, bands = places.time_edges(20), places.band_edges()
    assert found.box == Box(10 + times[5], 10 + times[8], bands[1], bands[2])
    assert found.similarity == pytest.approx((0.9 + 1 + 0.8 + 0.85) / 4)


def test_a_label_node_is_the_mean_direction_of_the_nodes_in_its_box(embedder):
    places = NodePlaces(embedder.config, embedder.front_end, 0)
    bands, times = places.band_edges(), places.times(20)
    inside = nodes_inside(places, 20, Box(times[3], times[5], bands[0], bands[2]), 0.0)
    assert np.argwhere(inside).tolist() == [[r, c] for r in (0, 1) for c in (3, 4, 5)]
    small = nodes_inside(places, 20, Box(times[3], times[3] + 1e-3, bands[2], bands[2] + 1), 0.0)
    assert small.sum() == 1
    nodes = np.random.default_rng(0).standard_normal((places.rows, 20, 6))
    seed = label_node(nodes, inside)
    assert np.linalg.norm(seed) == pytest.approx(1, abs=1e-6)
    mean = nodes[:2, 3:6].mean((0, 1))
    np.testing.assert_allclose(seed, mean / np.linalg.norm(mean), rtol=1e-5)


def test_a_recording_of_a_moment_does_not_spoil_the_others(index, tmp_path):
    short = write(tmp_path / "s" / "short.wav", np.array([0.5, -0.5], np.float32))
    query = write(tmp_path / "s" / "query.wav", chirps(0.5, 2500))
    index.update([short, query])
    found = index.search_region(query, Box(0.35, 0.65, 1500, 4000), top=50)
    assert os.path.basename(found[-1].path) in ("short.wav", "query.wav")
    assert all(0 <= match.start < match.end for match in found)


# ------------------------------------------------------------------ the commands


def test_index_and_search_from_the_shell(model, sounds, tmp_path):
    folder = tmp_path / "I"
    words = ["index", tmp_path / "s", "--out", folder, "--model", model, "--segment", "1",
             "--hop", "0.5", "--regions"]  # fmt: skip
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "5 recordings (5 new" in result.stderr
    assert "5 unchanged" in run(*words).stderr
    found = run("search", sounds[0], "--in", folder, "--top", "3", "--json")
    assert found.exit_code == 0, found.output
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(lines) == 3
    assert set(lines[0]) == {"path", "start", "end", "similarity"}
    box = ["--start", "0.2", "--end", "0.6", "--low-hz", "200", "--high-hz", "2000"]
    region = run("search", sounds[0], "--in", folder, "--json", *box)
    assert region.exit_code == 0, region.output
    assert {"low_hz", "high_hz"} < set(json.loads(region.stdout.splitlines()[0]))
    table = run("search", sounds[0], "--in", folder, *box).stdout
    assert " Hz " in table
    assert str(tmp_path / "s") in table


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["q.wav", "--in", "NONE"], 2, "no index NONE"),
        (["q.wav", "--in", "I", "--low-hz", "5"], 2, "give all four"),
        (["q.wav", "--in", "I", "--start", "2", "--end", "1"], 2, "is not after"),
        (["none.wav", "--in", "I"], 1, "none.wav"),
    ],
)
def test_bad_input_is_one_clear_line(model, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "q.wav")
    Index.create("I", Embedder.from_pretrained(model, "cpu")).close()
    result = run("search", *words)
    assert result.exit_code == code
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_what_all_nodes_have_in_common_tells_none_from_another():
    random = np.random.default_rng(0)
    rows = 5 + random.standard_normal((200, 3)) * [1, 10, 0.1]
    padded = np.concatenate([rows, np.zeros((50, 3))])
    scale = _Scale.of([padded[:120], padded[120:]], 3)
    np.testing.assert_allclose(scale.mean, rows.mean(0), rtol=1e-5)
    out = scale(padded.reshape(5, 50, 3))
    assert out.shape == (5, 50, 3)
    assert not out[4].any()
    np.testing.assert_allclose(np.linalg.norm(out[:4], axis=-1), 1, rtol=1e-5)
    assert np.abs(out[:4].mean((0, 1))).max() < 0.1
    few = _Scale.of([rows[:50]], 3)
    np.testing.assert_allclose(few(rows), rows / np.linalg.norm(rows, axis=1, keepdims=True), 1e-5)


def test_the_scale_is_kept_beside_the_file_it_belongs_to(index, sounds):
    index.update(sounds)
    before = index.search_region(sounds[0], Box(0.2, 0.6, 500, 4000), top=3)
    kept = sorted(path.stem for path in index.folder.glob("nodes-*.npy"))
    assert kept == sorted(path.stem for path in index.folder.glob("nodes-*.faiss"))
    assert len(kept) == 1
    (file,) = index.folder.glob("nodes-*.npy")
    file.write_bytes(b"damaged")
    again = Index.open(index.folder, index.embedder)
    assert again.search_region(sounds[0], Box(0.2, 0.6, 500, 4000), top=3) == before
    again.close()
    assert _Scale.read(file.with_suffix(".faiss")) is not None
