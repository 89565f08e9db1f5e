"""The largest, or smallest, value among each node's neighbours, channel by channel.

What a node takes is relative to itself, ``max_j (x_j - x_i)`` or ``max_j (l_i - x_j)`` (eq. 2 and
4): `atgnn.model.layers.Relation` takes the difference, after the extremum.

B batch, N nodes, M candidates, K neighbours, C channels.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from atgnn.graph.precision import clips_at_once, exporting

__all__ = ["neighbour_extremum"]


def neighbour_extremum(y: Tensor, neighbours: Tensor, reduce: Literal["max", "min"]) -> Tensor:
    """Largest (or smallest) value among each node's neighbours, per channel: ``(B, N, C)``.

    The nearest neighbour wins ties, forward and backward.
    """
    if neighbours.shape[0] != y.shape[0]:
        raise ValueError(f"{neighbours.shape[0]} graphs for {y.shape[0]} clips")
    if exporting():
        gathered = _gather(y, neighbours)
        return gathered.amax(2) if reduce == "max" else gathered.amin(2)
    out: Tensor = _Extremum.apply(y, neighbours, reduce == "max")
    return out


class _Extremum(torch.autograd.Function):
    """Gather and reduce; the backward pass scatters to the winners alone."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, neighbours: Tensor, largest: bool) -> Tensor:
        step = clips_at_once(neighbours.shape[1:].numel() * y.shape[2], y)
        values, winners = [], []
        for part, near in zip(y.split(step), neighbours.split(step), strict=True):
            gathered = _gather(part, near)
            if ctx.needs_input_grad[0]:
                value, rank = gathered.max(2) if largest else gathered.min(2)
                winners.append(near.gather(2, rank))  # (B, N, C), indices into M
            else:
                value = gathered.amax(2) if largest else gathered.amin(2)
            values.append(value)
        if winners:
            ctx.save_for_backward(torch.cat(winners))
            ctx.candidates = y.shape[1]
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        (winners,) = ctx.saved_tensors
        dy = grad.new_zeros(grad.shape[0], ctx.candidates, grad.shape[2])
        return dy.scatter_add_(1, winners, grad), None, None


def _gather(y: Tensor, neighbours: Tensor) -> Tensor:
    """``(B, M, C)`` and ``(B, N, K)`` to the neighbours' features ``(B, N, K, C)``."""
    batch, candidates, channels = y.shape
    offset = torch.arange(batch, device=y.device).view(-1, 1, 1) * candidates
    rows = (neighbours + offset).flatten()
    return y.reshape(-1, channels).index_select(0, rows).view(*neighbours.shape, channels)
