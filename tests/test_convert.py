"""``atgnn convert``: published weights as a checkpoint, heard through the front end they know."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_helpers import command
from helpers import sound, tiny_checkpoint, write
from other_models import LABELS, save_ast
from test_baseline_psla import backwards, tiny

from atgnn.baselines import psla
from atgnn.checkpoint import Checkpoint
from atgnn.convert import CONVERTIBLE, convert
from atgnn.errors import AtgnnError, CheckpointError, ConfigError
from atgnn.frontend import FRONT_ENDS, FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.model import ATGNN
from atgnn.model.weights import load_published, published_config
from atgnn.tagger import Tagger


@pytest.fixture
def small_psla(monkeypatch, tmp_path):
    """A file of a narrow PSLA with three labels, and the preset to match."""
    config = psla.PSLA_PRESETS["psla"].replace(width=0.25, depth=0.5)
    monkeypatch.setitem(psla.PSLA_PRESETS, "psla", config)
    network = tiny(n_mels=128)
    path = tmp_path / "as_mdl_0.pth"
    torch.save(backwards(network), path)
    return path, network


@pytest.mark.parametrize("problem", ["sigmoid", "softmax"])
def test_a_hub_folder_scores_as_in_transformers(tmp_path, problem):
    transformers = pytest.importorskip("transformers")
    kind = {"sigmoid": "multi_label", "softmax": "single_label"}[problem]
    folder = save_ast(tmp_path / "hub", problem=f"{kind}_classification")
    one, _ = convert(folder, "ast")
    assert one.activation == problem
    assert one.vocabulary.names == LABELS
    assert one.vocabulary[0].mid == "/m/0bt9lr"
    assert one.window_seconds == pytest.approx(0.025 + 127 * 0.01)
    wave = sound(1.2)
    pipe = transformers.pipeline("audio-classification", model=str(folder))
    theirs = {row["label"]: row["score"] for row in pipe(wave, top_k=None)}
    ours = Tagger(one, "cpu").scores((wave, 16_000))
    assert np.ptp(ours) > 0.01
    np.testing.assert_allclose(np.ravel(ours), [theirs[name] for name in LABELS], atol=1e-3)


def test_statistics_of_the_folder_are_taken_over(tmp_path):
    """Those of Speech Commands, say, are others than AudioSet's."""
    pytest.importorskip("transformers")
    folder = save_ast(tmp_path / "hub")
    path = folder / "preprocessor_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "mean": -6.8, "std": 5.5}))
    front_end = convert(folder, "ast")[0].front_end
    assert (front_end.mean, front_end.std) == (-6.8, 11.0)
    path.write_text(json.dumps({**content, "do_normalize": False}))
    front_end = convert(folder, "ast")[0].front_end
    assert (front_end.mean, front_end.std) == (0.0, 1.0)
    assert front_end.pad_to_frames == 128


def test_a_file_tags(small_psla, tmp_path):
    path, network = small_psla
    (tmp_path / "labels.csv").write_text("index,name\n0,Dog\n1,Rain\n2,my own\n")
    out = tmp_path / "model"
    arguments = ["--preset", "psla", "--labels", str(tmp_path / "labels.csv"), "--out", str(out)]
    said = command("convert", str(path), *arguments)
    assert f"published weights from {path.name}" in said
    clip = write(tmp_path / "a.wav", sound(1.0))
    assert "my own" in command("tag", str(clip), "--model", str(out), "--top", "3")
    one = Checkpoint.from_pretrained(out)
    assert one.front_end == FRONT_ENDS["psla"]
    assert one.window_seconds == 10
    assert torch.equal(one.model.stem.conv.weight, network.stem.conv.weight)


@torch.no_grad()
def test_the_authors_atgnn_keeps_its_geometry():
    path = Path(__file__).parent / "fixtures" / "atgnn_tiny.ckpt"
    layout = published_config(path)
    names = Vocabulary.from_names(f"label {number}" for number in range(layout.num_labels))
    one, _ = convert(path, "pyr-s", names)
    assert one.model.config == layout
    assert layout.position == "legacy"
    assert one.front_end == FrontEndConfig(
        n_mels=layout.n_mels, pad_to_frames=layout.nominal_frames
    )
    mel = torch.randn(1, layout.nominal_frames, layout.n_mels)
    expected = ATGNN(layout).eval()
    load_published(path, expected)
    assert torch.equal(one.model(mel), expected(mel))


def test_the_commands_word_goes(tmp_path):
    """Over what the folder says of labels and activation."""
    pytest.importorskip("transformers")
    folder, out = save_ast(tmp_path / "hub"), tmp_path / "m"
    (tmp_path / "labels.csv").write_text("index,name\n0,a\n1,b\n2,c\n")
    command(
        "convert", str(folder), "--preset", "ast", "--out", str(out),
        "--labels", str(tmp_path / "labels.csv"), "--activation", "softmax",
    )  # fmt: skip
    one = Checkpoint.from_pretrained(out)
    assert one.vocabulary.names == ("a", "b", "c")
    assert one.activation == "softmax"


@pytest.mark.parametrize("preset", ["psla", "ast"])
def test_a_folder_of_something_else(tmp_path, preset):
    with pytest.raises(CheckpointError, match=f"no published weights of {preset} at"):
        convert(tmp_path, preset)


def test_a_hub_model_that_does_not_classify(tmp_path):
    pytest.importorskip("transformers")
    folder = save_ast(tmp_path / "hub", problem="regression")
    with pytest.raises(ConfigError, match="predicts numbers, not labels"):
        convert(folder, "ast")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"0": "Dog", "1": "Dog", "2": "Rain"}, "Dog"),
        ({"0": "Dog", "1": "Rain"}, "has nothing for classifier.weight, classifier.bias"),
        ({"first": "Dog"}, "id2label is no table of labels by index"),
        (["Dog"], "id2label is no table of labels by index"),
    ],
)
def test_a_hub_folder_whose_labels_do_not_fit(tmp_path, names, message):
    pytest.importorskip("transformers")
    folder = save_ast(tmp_path / "hub")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "id2label": names}))
    with pytest.raises(AtgnnError, match=message) as caught:
        convert(folder, "ast")
    assert "\n" not in str(caught.value)


def test_our_own_checkpoint_is_one_already(tmp_path):
    own = tiny_checkpoint().save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="it is a checkpoint already"):
        convert(own, "ast")


def test_only_presets_with_published_weights_are_offered():
    with pytest.raises(ConfigError) as caught:
        convert(Path("any.pth"), "small-cnn")
    assert str(caught.value).endswith(f"choose from {', '.join(CONVERTIBLE)}")
    page = (Path(__file__).parents[1] / "docs" / "baselines.md").read_text("utf-8")
    (listed,) = re.findall(r"what a system was published as \(([^)]*)\)", page)
    assert re.findall(r"`([^`]+)`", listed) == list(CONVERTIBLE)


def test_a_file_of_other_weights_says_what_was_expected(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=r"not CNN14's weights: .* for bn0.weight, got x"):
        convert(tmp_path / "wrong.pth", "cnn14")


def test_a_text_is_no_checkpoint(tmp_path):
    (tmp_path / "text.wav").write_text("text here, words\n")
    with pytest.raises(CheckpointError, match=r"is not a PyTorch checkpoint$"):
        convert(tmp_path / "text.wav", "cnn14")
