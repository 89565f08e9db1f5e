"""Batch normalisation of rows, with GELU where asked, by the compiled kernel.

Three passes that PyTorch would make in eight, and nothing of them kept: what the backward pass
needs it computes again. Sums do not depend on the number of threads.

R rows, C channels. Rows where `mask` (R,) is False are padding: they take no part in statistics,
give zeros and receive no gradient.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from atgnn.graph.kernels import cpu

__all__ = ["apply", "column_sums", "gradient", "serves", "statistics"]

SUMS, APPLY, GRADIENT_SUMS, GRADIENT = range(4)  # `Pass` in cpu.cpp


class _Norm(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "channels", "half", "gelu", "block")),
        *((name, ctypes.c_void_p) for name in ("x", "upstream", "mask", "mean", "inverse")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "scale", "offset", "shift")),
        *((name, ctypes.c_void_p) for name in ("out", "again", "sums", "totals")),
    ]


def serves(x: Tensor) -> bool:
    """Whether this kernel computes on a tensor: on a processor, in float32 or bfloat16."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and cpu.loads()


def statistics(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Mean and (biased) variance ``(C,)`` of the rows ``(R, C)``, and how many there are."""
    count = x.shape[0] if mask is None else int(mask.sum())
    first = 0 if mask is None or not count else int(mask.int().argmax())
    shift = x[first].float()  # sums of squares keep their digits near zero
    sums = _sums(SUMS, x, mask, shift=shift)
    mean, square = sums / max(1, count)
    return (mean + shift).float(), (square - mean * mean).clamp(min=0).float(), count


def column_sums(x: Tensor) -> Tensor:
    """Over all rows, of float32 or bfloat16 ``(R, C)``: float32 ``(C,)``."""
    shift = torch.zeros(x.shape[1], device=x.device)
    return _sums(SUMS, x, None, shift=shift)[0].float()


def apply(x: Tensor, mask: Tensor | None, scale: Tensor, offset: Tensor, gelu: bool) -> Tensor:
    """``gelu(scale x + offset)``, or without the GELU: ``(R, C)`` in the dtype of x."""
    out = torch.empty_like(x)
    _run(APPLY, x, mask, gelu=gelu, scale=scale, offset=offset, out=out)
    return out


def gradient(
    upstream: Tensor,
    x: Tensor,
    mask: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    bias: Tensor,
    count: int,
    gelu: bool,
    again: bool = False,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x ``(R, C)``, weight and bias ``(C,)`` from the result's gradient.

    `mean` and `inverse` (1 / sqrt(variance + eps)) are those of x, `count` its valid rows. With
    `again` the last of the four is the forward pass' result, which falls out on the way. With
    `overwrite` the gradient of x may take the place of `upstream`.
    """
    result = torch.empty_like(x) if again else None
    upstream = upstream.to(x.dtype).contiguous()
    out = upstream if overwrite else torch.empty_like(x)
    shared: dict[str, Any] = {"mean": mean, "inverse": inverse, "out": out}
    affine = {"weight": weight, "bias": bias, "again": result}
    sums = _sums(GRADIENT_SUMS, x, mask, gelu=gelu, upstream=upstream, **affine, **shared)
    by_bias, by_weight = sums.float()
    offset, shift = by_bias / max(1, count), by_weight / max(1, count)
    _run(GRADIENT, x, mask, scale=weight * inverse, offset=offset, shift=shift, **shared)
    return out, by_weight, by_bias, result


def _sums(which: int, x: Tensor, mask: Tensor | None, **tensors: Any) -> Tensor:
    """Two sums over all rows: float64 (2, C)."""
    blocks = -(-x.shape[0] // _block(x.shape[1]))
    sums = x.new_empty(blocks, 2, x.shape[1], dtype=torch.float32)
    totals = x.new_zeros(2, x.shape[1], dtype=torch.float64)
    _run(which, x, mask, sums=sums, totals=totals, **tensors)
    return totals


def _block(channels: int) -> int:
    """Rows of a block: they stay in the first cache."""
    return max(16, 8192 // channels)


def _run(
    which: int, x: Tensor, mask: Tensor | None, gelu: bool = False, **tensors: Tensor | None
) -> None:
    assert x.is_contiguous()
    floats = ("mean", "inverse", "weight", "bias", "scale", "offset", "shift")
    kept = {
        name: value.detach().float().contiguous() if name in floats else value
        for name, value in tensors.items()
        if value is not None
    }
    if mask is not None:
        kept["mask"] = mask.contiguous()
    arguments = _Norm(
        rows=x.shape[0],
        channels=x.shape[1],
        half=x.dtype == torch.bfloat16,
        gelu=gelu,
        block=_block(x.shape[1]),
        x=x.data_ptr(),
        **{name: value.data_ptr() for name, value in kept.items()},
    )
    cpu.call_norm(arguments, which)
