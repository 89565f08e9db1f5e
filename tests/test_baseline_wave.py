"""Audio Transformers and the small CNN: equal to others' modules, indifferent to padding,
usable like ATGNN."""

import numpy as np
import pytest
import torch
import yaml
from helpers import LABELS, sound, write
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from atgnn.baselines.audio_transformer import AudioTransformer, AudioTransformerConfig
from atgnn.baselines.base import Baseline
from atgnn.baselines.small_cnn import SmallCNN, SmallCNNConfig
from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.errors import ConfigError
from atgnn.frontend import FRONT_ENDS, FrontEnd
from atgnn.labels import Vocabulary
from atgnn.networks import for_inference, measure_cost, network_preset
from atgnn.tagger import Tagger

TINY = {
    "audio-transformer": AudioTransformerConfig(
        num_labels=3, encoder=32, width=16, heads=2, inner=24, layers=3, pool_after=(1, 2)
    ),
    "small-cnn": SmallCNNConfig(num_labels=3, n_mels=32, channels=(8, 12, 16)),
}
NAMES = list(TINY)
STEP = {"audio-transformer": 160, "small-cnn": 1}  # of lengths, in the input's frames


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(name: str, **changes: object) -> Baseline:
    """A narrow network whose norms have seen data and whose labels differ."""
    config = TINY[name].replace(**changes)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = {"audio-transformer": AudioTransformer, "small-cnn": SmallCNN}[name](config).train()
        for seed in range(12):
            model(noise(4, 40 * STEP[name], config.n_mels, seed=seed))
    nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(1))
    return model.eval()


# ---------------------------------------------------------------------- sizes


def million(name: str, labels: int) -> float:
    return measure_cost(network_preset(name, num_labels=labels), 512).trainable_parameters / 1e6


def test_sizes():
    assert million("audio-transformer", 200) == pytest.approx(2.3, rel=0.005)
    assert million("audio-transformer", 527) == pytest.approx(2.3, rel=0.02)
    assert 0.3 < million("small-cnn", 200) < 1


def test_work_of_the_waveform():
    """Ten windows of a second, by hand: dense layers, attention, and half of it after each pool."""
    cost = measure_cost(network_preset("audio-transformer"), 160_000)
    layer = 4 * 128 * 128 + 2 * 128 * 512  # of one patch
    patches = (40, 40, 20, 20, 10, 10)
    window = sum(p * layer + 2 * p * p * 128 for p in patches) + 40 * (400 * 2048 + 2048 * 128)
    assert cost.gmacs == pytest.approx((10 * window + 128 * 200) / 1e9, rel=1e-6)


# ---------------------------------------------------------------------- beside others' modules


@torch.no_grad()
def test_layers_are_torchs():
    layer = tiny("audio-transformer").layers[0]
    theirs = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True).eval()
    pairs = {
        "self_attn.in_proj_": layer.query_key_value,
        "self_attn.out_proj.": layer.attended,
        "linear1.": layer.widen,
        "linear2.": layer.narrow,
        "norm1.": layer.norm1,
        "norm2.": layer.norm2,
    }
    parts = ("weight", "bias")
    state = {name + part: getattr(ours, part) for name, ours in pairs.items() for part in parts}
    theirs.load_state_dict(state)
    x, valid = noise(2, 10, 16), torch.arange(10) < torch.tensor([[10], [4]])
    torch.testing.assert_close(layer(x), theirs(x), atol=1e-5, rtol=1e-4)
    heard, expected = layer(x, valid), theirs(x, src_key_padding_mask=~valid)
    torch.testing.assert_close(heard[valid], expected[valid], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 400, 1_999, 16_000, 16_001, 40_000])
def test_the_waveform_window_by_window(samples):
    """Restated with loops: patches, windows, positions one number at a time, pairs averaged."""
    model = tiny("audio-transformer")
    wave = noise(samples, seed=samples)
    last = []
    for start in range(0, samples, 16_000):
        piece = wave[start : start + 16_000]
        patches = [functional.pad(p, (0, 400 - len(p))) for p in piece.split(400)]
        x = torch.stack([model.project(model.filters(p).clamp(min=0)) for p in patches])
        for place in range(len(x)):
            for index in range(0, 16, 2):
                angle = place / 10_000 ** (index / 16)
                x[place, index] += np.sin(angle)
                x[place, index + 1] += np.cos(angle)
        for number, layer in enumerate(model.layers):
            x = layer(x[None])[0]
            if number < 2:
                x = torch.stack([pair.mean(0) for pair in x.split(2)])
        last.append(x)
    expected = model.classifier(torch.cat(last).mean(0))
    torch.testing.assert_close(model(wave[None, :, None])[0], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_small_one_step_by_step():
    model, mel = tiny("small-cnn"), noise(2, 50, 32)
    x = mel.transpose(1, 2)[:, None]
    for number, conv in enumerate(model.convs):
        norm, weights = conv.norm, conv.conv
        x = functional.conv2d(x, weights.weight, weights.bias, 2 - number % 2, padding=1)
        mean, var = norm.running_mean, norm.running_var
        x = functional.gelu(functional.batch_norm(x, mean, var, norm.weight, norm.bias))
    spread = torch.cat([x.mean((2, 3)), (x.var((2, 3), unbiased=False) + 1e-6).sqrt()], 1)
    torch.testing.assert_close(model(mel), model.classifier(spread), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------- padding


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 31, 45, 117])
def test_scores_do_not_depend_on_the_batch(name, length):
    model, step = tiny(name), STEP[name]
    bins, length, frames = model.config.n_mels, length * step - step // 2, 130 * step
    mel = noise(1, length, bins, seed=length)
    alone = model(mel)
    padded = torch.full((3, frames, bins), 50.0)
    padded[0, :length], padded[2, : 2 * step] = mel[0], 1
    batched = model(padded, torch.tensor([length, frames, 2 * step]))
    assert torch.isfinite(batched).all()
    assert alone.std() > 0.01
    torch.testing.assert_close(batched[:1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_past_the_end_has_no_part_in_training(name):
    step, results = STEP[name], []
    lengths = torch.tensor([70, 40, 9]) * step
    mel = noise(3, 70 * step, TINY[name].n_mels)
    for filler in (0.0, 30.0):
        model = tiny(name, dropout=0.0).train()
        for clip, length in zip(mel, lengths, strict=True):
            clip[length:] = filler
        loss = model(mel, lengths).square().sum()
        loss.backward()
        statistics = [b for n, b in model.named_buffers() if n.endswith("running_var")]
        results.append([loss.detach(), *(p.grad for p in model.parameters()), *statistics])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_silence_is_scored(name):
    model = tiny(name)
    front_end = FrontEnd(FRONT_ENDS[model.config.front_end])
    mel, lengths = front_end(torch.zeros(1, 9_000))
    if name == "small-cnn":
        mel = mel[..., :32]
    assert torch.isfinite(model(mel, lengths)).all()


# ---------------------------------------------------------------------- like any network


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_folding_changes_nothing_but_rounding(name):
    model, step = tiny(name), STEP[name]
    mel = noise(2, 50 * step, model.config.n_mels, seed=4)
    lengths = torch.tensor([50, 33]) * step
    folded = for_inference(model)
    norms = nn.BatchNorm1d | nn.BatchNorm2d
    assert not any(isinstance(module, norms) for module in folded.modules())
    torch.testing.assert_close(folded(mel, lengths), model(mel, lengths), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_hears_nearly_the_same(name):
    model = tiny(name)
    mel = noise(2, 60 * STEP[name], model.config.n_mels, seed=4)
    full, half = (for_inference(model, kind)(mel) for kind in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_of_residual_branches(name):
    """At 0 the network starts as though it had none; there are none in the plain one."""
    model = tiny(name)
    model.initialise(0.0)
    scaled = [
        weight
        for key, weight in model.named_parameters()
        if key.endswith(("bn2.weight", "attended.weight", "narrow.weight"))
    ]
    assert len(scaled) == {"audio-transformer": 6, "small-cnn": 0}[name]
    assert not any(weight.any() for weight in scaled)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 20, "heads": 4}, "width must be a multiple of twice the heads"),
        ({"pool_after": (3,)}, "pool_after names layers before the last one, 3"),
        ({"n_mels": 64}, "n_mels"),
    ],
)
def test_layouts_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        TINY["audio-transformer"].replace(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_input_of_another_shape_is_refused(name):
    bins = TINY[name].n_mels
    with pytest.raises(ValueError, match=rf"\(B, frames, {bins}\), got \(1, 10, 16\)"):
        tiny(name)(torch.zeros(1, 10, 16))
    with pytest.raises(ValueError, match="expected 1 lengths"):
        tiny(name)(torch.zeros(1, 10, bins), torch.tensor([10, 10]))


# ---------------------------------------------------------------------- a run


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_it(name, tmp_path):
    model = tiny(name, num_labels=len(LABELS))
    front_end = FRONT_ENDS[model.config.front_end]
    if name == "small-cnn":
        front_end = front_end.model_copy(update={"n_mels": 32})
    one = Checkpoint(model, front_end, Vocabulary.from_names(LABELS))
    again = Checkpoint.from_pretrained(one.save_pretrained(tmp_path / "m"))
    assert type(again.model) is type(model)
    assert again.model.config == model.config
    assert again.front_end == front_end
    wave = sound(0.7)
    first, second = (Tagger(c, "cpu").scores((wave, 16_000)) for c in (one, again))
    np.testing.assert_array_equal(first, second)


RUNS = {
    "audio-transformer": {"encoder": 32, "width": 16, "heads": 2, "inner": 16, "layers": 3}
    | {"pool_after": [1]},
    "small-cnn": {"channels": [4, 8]},
}


@pytest.mark.parametrize("name", NAMES)
def test_train_tag_evaluate(name, tmp_path):
    for label in ("Rain", "Siren"):
        for number in range(4):
            seed = number + (10 if label == "Siren" else 0)
            seconds = 0.3 + 0.2 * (number % 2)
            write(tmp_path / "clips" / label / f"{number}.wav", sound(seconds, seed=seed))
    values = {
        "name": "test",
        "model": {"preset": name, **RUNS[name]},
        "front_end": {"preset": "own"},
        "data": {"clips": str(tmp_path / "clips"), "validation_share": 0.25},
        "optim": {"epochs": 1, "batch_size": 3, "warmup_steps": 1},
        "augment": {"masks": 0},
        "workers": 0,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == 0, result.output
        return result.output

    run("train", str(path), "--out", str(tmp_path / "run"))
    model, clips = str(tmp_path / "run" / "model"), tmp_path / "clips"
    assert "Siren" in run("tag", str(clips / "Siren" / "1.wav"), "--model", model, "--top", "2")
    assert "mAP" in run("evaluate", model, str(clips))
