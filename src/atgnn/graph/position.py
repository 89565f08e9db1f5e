"""Relative position as a term of the distance: near in frequency and time counts as closer.

Two geometries. `grid_bias` is exact on the frequency x time grid of the clip at hand and stores
nothing. `legacy_table` and `resize_table` rebuild the tables of the published Vision GNN, which
stretch a square grid over the flattened node index; they exist to reproduce published weights.

F frequency rows, T time columns, C channels, N = F x T nodes, M candidates.
"""

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.graph.pooling import ceil_div

__all__ = ["grid_bias", "legacy_table", "resize_table", "sine_cosine"]


def sine_cosine(positions: Tensor, width: int) -> Tensor:
    """Sine then cosine of the positions at `width` / 2 wavelengths: ``(P,)`` to ``(P, width)``.

    Wavelengths grow from 2 pi to 2 pi x 10000, as in Transformers.
    """
    half = width // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=positions.device) / half)
    angles = positions.to(torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_bias(frequency: int, time: int, ratio: int, channels: int, device: torch.device) -> Tensor:
    """Term to add to the squared distance between nodes and pooled candidates: ``(N, M)``.

    Minus ``2 e_i . e_j / C`` with e the sine-cosine position on the true grid; a candidate sits at
    the centre of its ratio x ratio cell. The product separates into a frequency and a time table.
    Entries lie in [-1, 1]; a node and a candidate at the same place have -1.
    """
    by_frequency = _axis_table(frequency, ratio, channels, device)  # (F, F')
    by_time = _axis_table(time, ratio, channels, device)  # (T, T')
    bias = by_frequency[:, None, :, None] + by_time[None, :, None, :]  # (F, T, F', T')
    return bias.reshape(frequency * time, -1)


def _axis_table(size: int, ratio: int, channels: int, device: torch.device) -> Tensor:
    """One axis of `grid_bias`, in float64 on the CPU first: not every accelerator has float64."""
    nodes = torch.arange(size, device="cpu")
    cells = torch.arange(ceil_div(size, ratio), device="cpu") * ratio + (ratio - 1) / 2
    half = channels // 2
    product = sine_cosine(nodes, half) @ sine_cosine(cells, half).T
    return (-2.0 / channels * product).float().to(device)


def legacy_table(nodes: int, ratio: int, channels: int) -> Tensor:
    """The published relative table for `nodes` nodes, negated, ready to add: ``(N, N / ratio^2)``.

    Built on the largest square grid that fits into the node count, then stretched (bicubic) to the
    node counts, whatever the true grid is: the geometry of the published code (SPEC, F5).
    """
    side = int(nodes**0.5)
    steps = torch.arange(side)
    axis = sine_cosine(steps, channels // 2)  # (side, C/2)
    wide = axis[None, :, :].expand(side, side, -1)
    high = axis[:, None, :].expand(side, side, -1)
    e = torch.cat([wide, high], dim=-1).reshape(side * side, channels)
    table = (2.0 / channels * e @ e.T).float()
    return -resize_table(table, nodes, max(1, nodes // ratio**2))


def resize_table(table: Tensor, nodes: int, candidates: int) -> Tensor:
    """Stretch a table (N, M) to other node counts, bicubic over the flattened indices."""
    if table.shape == (nodes, candidates):
        return table
    resized = functional.interpolate(
        table[None, None].float(), size=(nodes, candidates), mode="bicubic", align_corners=False
    )
    return resized[0, 0].to(table.dtype)
