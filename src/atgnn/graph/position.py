"""Relative position as a term of the distance: near in frequency and time counts as closer.

Two geometries. `grid_position` is exact on the frequency x time grid of the clip at hand and stores
nothing. `legacy_table` and `resize_table` rebuild the tables of the published Vision GNN, which
stretch a square grid over the flattened node index; they exist to reproduce published weights.

F frequency rows, T time columns, C channels, N = F x T nodes, M candidates.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.graph.pooling import ceil_div

__all__ = [
    "NO_POSITION",
    "Position",
    "axis_table",
    "grid_position",
    "legacy_table",
    "resize_table",
    "sine_cosine",
]


class Position(NamedTuple):
    """What is added to squared distances between nodes i = (f, t) and candidates j = (f', t').

    Two tables, one for each axis, of which nothing of size N x M is ever made:
    ``by_frequency[f, f'] + by_time[t, t']``; or one table for all pairs; or nothing.
    """

    by_frequency: Tensor | None = None  # (F, F') float32
    by_time: Tensor | None = None  # (T, T') float32
    table: Tensor | None = None  # (N, M) or (B, N, M) float32

    def dense(self) -> Tensor | None:
        """All pairs in one table: ``(N, M)`` or ``(B, N, M)``, or None."""
        if self.by_frequency is None or self.by_time is None:
            return self.table
        pairs = self.by_frequency[:, None, :, None] + self.by_time[None, :, None, :]
        rows, columns = self.by_frequency.shape[0], self.by_time.shape[0]
        return pairs.reshape(rows * columns, -1)  # (F, T, F', T') to (N, M)


NO_POSITION = Position()


def sine_cosine(positions: Tensor, width: int) -> Tensor:
    """Sine then cosine of the positions at `width` / 2 wavelengths: ``(P,)`` to ``(P, width)``.

    Wavelengths grow from 2 pi to 2 pi x 10000, as in Transformers.
    """
    half = width // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=positions.device) / half)
    angles = positions.to(torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_position(
    frequency: int, time: int, ratio: int, channels: int, device: torch.device | None = None
) -> Position:
    """Position of the nodes of a grid and its pooled candidates, exact on any grid.

    Minus ``2 e_i . e_j / C`` with e the sine-cosine position on the true grid; a candidate sits at
    the centre of its ratio x ratio cell. The product separates into a frequency and a time table.
    Sums lie in [-1, 1]; a node and a candidate at the same place have -1.
    """
    tables = (axis_table(size, ratio, channels) for size in (frequency, time))
    by_frequency, by_time = (table.to(device) for table in tables)
    return Position(by_frequency, by_time)


def axis_table(size: int, ratio: int, channels: int) -> Tensor:
    """One axis of `grid_position`: ``(size, ceil(size / ratio))`` float32, on the CPU.

    In float64 first, which not every accelerator has. The table of a shorter axis is the upper
    left part of a longer one's.
    """
    nodes = torch.arange(size, device="cpu")
    cells = torch.arange(ceil_div(size, ratio), device="cpu") * ratio + (ratio - 1) / 2
    half = channels // 2
    product = sine_cosine(nodes, half) @ sine_cosine(cells, half).T
    return (-2.0 / channels * product).float()


def legacy_table(nodes: int, ratio: int, channels: int) -> Tensor:
    """The published relative table for `nodes` nodes, negated, ready to add: ``(N, N / ratio^2)``.

    Built on the largest square grid that fits into the node count, then stretched (bicubic) to the
    node counts, whatever the true grid is: the geometry of Vision GNN's code.
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
