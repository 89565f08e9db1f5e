"""Means over nodes that know what is padding.

B batch, F frequency, T time, C channels.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ceil_div", "mean_nodes", "node_mask", "pool_nodes"]


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up, for lengths and node counts."""
    return -(-a // b)


def node_mask(lengths: Tensor, frequency: int, time: int) -> Tensor:
    """Which nodes of a grid are sound, not padding: ``(B, F, T)`` bool from ``(B,)`` lengths."""
    columns = torch.arange(time, device=lengths.device) < lengths[:, None]  # (B, T)
    return columns[:, None, :].expand(-1, frequency, -1)


def pool_nodes(
    x: Tensor, ratio: int, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Mean of the valid nodes in each ratio x ratio cell; cells at the edges may be partial.

    Args:
        x: ``(B, F, T, C)``.
        ratio: cell size along both axes; the result has ceil(F / ratio) x ceil(T / ratio) cells.
        lengths: ``(B,)`` valid columns of each clip, or None when all are valid.

    Returns:
        ``(B, F', T', C)`` and the clips' lengths in cells.
    """
    if ratio == 1:
        return x, lengths
    batch, frequency, time, channels = x.shape
    rows, columns = ceil_div(frequency, ratio), ceil_div(time, ratio)
    if lengths is None and frequency % ratio == 0 and time % ratio == 0:
        images = x.permute(0, 3, 1, 2)  # channels-last in memory: nothing is copied
        return functional.avg_pool2d(images, ratio).permute(0, 2, 3, 1).contiguous(), None
    valid = x.new_ones(1, frequency, time)
    if lengths is not None:
        valid = node_mask(lengths, frequency, time).to(x.dtype)
    pad_columns, pad_rows = columns * ratio - time, rows * ratio - frequency
    valid = functional.pad(valid, (0, pad_columns, 0, pad_rows))
    x = functional.pad(x, (0, 0, 0, pad_columns, 0, pad_rows)) * valid[..., None]
    total = x.view(batch, rows, ratio, columns, ratio, channels).sum((2, 4))
    count = valid.view(-1, rows, ratio, columns, ratio, 1).sum((2, 4)).clamp(min=1)
    shorter = None if lengths is None else -(-lengths // ratio)
    return total / count, shorter


def mean_nodes(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean over a clip's valid nodes: ``(B, F, T, C)`` to ``(B, C)``."""
    if lengths is None:
        return x.mean((1, 2))
    mask = node_mask(lengths, x.shape[1], x.shape[2])[..., None]
    return x.masked_fill(~mask, 0).sum((1, 2)) / (x.shape[1] * lengths[:, None]).to(x.dtype)
