"""A model as an ONNX file: the same scores, without PyTorch; what cannot be exported is refused."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from helpers import LABELS, RATE, sound, tiny_checkpoint, write
from other_models import made_onnx
from typer.testing import CliRunner

from atgnn import export
from atgnn.checkpoint import Calibration
from atgnn.cli import app
from atgnn.errors import CheckpointError, MissingExtraError
from atgnn.export import ExportError, check_parity, export_onnx, least_frames
from atgnn.frontend import FrontEndConfig
from atgnn.networks import build, empty_network, initialise_network, network_preset
from atgnn.onnx_tagger import OnnxModel, OnnxTagger
from atgnn.tagger import Tagger

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint(
        thresholds=(0.1, 0.2, 0.3, 0.4, 0.5), calibration=Calibration(scale=0.8, shift=0.1)
    )


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """The file of a whole model: made once, as tracing takes a while."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return path, export_onnx(checkpoint, path)


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    return made_onnx(tmp_path_factory.mktemp("made") / "made.onnx", checkpoint)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.slow
def test_any_length_and_batch_gives_the_models_scores(checkpoint, exported):
    path, difference = exported
    assert difference.largest < 1e-3
    model, tagger = OnnxModel(path), Tagger(checkpoint, "cpu")
    for seconds in (0.03, 0.31, 0.5, 1.0, 1.37, 1.99, 2.0, 3.3):
        wave = sound(seconds, seed=3)
        (found,) = model.run(wave[None], np.array([len(wave)]))
        expected = tagger.score_windows([wave])[0]
        np.testing.assert_allclose(found, expected, atol=2e-4, err_msg=f"{seconds} s")
    waves = [sound(s, seed=i) for i, s in enumerate((0.7, 2.0, 0.2, 1.1))]
    batch = np.zeros((4, 2 * RATE), np.float32)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    found = model.run(batch, np.array([len(wave) for wave in waves]))
    np.testing.assert_allclose(found, tagger.score_windows(waves), atol=2e-4)


@pytest.mark.slow
def test_the_file_says_what_it_is(checkpoint, exported):
    model = onnx.load(exported[0])
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    batch, time = (one.dim_param for one in model.graph.input[0].type.tensor_type.shape.dim)
    assert batch
    assert time
    assert [one.name for one in model.graph.input] == ["wave", "lengths"]
    about = OnnxModel(exported[0]).about
    assert [label["name"] for label in about["labels"]] == list(LABELS)
    assert about["thresholds"] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert (about["sample_rate"], about["window_seconds"]) == (RATE, 2.0)
    assert about["digest"] == checkpoint.digest()


def test_a_file_is_tagged_without_pytorch(made, tmp_path):
    wave = sound(4.7)
    path = write(tmp_path / "long.wav", wave, subtype="FLOAT")
    code = textwrap.dedent(f"""
        import json, sys
        from atgnn.onnx_tagger import OnnxTagger
        tagger = OnnxTagger({str(made)!r})
        tagging = tagger.tag({str(path)!r}, threshold=0)
        assert not [name for name in sys.modules if name.split(".")[0] == "torch"]
        print(tagging.to_json())
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["duration"] == 4.7
    parts = [wave[:32_000], wave[32_000:64_000], wave[64_000:]]  # the last one is no padding
    sizes = np.array([np.abs(part).mean() for part in parts])[:, None]
    windows = 1 / (1 + np.exp(-sizes * [[3.0, -2.0, 1.0, 5.0, 0.5]]))
    expected = np.average(windows, axis=0, weights=[2, 2, 0.7])
    scores = OnnxTagger(made).scores(path)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert {t["label"]: t["score"] for t in found["tags"]}["Rain"] == pytest.approx(
        expected[3], abs=1e-5
    )


@pytest.mark.slow
def test_the_reader_gives_the_taggers_tags(checkpoint, exported, tmp_path):
    path = write(tmp_path / "long.wav", sound(4.7))
    found, expected = OnnxTagger(exported[0]).tag(path), Tagger(checkpoint, "cpu").tag(path)
    assert [tag.label for tag in found] == [tag.label for tag in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=2e-4)


def test_a_file_that_is_not_the_model_is_not_left_there(checkpoint, made, tmp_path, monkeypatch):
    class Traced:
        model_proto = onnx.load(made)

    with pytest.raises(ExportError, match="not the same model: its scores are off by"):
        check_parity(checkpoint, made.read_bytes())
    del Traced.model_proto.metadata_props[:]
    monkeypatch.setattr(export, "_traced", lambda *_: Traced)
    out = tmp_path / "wrong.onnx"
    with pytest.raises(ExportError, match="not the same model"):
        export_onnx(checkpoint, out)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_int8_is_smaller_and_says_how_far_it_is_off(checkpoint, exported, tmp_path, monkeypatch):
    class Traced:
        model_proto = onnx.load(exported[0])

    del Traced.model_proto.metadata_props[:]
    monkeypatch.setattr(export, "_traced", lambda *_: Traced)
    small = tmp_path / "small.onnx"
    difference = export_onnx(checkpoint, small, int8=True)
    assert 0 < difference.mean < 0.05
    assert OnnxModel(small).about["int8"]
    kinds = {node.op_type for node in onnx.load(small).graph.node}
    assert kinds & {"MatMulInteger", "DynamicQuantizeMatMul"}
    assert {"MatMul", "DFT"} <= kinds, "the front end stays as it is"


@pytest.mark.slow
def test_features_may_come_from_elsewhere(checkpoint, tmp_path):
    out = tmp_path / "features.onnx"
    assert run("export", checkpoint.save_pretrained(tmp_path / "model"), "--out", out,
               "--no-front-end").exit_code == 0  # fmt: skip
    model, wave = OnnxModel(out), torch.tensor(sound(1.2))[None]
    features, frames = checkpoint.make_front_end()(wave)
    found = model.run(features.numpy(), frames.numpy())
    expected = Tagger(checkpoint, "cpu").score_windows([wave[0].numpy()])
    np.testing.assert_allclose(found, expected, atol=2e-4)
    with pytest.raises(CheckpointError, match="takes features, not sound"):
        OnnxTagger(out)


def test_least_frames_is_the_shortest_clip_with_all_neighbours():
    config = tiny_checkpoint().model.config  # k 3 and 2 rows of cells in both stages
    frames = least_frames(config)
    for stage, ratio in enumerate(config.reductions):
        rows, columns = config.grid(frames, stage)
        assert -(-rows // ratio) * -(-columns // ratio) >= 3
    rows, columns = config.grid(frames - 1, 1)
    assert rows * columns < 3


# ------------------------------------------------------------------ baselines, and their stages


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("small-cnn", {"channels": [4, 8]}),
        ("lite0", {"width": 0.25}),
        ("mini-lite0", {"nominal_frames": 128}),
        ("psla", {"width": 0.25, "depth": 0.4}),
    ],
)
def test_others_that_know_what_is_padding_are_exported(checkpoint, tmp_path, name, layout):
    torch.manual_seed(0)
    network = build(network_preset(name, num_labels=5, n_mels=32, **layout)).eval()
    initialise_network(network, 0.0)  # else random branches add up to logits of hundreds
    one, path = checkpoint.changed(model=network), tmp_path / "m.onnx"
    assert export_onnx(one, path).largest < 1e-4
    for seconds in (0.05, 1.3, 5.0):
        recording = (sound(seconds), 16_000)
        expected = Tagger(one, "cpu").scores(recording)
        np.testing.assert_allclose(OnnxTagger(path).scores(recording), expected, atol=1e-4)


# ------------------------------------------------------------------ bad input


def test_what_cannot_be_exported_is_refused(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "x.onnx"
    one_by_one = empty_network(network_preset("cnn14", num_labels=5, n_mels=32))
    with pytest.raises(ExportError, match="of kind cnn14 are not exported, as they score clips"):
        export_onnx(checkpoint.changed(model=one_by_one), out)
    padded = checkpoint.changed(front_end=FrontEndConfig(n_mels=32, pad_to_frames=300))
    with pytest.raises(ExportError, match="pads every clip to 300 frames"):
        export_onnx(padded, out)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[onnx\]"'):
        export_onnx(checkpoint, out)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_one_clear_line(made, tmp_path):
    with pytest.raises(CheckpointError, match=r"no file none\.onnx"):
        OnnxModel("none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(CheckpointError, match="not an ONNX file that runs here") as error:
        OnnxModel(broken)
    assert len(str(error.value).splitlines()) == 1
    foreign = onnx.load(made)
    del foreign.metadata_props[:]
    with pytest.raises(CheckpointError, match="not one that `atgnn export` wrote"):
        OnnxModel(foreign.SerializeToString())
    (tmp_path / "there.onnx").write_text("mine")
    result = run("export", "everyday-mini", "--out", tmp_path / "there.onnx")
    assert result.exit_code == 2
    assert "exists" in result.stderr
    result = run("export", "everyday-mini", "--out", tmp_path / "model.txt")
    assert result.exit_code == 2
    assert "ends in .onnx" in result.stderr
    assert not (tmp_path / "model.txt").exists()
    result = run("export", "nothing", "--out", tmp_path / "new.onnx")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    result = run("export", "everyday-mini", "--out", tmp_path / "n.x", "--format", "tflite")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
