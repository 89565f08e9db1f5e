"""Means over nodes that know which nodes there are.

That is said by `valid`: ``(B,)`` lengths, when the first so many columns of a clip's grid are sound
and the rest padding; or a mask ``(B, F, T)``, when single nodes were removed.

B batch, F frequency, T time, C channels.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ceil_div", "coarser", "mean_nodes", "node_mask", "pool_nodes"]


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up, for lengths and node counts.

    Not ``-(-a // b)``: in ONNX, a division of whole numbers below 0 is cut off, not rounded down.
    """
    return (a + b - 1) // b


def node_mask(valid: Tensor, frequency: int, time: int) -> Tensor:
    """Which nodes of a grid there are, ``(B, F, T)`` bool, of lengths or a mask."""
    if valid.ndim == 3:
        return valid
    columns = torch.arange(time, device=valid.device) < valid[:, None]  # (B, T)
    return columns[:, None, :].expand(-1, frequency, -1)


def coarser(valid: Tensor | None, ratio: int) -> Tensor | None:
    """Lengths, or a mask, of a grid of ratio x ratio cells: a cell is there if one of its nodes is.

    None, when all nodes are there, stays None.
    """
    if valid is None or valid.ndim == 1:
        return None if valid is None else (valid + ratio - 1) // ratio
    cells = functional.max_pool2d(valid[:, None].float(), ratio, ceil_mode=True)
    return cells[:, 0] > 0


def pool_nodes(x: Tensor, ratio: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Mean of the valid nodes in each ratio x ratio cell; cells at the edges may be partial.

    Args:
        x: ``(B, F, T, C)``.
        ratio: cell size along both axes; the result has ceil(F / ratio) x ceil(T / ratio) cells.
        valid: lengths or a mask, or None when all nodes are there.

    Returns:
        ``(B, F', T', C)``, and which cells there are.
    """
    if ratio == 1:
        return x, valid
    batch, frequency, time, channels = x.shape
    rows, columns = ceil_div(frequency, ratio), ceil_div(time, ratio)
    if valid is None:
        images = x.permute(0, 3, 1, 2)  # channels-last in memory: nothing is copied
        cells = functional.avg_pool2d(images, ratio, ceil_mode=True)  # by the nodes there are
        return cells.permute(0, 2, 3, 1).contiguous(), None
    share = node_mask(valid, frequency, time).to(x.dtype)
    pad_columns, pad_rows = columns * ratio - time, rows * ratio - frequency
    share = functional.pad(share, (0, pad_columns, 0, pad_rows))
    x = functional.pad(x, (0, 0, 0, pad_columns, 0, pad_rows)) * share[..., None]
    total = x.view(batch, rows, ratio, columns, ratio, channels).sum((2, 4))
    count = share.view(-1, rows, ratio, columns, ratio, 1).sum((2, 4)).clamp(min=1)
    return total / count, coarser(valid, ratio)


def mean_nodes(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the nodes that a clip has: ``(B, F, T, C)`` to ``(B, C)``."""
    if valid is None:
        return x.mean((1, 2))
    mask = node_mask(valid, x.shape[1], x.shape[2])[..., None]
    nodes = x.shape[1] * valid[:, None] if valid.ndim == 1 else mask.sum((1, 2)).clamp(min=1)
    return x.masked_fill(~mask, 0).sum((1, 2)) / nodes.to(x.dtype)
