"""The model as a whole program: `torch.compile` without breaks, and CUDA graphs."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from atgnn.model import ATGNN, ModelConfig
from atgnn.model.graphs import CapturedModel

TINY: dict[str, Any] = {
    "num_labels": 5,
    "n_mels": 16,
    "nominal_frames": 64,
    "head_width": 12,
    "drop_path": 0.0,
    "label_drop_path": 0.0,
    "k_plg": 2,
}
PYRAMID = ModelConfig(
    **TINY,
    stem_widths=(8, 8),
    stem_strides=(2, 2),
    channels=(8, 12),
    blocks=(1, 1),
    reductions=(2, 1),
    k=2,
    label_blocks=(1, 1),
)
ISOTROPIC = ModelConfig(
    **TINY,
    stem_widths=(4, 8),
    stem_strides=(2, 2),
    channels=(8,),
    blocks=(2,),
    reductions=(1,),
    k=2,
    k_last=3,
    dilation_every=1,
    position="none",
    label_blocks=(1,),
    label_placement="after_block",
)
LEGACY = PYRAMID.replace(position="legacy")
ONE_STAGE = PYRAMID.replace(
    pooling="mean_std", channels=(8,), blocks=(1,), reductions=(2,), label_blocks=(1,)
)


@pytest.fixture(autouse=True)
def _forget_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make(config: ModelConfig, *, train: bool) -> ATGNN:
    torch.manual_seed(0)
    model = ATGNN(config).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 40, config.n_mels))
    return model.train(train)


def batch(frames: list[int]) -> tuple[Tensor, Tensor | None]:
    """A batch of noise; lengths only where they differ."""
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(len(frames), max(frames), 16, generator=generator)
    return mel, torch.tensor(frames) if len(set(frames)) > 1 else None


# ---------------------------------------------------------------------------- torch.compile

EQUAL, RAGGED = [40, 40, 40], [40, 24, 33]
# Tracing takes seconds: the smallest here, the others with the slow tests.
CASES = [
    pytest.param(ONE_STAGE, RAGGED, id="one stage-ragged"),
    pytest.param(PYRAMID, RAGGED, id="pyramid-ragged", marks=pytest.mark.slow),
    pytest.param(PYRAMID, EQUAL, id="pyramid-equal", marks=pytest.mark.slow),
    pytest.param(ISOTROPIC, RAGGED, id="isotropic-ragged", marks=pytest.mark.slow),
    pytest.param(ISOTROPIC, EQUAL, id="isotropic-equal", marks=pytest.mark.slow),
    pytest.param(LEGACY, EQUAL, id="legacy-equal", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("config", "frames"), CASES)
def test_inference_is_one_graph(config: ModelConfig, frames: list[int]) -> None:
    model = make(config, train=False)
    mel, lengths = batch(frames)
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # raises at a break
    with torch.no_grad():
        torch.testing.assert_close(compiled(mel, lengths), model(mel, lengths), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("config", "frames"), CASES)
def test_training_is_one_graph(config: ModelConfig, frames: list[int]) -> None:
    """Forward and backward; running statistics too."""
    eager = make(config, train=True)
    model = copy.deepcopy(eager)
    mel, lengths = batch(frames)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for run in (compiled, eager):
        logits = run(mel, lengths)
        functional.binary_cross_entropy_with_logits(logits, torch.eye(5)[:3]).backward()
    theirs = dict(eager.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-5)
    buffers = dict(eager.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inference_with_inductor() -> None:
    model = make(ONE_STAGE, train=False)
    mel, lengths = batch(RAGGED)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(mel, lengths), model(mel, lengths), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_one_graph(dtype: torch.dtype) -> None:
    model = make(ONE_STAGE, train=True)
    mel, lengths = batch(RAGGED)

    def run(mel: Tensor, lengths: Tensor | None) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return model(mel, lengths)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    compiled(mel, lengths).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # Three clips make the batch's statistics, so that roundings count for much.
    assert (compiled(mel, lengths) - model(mel, lengths)).abs().mean() < 0.3


@pytest.mark.slow
def test_other_lengths_are_not_compiled_anew() -> None:
    """The second shape makes a graph for all; dynamo gives up after eight."""
    graphs: list[Any] = []

    def backend(module: Any, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    model = make(PYRAMID, train=False)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        for frames in (40, 48, 56, 40, 36, 60):
            compiled(torch.randn(2, frames, 16))
    assert len(graphs) <= 3


# ---------------------------------------------------------------------------- CUDA graphs


class Counting(nn.Module):
    """Counts its calls; the result depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.calls += 1
        return mel.sum((1, 2))


class Pretending(CapturedModel):
    """Captures on the CPU: a capture calls the model once, a replay not at all."""

    device_type = "cpu"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.captured: list[tuple[int, ...]] = []

    def _capture(self, mel: Tensor) -> Any:
        self.captured.append(tuple(mel.shape))
        self.model(mel)
        return lambda mel: mel.sum((1, 2)) + 1000  # tells a replay from a call


def pretending(**settings: Any) -> Pretending:
    return Pretending(Counting().eval(), **settings)


def shaped(frames: int, clips: int = 1) -> Tensor:
    return torch.ones(clips, frames, 2)


@torch.no_grad()
def test_a_shape_is_captured_once() -> None:
    model = pretending()
    assert [model(shaped(frames)).item() for frames in (3, 3, 4, 3)] == [1006, 1006, 1008, 1006]
    assert model.captured == [(1, 3, 2), (1, 4, 2)]
    assert model.model.calls == 2


@torch.no_grad()
def test_the_shape_used_longest_ago_is_dropped() -> None:
    model = pretending(most_shapes=2)
    for frames in (3, 4, 3, 5, 3, 4):
        model(shaped(frames))
    assert [shape[1] for shape in model.captured] == [3, 4, 5, 4]


@torch.no_grad()
def test_precisions_have_graphs_of_their_own() -> None:
    model = pretending()
    model(shaped(3))
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            model(shaped(3))
    model(shaped(3).double())
    assert len(model.captured) == 4


@torch.no_grad()
def test_after_clear_all_is_captured_anew() -> None:
    model = pretending()
    model(shaped(3))
    model.clear()
    model(shaped(3))
    assert len(model.captured) == 2


def test_what_is_not_captured() -> None:
    model = pretending(largest_batch=2)
    with torch.no_grad():
        assert model(shaped(3), torch.tensor([3])).item() == 6  # lengths
        assert model(shaped(3, clips=3)).tolist() == [6] * 3  # a large batch
        assert model(shaped(3, clips=0)).tolist() == []
        model.model.train()
        assert model(shaped(3)).item() == 6
        model.model.eval()
    assert model(shaped(3)).item() == 6  # gradients
    assert not model.captured
    with torch.inference_mode():
        assert model(shaped(3)).item() == 1006


def test_elsewhere_it_is_the_model() -> None:
    model = make(PYRAMID, train=False)
    captured = CapturedModel(model)
    mel, lengths = batch(RAGGED)
    with torch.inference_mode():
        assert captured(mel).equal(model(mel))
        assert captured(mel, lengths).equal(model(mel, lengths))


def test_room_for_no_shape() -> None:
    with pytest.raises(ValueError, match="one shape or more, got 0"):
        CapturedModel(Counting(), most_shapes=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype | None) -> None:
    """Replays equal calls, whatever came between, and results are the caller's own."""
    model = make(PYRAMID, train=False).cuda()
    captured = CapturedModel(model, most_shapes=2)
    inputs = [torch.randn(1, frames, 16, device="cuda") for frames in (40, 24, 40, 56, 24, 40)]
    with torch.inference_mode():
        kept = []
        for mel in inputs:
            with torch.autocast("cuda", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                kept.append((captured(mel), model(mel)))
        for replayed, called in kept:
            torch.testing.assert_close(replayed, called, rtol=1e-3, atol=1e-3)
    with torch.no_grad():  # another mode than the capture's
        torch.testing.assert_close(captured(inputs[0]), model(inputs[0]), rtol=1e-3, atol=1e-3)
