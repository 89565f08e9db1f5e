"""Segments that training computes twice: nothing but what is kept may change."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atgnn.errors import ConfigError
from atgnn.graph import use_backend
from atgnn.graph.kernels import cpu
from atgnn.model import ATGNN, ModelConfig, patch
from atgnn.model.segments import lean, note, once, recalled, run_again, segment
from atgnn.networks import build
from atgnn.training import run
from atgnn.training.recipe import load_recipe
from atgnn.training.settings import changed_settings

CONFIG = ModelConfig(
    num_labels=5,
    n_mels=16,
    nominal_frames=64,
    stem_widths=(4, 8),
    stem_strides=(2, 2),
    channels=(8, 12),
    blocks=(2, 1),
    reductions=(2, 1),
    k=3,
    k_plg=3,
    head_width=8,
    update_groups=2,
    label_blocks=(1, 1),
    label_update_groups=2,
    label_ffn_ratio=2,
    drop_path=0.3,
    label_drop_path=0.1,
)
BACKENDS = ["plain", *(["auto"] if cpu.loads() else [])]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_backend(request.param):
        yield request.param


def model_and_clips(dtype: torch.dtype, ragged: bool) -> tuple[ATGNN, Tensor, Tensor | None]:
    torch.manual_seed(0)
    model = ATGNN(CONFIG).to(dtype).train()
    mel = torch.randn(3, 64, 16, dtype=dtype)
    return model, mel, torch.tensor([64, 40, 17]) if ragged else None


def step(model: ATGNN, mel: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
    """Logits, gradients and the buffers that a step of training moves."""
    torch.manual_seed(1)  # of drop-path
    logits = model(mel, lengths)
    (logits.double().square().mean() * 100).backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return {"logits": logits.detach(), **gradients, **buffers}  # type: ignore[dict-item]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_the_same(backend: str, dtype: torch.dtype, ragged: bool) -> None:
    model, mel, lengths = model_and_clips(dtype, ragged)
    twin = copy.deepcopy(model)
    assert lean(twin) > 5
    wanted, got = step(model, mel, lengths), step(twin, mel, lengths)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(got[name], value, rtol=tolerance, atol=tolerance)
    assert got["encoder.stages.0.blocks.0.ffn.fc1.norm.num_batches_tracked"] == 1


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_under_autocast(half: torch.dtype) -> None:
    model, mel, lengths = model_and_clips(torch.float32, True)
    twin = copy.deepcopy(model)
    lean(twin)
    with torch.autocast("cpu", half):
        wanted = step(model, mel, lengths)
        got = step(twin, mel, lengths)
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4)


def test_under_compile_it_is_one_graph_and_computed_once() -> None:
    model, mel, _ = model_and_clips(torch.float32, False)
    twin = copy.deepcopy(model)
    lean(twin)
    wanted = step(model, mel, None)
    got = step(torch.compile(twin, backend="eager", fullgraph=True), mel, None)  # type: ignore
    torch.testing.assert_close(got["logits"], wanted["logits"], rtol=1e-4, atol=1e-4)


def test_a_graph_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def watched(name: str) -> Any:
        original = getattr(patch, name)

        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return original(*args, **options)

        monkeypatch.setattr(patch, name, call)

    watched("knn_extremum")
    watched("extremum_over")
    model, mel, lengths = model_and_clips(torch.float32, False)
    lean(model)
    step(model, mel, lengths)
    assert calls == ["knn_extremum"] * 3 + ["extremum_over"] * 3


def kept(model: nn.Module, mel: Tensor) -> int:
    """Values that autograd holds between forward and backward, parameters aside."""
    known = {p.data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in known:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)  # so that no address is used twice
        return tensor

    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = model(mel)
    assert out.requires_grad
    return sum(seen.values())


def test_less_than_half_is_kept(backend: str) -> None:
    config = CONFIG.replace(label_blocks=(), ffn_ratio=4)
    encoder, mel = ATGNN(config).encoder.train(), torch.randn(2, 64, 16)
    model = nn.Module()
    model.add_module("encoder", encoder)
    model.forward = lambda mel: encoder(mel)[-1][-1].x  # type: ignore
    usual = kept(model, mel)
    lean(model)
    assert kept(model, mel) < usual / 2
    lean(model, on=False)
    assert kept(model, mel) == usual


def test_evaluation_computes_once() -> None:
    model, mel, _ = model_and_clips(torch.float32, False)
    lean(model.eval())
    leaf = mel.requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    lean(model, on=False)
    (wanted,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert torch.equal(gradient, wanted)


def test_notes_are_recalled_in_order_and_again() -> None:
    found: list[tuple[bool, Any, Any]] = []

    def inner(x: Tensor) -> Tensor:
        first = once(lambda: len(found))
        if run_again():
            second = recalled()
        else:
            second = "noted"
            note(second)
        found.append((run_again(), first, second))
        return x.exp().sin()

    x = torch.randn(3, requires_grad=True)
    out = segment(True, inner, x).sum()
    out.backward(retain_graph=True)
    out.backward()
    assert found == [(False, 0, "noted"), (True, 0, "noted"), (True, 0, "noted")]
    assert once(lambda: 7) == 7  # outside, every time
    assert not run_again()


def test_a_run_does_what_its_recipe_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(run, "give_back_freed_memory", lambda: given.append(True))
    for setting, twice, calls in (("usual", False, 0), ("lean", True, 0), ("least", True, 1)):
        model = ATGNN(CONFIG)
        run._spare_memory(load_recipe("folder", [f"memory={setting}"]), model)
        assert model.encoder.stages[0].blocks[0].ffn.lean is twice
        assert len(given) == calls
    other = load_recipe("folder", ["memory=lean", "model.preset=lite0"])
    with pytest.raises(ConfigError, match="own presets: leave it out for lite0"):
        run._spare_memory(other, build(other.model_config_for(3)))


def test_a_recipe_asks_for_it() -> None:
    usual, asked = (load_recipe("folder", more) for more in ([], ["memory=lean"]))
    assert not changed_settings(usual, asked)  # a run may go on with the other
    with pytest.raises(ConfigError, match="compile weighs what to keep"):
        load_recipe("folder", ["memory=least", "compile=true"])
    with pytest.raises(ConfigError, match="memory"):
        load_recipe("folder", ["memory=none"])
