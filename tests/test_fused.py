"""Steps of training that keep less: equal to PyTorch's own layers, gradients included."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from atgnn.graph.kernels import cpu
from atgnn.model import fused
from atgnn.model.layers import BatchNorm, gelu_linear

KERNEL = pytest.param(
    "kernel", marks=pytest.mark.skipif(not cpu.loads(), reason="the compiled kernel is not there")
)


@pytest.fixture(params=["plain", KERNEL])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(fused, "_compiled_here", lambda rows: False)
    return str(request.param)


def layers(channels: int, outputs: int) -> tuple[BatchNorm, nn.Linear]:
    torch.manual_seed(0)
    norm, linear = BatchNorm(channels), nn.Linear(channels, outputs)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm.train(), linear


def inputs(rows: int, channels: int, masked: bool) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, channels, generator=generator) * 3 + 5  # off zero
    mask = torch.rand(rows, generator=generator) < 0.7 if masked else None
    return x.requires_grad_(), mask


def oracle(
    x: Tensor, mask: Tensor | None, norm: nn.BatchNorm1d, linear: nn.Linear | None, gelu: bool
) -> Tensor:
    """PyTorch's own layers in float64, on the valid rows alone."""
    kept = x.double() if mask is None else x.double()[mask]
    out = nn.BatchNorm1d.forward(norm.double(), kept)
    out = functional.gelu(out) if gelu else out
    if mask is not None:
        out = torch.zeros(len(x), out.shape[1]).double().index_put((mask,), out)
    return out if linear is None else linear.double()(out)


def gradients(out: Tensor, x: Tensor, mask: Tensor | None, *modules: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    upstream = torch.randn(out.shape, generator=generator).to(out.dtype)
    if mask is not None:
        upstream = upstream * mask[:, None]
    parameters = [p for module in modules for p in module.parameters()]
    return list(torch.autograd.grad(out, [x, *parameters], upstream))


SIZES = [(2, 1), (7, 4), (33, 13), (600, 80), (130, 257)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("rows", "channels"), SIZES)
def test_normalise(path: str, rows: int, channels: int, gelu: bool, masked: bool) -> None:
    if masked and rows == 2:
        pytest.skip("one valid row has no variance")
    norm, _ = layers(channels, 1)
    reference = copy.deepcopy(norm)
    x, mask = inputs(rows, channels, masked)
    out = fused.normalise(x, norm, mask, gelu)
    wanted = oracle(x, mask, reference, None, gelu)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-4)
    for got, want in zip(
        gradients(out, x, mask, norm), gradients(wanted, x, mask, reference), strict=True
    ):
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        norm.running_mean.double(), reference.running_mean, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        norm.running_var.double(), reference.running_var, rtol=1e-4, atol=1e-4
    )
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("rows", "channels"), SIZES[1:])
def test_gelu_linear(path: str, rows: int, channels: int, masked: bool) -> None:
    norm, linear = layers(channels, 9)
    twins = copy.deepcopy((norm, linear))
    x, mask = inputs(rows, channels, masked)
    out = gelu_linear(x, norm, linear, mask)
    wanted = oracle(x, mask, *twins, gelu=True)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-4)
    for got, want in zip(
        gradients(out, x, mask, norm, linear), gradients(wanted, x, mask, *twins), strict=True
    ):
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-3, atol=2e-3)


def test_padding_may_hold_anything(path: str) -> None:
    norm, linear = layers(8, 3)
    x, mask = inputs(20, 8, masked=True)
    assert mask is not None
    results = []
    for rubbish in (0.0, float("nan"), float("inf")):
        twin, leaf = copy.deepcopy(norm), x.detach().clone()
        leaf[~mask] = rubbish
        leaf.requires_grad_()
        out = gelu_linear(leaf, twin, linear, mask)
        (grad,) = torch.autograd.grad(out[mask].sum(), leaf)
        results.append((out, grad, twin.running_var))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.skipif(not cpu.loads(), reason="the compiled kernel is not there")
def test_threads_do_not_change_a_bit() -> None:
    norm, _linear = layers(40, 12)
    x, _ = inputs(3000, 40, masked=False)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            twin = copy.deepcopy(norm)
            hidden = fused.normalise(x, twin, None, gelu=True)
            (grad,) = torch.autograd.grad(hidden.square().sum(), x)
            results.append((hidden, grad, twin.running_mean))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(not cpu.loads(), reason="the compiled kernel is not there")
def test_bfloat16_keeps_statistics_in_float32() -> None:
    norm, _ = layers(24, 1)
    x, _ = inputs(500, 24, masked=False)
    half = x.detach().bfloat16()
    out = fused.normalise(half, norm, None, gelu=True)
    wanted = oracle(half, None, copy.deepcopy(layers(24, 1)[0]), None, gelu=True)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), wanted, rtol=1e-2, atol=1e-2)


def test_what_lies_between_is_not_kept() -> None:
    """The point of it: of ``linear(gelu(norm(x)))`` only x and small things stay for backward."""
    if not cpu.loads():
        pytest.skip("the compiled kernel is not there")
    norm, linear = layers(64, 64)
    x, _ = inputs(1000, 64, masked=False)
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != x.data_ptr():
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = gelu_linear(x, norm, linear, None)
    assert out.requires_grad
    assert sum(kept) < x.numel() / 2


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grouped_linear(groups: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, m = (torch.randn(2, 5, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    weight = torch.randn(groups, 12 // groups, 16 // groups, dtype=dtype, requires_grad=True)
    bias = torch.randn(12, dtype=dtype, requires_grad=True)
    parts = []
    for g, (x_g, m_g) in enumerate(zip(x.chunk(groups, -1), m.chunk(groups, -1), strict=True)):
        parts.append(torch.cat([x_g, m_g], -1) @ weight[g].T)
    wanted = torch.cat(parts, -1) + bias
    upstream = torch.randn_like(wanted)
    leaves = (x, m, weight, bias)
    expected = torch.autograd.grad(wanted, leaves, upstream)
    batched = fused._batched(x.flatten(0, 1), m.flatten(0, 1), weight, bias).view(2, 5, 12)
    torch.testing.assert_close(batched, wanted)
    out = fused.grouped_linear(x, m, weight, bias)
    torch.testing.assert_close(out, wanted)
    for got, want in zip(torch.autograd.grad(out, leaves, upstream), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_grouped_linear_under_autocast() -> None:
    x, m = torch.randn(5, 8), torch.randn(5, 8)
    weight = torch.randn(2, 6, 8, requires_grad=True)
    bias = torch.zeros(12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = fused.grouped_linear(x, m, weight, bias)
    assert out.dtype == torch.bfloat16
    wanted = fused.grouped_linear(x, m, weight, bias)
    torch.testing.assert_close(out.float(), wanted, rtol=0.1, atol=0.1)
    out.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_computes_where_the_rows_are_whatever_the_default_device(path: str) -> None:
    norm, linear = layers(6, 4)
    x, mask = inputs(20, 6, masked=True)
    found = []
    for around in (torch.device("cpu"), torch.device("meta")):
        with around:
            out = gelu_linear(x, copy.deepcopy(norm), linear, mask)
            found.append([out, *torch.autograd.grad(out.sum(), [x, linear.weight])])
    for here, there in zip(*found, strict=True):
        assert here.equal(there)
