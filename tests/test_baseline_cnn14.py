"""CNN14: against its published layer list, its published names and shapes, and in use."""

import numpy as np
import pytest
import torch
from helpers import sound, write
from torch.nn import functional
from typer.testing import CliRunner

from atgnn.baselines.cnn14 import CNN14, CNN14_PRESETS, CNN14Config
from atgnn.baselines.cnn14_weights import load_cnn14
from atgnn.cli import app
from atgnn.errors import CheckpointError, ConfigError
from atgnn.frontend import FRONT_ENDS, FrontEnd
from atgnn.networks import empty_network, network_preset, own_front_end, preset_cost
from atgnn.tagger import Tagger

CHANNELS = (4, 8, 8, 16, 16, 32)
SMALL = CNN14Config(channels=CHANNELS, hidden=24, num_labels=5)


def published_shapes(classes, channels, hidden, fft, mels=64):
    """Names and shapes of the state dict of qiuqiangkong/audioset_tagging_cnn's Cnn14."""
    shapes = {
        "spectrogram_extractor.stft.conv_real.weight": (fft // 2 + 1, 1, fft),
        "spectrogram_extractor.stft.conv_imag.weight": (fft // 2 + 1, 1, fft),
        "logmel_extractor.melW": (fft // 2 + 1, mels),
    }
    norms = {"bn0": mels}
    for number, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False), 1):
        shapes[f"conv_block{number}.conv1.weight"] = (outputs, inputs, 3, 3)
        shapes[f"conv_block{number}.conv2.weight"] = (outputs, outputs, 3, 3)
        norms |= {f"conv_block{number}.bn1": outputs, f"conv_block{number}.bn2": outputs}
    for name, width in norms.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()
    shapes |= {"fc1.weight": (hidden, channels[-1]), "fc1.bias": (hidden,)}
    return shapes | {"fc_audioset.weight": (classes, hidden), "fc_audioset.bias": (classes,)}


def published_state(classes=5, rate=32_000, fft=1024):
    """A small network's weights as published, with the transform and the filters it computes by."""
    librosa = pytest.importorskip("librosa")
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, shape in published_shapes(classes, CHANNELS, 24, fft).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_mean"):
            state[name] = torch.full(shape, -40.0) if name.startswith("bn0") else torch.zeros(shape)
        elif name.endswith("running_var"):
            state[name] = torch.full(shape, 200.0) if name.startswith("bn0") else torch.ones(shape)
        elif ".bn" in name or name.startswith("bn0"):
            state[name] = 1 + 0.1 * torch.randn(shape, generator=generator)
        else:
            fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
            state[name] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
    turn = np.outer(np.arange(fft // 2 + 1), np.arange(fft)) * -2j * np.pi / fft
    wave = np.exp(turn) * librosa.filters.get_window("hann", fft, fftbins=True)
    for name, part in (("real", wave.real), ("imag", wave.imag)):
        key = f"spectrogram_extractor.stft.conv_{name}.weight"
        state[key] = torch.from_numpy(part[:, None].astype(np.float32))
    top = 14_000 if rate == 32_000 else 8_000
    mel = librosa.filters.mel(sr=rate, n_fft=fft, n_mels=64, fmin=50, fmax=top)
    state["logmel_extractor.melW"] = torch.from_numpy(mel.T.astype(np.float32))
    return state


def published_forward(state, wave, hop=320):
    """Logits (B, S) of waves (B, S), restated step by step from the published layer list."""
    real, imag, mel = (state[key] for key in list(state)[:3])
    padded = functional.pad(wave[:, None], (real.shape[-1] // 2,) * 2, mode="reflect")
    power = functional.conv1d(padded, real, stride=hop) ** 2
    power = (power + functional.conv1d(padded, imag, stride=hop) ** 2).transpose(1, 2)
    x = 10 * torch.log10((power @ mel).clamp(min=1e-10))[:, None]  # (B, 1, T, F)

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    x = norm(x.transpose(1, 3), "bn0").transpose(1, 3)
    for number in range(1, 7):
        block = f"conv_block{number}"
        for layer in (1, 2):
            x = functional.conv2d(x, state[f"{block}.conv{layer}.weight"], padding=1)
            x = functional.relu(norm(x, f"{block}.bn{layer}"))
        x = functional.avg_pool2d(x, 2 if number < 6 else 1)
    x = x.mean(3)
    x = x.max(2).values + x.mean(2)
    x = functional.relu(functional.linear(x, state["fc1.weight"], state["fc1.bias"]))
    return functional.linear(x, state["fc_audioset.weight"], state["fc_audioset.bias"])


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize(("name", "rate", "fft", "hop"), [
    ("cnn14", 32_000, 1024, 320), ("cnn14-16k", 16_000, 512, 160)])  # fmt: skip
def test_from_wave_to_logits_as_published(name, rate, fft, hop):
    model, state = CNN14(SMALL).eval(), published_state(rate=rate, fft=fft)
    report = str(load_cnn14(model, {"model": state, "iteration": 600_000}))
    assert f"mel filters of front end {name}" in report
    wave = noise(2, 51_234)
    features, _ = FrontEnd(own_front_end(name))(wave)
    ours, theirs = model(features), published_forward(state, wave, hop)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_every_published_tensor_has_its_place():
    """Names and shapes of the real file, against the real layout."""
    config = network_preset("cnn14", num_labels=527)
    ours = {name: tuple(value.shape) for name, value in empty_network(config).state_dict().items()}
    shapes = published_shapes(527, config.channels, config.hidden, 1024)
    theirs = {
        name.replace("fc_audioset", "classifier"): shape for name, shape in list(shapes.items())[3:]
    }
    for number in range(1, 7):
        block = f"conv_block{number}"
        theirs = {k.replace(block, f"blocks.{number - 1}"): v for k, v in theirs.items()}
    assert ours == theirs


def test_size_and_work_are_the_published_ones():
    """Kong et al., Table IV: 80,753,615 parameters and 42.22e9 operations for 10 s.

    Theirs count an addition and a multiplication as two, and the transform and the filters too,
    which our front end computes faster.
    """
    cost = preset_cost("cnn14", 1_000, num_labels=527)
    assert cost.trainable_parameters == 80_753_615
    frames, bins = 1_001, 513
    front_end = (2 * 1024 * bins + bins * 64) * frames / 1e9
    assert 2 * (cost.gmacs + front_end) == pytest.approx(42.22, rel=0.002)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("conv_block3.bn2.weight"),
            "nothing in this file fills blocks.2.bn2.weight",
        ),
        (lambda s: s.update(conv_block7=torch.zeros(1)), "conv_block7 is unknown"),
        (lambda s: s.update({"bn0.bias": torch.zeros(128)}), r"bn0.bias gives \(128,\)"),
        (lambda s: s.update({"fc_audioset.bias": torch.tensor(0.0)}), r"bias gives \(\)"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(change, words):
    model, state = CNN14(SMALL), published_state()
    before = model.fc1.weight.clone()
    change(state)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_cnn14(model, state)
    assert "\n" not in str(caught.value)
    assert torch.equal(model.fc1.weight, before)


def test_other_labels_leave_the_classifier_new(tmp_path):
    path = tmp_path / "Cnn14_mAP=0.431.pth"
    torch.save({"model": published_state(classes=9)}, path)
    model = CNN14(SMALL)
    before = model.classifier.weight.clone()
    report = str(load_cnn14(model, path))
    assert "for 9 classes" in report
    assert "Cnn14_mAP=0.431.pth" in report
    assert torch.equal(model.classifier.weight, before)
    assert torch.equal(model.fc1.weight, published_state(classes=9)["fc1.weight"])


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 31, 33, 90])
def test_scores_do_not_depend_on_the_batch(length):
    model, mel = CNN14(SMALL).eval(), 300 * noise(2, 90, 64)
    alone = model(mel[:1, :length])
    batched = model(mel, torch.tensor([length, 90]))
    torch.testing.assert_close(batched[:1], alone, atol=1e-4, rtol=1e-4)


def test_padding_moves_no_statistics_in_training():
    results = []
    for filler in (0.0, 5e3):
        torch.manual_seed(0)
        model = CNN14(SMALL.replace(block_dropout=0, dropout=0)).train()
        mel = 300 * noise(3, 70, 64) - 40
        mel[1, 40:] = filler
        out = model(mel, torch.tensor([70, 40, 70]))
        results += [(out, model.bn0.running_mean.clone())]
    torch.testing.assert_close(results[0], results[1])
    inside = torch.cat([mel[0], mel[1, :40], mel[2]])
    torch.testing.assert_close(results[0][1], 0.1 * inside.mean(0), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_folding_changes_nothing_but_rounding():
    model = CNN14(SMALL).eval()
    load_cnn14(model, published_state())
    mel = 300 * noise(2, 80, 64) - 40
    folded = model.for_inference()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(mel), model(mel), atol=1e-3, rtol=1e-3)


def test_layouts_that_cannot_be():
    with pytest.raises(ConfigError, match="n_mels is 16, expected at least 32"):
        CNN14_PRESETS["cnn14"].replace(n_mels=16)
    with pytest.raises(ConfigError, match="in_channels is 3, expected 1"):
        CNN14_PRESETS["cnn14"].replace(in_channels=3)
    assert FRONT_ENDS["cnn14-16k"].n_fft == 512


def test_a_run_starts_from_a_published_file(tmp_path):
    for number in range(4):
        label = ("Rain", "Siren")[number % 2]
        write(tmp_path / "clips" / label / f"{number}.wav", sound(0.5, seed=number))
    path = tmp_path / "Cnn14_mAP=0.431.pth"
    torch.save({"model": published_state(classes=527)}, path)
    settings = {
        "init": path,
        "model": f"{{preset: cnn14, channels: {list(CHANNELS)}, hidden: 24}}",
        "front_end": "{preset: own}",
        "data.validation_share": 0.5,
        "optim.epochs": 1,
        "optim.batch_size": 2,
    }
    arguments = ["train", "folder", "--clips", str(tmp_path / "clips")]
    for name, value in settings.items():
        arguments += ["--set", f"{name}={value}"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    report = (tmp_path / "run" / "init.txt").read_text()
    assert "mel filters of front end cnn14" in report
    assert "for 527 classes" in report
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "the published ones of Cnn14_mAP=0.431.pth" in card
    result = CliRunner().invoke(
        app, [*arguments, "--set", "model={preset: lite0}", "--out", str(tmp_path / "other")]
    )
    assert result.exit_code == 2
    assert "can start no network of kind efficientnet-lite" in " ".join(result.output.split())
    other = "front_end={preset: cnn14, f_max: 15000}"
    result = CliRunner().invoke(
        app, [*arguments, "--set", other, "--out", str(tmp_path / "another")]
    )
    assert result.exit_code == 2
    assert "learned from another front end: add" in " ".join(result.output.split())


# ---------------------------------------------------------------------- as a checkpoint


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file of the published layout, of a small network in the place of the large one."""
    small = SMALL.replace(num_labels=200)
    for name in ("cnn14", "cnn14-16k"):
        monkeypatch.setitem(CNN14_PRESETS, name, small)
    path = tmp_path / "Cnn14_mAP=0.431.pth"
    torch.save({"model": published_state(classes=527)}, path)
    return path


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split())


def test_a_published_file_tags(published, tmp_path):
    out = tmp_path / "m"
    code, shown = run("convert", published, "--preset", "cnn14", "--out", out)
    assert code == 0, shown
    assert "527 labels, 64 mel bins" in shown
    tagger = Tagger.from_pretrained(out, device="cpu")
    wave = noise(48_000)
    scores = tagger.scores((wave.numpy(), 32_000))
    expected = published_forward(published_state(classes=527), wave[None])[0].sigmoid()
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-3)
    assert tagger.labels[0] == "Speech"
    assert "published weights of Cnn14_mAP=0.431.pth" in (out / "README.md").read_text()
    code, shown = run("convert", published, "--preset", "cnn14", "--out", out)
    assert (code, "exists" in shown) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "cnn14-16k"], "learned from the front end of cnn14: give --preset cnn14"),
        (["--preset", "cnn14", "--labels", "fsd50k"], "has nothing for classifier.weight"),
        (["--preset", "lite0"], "lite0 has no published weights to convert: choose from"),
        (["--preset", "mini"], "not a Vision GNN or ATGNN checkpoint: expected keys stem.convs.0"),
        (["--preset", "cnn15"], "unknown preset 'cnn15'"),
    ],
)
def test_a_published_file_that_does_not_fit_is_one_line(published, tmp_path, options, words):
    code, shown = run("convert", published, *options, "--out", tmp_path / "m")
    assert code == 2
    assert words in shown
    assert not (tmp_path / "m").exists()


def test_no_such_file(tmp_path):
    code, shown = run("convert", tmp_path / "no.pth", "--preset", "cnn14", "--out", tmp_path / "m")
    assert code == 2
    assert "no published weights of cnn14 at" in shown
