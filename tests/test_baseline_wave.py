"""Wav2CLIP, Audio Transformers and the small CNN: equal to others' modules, indifferent to padding,
usable like ATGNN."""

import numpy as np
import pytest
import torch
from baseline_helpers import check_saved_and_loaded, check_train_tag_evaluate, command, recipe
from helpers import LABELS, sound
from torch import nn
from torch.nn import functional

from atgnn.baselines.audio_transformer import AudioTransformerConfig
from atgnn.baselines.small_cnn import SmallCNNConfig
from atgnn.baselines.wav2clip import Wav2CLIPConfig, load_wav2clip
from atgnn.checkpoint import Checkpoint
from atgnn.errors import CheckpointError, ConfigError
from atgnn.frontend import FRONT_ENDS, FrontEnd
from atgnn.networks import (
    Network,
    build,
    empty_network,
    for_inference,
    measure_cost,
    network_preset,
)

TINY = {
    "wav2clip": Wav2CLIPConfig(num_labels=3, width=8, hidden=(16,)),
    "audio-transformer": AudioTransformerConfig(
        num_labels=3, encoder=32, width=16, heads=2, inner=24, layers=3, pool_after=(1, 2)
    ),
    "small-cnn": SmallCNNConfig(num_labels=3, n_mels=32, channels=(8, 12, 16)),
}
NAMES = list(TINY)
STEP = {
    "wav2clip": 1,
    "audio-transformer": 160,
    "small-cnn": 1,
}  # of lengths, in the input's frames


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(name: str, **changes: object) -> Network:
    """A narrow network whose norms have seen data and whose labels differ."""
    config = TINY[name].replace(**changes)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build(config).train()
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
    # ResNet-18's 11.69 million with one channel for three (- 6,272) and no classifier (- 513,000),
    # the transform (525,312), and the classifier
    rest = 525_312 + 262_656 + 513 * 527
    assert million("wav2clip", 527) == pytest.approx((11_689_512 - 6_272 - 513_000 + rest) / 1e6)
    assert 0.3 < million("small-cnn", 200) < 1


def test_work_of_the_waveform():
    """Ten windows of a second, by hand: dense layers, attention, and half of it after each pool."""
    cost = measure_cost(network_preset("audio-transformer"), 160_000)
    layer = 4 * 128 * 128 + 2 * 128 * 512  # of one patch
    patches = (40, 40, 20, 20, 10, 10)
    window = sum(p * layer + 2 * p * p * 128 for p in patches) + 40 * (400 * 2048 + 2048 * 128)
    assert cost.gmacs == pytest.approx((10 * window + 128 * 200) / 1e9, rel=1e-6)


# ---------------------------------------------------------------------- beside others' modules


def _hub_names(name: str) -> str:
    """A name of the published encoder as transformers' ResNet has it."""
    if name.startswith(("conv1", "bn1")):
        part = {"conv1": "convolution", "bn1": "normalization"}[name.split(".")[0]]
        return f"embedder.embedder.{part}.{name.split('.')[1]}"
    stage, block, rest = name.split(".", 2)
    kind, number, last = rest.rsplit(".", 2) if rest.count(".") == 2 else (*rest.split("."), "")
    if kind == "downsample":
        part = ("convolution", "normalization")[int(number)]
        place = f"shortcut.{part}.{last}"
    else:
        part = "convolution" if kind.startswith("conv") else "normalization"
        place = f"layer.{int(kind[-1]) - 1}.{part}.{number}"
    return f"encoder.stages.{int(stage[-1]) - 1}.layers.{block}.{place}"


@torch.no_grad()
def test_the_encoder_is_a_resnet():
    hub = pytest.importorskip("transformers")
    model = tiny("wav2clip")
    theirs = hub.ResNetModel(
        hub.ResNetConfig(
            num_channels=1,
            embedding_size=8,
            hidden_sizes=[8, 16, 32, 64],
            depths=[2, 2, 2, 2],
            layer_type="basic",
        )
    ).eval()
    state = {_hub_names(name): value for name, value in model.encoder.state_dict().items()}
    theirs.load_state_dict(state)  # every name of either is in the other
    image = noise(2, 1, 257, 60)
    expected = theirs(image).pooler_output.flatten(1)
    assert expected.std() > 0.01
    torch.testing.assert_close(model.encoder(image), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_wav2clip_hears_what_the_published_one_does():
    """Front end, standardising and transform, restated with torch's own transform of a clip."""
    model, wave = tiny("wav2clip"), torch.from_numpy(sound(0.5))[None]
    front_end = FrontEnd(FRONT_ENDS["wav2clip"])
    window = torch.hann_window(512)
    spectrum = torch.stft(wave, 512, 353, window=window, return_complex=True).abs().square()
    image = (spectrum + 1e-7).log()
    image = (image - image.mean()) / (image.std() + 1e-9)
    first, second = model.transform[0], model.transform[3]
    embedding = second(first(model.encoder(image[:, None])).relu())
    mel, lengths = front_end(wave)
    assert mel.shape == (1, image.shape[2], 257)
    assert lengths.tolist() == [image.shape[2]]
    torch.testing.assert_close(model.embed(mel), embedding, atol=1e-4, rtol=1e-4)


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
    assert len(scaled) == {"wav2clip": 8, "audio-transformer": 6, "small-cnn": 0}[name]
    assert not any(weight.any() for weight in scaled)


def test_a_frozen_encoder_stays_as_it_is():
    model = tiny("wav2clip", frozen=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    model(noise(4, 30, 257)).square().sum().backward()
    optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not before[name].equal(value)}
    assert changed == {
        "hidden.0.weight",
        "hidden.0.bias",
        "classifier.weight",
        "classifier.bias",
    }
    cost = measure_cost(model.config, 60)
    assert cost.trainable_parameters == sum(
        value.numel() for name, value in before.items() if name in changed
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 20, "heads": 4}, "width must be a multiple of twice the heads"),
        ({"pool_after": (3,)}, "pool_after names layers before the last one, 3"),
        ({"in_channels": 2}, "in_channels is 2: it hears one waveform"),
        ({"n_mels": 64}, "it hears the waveform, not 64 mel bins: set front_end={preset: own}"),
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


# ---------------------------------------------------------------------- published weights


def published_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' file, by their code (lyrebird-wav2clip)."""

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        parts = ("weight", "bias", "running_mean", "running_var")
        shapes: dict[str, tuple[int, ...]] = {f"{name}.{part}": (channels,) for part in parts}
        return {**shapes, f"{name}.num_batches_tracked": ()}

    shapes = {"spectrogram.window": (512,), "conv1.weight": (width, 1, 7, 7)}
    shapes |= norm("bn1", width)
    inputs = width
    for stage in range(4):
        outputs = width << stage
        for block in range(2):
            name = f"layer{stage + 1}.{block}"
            shapes[f"{name}.conv1.weight"] = (outputs, inputs, 3, 3)
            shapes[f"{name}.conv2.weight"] = (outputs, outputs, 3, 3)
            shapes |= norm(f"{name}.bn1", outputs) | norm(f"{name}.bn2", outputs)
            if stage > 0 and block == 0:
                shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    shapes |= {"fc.weight": (1000, inputs), "fc.bias": (1000,)}
    shapes = {f"audio_encoder.{name}": shape for name, shape in shapes.items()}
    for side in ("audio", "image"):
        for layer in (0, 3):
            shapes[f"{side}_transform.sequential.{layer}.weight"] = (inputs, inputs)
            shapes[f"{side}_transform.sequential.{layer}.bias"] = (inputs,)
    return {**shapes, "loss_fn_i.logit_scale": (), "loss_fn_a.logit_scale": ()}


def published(width: int = 8) -> dict[str, torch.Tensor]:
    """Random weights under these names; variances are positive."""
    state = {}
    for seed, (name, shape) in enumerate(published_shapes(width).items()):
        value = noise(*shape, seed=seed) if shape else torch.tensor(3)
        state[name] = value.abs() if name.endswith("var") else value
    return state


def test_every_published_tensor_has_its_place():
    """At the published size, without values."""
    state = {
        name: torch.empty(shape, device="meta") for name, shape in published_shapes(64).items()
    }
    report = load_wav2clip(empty_network(network_preset("wav2clip")), state)
    assert len(report.loaded) == 122 + 4 - 2
    assert len(report.dropped) == 3 + 4 + 2
    assert [fate.key for fate in report.left_new] == [
        "hidden.0.weight",
        "hidden.0.bias",
        "classifier.weight",
        "classifier.bias",
    ]


def test_published_weights_are_heard(tmp_path):
    model, state = tiny("wav2clip"), published()
    before = model.classifier.weight.clone()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "Wav2CLIP.pt")
    report = load_wav2clip(model, tmp_path / "Wav2CLIP.pt")
    ours = model.state_dict()
    conv = "layer3.0.downsample.0.weight"
    assert ours[f"encoder.{conv}"].equal(state[f"audio_encoder.{conv}"])
    assert ours["transform.3.bias"].equal(state["audio_transform.sequential.3.bias"])
    assert model.classifier.weight.equal(before)
    assert "Wav2CLIP.pt" in str(report)
    assert "for pictures" in str(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_encoder.conv1.weight": None}, "not Wav2CLIP's weights: expected a key"),
        ({"audio_encoder.layer2.1.bn2.bias": None}, "fills encoder.layer2.1.bn2.bias"),
        ({"audio_encoder.layer5.0.conv1.weight": noise(2)}, "layer5.0.conv1.weight is unknown"),
        ({"audio_encoder.bn1.bias": noise(2)}, r"gives \(2,\), this network's .* is \(8,\)"),
    ],
)
def test_a_file_that_does_not_fit(change, message):
    state = {k: v for k, v in {**published(), **change}.items() if v is not None}
    model = tiny("wav2clip")
    before = model.encoder.conv1.weight.clone()
    with pytest.raises(CheckpointError, match=message) as caught:
        load_wav2clip(model, state)
    assert "\n" not in str(caught.value)
    assert model.encoder.conv1.weight.equal(before)


# ---------------------------------------------------------------------- a run


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_it(name, tmp_path):
    model = tiny(name, num_labels=len(LABELS))
    front_end = FRONT_ENDS[model.config.front_end]
    if name == "small-cnn":
        front_end = front_end.model_copy(update={"n_mels": 32})
    check_saved_and_loaded(model, front_end, tmp_path / "m")


RUNS = {
    "wav2clip": {"width": 4, "hidden": [8]},
    "audio-transformer": {"encoder": 32, "width": 16, "heads": 2, "inner": 16, "layers": 3}
    | {"pool_after": [1]},
    "small-cnn": {"channels": [4, 8]},
}


@pytest.mark.parametrize("name", NAMES)
def test_train_tag_evaluate(name, tmp_path):
    model, own = {"preset": name, **RUNS[name]}, {"preset": "own"}
    check_train_tag_evaluate(recipe(tmp_path, model, own, augment={"masks": 0}))


def test_a_run_starts_from_published_weights(tmp_path):
    torch.save({"state_dict": published(4)}, tmp_path / "Wav2CLIP.pt")
    model = {"preset": "wav2clip", "width": 4, "frozen": True}
    start = {"init": str(tmp_path / "Wav2CLIP.pt"), "augment": {"masks": 0}}
    path = recipe(tmp_path, model, {"preset": "own"}, **start)
    command("train", str(path), "--out", str(tmp_path / "run"))
    trained = Checkpoint.from_pretrained(tmp_path / "run" / "model").model
    given = published(4)["audio_encoder.conv1.weight"]  # saved in half precision
    torch.testing.assert_close(trained.encoder.conv1.weight, given, atol=1e-3, rtol=1e-3)
    assert "Wav2CLIP.pt" in (tmp_path / "run" / "model" / "README.md").read_text()
