"""Recordings as vectors, their Parquet files, and HEAR's interface to them."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from helpers import RATE, sound, tiny_checkpoint, write
from typer.testing import CliRunner

from atgnn import hear_api as hear
from atgnn.baselines.efficientnet import LITE_PRESETS, EfficientNetLite
from atgnn.cli import app
from atgnn.embeddings import Embedder
from atgnn.encoder import Encoder, embed
from atgnn.errors import AudioError, CheckpointError, ConfigError
from atgnn.model.geometry import NodePlaces


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint().save_pretrained(tmp_path_factory.mktemp("saved") / "model")


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_clip_is_the_mean_and_deviation_of_the_last_nodes(embedder):
    wave = sound(1.3)
    checkpoint = tiny_checkpoint()
    mel, _ = checkpoint.make_front_end()(torch.tensor(wave)[None])
    with torch.inference_mode():
        expected = embed(checkpoint.model.encoder, mel)[0].numpy()
    found = embedder.clip((wave, RATE))
    assert found.shape == (embedder.size,) == (64,)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    long = embedder.clip((sound(5.0), RATE))  # windows of 2, 2 and 1 s
    parts = [embedder.clip((sound(5.0)[a * RATE : b * RATE], RATE)) for a, b in ((0, 2), (2, 4))]
    last = embedder.clip((sound(5.0)[4 * RATE :], RATE))
    np.testing.assert_allclose(long, (2 * parts[0] + 2 * parts[1] + last) / 5, atol=2e-4)


def test_windows_overlap_as_asked(embedder):
    (found,) = embedder.windows([(sound(3.0), RATE)], window=1.0, hop=0.5)
    assert found.starts.tolist() == [0, 0.5, 1, 1.5, 2]
    assert found.values.shape == (5, 64)


def test_moments_are_the_columns_next_to_them(embedder):
    wave = sound(2.0)
    checkpoint, places = tiny_checkpoint(), NodePlaces(embedder.config, embedder.front_end, 0)
    (found,) = embedder.moments([(wave, RATE)], every=0.05)
    assert found.values.shape == (40, embedder.moment_size) == (40, 48)
    np.testing.assert_allclose(found.starts, np.arange(40) * 0.05)
    mel, _ = checkpoint.make_front_end()(torch.tensor(wave)[None])
    with torch.inference_mode():
        columns = checkpoint.model.encoder(mel)[0][-1].x[0].mean(0).numpy()  # (T, C)
    at = np.clip(places.column_at(found.starts), 0, len(columns) - 1)
    for channel in range(16):
        expected = np.interp(at, np.arange(len(columns)), columns[:, channel])
        np.testing.assert_allclose(found.values[:, channel], expected, atol=2e-4)


def test_moments_of_unequal_clips_do_not_depend_on_their_batch(embedder):
    clips = [(sound(0.42, seed=1), RATE), (sound(4.61, seed=2), RATE), (sound(2.0), RATE)]
    together = list(embedder.moments(clips, every=0.1))
    assert [len(one.values) for one in together] == [5, 47, 20]
    for clip, one in zip(clips, together, strict=True):
        (alone,) = embedder.moments([clip], every=0.1, batch_size=1)
        np.testing.assert_allclose(one.values, alone.values, atol=2e-4)
        assert one.starts[-1] + one.seconds[-1] == pytest.approx(len(clip[0]) / RATE)
    for every in (0.3, 1e-9, float("nan")):
        with pytest.raises(ConfigError, match=r"whole number, such as 0\.05$"):
            list(embedder.moments(clips, every=every))
    odd = Embedder(tiny_checkpoint(window_seconds=1.03), "cpu")
    with pytest.raises(ConfigError, match="such as") as caught:
        list(odd.moments(clips[:1], every=0.05))
    (found,) = odd.moments(clips[:1], every=float(str(caught.value).split()[-1]))
    assert found.starts[1] == pytest.approx(1.03 / 21)


def test_an_encoder_without_labels_embeds_and_a_baseline_does_not(embedder):
    checkpoint = tiny_checkpoint()
    bare = Encoder(checkpoint.model.encoder, checkpoint.model.config, checkpoint.front_end)
    before = torch.random.get_rng_state()
    other = Embedder(bare, "cpu")
    assert torch.equal(before, torch.random.get_rng_state())
    assert other.digest == embedder.digest
    np.testing.assert_allclose(other.clip((sound(1), RATE)), embedder.clip((sound(1), RATE)))
    fewer = tiny_checkpoint(labels=("A", "B"))
    fewer.model.encoder = checkpoint.model.encoder
    assert Embedder(fewer, "cpu").digest == embedder.digest
    config = next(iter(LITE_PRESETS.values())).replace(num_labels=5, n_mels=32)
    with torch.device("meta"):
        network = EfficientNetLite(config)
    with pytest.raises(CheckpointError, match="has no patch nodes"):
        Embedder(checkpoint.changed(model=network), "cpu")


# ------------------------------------------------------------------ the command


def test_the_command_writes_a_row_a_recording_window_or_moment(model, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    one = write(tmp_path / "a.wav", sound(1))
    write(tmp_path / "b\tü.wav", sound(3, seed=1))
    rows = {}
    for name, options in {
        "recordings": [],
        "windows": ["--window", "1", "--hop", "0.5"],
        "moments": ["--every", "0.1"],
    }.items():
        out = tmp_path / "out" / f"{name}.parquet"
        result = run("embed", tmp_path / "a.wav", tmp_path / "b\tü.wav", "--out", out,
                     "--model", model, *options)  # fmt: skip
        assert result.exit_code == 0, result.output
        table = parquet.read_table(out)
        about = json.loads(table.schema.metadata[b"atgnn_embeddings"])
        assert about["of"] == name
        assert about["digest"] == Embedder.from_pretrained(model, "cpu").digest
        rows[name] = table.num_rows
    assert rows == {"recordings": 2, "windows": 1 + 5, "moments": 10 + 30}
    assert set(table["path"].to_pylist()) == {str(one), str(tmp_path / "b\tü.wav")}
    assert table["embedding"].type.list_size == 48
    assert "exists" in run("embed", one, "--out", out, "--model", model).stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none.wav", "--out", "x.parquet"], 1, "no recording could be embedded"),
        (["a.wav", "--out", "x.csv"], 2, "name it FILE.parquet"),
        (["a.wav", "--out", "x.parquet", "--hop", "1"], 2, "--hop does nothing without --window"),
        (["a.wav", "--out", "x.parquet", "--every", "0"], 2, "give a step of 0.001 s or more"),
        (["a.wav", "--out", "x.parquet", "--window", "-1"], 2, "give a length above 0"),
    ],
)
def test_bad_input_is_one_clear_line(model, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.wav")
    result = run("embed", *words, "--model", model)
    assert result.exit_code == code
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav"]


# ------------------------------------------------------------------ HEAR


def test_hear_as_published(model):
    """What its validator asks for, and what its text says beside that."""
    loaded = hear.load_model(str(model))
    assert isinstance(loaded, torch.nn.Module)
    assert loaded.sample_rate in (16000, 22050, 44100, 48000)
    assert isinstance(loaded.scene_embedding_size, int)
    assert isinstance(loaded.timestamp_embedding_size, int)
    audio = torch.rand(16, 2 * RATE) * 2 - 1
    embeddings, times = hear.get_timestamp_embeddings(audio, loaded)
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (*times.shape, loaded.timestamp_embedding_size)
    assert len(embeddings) == 16
    steps = torch.diff(times)
    assert float(steps.mean()) <= 50
    assert torch.all((steps - steps.mean()).abs() < 1e-3)
    assert float(times[0, 0]) == 0
    assert float(times[0, -1]) < 2000
    scenes = hear.get_scene_embeddings(audio[:8, : int(1.74 * RATE)], loaded)
    assert scenes.dtype == torch.float32
    assert scenes.shape == (8, loaded.scene_embedding_size)


def test_hear_gives_what_the_command_gives(embedder, model):
    loaded, wave = hear.load_model(str(model)), sound(4.6)
    audio = torch.tensor(wave)[None]
    scene = hear.get_scene_embeddings(audio, loaded)[0].numpy()
    np.testing.assert_allclose(scene, embedder.clip((wave, RATE)), atol=2e-4)
    moments, times = hear.get_timestamp_embeddings(audio, loaded)
    (found,) = embedder.moments([(wave, RATE)])
    np.testing.assert_allclose(moments[0].numpy(), found.values, atol=2e-4)
    np.testing.assert_allclose(times[0].numpy(), 1000 * found.starts, atol=1e-2)
    with pytest.raises(AudioError, match=r"shape \(sounds, samples\)"):
        hear.get_scene_embeddings(audio[0], loaded)


def test_time_stamps_go_on_evenly_whatever_the_window(embedder):
    """1.03 s is no whole number of moments: windows then begin between two of them."""
    loaded = hear.HearModel(Embedder(tiny_checkpoint(window_seconds=1.03), "cpu"))
    audio = torch.tensor(sound(3.0))[None]
    moments, times = hear.get_timestamp_embeddings(audio, loaded)
    assert moments.shape[1] == times.shape[1] == 60
    second, _ = hear.get_timestamp_embeddings(audio[:, RATE : 2 * RATE], loaded)
    torch.testing.assert_close(moments[:, 20:40], second, rtol=0, atol=1e-5)


def test_hears_own_validator(model, monkeypatch):
    pytest.importorskip("hearvalidator")
    if "tensorflow" not in sys.modules:  # it asks only whether a model is one of TensorFlow's
        stand_in = types.ModuleType("tensorflow")
        stand_in.Module = type("Module", (), {})
        monkeypatch.setitem(sys.modules, "tensorflow", stand_in)
    from hearvalidator.validate import ValidateModel

    ValidateModel("atgnn.hear_api", str(model), device="cpu")()
