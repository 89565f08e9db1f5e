"""Linear maps by oneDNN: PyTorch's own results and gradients."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from atgnn.model import products
from atgnn.model.layers import Linear

SHAPES = [((7, 5), 3), ((2, 9, 80), 320), ((1, 33), 1), ((4, 16, 1), 8)]


@pytest.fixture(params=["oneDNN", "MKL"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "MKL":
        monkeypatch.setattr(products, "available", lambda: False)
    elif not products.available():
        pytest.skip("PyTorch has no such operator here")
    return str(request.param)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_results_and_gradients(library: str, shape: tuple, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = Linear(shape[-1], outputs, bias=bias).train()
    x = torch.randn(shape, requires_grad=True)
    out, wanted = linear(x), functional.linear(x, linear.weight, linear.bias)
    torch.testing.assert_close(out, wanted)
    upstream, leaves = torch.randn_like(out), (x, *linear.parameters())
    for got, want in zip(
        torch.autograd.grad(out, leaves, upstream),
        torch.autograd.grad(wanted, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_it_serves_where_it_is_meant_to(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(products, "linear", lambda *inputs: calls.append(0) or inputs[0])
    linear, x = Linear(4, 4), torch.randn(3, 4)
    linear.eval()(x)
    linear.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x).dtype == torch.bfloat16
    assert linear.double()(x.double()).dtype == torch.float64
    assert not calls
    linear.float()(x)
    assert len(calls) == (library == "oneDNN")


def test_only_what_is_asked_for_gets_a_gradient(library: str) -> None:
    linear = Linear(4, 3).train().requires_grad_(False)
    x = torch.randn(5, 4, requires_grad=True)
    linear(x).sum().backward()
    assert linear.weight.grad is None
    torch.testing.assert_close(x.grad, linear.weight.sum(0).expand(5, 4))


def test_transposed_weights(library: str) -> None:
    if library == "MKL":
        pytest.skip("of oneDNN's operator")
    x, weight = torch.randn(6, 5), torch.randn(5, 4)
    torch.testing.assert_close(products.linear(x, weight.t()), x @ weight)


@pytest.mark.parametrize("around", [torch.device("meta"), torch.autocast("cpu", torch.bfloat16)])
def test_it_is_asked_for_whatever_surrounds_the_first_call(around: Any) -> None:
    expected = products.available()
    products.available.cache_clear()
    with around:
        assert products.available() == expected


def test_asking_draws_no_random_number() -> None:
    """It may come in the midst of a run, which its seed decides."""
    products.available.cache_clear()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    products.available()
    assert torch.equal(torch.get_rng_state(), before)
