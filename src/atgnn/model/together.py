"""Batch normalisation over the clips of all processes, with masks, on any device.

torch's SyncBatchNorm knows no padding and refuses tensors on a processor.

R rows of this process, C channels, W processes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as group

from atgnn.distributed import part

__all__ = ["normalise_together", "share_norms", "shared", "statistics_together"]


def share_norms(model: nn.Module) -> int:
    """Let every batch norm of ours take its statistics over all processes; returns how many."""
    norms = [module for module in model.modules() if hasattr(module, "shared_statistics")]
    for norm in norms:
        norm.shared_statistics = True  # type: ignore[assignment]
    return len(norms)


def shared(norm: nn.Module) -> bool:
    """Whether this norm has to ask other processes now."""
    return bool(getattr(norm, "shared_statistics", False)) and part().world > 1


@torch.no_grad()
def statistics_together(rows: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(C,)``, biased variance ``(C,)`` and number of the valid rows of all processes.

    One message: each process's mean, squares and count.

    Args:
        rows: ``(R, C)``; R may differ from process to process.
        valid: ``(R,)``, False where a row is padding; None where all are valid.
    """
    return _combine(*_own_statistics(*_wide(rows, valid)))


def normalise_together(
    rows: Tensor,
    valid: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
) -> Tensor:
    """Rows ``(R, C)`` less the mean over the deviation, both as `statistics_together` gave them.

    `weight` and `bias` ``(C,)`` follow, `eps` is added to the variance; padding becomes 0. In the
    type of `rows`.
    """
    inverse = torch.rsqrt(variance + eps)
    out: Tensor = _NormaliseTogether.apply(rows, valid, weight, bias, mean, inverse, count)
    return out


class _NormaliseTogether(torch.autograd.Function):
    """Its backward pass sends one message: the sums of two gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        valid: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse: Tensor,
        count: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(rows, valid, mean, inverse, weight, count)
        out = (_wide(rows, valid)[0] - mean) * (inverse * weight) + bias
        if valid is not None:
            out = out.masked_fill(~valid[:, None], 0)
        return out.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, valid, mean, inverse, weight, count = ctx.saved_tensors
        upstream, _ = _wide(grads[0], valid)
        wide, share = _wide(rows, valid)
        standard = (wide - mean) * inverse
        by_bias, by_weight = upstream.sum(0), (upstream * standard).sum(0)
        # Each process has its own loss: a row moves the mean and variance that all of them used.
        sums = torch.cat([by_bias, by_weight])
        group.all_reduce(sums)
        of_bias, of_weight = (sums / count).chunk(2)
        dx = (upstream - of_bias - standard * of_weight) * (inverse * weight)
        dx = dx if share is None else dx * share
        by_norm = by_weight.to(weight.dtype), by_bias.to(weight.dtype)
        return dx.to(rows.dtype), None, *by_norm, None, None, None


def _wide(rows: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Rows in float32 at least, padding as 0, and ``(R, 1)``, 1 where a row is valid."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if valid is None:
        return wide, None
    return wide.masked_fill(~valid[:, None], 0), valid.to(wide.dtype)[:, None]


def _own_statistics(wide: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(C,)``, sum of squares about it ``(C,)`` and number of rows ``(1,)`` here."""
    count = wide.new_full((1,), len(wide)) if share is None else share.sum().view(1)
    mean = wide.sum(0) / count.clamp(min=1)
    about = (wide - mean).square()
    return mean, (about if share is None else about * share).sum(0), count


def _combine(mean: Tensor, squares: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of all processes: mean, biased variance, number of rows (Chan, Golub and LeVeque 1979)."""
    own = torch.cat([mean, squares, count])
    table = [torch.empty_like(own) for _ in range(part().world)]
    group.all_gather(table, own)
    means, squares_, counts = torch.stack(table).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    together = (means * counts).sum(0) / total
    variance = (squares_ + counts * (means - together).square()).sum(0) / total
    return together, variance, total
