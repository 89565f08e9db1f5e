"""The model: size and cost, padding and batches, lengths, options, equations, errors."""

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from atgnn.errors import ConfigError
from atgnn.graph import NO_POSITION, nearest_neighbours, pool_nodes, use_backend
from atgnn.model import ATGNN, PRESETS, ModelConfig, fused, layers, preset, preset_names
from atgnn.model.cost import measure_cost
from atgnn.model.inference import for_inference
from atgnn.model.label import LabelGraph, PatchLabelGraph
from atgnn.model.layers import BatchNorm, ConvNorm, DropPath, GraphUpdate, Patches, spread_of
from atgnn.model.patch import AbsolutePosition, Grapher

TINY: dict[str, Any] = {
    "num_labels": 5,
    "n_mels": 32,
    "nominal_frames": 128,
    "stem_widths": (8, 16, 16),
    "channels": (16, 24, 32),
    "blocks": (2, 1, 2),
    "reductions": (2, 2, 1),
    "k": 4,
    "head_width": 24,
    "label_blocks": (1, 1, 2),
    "k_plg": 3,
    "drop_path": 0.0,
    "label_drop_path": 0.0,
}


def tiny(**changes: Any) -> ModelConfig:
    """A pyramid for tests: three stages, two blocks in the first."""
    return ModelConfig().replace(**{**TINY, **changes})


def tiny_isotropic(**changes: Any) -> ModelConfig:
    small = {"num_labels": 5, "n_mels": 64, "nominal_frames": 128, "head_width": 24, "k": 2}
    layout = {"stem_widths": (4, 8, 16, 32, 32), "channels": (32,), "blocks": (6,), "k_last": 4}
    return preset("iso-s", **{**small, **layout, "drop_path": 0.0, **changes}, label_drop_path=0.0)


def build(config: ModelConfig, *, seed: int = 0, frames: int = 100) -> ATGNN:
    """A model with batch statistics that fit its activations, ready to score."""
    torch.manual_seed(seed)
    model = ATGNN(config)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.momentum = None  # plain average
    with torch.no_grad():
        model.train()(sound(4, frames, config))
    return model.eval()


def sound(batch: int, frames: int, config: ModelConfig, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, config.n_mels, generator=generator)


def ragged(config: ModelConfig, frames: list[int], fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """A padded batch and its lengths; padding holds `fill`."""
    mel, lengths = sound(len(frames), max(frames), config), torch.tensor(frames)
    beyond = torch.arange(max(frames)) >= lengths[:, None]
    return mel.masked_fill(beyond[..., None], fill), lengths


@cache
def sizes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters, from a model that takes no memory."""
    with torch.device("meta"):
        return {key: tuple(p.shape) for key, p in ATGNN(config).named_parameters()}


# ---------------------------------------------------------------------------- size and cost


def count_by_formula(c: ModelConfig) -> int:
    """Parameters, term by term."""
    stem = (c.in_channels, *c.stem_widths)
    rows, columns = c.grid(c.nominal_frames)
    total = sum(9 * a * b + 3 * b for a, b in pairwise(stem)) if c.trunk == "plain" else lite0(c)
    total += c.channels[0] * rows * columns
    for width, blocks in zip(c.channels, c.blocks, strict=True):
        total += blocks * (4 * width**2 + 12 * width + 8 * width**2 + 15 * width)
    pairs = list(pairwise(c.channels))
    total += sum(9 * a * b + 3 * b for a, b in pairs) if c.trunk == "plain" else 0
    hidden, labels = c.head_width, c.num_labels
    read = c.channels[-1] * (1 if c.pooling == "mean" else 2)
    total += hidden * read + 3 * hidden + (hidden + 1) * labels
    for width, blocks in c.label_levels:
        total += blocks * (17 * width**2 // 2 + 18 * width + labels**2)
    if c.has_labels:
        total += sum(a * b + 3 * b for a, b in pairs)
        total += labels * (c.channels[0] + c.channels[-1])
    return total


def lite0(c: ModelConfig) -> int:
    """The stages of EfficientNet-Lite0 (Table 1 of its paper) and its first layer."""
    total, inputs = 9 * c.in_channels * 32 + 2 * 32, 32
    for kernel, width, blocks in (
        (3, 16, 1), (3, 24, 2), (5, 40, 2), (3, 80, 3), (5, 112, 3), (5, 192, 4), (3, 320, 1)
    ):  # fmt: skip
        for _ in range(blocks):
            inner = inputs * (1 if width == 16 else 6)
            total += 0 if inner == inputs else inner * (inputs + 2)
            total += inner * (kernel**2 + 2) + width * (inner + 2)
            inputs = width
    return total


@pytest.mark.parametrize("name", preset_names())
def test_parameters_follow_the_formulas(name: str) -> None:
    shapes = sizes(PRESETS[name])
    assert sum(math.prod(shape) for shape in shapes.values()) == count_by_formula(PRESETS[name])


@pytest.mark.parametrize(
    ("name", "changes", "millions"),
    [
        ("pyr-s-encoder", {}, 26.836),
        ("pyr-s", {}, 35.427),
        ("pyr-m-encoder", {}, 49.190),
        ("pyr-m", {}, 63.100),
        ("pyr-s-encoder", {"nominal_frames": 1056, "num_labels": 527}, 27.191),
        ("pyr-s", {"nominal_frames": 1056, "num_labels": 527}, 37.445),
        ("pyr-m", {"nominal_frames": 1056, "num_labels": 527}, 65.882),
        ("iso-s-encoder", {}, 22.028),
        ("iso-s-encoder", {"num_labels": 527}, 22.363),
    ],
)
def test_published_parameter_counts(name: str, changes: dict[str, int], millions: float) -> None:
    """The formulas, which the models follow exactly, give these numbers."""
    count = count_by_formula(preset(name, **changes)) / 1e6
    assert count == pytest.approx(millions, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({"label_update_groups": 1}, 9.974),
        ({"label_ffn_ratio": 0}, 1.187),
        ({"label_ffn_ratio": 0, "label_update_groups": 1}, 2.570),
    ],
)
def test_published_label_block_counts(changes: dict[str, int], millions: float) -> None:
    shapes = sizes(preset("pyr-s", **changes))
    count = sum(math.prod(shape) for key, shape in shapes.items() if key.startswith("label"))
    assert count / 1e6 == pytest.approx(millions, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("pyr-s-encoder", 12.88),
        ("pyr-m-encoder", 24.83),
        ("iso-s-encoder", 12.60),
        ("pyr-s", 12.88 + 2.05),
    ],
)
def test_multiply_accumulates(name: str, gmacs: float) -> None:
    assert measure_cost(preset(name)).gmacs == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize(
    "config",
    [
        tiny(position="none"),
        tiny(position="none", label_width=32, label_ffn_ratio=0),
        tiny(position="none", label_placement="after_block"),
        tiny(position="none", label_blocks=(), n_mels=50),
    ],
)
def test_cost_agrees_with_torchs_own_counter(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def batched(x: Tensor, m: Tensor, *weights: Tensor) -> Tensor:
        """The form that the counter sees: it passes over products written into a given place."""
        return fused._batched(x.flatten(0, -2), m.flatten(0, -2), *weights).view(*x.shape[:-1], -1)

    monkeypatch.setattr(layers, "grouped_linear", batched)

    model = ATGNN(config).eval().requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), use_backend("plain"), counter:
        model(torch.randn(1, 70, config.n_mels))
    counted = counter.get_total_flops() / 2e9
    assert measure_cost(config, 70).gmacs == pytest.approx(counted, rel=1e-6)


def test_cost_of_tables() -> None:
    """Legacy tables are stored, not trained; the exact grid stores nothing."""
    grid, legacy = measure_cost(tiny(), 64), measure_cost(tiny(position="legacy"), 64)
    assert grid.stored_parameters == grid.trainable_parameters == legacy.trainable_parameters
    nodes = [math.prod(tiny().grid(128, stage)) for stage in range(3)]
    tables = nodes[0] * (nodes[0] // 4) + nodes[1] * (nodes[1] // 4) + nodes[2] ** 2
    assert legacy.stored_parameters == legacy.trainable_parameters + tables
    assert grid.gmacs == pytest.approx(legacy.gmacs, rel=0.01)  # but for the position's products


def test_mini_is_small() -> None:
    assert count_by_formula(preset("mini")) < 5e6


def test_schedules() -> None:
    """Neighbours and dilations of Vision GNN's code."""
    iso = preset("iso-s")
    assert iso.neighbours == (9, 9, 10, 10, 11, 12, 12, 13, 13, 14, 15, 15, 16, 16, 17, 18)
    assert iso.dilations == (1,) * 4 + (2,) * 4 + (3,) * 4 + (4,) * 4
    assert preset("pyr-s").dilations == (1,) * 4 + (2,) * 4 + (3,) * 4
    assert preset("pyr-m").dilations == (1,) * 4 + (2,) * 4 + (3,) * 4 + (4,) * 4 + (5,) * 6
    caps = {k: preset("pyr-m", k=k).max_dilation for k in (9, 12, 15, 18, 20)}
    assert caps == {9: 5, 12: 4, 15: 3, 18: 2, 20: 2}
    assert preset("iso-s").max_dilation == 10
    drop = preset("pyr-s").drop_paths
    assert (drop[0], drop[-1]) == (0, 0.1)


def test_grids() -> None:
    """Of the paper's 128 x 1024, and of 1056 frames."""
    config = preset("pyr-s")
    assert [config.grid(1024, s) for s in range(4)] == [(32, 256), (16, 128), (8, 64), (4, 32)]
    assert [config.grid(1056, s) for s in range(4)] == [(32, 264), (16, 132), (8, 66), (4, 33)]
    assert preset("iso-s").grid(1024) == (8, 64)
    assert config.time_stride == 4


def test_grid_is_what_the_encoder_makes() -> None:
    config = tiny()
    for frames in (1, 2, 5, 99, 128):
        with torch.no_grad():
            stages = build(config).encoder(sound(1, frames, config))
        for stage, blocks in enumerate(stages):
            assert len(blocks) == config.blocks[stage]
            assert tuple(blocks[-1].x.shape[1:3]) == config.grid(frames, stage)


# ---------------------------------------------------------------------------- padding and batches

FAMILY = {
    "mini": preset("mini", num_labels=5, n_mels=64, nominal_frames=256),
    "pyramid": tiny(),
    "isotropic": tiny_isotropic(),
    "legacy": tiny(position="legacy"),
    "euclidean": tiny(distance="euclidean"),
    "one label width": tiny(label_width=16),
    "mean and spread": tiny(pooling="mean_std"),
    "lite0": preset(
        "mini-lite0",
        num_labels=5,
        n_mels=64,
        nominal_frames=256,
        drop_path=0.0,
        label_drop_path=0.0,
    ),
    "after every block": tiny(label_placement="after_block", shared_adjacency=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(FAMILY))
def test_scores_do_not_depend_on_the_batch(name: str, dtype: torch.dtype) -> None:
    """In float64 to rounding; in float32 scores within 1e-4, if no two neighbours nearly tie."""
    config = FAMILY[name]
    model = build(config).to(dtype)
    frames = [100, 37, 1, 64, 99, 8]
    mel, lengths = ragged(config, frames)
    mel, single = mel.to(dtype), dtype == torch.float32
    with torch.no_grad():
        together = model(mel, lengths)
        for i, length in enumerate(frames):
            alone, row = model(mel[i : i + 1, :length])[0], together[i]
            if single:
                torch.testing.assert_close(row.sigmoid(), alone.sigmoid(), rtol=0, atol=1e-4)
            else:
                torch.testing.assert_close(row, alone, rtol=1e-10, atol=1e-10)
    assert together.std() > 1e-3  # the comparison is not between constants


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["pyramid", "isotropic", "legacy", "one label width", "lite0"])
def test_padding_has_no_influence(name: str, training: bool) -> None:
    config = FAMILY[name]
    model = build(config).train(training)
    logits = []
    for fill in (0.0, 1e6, float("nan")):
        mel, lengths = ragged(config, [50, 80, 23], fill)
        mel.requires_grad_()
        out = model(mel, lengths)
        out.sum().backward()
        assert mel.grad is not None
        assert not mel.grad[0, 50:].any()
        logits.append(out.detach())
    assert logits[0].equal(logits[1])
    assert logits[0].equal(logits[2])


def test_full_lengths_equal_no_lengths() -> None:
    for name in ("pyramid", "isotropic", "legacy"):
        model, mel = build(FAMILY[name]), sound(3, 77, FAMILY[name])
        with torch.no_grad():
            with_lengths = model(mel, torch.full((3,), 77))
            torch.testing.assert_close(with_lengths, model(mel), rtol=1e-4, atol=1e-5)


def test_permuting_the_batch() -> None:
    config = tiny()
    model, order = build(config), torch.tensor([2, 0, 1])
    mel, lengths = ragged(config, [50, 80, 23])
    with torch.no_grad():
        out, shuffled = model(mel, lengths), model(mel[order], lengths[order])
    torch.testing.assert_close(shuffled, out[order], rtol=1e-4, atol=1e-5)


def test_batch_statistics_of_valid_rows() -> None:
    torch.manual_seed(0)
    ours, packed = BatchNorm(3), nn.BatchNorm1d(3)
    x, mask = torch.randn(4, 5, 6, 3), torch.rand(4, 5, 6) > 0.4
    x[~mask] = 1e5
    out = ours(x, mask)
    torch.testing.assert_close(out[mask], packed(x[mask]))
    torch.testing.assert_close(ours.running_mean, packed.running_mean)
    torch.testing.assert_close(ours.running_var, packed.running_var)
    assert not out[~mask].any()
    torch.testing.assert_close(ours.eval()(x, mask)[mask], packed.eval()(x[mask]))


@pytest.mark.parametrize("name", ["pyramid", "isotropic", "one label width", "lite0"])
def test_running_statistics_ignore_padding(name: str) -> None:
    """Training on padded clips leaves the same statistics and gradients as on unpadded ones."""
    config = FAMILY[name]
    mel = sound(3, 45, config)
    padded = functional.pad(mel, (0, 0, 0, 40), value=3.0)
    models = []
    for batch, lengths in ((mel, None), (padded, torch.full((3,), 45))):
        torch.manual_seed(0)
        model = ATGNN(config.replace(drop_path=0.0)).double().train()
        model(batch.double(), lengths).square().sum().backward()
        models.append(model)
    for (key, a), b in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)
    for (key, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7, msg=key)


# ---------------------------------------------------------------------------- any length


@pytest.mark.parametrize("name", ["pyramid", "isotropic", "legacy", "lite0"])
@pytest.mark.parametrize("frames", [1, 2, 3, 17, 129, 700])
def test_any_length(name: str, frames: int) -> None:
    model = build(FAMILY[name])
    with torch.no_grad():
        assert model(sound(1, frames, FAMILY[name])).isfinite().all()


def test_thirty_seconds() -> None:
    config = preset("mini", n_mels=64, num_labels=3)
    with torch.no_grad():
        assert ATGNN(config).eval()(sound(1, 3000, config)).isfinite().all()


@pytest.mark.parametrize("name", ["pyramid", "isotropic", "legacy"])
def test_longer_than_nominal_by_its_own_length(name: str) -> None:
    """300 and 200 frames where positions are stored for 128, beside one of 600."""
    config = FAMILY[name]
    model = build(config)
    nn.init.normal_(model.encoder.position.table)
    mel, lengths = ragged(config, [600, 300, 200, 100])
    with torch.no_grad():
        together = model(mel, lengths)
        for i, length in enumerate(lengths.tolist()):
            alone = model(mel[i : i + 1, :length])[0]
            torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)


def test_absolute_position_crops_and_stretches() -> None:
    position = AbsolutePosition(1, 4, 1)
    position.table.data = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 4, 1)

    def at(time: int, lengths: list[int] | None = None) -> list[list[float]]:
        x = torch.zeros(len(lengths or [0]), 1, time, 1)
        patches = Patches(x, None if lengths is None else torch.tensor(lengths))
        return position(patches).x[:, 0, :, 0].tolist()

    assert at(3) == [[0, 1, 2]]
    assert at(4, [2, 4]) == [[0, 1, 2, 3]] * 2
    stretched = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert at(8) == [stretched]
    batch = at(8, [8, 3, 4])
    assert batch[0] == stretched
    assert batch[1][:3] == [0, 1, 2]
    assert batch[2][:4] == [0, 1, 2, 3]


# ---------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", list(FAMILY))
def test_gradient_reaches_every_parameter(name: str) -> None:
    config = FAMILY[name]
    torch.manual_seed(0)
    model = ATGNN(config).train()
    mel, lengths = ragged(config, [60, 40, 50])
    model(mel, lengths).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        before_norm = key.endswith(("linear.bias", "conv.bias", "update.bias"))
        assert before_norm or parameter.grad.any(), key


@pytest.mark.parametrize("name", ["pyramid", "isotropic", "after every block", "mean and spread"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains(name: str, dtype: torch.dtype) -> None:
    config = FAMILY[name]
    torch.manual_seed(0)
    model = ATGNN(config).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    mel, lengths = ragged(config, [60, 40, 50])
    targets = torch.eye(5)[:3]
    losses = []
    for _ in range(4):
        with torch.autocast("cpu", dtype=dtype):
            logits = model(mel, lengths)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(math.isfinite(value) for value in losses)
    assert losses[-1] < losses[0]
    assert all(p.isfinite().all() for p in model.parameters())


def test_labels_may_grow_beyond_half_precision() -> None:
    """The unnormalised A l overflows the published model in fp16; ours stays finite."""
    config = tiny()
    model = build(config)
    last = model.label_branch.levels[2].blocks[1].llg
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        last.adjacency.fill_(3e4)
        logits = model(sound(2, 64, config))
    assert logits.abs().max() > 65504
    assert logits.isfinite().all()


def test_drop_path() -> None:
    torch.manual_seed(0)
    x, layer = torch.ones(4000, 3, 2), DropPath(0.25)
    out = layer(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out == out[:, :1, :1]).all()  # whole clips
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert layer.eval()(x) is x


def test_same_seed_same_model() -> None:
    a, b, other = (build(tiny(), seed=s).state_dict() for s in (3, 3, 4))
    assert all(a[key].equal(b[key]) for key in a)
    key = "label_branch.embedding"
    assert not a[key].equal(other[key])


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = ATGNN(preset("mini", num_labels=100))
    branch = model.label_branch
    adjacency = branch.levels[0].blocks[0].llg.adjacency
    assert 0.095 < adjacency.abs().max() <= 0.1  # uniform up to 1 / sqrt(100)
    assert branch.embedding.std().item() == pytest.approx(0.02, rel=0.1)
    bound = 1 / math.sqrt(branch.readout.shape[1])
    assert 0.95 * bound < branch.readout.abs().max() <= bound
    update = model.encoder.stages[1].blocks[0].grapher.update.weight
    assert update.std().item() == pytest.approx(math.sqrt(2 / (2 * 96 / 4)), rel=0.05)
    assert not model.encoder.position.table.any()


# ---------------------------------------------------------------------------- options

SAME_WEIGHTS = [
    {"distance": "euclidean"},
    {"position": "none"},
    {"k": 2},
    {"k_last": 12},
    {"dilation_every": 1},
    {"dilation_budget": 4, "dilation_every": 1},
    {"reductions": (1, 1, 1)},
    {"k_plg": 1},
]


@pytest.mark.parametrize("changes", SAME_WEIGHTS, ids=str)
def test_options_that_change_the_graph(changes: dict[str, Any]) -> None:
    """The same weights, other scores."""
    base = {"dilation_every": 1} if "dilation_budget" in changes else {}
    model, other = build(tiny(**base)), ATGNN(tiny(**changes)).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        mel = sound(2, 100, model.config)
        assert not torch.allclose(model(mel), other(mel), rtol=1e-3, atol=1e-4)


def test_legacy_position_changes_the_graph() -> None:
    model, other = build(tiny()), ATGNN(tiny(position="legacy")).eval()
    missing = other.load_state_dict(model.state_dict(), strict=False)
    assert [key.split(".")[-1] for key in missing.missing_keys] == ["table"] * 3
    assert not missing.unexpected_keys
    with torch.no_grad():
        mel = sound(2, 100, model.config)
        assert not torch.allclose(model(mel), other(mel), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "key", "shape"),
    [
        ({"update_groups": 1}, "encoder.stages.0.blocks.0.grapher.update.weight", (1, 32, 32)),
        ({"ffn_ratio": 2}, "encoder.stages.0.blocks.0.ffn.fc1.linear.weight", (32, 16)),
        ({"head_width": 7}, "patch_head.fc1.linear.weight", (7, 32)),
        ({"pooling": "mean_std"}, "patch_head.fc1.linear.weight", (24, 64)),
        ({"absolute_position": False}, "encoder.position.table", None),
        ({"in_channels": 3}, "encoder.stem.convs.0.conv.weight", (8, 3, 3, 3)),
        ({"label_width": 20}, "label_branch.embedding", (5, 20)),
        ({"label_width": 20}, "label_branch.levels.1.patch_projection.linear.weight", (20, 24)),
        ({"label_width": 20}, "label_branch.levels.1.projection.linear.weight", None),
        (
            {"label_update_groups": 1},
            "label_branch.levels.0.blocks.0.plg.update.weight",
            (1, 16, 32),
        ),
        ({"label_ffn_ratio": 0}, "label_branch.levels.0.blocks.0.plg.ffn.fc1.linear.weight", None),
        (
            {"label_ffn_ratio": 2},
            "label_branch.levels.0.blocks.0.plg.ffn.fc1.linear.weight",
            (32, 16),
        ),
        ({"shared_adjacency": True}, "label_branch.levels.1.blocks.0.llg.adjacency", None),
        (
            {"label_placement": "after_block"},
            "label_branch.levels.4.blocks.0.llg.adjacency",
            (5, 5),
        ),
        ({"label_blocks": ()}, "label_branch.embedding", None),
        ({"label_blocks": (0, 0, 1)}, "label_branch.levels.0.blocks.0.llg.adjacency", None),
        ({"num_labels": 9}, "label_branch.levels.0.blocks.0.llg.adjacency", (9, 9)),
    ],
    ids=str,
)
def test_options_that_change_the_layers(
    changes: dict[str, Any], key: str, shape: tuple[int, ...] | None
) -> None:
    before, after = sizes(tiny()), sizes(tiny(**changes))
    assert after.get(key) == shape
    assert before.get(key) != shape
    config = tiny(**changes)
    mel = sound(2, 30, config)
    if config.in_channels > 1:
        mel = mel[..., None].expand(-1, -1, -1, 3)
    with torch.no_grad():
        assert ATGNN(config).eval()(mel).shape == (2, config.num_labels)


@pytest.mark.parametrize("rate", ["drop_path", "label_drop_path", "head_dropout"])
def test_regularisation_acts_in_training_only(rate: str) -> None:
    model = build(tiny(**{rate: 0.9}))
    mel = sound(3, 60, model.config)
    with torch.no_grad():
        assert model(mel).equal(model(mel))
        model.train()
        assert not model(mel).equal(model(mel))


# ---------------------------------------------------------------------------- equations


def captured(module: nn.Module, run: Any) -> tuple[Any, ...]:
    """What a module was called with, while `run` ran."""
    seen: list[tuple[Any, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad():
        run()
    handle.remove()
    return seen[0]


def test_equation_2_patches_take_y_j_minus_x_i() -> None:
    config = tiny()
    torch.manual_seed(0)
    grapher = Grapher(config, 16, 2, 3, 1, 0.0).eval()
    nn.init.normal_(grapher.update.weight)
    patches = Patches(torch.randn(1, 4, 6, 16), None)
    x, extremum = captured(grapher.update.relation, lambda: grapher(patches, NO_POSITION))
    m = grapher.update.relation(x, extremum)
    y, _ = pool_nodes(grapher.fc1(patches.x), 2)
    y = y.flatten(1, 2)
    near = nearest_neighbours(x, y, 3)[0]
    for i in range(24):
        wanted = (y[0, near[i]] - x[0, i]).amax(0)
        torch.testing.assert_close(m[0, i], wanted)


def test_equation_4_labels_take_l_i_minus_x_j() -> None:
    torch.manual_seed(0)
    plg = PatchLabelGraph(tiny(), 16).eval()
    nn.init.normal_(plg.update.weight)
    labels, grid = torch.randn(2, 5, 16), torch.randn(2, 5, 6, 16)
    l_i, extremum = captured(plg.update.relation, lambda: plg(labels, Patches(grid, None)))
    m = plg.update.relation(l_i, extremum)
    x = grid.flatten(1, 2)
    near = nearest_neighbours(labels, x, 3)
    for b in range(2):
        for i in range(5):
            wanted = (labels[b, i] - x[b, near[b, i]]).amax(0)
            torch.testing.assert_close(m[b, i], wanted)
    assert l_i.equal(labels)


def test_update_is_a_grouped_convolution_of_interleaved_channels() -> None:
    """As published: x_0, m_0, x_1, m_1, ... into a 1x1 convolution with 4 groups."""
    torch.manual_seed(0)
    layer = GraphUpdate(8, 12, 4, sign=1).eval()
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    x, m = torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    weight = torch.stack([layer.weight[..., :2], layer.weight[..., 2:]], dim=-1)
    interleaved = torch.stack([x, m], dim=-1).flatten(2).transpose(1, 2)
    out = functional.conv1d(interleaved, weight.reshape(12, 4, 1), layer.bias, groups=4)
    wanted = functional.gelu(out.transpose(1, 2) / math.sqrt(1 + layer.norm.eps))
    torch.testing.assert_close(layer(x, m + x), wanted)


def test_equation_6_label_graph() -> None:
    adjacency = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    labels = torch.tensor([[[1.0, 10.0], [3.0, 30.0]]])
    out = LabelGraph(nn.Parameter(adjacency))(labels)
    assert out.tolist() == [[[7, 70], [3, 30]]]


def test_equations_8_and_9_readout_and_sum() -> None:
    model = build(tiny())
    mel = sound(2, 50, model.config)
    branch = model.label_branch
    with torch.no_grad():
        stages = model.encoder(mel)
        patch_logits = model.patch_head(stages[-1][-1])
        labels = branch.embedding.expand(2, -1, -1)
        for level, stage in zip(branch.levels, stages, strict=True):
            labels = level(labels, stage[-1])
        wanted = patch_logits + (labels * branch.readout).sum(-1)
        torch.testing.assert_close(model(mel), wanted, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(patch_logits, wanted, atol=1e-4)


def test_convolution_pads_with_zeros_beyond_a_clip() -> None:
    torch.manual_seed(0)
    layer = ConvNorm(2, 3, stride=2).eval()
    x = torch.randn(1, 5, 9, 2)
    out = layer(Patches(x, torch.tensor([6])))
    alone = layer(Patches(x[:, :, :6], None))
    assert out.lengths is not None
    assert out.lengths.tolist() == [3]
    torch.testing.assert_close(out.x[:, :, :3], alone.x)


def test_image_input() -> None:
    """Several input channels go last; the first convolution is linear in them."""
    config = tiny(in_channels=2)
    model = ATGNN(config).eval()
    mel = torch.randn(2, 40, 32, 2)
    with torch.no_grad():
        nodes = model.encoder.stem(Patches(mel.transpose(1, 2), None)).x
        out = model(mel)
        model.encoder.stem.convs[0].conv.weight.data = model.encoder.stem.convs[0].conv.weight.flip(
            1
        )
        torch.testing.assert_close(model(mel.flip(-1)), out, rtol=1e-4, atol=1e-4)
    assert nodes.shape == (2, 8, 10, 16)


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize("shape", [(1, 20, 64), (20, 32), (1, 0, 32), (1, 20, 32, 1), (2, 32, 20)])
def test_wrong_input(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected .*\(B, frames, 32\), got"):
        ATGNN(tiny())(torch.zeros(shape))


def test_wrong_image_input() -> None:
    with pytest.raises(ValueError, match=r"\(B, frames, 32, 3\), got \(1, 20, 32\)"):
        ATGNN(tiny(in_channels=3))(torch.zeros(1, 20, 32))


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([20], "expected 2 lengths"),
        ([20.0, 20.0], "whole numbers, got torch.float32"),
        ([20, 3200], "lengths from 1 to 20, .* got 20 to 3200: are they samples"),
        ([0, 20], "got 0 to 20"),
    ],
)
def test_wrong_lengths(lengths: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ATGNN(tiny())(torch.zeros(2, 20, 32), torch.tensor(lengths))


@pytest.mark.parametrize("position", ["grid", "legacy"])
def test_no_clips_have_no_scores(position: str) -> None:
    model, lengths = ATGNN(tiny(position=position)).eval(), torch.zeros(0, dtype=torch.long)
    for network in (model, for_inference(model)):
        assert network(torch.zeros(0, 20, 32)).shape == (0, 5)
        assert network(torch.zeros(0, 20, 32), lengths).shape == (0, 5)


@pytest.mark.parametrize(
    ("name", "near"), [("pyr_s", "pyr-s"), ("iso-small", "iso-s"), ("mni", "mini")]
)
def test_unknown_preset_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown preset '{name}' .*; did you mean '{near}'"):
        preset(name)


def test_every_preset_is_listed() -> None:
    bases = {"mini", "mini-lite0", "iso-ti", "iso-s", "iso-b", "pyr-ti", "pyr-s", "pyr-m", "pyr-b"}
    assert set(preset_names()) == bases | {f"{name}-encoder" for name in bases}
    assert not preset("pyr-s-encoder").has_labels


def bad_changes() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"n_mel": 64}, "did you mean 'n_mels'"
    yield {"k": 0}, "k: "
    yield {"k": "many"}, "k: "
    yield {"blocks": (1, 1)}, "blocks needs one entry per stage: 3"
    yield {"stem_widths": (8, 16)}, "same number of entries"
    yield {"stem_widths": (8, 16, 24)}, "the stem must end"
    yield {"stem_widths": (), "stem_strides": ()}, "stem_widths: .* at least 1 item"
    yield {"label_blocks": (1, 1)}, "label_blocks needs one entry"
    yield {"channels": (16, 24, 34)}, "multiples of 4"
    yield {"label_width": 18}, "label widths must be multiples"
    yield {"k_last": 2}, "k_last must not be smaller"
    yield {"drop_path": 1.0}, "drop_path: "
    yield {"distance": "manhattan"}, "distance: "
    yield {"in_channels": 0}, "in_channels: "


@pytest.mark.parametrize(("changes", "match"), list(bad_changes()), ids=str)
def test_invalid_configuration(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as error:
        tiny(**changes)
    assert "\n" not in str(error.value)


def test_configuration_is_frozen_and_complete() -> None:
    config = tiny()
    with pytest.raises(ValidationError):
        config.k = 3  # type: ignore[misc]
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        ModelConfig(neighbors=9)  # type: ignore[call-arg]


def test_mean_and_spread_are_those_of_the_patches_and_spread_does_not_overflow() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, spread = spread_of(Patches(x, None)).chunk(2, 1)
    torch.testing.assert_close(mean, x.mean((1, 2)))
    torch.testing.assert_close(spread, x.var((1, 2), correction=0).add(1e-6).sqrt())
    large = spread_of(Patches((1000 * x).half(), None))
    assert large.dtype == torch.float16
    torch.testing.assert_close(large[:, 5:].double(), 1000 * spread, rtol=1e-2, atol=1)


def test_a_setting_that_came_later_changes_no_digest() -> None:
    """What a model's packs and indexes go by."""
    assert "pooling" not in tiny().model_dump()
    changed = tiny(pooling="mean_std")
    assert changed.model_dump()["pooling"] == "mean_std"
    assert ModelConfig.model_validate_json(changed.model_dump_json()) == changed
    assert ModelConfig.model_validate_json(tiny().model_dump_json()) == tiny()
