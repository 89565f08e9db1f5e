"""The patch side: from a log-mel spectrogram to patch nodes, and the blocks that update them (PGN).

B batch, F frequency, T time, N = F x T patches, M candidates, K neighbours, C channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from atgnn.graph import (
    NO_POSITION,
    Position,
    ceil_div,
    extremum_over,
    grid_position,
    knn_extremum,
    legacy_table,
    pool_nodes,
    resize_table,
)
from atgnn.graph.neighbours import Distance
from atgnn.graph.precision import exporting
from atgnn.model.config import ModelConfig
from atgnn.model.inverted import LiteEntry, LiteStem
from atgnn.model.layers import (
    ConvNorm,
    DropPath,
    FeedForward,
    GraphUpdate,
    LinearNorm,
    Patches,
    gelu_linear,
)
from atgnn.model.segments import note, recalled, run_again, segment

__all__ = [
    "AbsolutePosition",
    "Grapher",
    "GridPosition",
    "LegacyPosition",
    "NoPosition",
    "PatchBlock",
    "PatchEncoder",
    "Stage",
    "Stem",
]

MOST_GRIDS = 8  # whose tables of relative position are kept


class Stem(nn.Module):
    """Overlapping convolutions that turn a spectrogram into patch nodes.

    The last one has no activation. Source: Vision GNN.

    `lean`: in training, all but the last are computed again (`model/segments.py`): the first ones
    cost little and leave the most.
    """

    lean = False

    def __init__(self, in_channels: int, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        inputs = (in_channels, *widths[:-1])
        self.convs = nn.ModuleList(
            ConvNorm(a, b, stride) for a, b, stride in zip(inputs, widths, strides, strict=True)
        )

    def forward(self, patches: Patches) -> Patches:
        """``(B, n_mels, frames, in_channels)`` to ``(B, F, T, C)``."""
        patches = segment(self.training and self.lean, self._all_but_last, patches)
        out: Patches = self.convs[-1](patches)
        return out

    def _all_but_last(self, patches: Patches) -> Patches:
        for conv in list(self.convs)[:-1]:
            patches = conv(patches, gelu=True)
        return patches


class AbsolutePosition(nn.Module):
    """A learnable embedding added once after the stem.

    Cropped in time for clips shorter than the table; for longer ones stretched (linear) by the
    clip's own length, so that its neighbours in a batch do not matter.
    """

    def __init__(self, rows: int, columns: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(rows, columns, channels))

    def forward(self, patches: Patches) -> Patches:
        """``(B, F, T, C)`` to the same."""
        x, lengths = patches.x, patches.lengths
        columns, time = self.table.shape[1], x.shape[2]
        if not exporting() and time <= columns:  # a graph for any length must not ask
            return patches.with_features(x + self.table[:, :time])
        if lengths is None:
            lengths = torch.full((1,), time, device=x.device)
        return patches.with_features(x + self._stretched(lengths, time))

    def _stretched(self, lengths: Tensor, time: int) -> Tensor:
        """The table at each clip's columns: ``(B,)`` lengths to ``(B, F, T, C)``."""
        columns = self.table.shape[1]
        steps = torch.arange(time, device=lengths.device, dtype=torch.float32)
        scale = columns / lengths[:, None].float()
        at = torch.where(lengths[:, None] > columns, (steps + 0.5) * scale - 0.5, steps)
        at = at.clamp(0, columns - 1)  # (B, T)
        low = at.floor().long()
        high = (low + 1).clamp(max=columns - 1)
        share = (at - low)[..., None].to(self.table.dtype)
        mixed = self.table[:, low] * (1 - share) + self.table[:, high] * share  # (F, B, T, C)
        return mixed.transpose(0, 1)


class GridPosition(nn.Module):
    """Relative position on the true frequency x time grid; nothing is learned or stored."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.channels, self.ratio = channels, ratio
        self._known: dict[tuple[int, int, int, int, torch.device], Position] = {}

    def forward(self, patches: Patches) -> Position:
        """The two tables of the grid at hand."""
        rows, columns = patches.x.shape[1:3]
        grid = rows, columns, self.ratio, self.channels, patches.x.device
        if torch.compiler.is_compiling():  # a graph for any length cannot look a length up
            return grid_position(*grid)
        found = self._known.get(grid)
        if found is None:
            if len(self._known) >= MOST_GRIDS:
                self._known.clear()
            with torch.inference_mode(False):  # the tables may be used in training later
                found = self._known[grid] = grid_position(*grid)
        return found


class LegacyPosition(nn.Module):
    """The published relative table, fixed at the nominal geometry and stretched to any other."""

    table: Tensor

    def __init__(self, channels: int, ratio: int, nodes: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.register_buffer("table", legacy_table(nodes, ratio, channels))

    def forward(self, patches: Patches) -> Position:
        """One table for all pairs: ``(N, M)``, or ``(B, N, M)`` for unequal lengths."""
        rows, columns = patches.x.shape[1:3]
        if patches.lengths is None:
            return Position(table=self._at(rows, columns))
        high, wide = self._cells(rows, columns)
        bias = self.table.new_zeros(len(patches.lengths), rows, columns, high, wide)
        for length in patches.lengths.unique().tolist():
            own = self._at(rows, length)  # by the clip's own length, not the padded one
            _, wide = self._cells(rows, length)
            own = own.view(rows, length, high, wide)
            bias[patches.lengths == length, :, :length, :, :wide] = own
        return Position(table=bias.flatten(3, 4).flatten(1, 2))

    def _at(self, rows: int, columns: int) -> Tensor:
        high, wide = self._cells(rows, columns)
        return resize_table(self.table, rows * columns, high * wide)

    def _cells(self, rows: int, columns: int) -> tuple[int, int]:
        return ceil_div(rows, self.ratio), ceil_div(columns, self.ratio)


class NoPosition(nn.Module):
    """No relative position: isotropic models."""

    def forward(self, patches: Patches) -> Position:
        """Nothing to add."""
        return NO_POSITION


class Grapher(nn.Module):
    """Max-relative graph convolution between two linear maps, around a residual (eq. 1 to 3).

    ``x' = W_in x``, ``m_i = max_j (x'_j - x'_i)``, ``x + W_out gelu(W_update [x', m])``, a batch
    normalisation after each linear map. The graph is built anew from x' at every call.

    `lean`: in training, x', m and what W_update makes of them are computed again and not kept
    (`model/segments.py`); the graph is remembered.
    """

    lean = False

    def __init__(
        self, config: ModelConfig, channels: int, ratio: int, k: int, dilation: int, rate: float
    ) -> None:
        super().__init__()
        self.fc1 = LinearNorm(channels, channels)
        self.update = GraphUpdate(channels, 2 * channels, config.update_groups, sign=1)
        self.fc2 = LinearNorm(2 * channels, channels)
        self.drop_path = DropPath(rate)
        self.ratio, self.k, self.dilation = ratio, k, dilation
        self.distance: Distance = config.distance

    def forward(self, patches: Patches, position: Position) -> Patches:
        """``(B, F, T, C)`` to the same; `position` is that of the stage's geometry."""
        out = segment(self.training and self.lean, self._mixed, patches, position)
        out = self.fc2.norm(out, patches.mask)
        return patches.with_features(patches.x + self.drop_path(out))

    def _mixed(self, patches: Patches, position: Position) -> Tensor:
        """``W_out gelu(W_update [x', m])``: ``(B, F, T, C)`` to the same."""
        mask = patches.mask
        x = self.fc1(patches.x, mask)
        max_j = self._maximum(x, patches.valid, position)
        mixed = self.update.mix(x.flatten(1, 2), max_j)  # (B, N, 2 C)
        nodes = None if mask is None else mask.flatten(1)
        return gelu_linear(mixed, self.update.norm, self.fc2.linear, nodes).view(x.shape)

    def _maximum(self, x: Tensor, valid: Tensor | None, position: Position) -> Tensor:
        """``max_j x'_j`` over each node's neighbours: ``(B, F, T, C)`` to ``(B, N, C)``."""
        cells, valid = pool_nodes(x, self.ratio, valid)  # (B, F', T', C)
        x_i, y_j = x.flatten(1, 2), cells.flatten(1, 2)  # (B, N, C), (B, M, C)

        if run_again():  # only in a lean segment, whose graph was noted below
            return extremum_over(y_j, recalled())
        max_j, neighbours = knn_extremum(
            x_i,
            y_j,
            self.k,
            self.dilation,
            position=position,
            lengths=valid,
            columns=cells.shape[2],
            distance=self.distance,
        )
        note(neighbours)
        return max_j

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"k={self.k}, dilation={self.dilation}, ratio={self.ratio}"


class PatchBlock(nn.Module):
    """PGN: a graph convolution, then a feed-forward network."""

    def __init__(self, config: ModelConfig, stage: int, index: int) -> None:
        super().__init__()
        channels, rate = config.channels[stage], config.drop_paths[index]
        self.grapher = Grapher(
            config,
            channels,
            config.reductions[stage],
            config.neighbours[index],
            config.dilations[index],
            rate,
        )
        self.ffn = FeedForward(channels, config.ffn_ratio, rate)

    def forward(self, patches: Patches, position: Position) -> Patches:
        """``(B, F, T, C)`` to the same."""
        patches = self.grapher(patches, position)
        return patches.with_features(self.ffn(patches.x, patches.mask))


class Stage(nn.Module):
    """Patch blocks on one grid, after convolutions that bring the nodes there."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        channels, ratio = config.channels[stage], config.reductions[stage]
        self.entry: nn.Module = nn.Identity()
        if stage and config.trunk == "lite0":
            self.entry = LiteEntry()
        elif stage:
            self.entry = ConvNorm(config.channels[stage - 1], channels, stride=2)
        self.position = self._position(config, stage, channels, ratio)
        first = sum(config.blocks[:stage])
        self.blocks = nn.ModuleList(
            PatchBlock(config, stage, first + i) for i in range(config.blocks[stage])
        )

    @staticmethod
    def _position(config: ModelConfig, stage: int, channels: int, ratio: int) -> nn.Module:
        if config.position == "grid":
            return GridPosition(channels, ratio)
        if config.position == "legacy":
            rows, columns = config.grid(config.nominal_frames, stage)
            return LegacyPosition(channels, ratio, rows * columns)
        return NoPosition()

    def forward(self, patches: Patches) -> Iterator[Patches]:
        """Yield the patch nodes after every block."""
        patches = self.entry(patches)
        position = self.position(patches)
        for block in self.blocks:
            patches = block(patches, position)
            yield patches


class PatchEncoder(nn.Module):
    """Stem, absolute position and stages: from a log-mel spectrogram to patch nodes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stem: nn.Module = (
            LiteStem(config.in_channels)
            if config.trunk == "lite0"
            else Stem(config.in_channels, config.stem_widths, config.stem_strides)
        )
        rows, columns = config.grid(config.nominal_frames)
        self.position: nn.Module = nn.Identity()
        if config.absolute_position:
            self.position = AbsolutePosition(rows, columns, config.channels[0])
        self.stages = nn.ModuleList(Stage(config, i) for i in range(len(config.channels)))

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> list[list[Patches]]:
        """``(B, T, n_mels[, in_channels])`` to the patch nodes after every block, by stage."""
        return self.through(self.nodes(mel, lengths))

    def nodes(self, mel: Tensor, lengths: Tensor | None = None) -> Patches:
        """``(B, T, n_mels[, in_channels])`` to the patch nodes that the first block gets."""
        out: Patches = self.position(self.stem(Patches.of(mel, lengths)))
        return out

    def through(self, patches: Patches) -> list[list[Patches]]:
        """What `nodes` gave, or a part of it, to the patch nodes after every block, by stage."""
        stages = []
        for stage in self.stages:
            stages.append(list(stage(patches)))
            patches = stages[-1][-1]
        return stages
