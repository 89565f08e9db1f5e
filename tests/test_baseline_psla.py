"""PSLA: equal to the published layers, its files read, indifferent to padding."""

import pytest
import torch
from baseline_helpers import check_saved_and_loaded, check_train_tag_evaluate, command, recipe
from helpers import LABELS

from atgnn.baselines.psla import PSLA, PSLA_PRESETS, AttentionPooling, load_psla
from atgnn.errors import CheckpointError
from atgnn.frontend import FrontEndConfig
from atgnn.networks import for_inference, measure_cost, network_preset, own_front_end

TINY = PSLA_PRESETS["psla"].replace(num_labels=3, n_mels=32, width=0.25, depth=0.5)


def tiny(**changes: object) -> PSLA:
    """A narrow network whose norms have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = PSLA(TINY.replace(norm_momentum=0.2, **changes)).train()
        for linear in (*model.attention.weigh, *model.attention.judge):
            torch.nn.init.normal_(linear.weight)
        with torch.no_grad():
            for _ in range(20):
                model(torch.randn(4, 64, model.config.n_mels))
    return model.eval()


def clip(frames: int, bins: int = 32, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, bins, generator=torch.Generator().manual_seed(frames))


# ---------------------------------------------------------------------- the published network


@torch.no_grad()
def settle(backbone: torch.nn.Module, colours: int = 1) -> None:
    """Norms of a random network that know what it passes on."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    pictures = clip(192, 128, batch=4).double()[:, None].expand(-1, colours, -1, -1)
    backbone.train().extract_features(pictures)
    backbone.eval()


def published(backbone: torch.nn.Module, channels: int, labels: int) -> dict[str, torch.Tensor]:
    """The names of the published state dict: efficientnet_pytorch's as ``effnet``, four heads."""
    generator = torch.Generator().manual_seed(2)
    state = {
        f"module.effnet.{key}": value
        for key, value in backbone.state_dict().items()
        if not key.startswith("_fc")
    }
    for part in ("att", "cla"):
        for head in range(4):
            name = f"module.attention.{part}.{head}"
            weight = torch.randn(labels, channels, 1, 1, generator=generator).double()
            state[f"{name}.weight"] = 0.2 * weight
            state[f"{name}.bias"] = torch.randn(labels, generator=generator).double()
    state["module.attention.head_weight"] = torch.tensor([0.3, 0.3, 0.2, 0.2]).double()
    return state


def by_hand(features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """The published pooling of ``(B, C, F, T)``, written from its equations: scores ``(B, S)``."""
    moments = features.mean(2)  # (B, C, T)
    total = 0
    for head, share in enumerate(state["module.attention.head_weight"]):
        parts = []
        for part in ("att", "cla"):
            weight = state[f"module.attention.{part}.{head}.weight"][:, :, 0, 0]
            bias = state[f"module.attention.{part}.{head}.bias"]
            parts.append(torch.einsum("sc,bct->bst", weight, moments) + bias[:, None])
        attention, scores = (part.sigmoid() for part in parts)
        attention = attention.clamp(1e-7, 1 - 1e-7)
        attention = attention / attention.sum(2, keepdim=True)
        total = total + share * (attention * scores).sum(2)
    return total


@pytest.fixture(scope="module")
def oracle():
    """The EfficientNet-B2 that the published code builds on; in float64, as random weights
    amplify every rounding."""
    package = pytest.importorskip("efficientnet_pytorch")
    torch.manual_seed(1)
    backbone = package.EfficientNet.from_name("efficientnet-b2", in_channels=1).double()
    settle(backbone)
    return backbone


@torch.no_grad()
@pytest.mark.parametrize(("frames", "bins"), [(96, 128), (104, 36)])
def test_the_published_layout_answers_as_published(oracle, tmp_path, frames, bins):
    state = published(oracle, 1408, 5)
    torch.save(state, tmp_path / "as_mdl_0.pth")
    model = PSLA(PSLA_PRESETS["psla"].replace(num_labels=5, n_mels=bins)).double().eval()
    report = load_psla(model, tmp_path / "as_mdl_0.pth")
    assert len(report.loaded) + len(report.converted) == len(state)
    assert not report.left_new
    mel = clip(frames, bins, batch=2).double()
    theirs = oracle.extract_features(mel.transpose(1, 2)[:, None])  # (B, 1408, F, T)
    ours = model.features(mel).x.permute(0, 3, 1, 2)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    scores = by_hand(theirs, state)
    assert scores.std() > 0.01
    torch.testing.assert_close(model(mel).sigmoid(), scores, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_it_begins_with_pictures(tmp_path):
    """Weights of ImageNet, as the package has them: to grey the features are the published ones."""
    package = pytest.importorskip("efficientnet_pytorch")
    theirs = package.EfficientNet.from_name("efficientnet-b2").double()
    settle(theirs, colours=3)
    torch.save(theirs.state_dict(), tmp_path / "efficientnet-b2-8bb594d6.pth")
    model = PSLA(PSLA_PRESETS["psla"].replace(num_labels=5)).double().eval()
    report = load_psla(model, tmp_path / "efficientnet-b2-8bb594d6.pth")
    assert {fate.key for fate in report.left_new} == {*model.by_label, "attention.shares"}
    assert {fate.key for fate in report.dropped} == {"_fc.weight", "_fc.bias"}
    grey = clip(64, 128).double()
    pictures = grey.transpose(1, 2)[:, None].expand(-1, 3, -1, -1)
    expected = theirs.extract_features(pictures)
    ours = model.features(grey).x.permute(0, 3, 1, 2)
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)


def test_size_and_input_are_the_published_ones():
    """13.6 M at 527 classes; AudioSet's 1056 frames."""
    cost = measure_cost(network_preset("psla", num_labels=527), 1056)
    assert cost.trainable_parameters == 13_640_766
    assert own_front_end("psla").pad_to_frames == 1056


def test_other_labels_leave_the_heads_new():
    source, model = tiny(), tiny(num_labels=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_psla(model, backwards(source))
    assert {fate.key for fate in report.left_new} == set(model.by_label)
    assert {fate.note for fate in report.dropped} == {"for 3 classes"}
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in model.by_label)
    assert torch.equal(after["stem.conv.weight"], source.state_dict()["stem.conv.weight"])


def backwards(model: PSLA) -> dict[str, torch.Tensor]:
    """Our weights under the published names, as linear maps where theirs are convolutions."""
    from atgnn.baselines.efficientnet_weights import _names

    theirs = {ours: f"effnet.{name}" for name, ours in _names(model)}
    parts = {"weigh": "att", "judge": "cla"}
    state = {}
    for name, value in model.state_dict().items():
        steps = name.split(".")
        if steps[0] == "attention":
            key = "attention.head_weight"
            if steps[1] in parts:
                key = ".".join(["attention", parts[steps[1]], *steps[2:]])
        else:
            key = theirs[name]
        conv = value.ndim == 2
        state[key] = value[:, :, None, None] if conv else value
    return state


# ---------------------------------------------------------------------- files that do not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("effnet._bn0.weight"), "nothing in this file fills stem.norm.weight"),
        (lambda s: s.pop("attention.head_weight"), "nothing in this file fills attention.shares"),
        (lambda s: s.update({"effnet._fc.bias": torch.ones(1)}), "effnet._fc.bias is unknown"),
        (lambda s: s.update({"attention.att.4.bias": torch.ones(3)}), "att.4.bias is unknown"),
        (
            lambda s: s.update({"effnet._conv_stem.weight": torch.ones(8, 3, 3, 3)}),
            r"effnet._conv_stem.weight gives \(8, 3, 3, 3\), this network's stem.conv.weight is",
        ),
    ],
)
def test_weights_that_do_not_fit(change, message):
    model = tiny()
    state = backwards(model)
    before = [value.clone() for value in model.state_dict().values()]
    change(state)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_psla(model, state)
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, before, model.state_dict().values()))


# ---------------------------------------------------------------------- padding and attention


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 31, 45, 64])
def test_scores_do_not_depend_on_the_batch(length):
    model = tiny()
    mel = clip(length)
    alone = model(mel)
    padded = torch.full((2, 97, 32), 50.0)
    padded[0, :length] = mel[0]
    batched = model(padded, torch.tensor([length, 97]))
    assert alone.std() > 0.01
    torch.testing.assert_close(batched[:1], alone, atol=1e-4, rtol=1e-4)


def test_padding_has_no_part_in_training():
    results = []
    for filler in (0.0, 30.0):
        mel, lengths = clip(70, batch=3), torch.tensor([70, 40, 9])
        model = tiny(drop_path=0.0).train()
        for one, length in zip(mel, lengths, strict=True):
            one[length:] = filler
        loss = model(mel, lengths).square().sum()
        loss.backward()
        norms = [b for n, b in model.named_buffers() if n.endswith("running_var")]
        results.append([loss.detach(), model.stem.conv.weight.grad, *norms])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_head_hears_the_moment_that_it_weighs():
    """The first head listens where channel 0 is loud, and judges by channel 1; alone."""
    pooling = AttentionPooling(2, 1)
    pooling.shares.copy_(torch.tensor([1.0, 0, 0, 0]))
    for linear, channel in ((pooling.weigh[0], 0), (pooling.judge[0], 1)):
        linear.weight.zero_()
        linear.weight[0, channel] = 1
        linear.bias.zero_()
    loud = torch.tensor([[[-90.0, 3.0], [90.0, -2.0], [-90.0, 1.0]]])  # (1, 3, 2)
    assert pooling(loud).item() == pytest.approx(torch.tensor(-2.0).sigmoid().item(), abs=1e-5)
    even = torch.tensor([[[0.0, 3.0], [0.0, -2.0], [0.0, 1.0]]])
    mask = torch.tensor([[True, False, True]])
    expected = torch.tensor([3.0, 1.0]).sigmoid().mean().item()
    assert pooling(even, mask).item() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_scores_beyond_one_are_finite_logits():
    model = tiny()
    model.attention.shares.fill_(10.0)
    logits = model(clip(64))
    assert torch.isfinite(logits).all()
    assert logits.max() > 15


def test_the_running_statistics_move_as_slowly_as_published():
    model = PSLA(TINY).train()
    before = model.stem.norm.running_mean.clone()
    with torch.no_grad():
        model(clip(64))
        image = torch.nn.functional.pad(clip(64).transpose(1, 2)[:, None], (0, 2, 0, 2))
        mean = model.stem.conv(image).mean((0, 2, 3))
    moved = model.stem.norm.running_mean - before
    torch.testing.assert_close(moved, 0.01 * mean, atol=1e-5, rtol=1e-3)


# ---------------------------------------------------------------------- like any network


@torch.no_grad()
def test_folding_changes_nothing_but_rounding():
    model = tiny()
    mel, lengths = clip(80, batch=2), torch.tensor([80, 33])
    folded = for_inference(model)
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in folded.modules())
    torch.testing.assert_close(folded(mel, lengths), model(mel, lengths), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_half_precision_hears_nearly_the_same():
    model = tiny()
    full, half = (for_inference(model, kind)(clip(64)) for kind in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.1 * full.norm()


def test_input_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(B, frames, 32\), got \(1, 10, 16\)"):
        tiny()(torch.zeros(1, 10, 16))


def test_a_checkpoint_holds_it(tmp_path):
    front_end = FrontEndConfig(n_mels=32, pad_to_frames=120)
    one = check_saved_and_loaded(tiny(num_labels=len(LABELS)), front_end, tmp_path / "m")
    assert "PSLA" in one.card()


MODEL = {"preset": "psla", "width": 0.25, "depth": 0.5}
FRONT_END = {"preset": "own", "n_mels": 32, "pad_to_frames": 64}


def test_train_tag_evaluate(tmp_path):
    check_train_tag_evaluate(recipe(tmp_path, MODEL, FRONT_END))


def test_a_run_starts_from_published_weights(tmp_path):
    torch.save(backwards(tiny()), tmp_path / "as_mdl_0.pth")
    path = recipe(tmp_path, MODEL, FRONT_END, init=str(tmp_path / "as_mdl_0.pth"))
    command("train", str(path), "--out", str(tmp_path / "run"))
    assert "for 3 classes: attention.att.0.weight" in (tmp_path / "run" / "init.txt").read_text()
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "the published ones of as_mdl_0.pth" in card
