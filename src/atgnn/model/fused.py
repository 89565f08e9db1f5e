"""Steps of training that keep less than PyTorch's own would, with the same result.

A batch normalisation and the GELU behind it are cheap to compute again and large to keep: between
two linear maps only what came out of the first is kept. On a processor the compiled kernel makes
these passes; elsewhere, in float64 and under `torch.compile`, which fuses by itself, the plain
formulas do.

B batch, N nodes, R = B x N rows, C channels, G groups. Masks are False where a row is padding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from atgnn.graph.kernels import norm as kernel
from atgnn.model import products
from atgnn.model.segments import once, run_again
from atgnn.model.together import normalise_together, shared, statistics_together

__all__ = ["grouped_linear", "normalise", "normalise_gelu_linear"]


def normalise(x: Tensor, norm: _BatchNorm, mask: Tensor | None, gelu: bool = False) -> Tensor:
    """Batch normalisation with the batch's own statistics, which also update the running ones.

    Args:
        x: ``(..., C)``.
        norm: its weight, bias, eps, momentum and running statistics are used.
        mask: ``(...)``; statistics are those of the valid rows, padding becomes 0.
        gelu: whether a GELU follows.
    """
    rows, valid = x.reshape(-1, x.shape[-1]), None if mask is None else mask.reshape(-1)
    if _compiled_here(rows) and not shared(norm):
        measured = _measured(rows, valid, norm)
        out = _Normalise.apply(rows, valid, norm.weight, norm.bias, *measured, gelu)
    else:
        out = _plain(rows, valid, norm)
        out = functional.gelu(out) if gelu else out  # of padding, 0, it is 0
    return out.view(x.shape)


def normalise_gelu_linear(
    x: Tensor, norm: nn.BatchNorm1d, linear: nn.Linear, mask: Tensor | None
) -> Tensor:
    """``linear(gelu(norm(x)))`` with the batch's own statistics: ``(..., C)`` to ``(..., D)``.

    It may only end a segment (see `atgnn.model.segments`): the second time its result, which no
    gradient needs, is not made.
    """
    rows, valid = x.reshape(-1, x.shape[-1]), None if mask is None else mask.reshape(-1)
    if _compiled_here(rows) and not shared(norm):
        measured = _measured(rows, valid, norm)
        out = _NormaliseGeluLinear.apply(
            rows, valid, norm.weight, norm.bias, *measured, linear.weight, linear.bias
        )
    else:
        out = linear(functional.gelu(_plain(rows, valid, norm)))
    return out.view(*x.shape[:-1], -1)


def _compiled_here(rows: Tensor) -> bool:
    # One row has no variance: PyTorch's own layer says so.
    return not torch.compiler.is_compiling() and rows.shape[0] > 1 and kernel.serves(rows)


# ------------------------------------------------------------------ the plain formulas


def _plain(rows: Tensor, valid: Tensor | None, norm: _BatchNorm) -> Tensor:
    if shared(norm):
        measured = once(lambda: _tracked(norm, *statistics_together(rows, valid)))
        return normalise_together(rows, valid, norm.weight, norm.bias, norm.eps, *measured)
    if valid is None:
        return _plain_unmasked(rows, norm)
    padding = ~valid[:, None]
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32)).masked_fill(padding, 0)
    share = valid.to(wide.dtype)[:, None] / valid.sum().clamp(min=1)
    mean = (wide * share).sum(0)
    variance = ((wide - mean).square() * share).sum(0)
    once(lambda: _tracked(norm, mean, variance, _count(rows, valid)))
    out = (wide - mean) * (torch.rsqrt(variance + norm.eps) * norm.weight) + norm.bias
    return out.masked_fill(padding, 0).to(rows.dtype)


def _plain_unmasked(rows: Tensor, norm: _BatchNorm) -> Tensor:
    if not run_again():
        return nn.BatchNorm1d.forward(norm, rows)
    # Running statistics have moved already: copies move now, as many tensors being kept as before.
    mean, variance = (
        None if t is None else t.clone() for t in (norm.running_mean, norm.running_var)
    )
    weight, bias = norm.weight, norm.bias
    return functional.batch_norm(rows, mean, variance, weight, bias, training=True, eps=norm.eps)


def _count(rows: Tensor, valid: Tensor | None) -> Any:
    """Number of valid rows."""
    return rows.shape[0] if valid is None else valid.sum()


@torch.no_grad()
def _tracked(
    norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Any
) -> tuple[Tensor, Tensor, Any]:
    """Running statistics, with the unbiased variance, as PyTorch's own layer keeps them.

    Returns the batch's own as they came.
    """
    mean, variance = mean.detach(), variance.detach()
    if norm.running_mean is None or norm.running_var is None:
        return mean, variance, count
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share: Any = norm.momentum
    if share is None:  # the mean of all batches so far
        share = (1 / norm.num_batches_tracked).to(norm.running_mean.dtype)
    spread = count / (count - 1 + (count == 1))
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_((variance * spread).to(norm.running_var.dtype), share)
    return mean, variance, count


# ------------------------------------------------------------------ with the kernel


def _measured(rows: Tensor, valid: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor, int]:
    """Mean, 1 / deviation and number of the valid rows; the norm's running statistics follow."""

    def measure() -> tuple[Tensor, Tensor, int]:
        mean, variance, count = _tracked(norm, *kernel.statistics(rows.detach(), valid))
        return mean, torch.rsqrt(variance + norm.eps), count

    return once(measure)


def _applied(
    rows: Tensor,
    valid: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    gelu: bool,
) -> Tensor:
    scale = weight * inverse
    return kernel.apply(rows, valid, scale, bias - mean * scale, gelu)


class _Normalise(torch.autograd.Function):
    """Keeps its input and the statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        valid: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse: Tensor,
        count: int,
        gelu: bool,
    ) -> Tensor:
        ctx.save_for_backward(rows, valid, mean, inverse, weight, bias)
        ctx.count, ctx.gelu = count, gelu
        return _applied(rows, valid, weight, bias, mean, inverse, gelu)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, valid, mean, inverse, weight, bias = ctx.saved_tensors
        dx, dw, db, _ = kernel.gradient(
            grads[0], rows, valid, mean, inverse, weight, bias, ctx.count, ctx.gelu
        )
        return dx, None, dw.to(weight.dtype), db.to(bias.dtype), *(None,) * 4


class _NormaliseGeluLinear(torch.autograd.Function):
    """Keeps its input and the statistics; the linear map's own input is computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        valid: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse: Tensor,
        count: int,
        matrix: Tensor,
        constant: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(rows, valid, mean, inverse, weight, bias, matrix)
        ctx.count = count
        if run_again():
            return rows.new_empty(len(rows), len(matrix))
        hidden = _applied(rows, valid, weight, bias, mean, inverse, gelu=True)
        if products.serves(hidden, matrix):
            return products.linear(hidden, matrix, constant)
        return functional.linear(hidden, matrix, constant)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, valid, mean, inverse, weight, bias, matrix = ctx.saved_tensors
        upstream = grads[0]
        if products.serves(upstream, matrix):
            behind = products.linear(upstream, matrix.t())
        else:
            behind = torch.mm(upstream, matrix.to(upstream.dtype))
        passes = {"gelu": True, "again": True, "overwrite": True}
        dx, dw, db, hidden = kernel.gradient(
            behind, rows, valid, mean, inverse, weight, bias, ctx.count, **passes
        )
        assert hidden is not None
        by_matrix = torch.mm(upstream.t(), hidden.to(upstream.dtype)).to(matrix.dtype)
        by_constant = _sum(upstream).to(matrix.dtype)
        by_norm = dw.to(weight.dtype), db.to(bias.dtype)
        return dx, None, *by_norm, None, None, None, by_matrix, by_constant


def _sum(rows: Tensor) -> Tensor:
    """Over all rows, in float32 at least."""
    if kernel.serves(rows):
        return kernel.column_sums(rows.contiguous())
    return rows.sum(0, dtype=torch.promote_types(rows.dtype, torch.float32))


# ------------------------------------------------------------------ groups


def grouped_linear(x: Tensor, m: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear map of each group's channels of x and of m, side by side.

    Args:
        x: ``(..., C)``.
        m: ``(..., C)``.
        weight: ``(G, D / G, 2 C / G)``: group g reads channels ``[g C/G, (g+1) C/G)`` of x, then
            the same of m.
        bias: ``(D,)``.

    Returns:
        ``(..., D)``.
    """
    rows = x.reshape(-1, x.shape[-1]), m.reshape(-1, m.shape[-1])
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        out = _GroupedLinear.apply(*_as_autocast(*rows, weight), bias)
    else:
        out = _batched(*rows, weight, bias)
    return out.view(*x.shape[:-1], bias.shape[0])


def _batched(x: Tensor, m: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As one batched product."""
    groups, width = weight.shape[0], weight.shape[2] // 2
    pair = torch.cat([t.reshape(-1, groups, width) for t in (x, m)], dim=-1)
    mixed = torch.matmul(pair.transpose(0, 1), weight.transpose(1, 2))  # (G, R, D/G)
    return mixed.transpose(0, 1).flatten(1) + bias


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast would make of the inputs of a linear map."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(t.to(dtype) if t.dtype == torch.float32 else t for t in tensors)


class _GroupedLinear(torch.autograd.Function):
    """Products of column slices, written where they belong: nothing is copied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, m: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, m, weight)
        ctx.bias_dtype = bias.dtype
        out = x.new_empty(x.shape[0], bias.shape[0])
        with torch.autocast("cpu", enabled=False):
            parts = bias.to(x.dtype).chunk(len(weight))
            columns = (t.chunk(len(weight), dim=1) for t in (out, x, m))
            for o, x_g, m_g, w, b in zip(*columns, weight, parts, strict=True):
                by_x, by_m = w.chunk(2, dim=1)
                torch.addmm(b, x_g, by_x.t(), out=o)
                o.addmm_(m_g, by_m.t())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, m, weight = ctx.saved_tensors
        (upstream,) = grads
        dx, dm, dw = torch.empty_like(x), torch.empty_like(m), torch.empty_like(weight)
        columns = (t.chunk(len(weight), dim=1) for t in (upstream, x, m, dx, dm))
        for g, x_g, m_g, dx_g, dm_g, w, dw_g in zip(*columns, weight, dw, strict=True):
            for part, input_, gradient, slot in zip(
                w.chunk(2, dim=1), (x_g, m_g), (dx_g, dm_g), dw_g.chunk(2, dim=1), strict=True
            ):
                torch.mm(g, part, out=gradient)
                torch.mm(g.t(), input_, out=slot)
        return dx, dm, dw, _sum(upstream).to(ctx.bias_dtype)
