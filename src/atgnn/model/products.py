"""Linear maps on processors by oneDNN, where PyTorch itself would ask MKL.

`torch.nn.functional.linear` asks MKL for products in float32, which on processors that are not
Intel's is a tenth slower, and a third where one side is narrow.

R rows.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["available", "convolution_relu6", "linear", "linear_in_training"]


#: What may follow a product without a pass of its own: oneDNN's names for it, and its limits.
_THEN: dict[str, tuple[str, list[float]]] = {
    "none": ("none", []),
    "gelu": ("gelu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """``x weight^T + bias``, ``(..., I)`` to ``(..., O)``, and `then` "gelu", "relu6" or "none".

    Weights ``(O, I)`` may be a transposed view. No gradients. Ask `available` first.
    """
    # What `torch.compile` makes of linear maps on processors; no part of PyTorch's interface.
    operator: Any = torch.ops.mkldnn._linear_pointwise
    out: Tensor = operator(x.contiguous(), weight, bias, *_THEN[then], "none")
    return out


def convolution_relu6(image: Tensor, conv: nn.Conv2d) -> Tensor:
    """``relu6(conv(image))`` of float32 ``(B, C, F, T)``, best channels-last; as `linear`."""
    operator: Any = torch.ops.mkldnn._convolution_pointwise
    how = conv.padding, conv.stride, conv.dilation, conv.groups
    out: Tensor = operator(image, conv.weight, conv.bias, *how, *_THEN["relu6"], "none")
    return out


@cache
def available() -> bool:
    """Whether the operators behind `linear` and `convolution_relu6` are here and do what is said.

    Whatever autocast and default device are on around the first call, and without a random number:
    that may come in the midst of a run, which its seed decides.
    """
    with torch.device("cpu"), torch.autocast("cpu", enabled=False), torch.inference_mode():
        x, weight, bias = (
            torch.linspace(-2, 2, 15).view(3, 5),
            torch.eye(4, 5),
            torch.arange(4.0) - 2,
        )
        across = weight.t().contiguous().t()
        with torch.random.fork_rng(devices=[]):
            conv = nn.Conv2d(4, 4, 3, 2, 1, groups=4)
        image = torch.linspace(-20, 20, 80).view(1, 4, 4, 5)
        image = image.contiguous(memory_format=torch.channels_last)
        try:
            found = [linear(x, w, bias, then) for then in _THEN for w in (weight, across)]
            found += [convolution_relu6(image, conv)]
        except (AttributeError, RuntimeError, TypeError):
            return False
        plain = {"none": lambda y: y, "gelu": functional.gelu, "relu6": functional.relu6}
        wanted = [plain[then](functional.linear(x, weight, bias)) for then in _THEN for _ in "ab"]
        return all(map(torch.allclose, found, [*wanted, functional.relu6(conv(image))]))


def linear_in_training(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``functional.linear`` with its gradients: by oneDNN where that serves."""
    if not serves(x, weight):
        return functional.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x, weight, bias)
    return out


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether it does: in float32 on a processor, outside of autocast and `torch.compile`."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and available()
    )


class _Linear(torch.autograd.Function):
    """Weights' own gradient is MKL's, which is as fast there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        upstream, wanted = grads[0], ctx.needs_input_grad
        rows = upstream.flatten(0, -2)
        dx = linear(upstream, weight.t()) if wanted[0] else None
        dw = torch.mm(rows.t(), x.flatten(0, -2)) if wanted[1] else None
        return dx, dw, rows.sum(0) if wanted[2] else None
