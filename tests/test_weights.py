"""Published weights in: parity with the reference implementations, and the key contract."""

import argparse
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from atgnn.errors import CheckpointError, ConfigError
from atgnn.model import ATGNN, ModelConfig, preset
from atgnn.model.layers import Patches
from atgnn.model.weights import WeightsReport, load_published, published_config

# What a file does not tell: see shared/data/README.md of the development data.
KNOBS: dict[str, dict[str, int]] = {
    "pyramid_tiny.pth.tar": {"k": 3},
    "isotropic_tiny.pth": {"k": 2, "k_last": 4},
    "atgnn_tiny.ckpt": {"k": 2, "k_plg": 3},
}
PYRAMID, ISOTROPIC, AUTHOR = KNOBS


def published(folder: Path, name: str, **changes: Any) -> tuple[ATGNN, WeightsReport]:
    state = state_of(folder, name)
    model = ATGNN(published_config(state, **{**KNOBS[name], **changes}))
    return model.eval(), load_published(state, model)


def reference(folder: Path, name: str) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Input as (B, T, F[, channels]), and what the reference implementation makes of it."""
    arrays = dict(np.load(folder / f"{name.split('.')[0]}_io.npz"))
    if "mel" in arrays:
        return torch.from_numpy(arrays["mel"]), arrays
    return torch.from_numpy(arrays["image"]).permute(0, 3, 2, 1), arrays


@cache
def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def state_of(folder: Path, name: str) -> dict[str, Tensor]:
    content = content_of(folder / name)
    content = content.get("state_dict", content)
    return {key.removeprefix("net."): value for key, value in content.items()}


def relative_error(ours: Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())


# ---------------------------------------------------------------------------- parity


@pytest.mark.parametrize("name", list(KNOBS))
def test_fixture_logits(fixtures: Path, name: str) -> None:
    """From the file as it is published, wrapper and prefix included."""
    model = ATGNN(published_config(fixtures / name, **KNOBS[name])).eval()
    report = load_published(fixtures / name, model)
    x, expected = reference(fixtures, name)
    with torch.no_grad():
        assert relative_error(model(x), expected["logits"]) < 2e-5
    assert not report.left_new
    assert not report.dropped
    assert name in str(report)


def test_schedules_of_fixtures(fixtures: Path) -> None:
    iso = published_config(fixtures / ISOTROPIC, **KNOBS[ISOTROPIC])
    assert iso.neighbours == (2, 2, 2, 2, 3, 3, 3, 4)
    assert iso.dilations == (1,) * 4 + (2,) * 4
    for name in (PYRAMID, AUTHOR):
        config = published_config(fixtures / name, **KNOBS[name])
        assert config.dilations == (1,) * 4 + (2,) * 4 + (3,) * 4
        assert config.reductions == (4, 2, 1, 1)


def test_fixture_intermediates(fixtures: Path) -> None:
    model, _ = published(fixtures, PYRAMID)
    x, expected = reference(fixtures, PYRAMID)
    with torch.no_grad():
        stem = model.encoder.stem(Patches(x.transpose(1, 2), None))
        assert relative_error(stem.x.permute(0, 3, 1, 2), expected["stem"]) < 1e-5
        nodes, stage = model.encoder.position(stem), model.encoder.stages[0]
        block = stage.blocks[0].grapher(nodes, stage.position(nodes))
        assert relative_error(block.x.permute(0, 3, 1, 2), expected["first_graph_block"]) < 1e-5


def test_geometry_matters_for_parity(fixtures: Path) -> None:
    """The parity above would fail with the other geometry or another k: it tests them."""
    x, expected = reference(fixtures, PYRAMID)
    for changes in ({"position": "grid"}, {"k": 4}, {"dilation_every": 99}):
        model, _ = published(fixtures, PYRAMID, **changes)
        with torch.no_grad():
            assert relative_error(model(x), expected["logits"]) > 1e-3


# ---------------------------------------------------------------------------- conversion


@pytest.mark.parametrize("name", list(KNOBS))
def test_key_contract(fixtures: Path, name: str) -> None:
    """Every key of the file is accounted for once; what is not left new comes from the file."""
    torch.manual_seed(0)
    config = published_config(fixtures / name, num_labels=11, position="grid", in_channels=1)
    model = ATGNN(config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for value in before.values():
        value += 1 if value.dtype == torch.int64 else 0
    report = load_published(fixtures / name, model)
    used = [*report.loaded, *report.converted, *report.resized, *report.dropped]
    assert sorted(fate.key for fate in used) == sorted(state_of(fixtures, name))
    new = {fate.key for fate in report.left_new}
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert changed == set(before) - new


@pytest.mark.parametrize("name", [PYRAMID, ISOTROPIC])
def test_image_model_starts_sound_model(fixtures: Path, name: str) -> None:
    isotropic = name == ISOTROPIC
    config = published_config(
        fixtures / name,
        in_channels=1,
        n_mels=64,
        nominal_frames=80,
        num_labels=5,
        position="none" if isotropic else "grid",
        label_blocks=(1,) if isotropic else (1, 1, 3, 1),
    )
    model = ATGNN(config)
    report = load_published(fixtures / name, model)
    state = state_of(fixtures, name)
    averaged = state["stem.convs.0.weight"].mean(1, keepdim=True)
    torch.testing.assert_close(model.encoder.stem.convs[0].conv.weight.data, averaged)
    rows, columns = config.grid(80)
    wanted = functional.interpolate(state["pos_embed"], (rows, columns), mode="bicubic")
    table = model.encoder.position.table.data
    torch.testing.assert_close(table.permute(2, 0, 1)[None], wanted)
    left = {fate.key for fate in report.left_new}
    assert {"patch_head.fc2.weight", "label_branch.embedding"} <= left
    assert not any(key.startswith(("encoder", "patch_head.fc1")) for key in left)
    assert "pos_embed" in {fate.key for fate in report.resized}
    model(torch.randn(2, 80, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_averaged_convolution_sees_equal_channels_alike(fixtures: Path) -> None:
    """One channel through the mean is the same as three equal channels, each a third as loud."""
    three, _ = published(fixtures, PYRAMID)
    one, _ = published(fixtures, PYRAMID, in_channels=1)
    mel = torch.randn(2, 96, 96)
    with torch.no_grad():
        expected = three(mel[..., None].expand(-1, -1, -1, 3) / 3)
        torch.testing.assert_close(one(mel), expected, rtol=1e-3, atol=1e-4)


def test_legacy_tables_are_resized(fixtures: Path) -> None:
    model, report = published(fixtures, PYRAMID, n_mels=32, nominal_frames=64)
    table = state_of(fixtures, PYRAMID)["backbone.0.0.relative_pos"]
    nodes = 8 * 16
    wanted = functional.interpolate(table[None], (nodes, nodes // 16), mode="bicubic")[0, 0]
    torch.testing.assert_close(model.encoder.stages[0].position.table, wanted)
    assert sum("relative_pos" in fate.key for fate in report.resized) == 12


def test_grid_drops_tables_and_says_so(fixtures: Path) -> None:
    _, report = published(fixtures, PYRAMID, position="grid")
    assert len(report.dropped) == 12
    assert 'position is "grid"' in str(report)


def test_update_columns(fixtures: Path) -> None:
    """x_0, m_0, x_1, m_1, ... of each of 4 groups becomes x columns, then m columns."""
    model, _ = published(fixtures, PYRAMID)
    theirs = state_of(fixtures, PYRAMID)["backbone.0.0.graph_conv.gconv.nn.0.weight"]
    ours = model.encoder.stages[0].blocks[0].grapher.update.weight  # (4, 8, 8): C = 16
    for output, group, channel in ((0, 0, 0), (9, 1, 2), (31, 3, 3)):
        x_column = ours[group, output % 8, channel]
        m_column = ours[group, output % 8, 4 + channel]
        assert x_column == theirs[output, 2 * channel, 0, 0]
        assert m_column == theirs[output, 2 * channel + 1, 0, 0]


def test_author_checkpoint_with_other_classes(fixtures: Path) -> None:
    model, report = published(fixtures, AUTHOR, num_labels=9)
    left = {fate.key for fate in report.left_new}
    assert len(left) == 2 + 1 + 6 + 1  # head, embedding, adjacencies, readout
    assert all(fate.note == "for other classes" for fate in report.left_new)
    assert "label_branch.levels.2.blocks.1.plg.update.weight" not in left
    assert model(torch.randn(1, 20, 64)).shape == (1, 9)


def test_author_checkpoint_into_encoder(fixtures: Path) -> None:
    _, report = published(fixtures, AUTHOR, label_blocks=())
    assert any(fate.key == "mlg_stages.0.0.adj" for fate in report.dropped)
    assert not report.left_new


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        ("state_dict", "module."),
        ("model", ""),
        (None, "module.net."),
        ("state_dict", "net.module."),
    ],
)
def test_wrappers_and_prefixes(fixtures: Path, wrap: str | None, prefix: str) -> None:
    bare = state_of(fixtures, ISOTROPIC)
    state = {prefix + key: value for key, value in bare.items()}
    content = {wrap: state, "epoch": 3} if wrap else state
    model = ATGNN(published_config(content))
    assert len(load_published(content, model).loaded) == 282
    weight = bare["backbone.7.1.fc2.0.weight"][:, :, 0, 0]
    assert model.encoder.stages[0].blocks[7].ffn.fc2.linear.weight.equal(weight)


def test_half_precision_file(fixtures: Path) -> None:
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in state_of(fixtures, ISOTROPIC).items()
    }
    model = ATGNN(published_config(state, in_channels=1, n_mels=32))
    load_published(state, model)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_report_reads_well(fixtures: Path) -> None:
    _, report = published(fixtures, PYRAMID, in_channels=1, num_labels=3, position="grid")
    text = str(report)
    assert len(text.splitlines()) < 12
    for part in ("mean over 3 input channels", "patch_head.fc2.bias", "interleaved"):
        assert part in text
    with pytest.raises(AttributeError):
        report.loaded = ()  # type: ignore[misc]


# ---------------------------------------------------------------------------- layouts of full size


def vision_gnn(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Keys and shapes of the published ImageNet files, as Vision GNN's code names them."""
    blocks, channels = {
        "pyr-ti": ((2, 2, 6, 2), (48, 96, 240, 384)),
        "pyr-s": ((2, 2, 6, 2), (80, 160, 400, 640)),
        "pyr-m": ((2, 2, 16, 2), (96, 192, 384, 768)),
        "pyr-b": ((2, 2, 18, 2), (128, 256, 512, 1024)),
        "iso-ti": ((12,), (192,)),
        "iso-s": ((16,), (320,)),
        "iso-b": ((16,), (640,)),
    }[name]
    pyramid, c = len(blocks) == 4, channels[0]
    widths = (3, c // 2, c, c) if pyramid else (3, c // 8, c // 4, c // 2, c, c)

    def pair(key: str, first: int, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{key}.{first}.weight", shape
        for norm in ("weight", "bias", "running_mean", "running_var"):
            yield f"{key}.{first + 1}.{norm}", (shape[0],)
        yield f"{key}.{first}.bias", (shape[0],)
        yield f"{key}.{first + 1}.num_batches_tracked", ()

    side = 56 if pyramid else 14
    yield "pos_embed", (1, c, side, side)
    for i in range(len(widths) - 1):
        yield from pair("stem.convs", 3 * i, (widths[i + 1], widths[i], 3, 3))
    slot = 0
    for stage, (count, c) in enumerate(zip(blocks, channels, strict=True)):
        if stage:
            yield from pair(f"backbone.{slot}.conv", 0, (c, channels[stage - 1], 3, 3))
            slot += 1
        for _ in range(count):
            key = f"backbone.{slot}"
            if pyramid:
                nodes = (56 >> stage) ** 2
                yield f"{key}.0.relative_pos", (1, nodes, nodes // (4, 2, 1, 1)[stage] ** 2)
            yield from pair(f"{key}.0.fc1", 0, (c, c, 1, 1))
            yield from pair(f"{key}.0.graph_conv.gconv.nn", 0, (2 * c, c // 2, 1, 1))
            yield from pair(f"{key}.0.fc2", 0, (c, 2 * c, 1, 1))
            yield from pair(f"{key}.1.fc1", 0, (4 * c, c, 1, 1))
            yield from pair(f"{key}.1.fc2", 0, (c, 4 * c, 1, 1))
            slot += 1
    assert slot == {"pyr-s": 15, "pyr-m": 25, "pyr-b": 27}.get(name, slot)
    yield from pair("prediction", 0, (1024, channels[-1], 1, 1))
    yield "prediction.4.weight", (1000, 1024, 1, 1)
    yield "prediction.4.bias", (1000,)


PUBLISHED_SIZES = {  # million trainable parameters at 224 px, 1000 classes
    "pyr-ti": 10.714,
    "pyr-s": 27.252,
    "pyr-m": 49.526,
    "pyr-b": 92.980,
    "iso-ti": 7.185,
    "iso-s": 22.748,
    "iso-b": 86.842,
}


@pytest.mark.parametrize("name", list(PUBLISHED_SIZES))
def test_layout_of_published_files(name: str) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in vision_gnn(name)}
    config = published_config(state)
    with torch.device("meta"):
        model = ATGNN(config)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    assert size == pytest.approx(PUBLISHED_SIZES[name], abs=6e-4)
    ours = preset(name)
    for field in ("channels", "blocks", "reductions", "stem_widths", "stem_strides", "ffn_ratio"):
        assert getattr(config, field) == getattr(ours, field)
    assert (config.neighbours, config.dilations) == (ours.neighbours, ours.dilations)
    sound = published_config(
        state,
        **{field: getattr(ours, field) for field in ("label_blocks", "position", "num_labels")},
        in_channels=1,
        n_mels=128,
        nominal_frames=1024,
    )
    assert sound == ours


def test_published_file_into_preset() -> None:
    """A whole ImageNet file goes into the preset of the same name."""
    state = {key: torch.zeros(shape) for key, shape in vision_gnn("iso-ti")}
    model = ATGNN.from_preset("iso-ti", nominal_frames=128)
    report = load_published(state, model)
    assert [fate.note for fate in report.resized] == ["14 x 14 to 8 x 8"]
    assert not model.encoder.stages[0].blocks[11].ffn.fc2.linear.weight.any()


# ---------------------------------------------------------------------------- errors


def assert_one_line(error: pytest.ExceptionInfo[CheckpointError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture
def state(fixtures: Path) -> dict[str, Tensor]:
    return state_of(fixtures, PYRAMID)


@pytest.fixture(scope="module")
def model(fixtures: Path) -> ATGNN:
    return ATGNN(published_config(state_of(fixtures, PYRAMID)))


@pytest.mark.parametrize("key", ["extra.weight", "backbone.3.2.weight", "label_embed.x"])
def test_unknown_key(state: dict[str, Tensor], model: ATGNN, key: str) -> None:
    before = [p.clone() for p in model.parameters()]
    state[key] = torch.zeros(2)
    with pytest.raises(CheckpointError) as error:
        load_published(state, model)
    assert_one_line(error, "unknown key", key)
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("backbone.0.0.fc1.0.weight", (16, 24, 1, 1)),
        ("backbone.0.0.fc1.0.weight", (16, 16)),
        ("backbone.0.0.fc1.0.weight", (16, 16, 3, 3)),
        ("backbone.3.0.graph_conv.gconv.nn.0.weight", (48, 48, 1, 1)),
        ("stem.convs.0.weight", (8, 5, 3, 3)),
        ("pos_embed", (1, 24, 24, 24)),
        ("prediction.4.weight", (7, 40, 1, 1)),
        ("backbone.0.0.relative_pos", (576, 36)),
        ("pos_embed", (1, 16, 0, 24)),
    ],
)
def test_misshapen_key(
    state: dict[str, Tensor], model: ATGNN, key: str, shape: tuple[int, ...]
) -> None:
    state[key] = torch.zeros(shape)
    with pytest.raises(CheckpointError) as error:
        load_published(state, model)
    assert_one_line(error, "misshapen key", key, str(shape), "expected")


@pytest.mark.parametrize("key", ["backbone.7.1.fc2.0.bias", "pos_embed", "prediction.1.weight"])
def test_missing_key(state: dict[str, Tensor], model: ATGNN, key: str) -> None:
    del state[key]
    with pytest.raises(CheckpointError) as error:
        load_published(state, model)
    assert_one_line(error, "the file has no", key)


def test_file_without_head_or_counters(state: dict[str, Tensor], model: ATGNN) -> None:
    kept = {
        key: value
        for key, value in state.items()
        if not key.startswith("prediction") and not key.endswith("num_batches_tracked")
    }
    report = load_published(kept, model)
    assert "patch_head.fc1.linear.weight" in {fate.key for fate in report.left_new}


def test_deeper_file(state: dict[str, Tensor]) -> None:
    model = ATGNN(published_config(state, blocks=(2, 2, 4, 2)))
    with pytest.raises(CheckpointError, match=r"backbone\.10"):
        load_published(state, model)


def test_tables_that_differ_within_a_stage(state: dict[str, Tensor], model: ATGNN) -> None:
    state["backbone.1.0.relative_pos"] = state["backbone.1.0.relative_pos"] + 1
    with pytest.raises(CheckpointError, match=r"backbone\.1\.0\.relative_pos differs"):
        load_published(state, model)


def test_refused_file_names_a_remedy_that_works(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands for OmegaConf hyper-parameters: any object that is not a tensor or plain data."""
    content = content_of(fixtures / AUTHOR)
    path = tmp_path / "author.ckpt"
    torch.save({**content, "hyper_parameters": argparse.Namespace(lr=1e-3)}, path)
    with pytest.raises(CheckpointError) as error:
        published_config(path)
    assert_one_line(error, "argparse.Namespace", "author.ckpt", "weights.pth")
    command = re.search(r'python -c "(.*)"', str(error.value))
    assert command is not None
    monkeypatch.chdir(tmp_path)
    exec(command[1])
    assert published_config(tmp_path / "weights.pth").num_labels == 5


@pytest.mark.parametrize("content", [b"", b"some text\n", b"PK\x03\x04 not really a zip"])
def test_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        published_config(path)
    assert_one_line(error, "weights.pth is not a PyTorch checkpoint")


def test_truncated_checkpoint(fixtures: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes((fixtures / ISOTROPIC).read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        published_config(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        published_config(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "without entries"),
        ({"conv1.weight": torch.zeros(1)}, "not a Vision GNN or ATGNN"),
        ({"state_dict": {"a": 1}}, "a is int"),
        ({"net.a": torch.zeros(1), "a": torch.zeros(1)}, "twice"),
    ],
)
def test_other_content(content: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        published_config(content)


def test_incomplete_layout(state: dict[str, Tensor]) -> None:
    del state["backbone.0.1.fc1.0.weight"]
    with pytest.raises(CheckpointError, match="incomplete"):
        published_config(state)


def test_changes_are_validated(state: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="n_mel"):
        published_config(state, n_mel=64)
    assert isinstance(published_config(state, n_mels=64), ModelConfig)
    assert math.prod(published_config(state).stem_strides) == 4
