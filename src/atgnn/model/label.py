"""The label side: learnable label nodes, tied to patches (PLG) and to one another (LLG).

B batch, S labels, N patches, K neighbours, C channels of the patches, D width of the labels.
Labels read from patches; patches never hear from labels.

Nothing bounds the values of labels: ``A l`` is not normalised, and the batch normalisation ahead
hides their size from the loss, so that training lets them grow, beyond 65,504, the end of fp16.
They are therefore kept in float32 at least. Linear maps of them run in half precision all the
same; in fp16, not in bf16, which ends where float32 does, `wide_linear` brings them into range.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from atgnn.graph import knn_extremum
from atgnn.graph.neighbours import Distance
from atgnn.graph.precision import AUTOCAST_DEVICES, at_least_float32, without_autocast
from atgnn.model.config import ModelConfig
from atgnn.model.fused import grouped_linear
from atgnn.model.layers import (
    DropPath,
    FeedForward,
    GraphUpdate,
    LinearNorm,
    Patches,
    Unchanged,
)

__all__ = [
    "Drawing",
    "LabelBlock",
    "LabelBranch",
    "LabelFeedForward",
    "LabelGraph",
    "LabelLevel",
    "LabelProjection",
    "LabelUpdate",
    "NoLabels",
    "PatchLabelGraph",
    "in_fp16",
    "read_out",
    "wide_linear",
]


def wide_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """`linear` of values that may be too large for fp16: ``(..., C)`` to ``(..., D)``.

    In fp16 each row is divided by its largest value before the product and multiplied by it
    after, in float32. Its gradient is scaled likewise, and so neither overflows nor, behind a
    normalisation that divides by large deviations, underflows. In other precisions this is
    `linear`.
    """
    if not in_fp16(x):
        out: Tensor = linear(x.to(linear.weight.dtype))  # bf16 where the whole model is
        return out
    size = _largest(x)
    return functional.linear(at_least_float32(x) / size, linear.weight) * size + linear.bias


def in_fp16(x: Tensor) -> bool:
    """Whether autocast makes linear maps of x run in float16."""
    device = x.device.type
    return (
        device in AUTOCAST_DEVICES
        and torch.is_autocast_enabled(device)
        and torch.get_autocast_dtype(device) == torch.float16
    )


@torch.no_grad()
def _largest(*rows: Tensor) -> Tensor:
    """The largest value of each row, or 1: ``(..., C)`` to ``(..., 1)`` float32.

    The result of a map does not depend on it but for rounding, so no gradient passes through.
    """
    sizes = [at_least_float32(x).abs().amax(-1, keepdim=True) for x in rows]
    return torch.stack(sizes).amax(0).clamp(min=1)


class LabelUpdate(GraphUpdate):
    """``W_l-update [l_i, m_i]`` (eq. 5), in range of fp16."""

    def mix(self, x_i: Tensor, extremum: Tensor) -> Tensor:
        """``(B, S, D)`` twice to ``(B, S, D)``."""
        if not in_fp16(x_i):
            dtype = self.weight.dtype
            return super().mix(x_i.to(dtype), extremum.to(dtype))
        m_i = self.relation(x_i, extremum)
        size, none = _largest(x_i, m_i), torch.zeros_like(self.bias)
        return grouped_linear(x_i / size, m_i / size, self.weight, none) * size + self.bias


class LabelFeedForward(FeedForward):
    """The feed-forward network of labels; what enters it is in range of fp16."""

    def widen(self, x: Tensor) -> Tensor:
        """``(B, S, D)`` to the hidden layer ``(B, S, ratio x D)``."""
        return wide_linear(x, self.fc1.linear)


class LabelProjection(LinearNorm):
    """Labels to another width; what enters it is in range of fp16."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, S, D')`` to ``(B, S, D)``."""
        out: Tensor = self.norm(wide_linear(x, self.linear), mask)
        return out


class Drawing(NamedTuple):
    """What labels drew from patches in one label block."""

    patches: Patches  # at the width of the labels
    neighbours: Tensor  # (B, S, K), indices into the patches, flattened
    extremum: Tensor  # (B, S, D)


class PatchLabelGraph(nn.Module):
    """PLG: each label looks at the patches nearest to it (eq. 4 and 5).

    ``m_i = max_j (l_i - x_j)`` over the k nearest patches, then
    ``l_i + gelu(W_l-update [l_i, m_i])`` and a feed-forward network.
    """

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.update = LabelUpdate(width, width, config.label_update_groups, sign=-1)
        self.drop_path = DropPath(config.label_drop_path)
        self.ffn: nn.Module = nn.Identity()
        if config.label_ffn_ratio:
            self.ffn = LabelFeedForward(width, config.label_ffn_ratio, config.label_drop_path)
        self.k = config.k_plg
        self.distance: Distance = config.distance

    def forward(self, l_i: Tensor, patches: Patches, seen: list[Drawing] | None = None) -> Tensor:
        """``(B, S, D)`` labels and ``(B, F, T, D)`` patches to ``(B, S, D)``.

        What they drew is appended to `seen`.
        """
        min_j, neighbours = self.drawn(l_i, patches)
        if seen is not None:
            seen.append(Drawing(patches, neighbours, min_j))
        l_i = l_i + self.drop_path(self.update(l_i, min_j))
        out: Tensor = self.ffn(l_i)
        return out

    def drawn(self, l_i: Tensor, patches: Patches) -> tuple[Tensor, Tensor]:
        """What each label draws from its patches: ``min_j x_j`` ``(B, S, D)``, and who they are.

        The second is ``(B, S, K)``, indices into the patches, flattened.
        """
        return knn_extremum(
            l_i,
            patches.x.flatten(1, 2),  # (B, N, D)
            self.k,
            lengths=patches.valid,
            columns=patches.x.shape[2],
            reduce="min",
            distance=self.distance,
        )


class LabelGraph(nn.Module):
    """LLG: labels speak to one another through a learned adjacency, ``l + A l`` (eq. 6).

    The product is taken in float32 whatever the autocast: the published model overflows in fp16
    here.
    """

    def __init__(self, adjacency: nn.Parameter) -> None:
        super().__init__()
        self.adjacency = adjacency  # (S, S)

    def forward(self, labels: Tensor) -> Tensor:
        """``(B, S, D)`` to ``(B, S, D)``."""
        with without_autocast(labels):
            labels = at_least_float32(labels)
            return labels + torch.matmul(self.adjacency.to(labels.dtype), labels)


class LabelBlock(nn.Module):
    """MLG: labels hear from patches, then from one another."""

    def __init__(self, config: ModelConfig, width: int, adjacency: nn.Parameter) -> None:
        super().__init__()
        self.plg = PatchLabelGraph(config, width)
        self.llg = LabelGraph(adjacency)

    def forward(
        self, labels: Tensor, patches: Patches, seen: list[Drawing] | None = None
    ) -> Tensor:
        """``(B, S, D)`` labels and ``(B, F, T, D)`` patches to ``(B, S, D)``."""
        out: Tensor = self.llg(self.plg(labels, patches, seen=seen))
        return out


class LabelLevel(nn.Module):
    """Label blocks on one grid of patches, after bringing labels and patches to one width."""

    def __init__(
        self,
        config: ModelConfig,
        labels_from: int,
        patches_from: int,
        adjacencies: list[nn.Parameter],
    ) -> None:
        super().__init__()
        width = patches_from if config.label_width is None else config.label_width
        self.projection = _project(labels_from, width, LabelProjection)
        self.patch_projection = _project(patches_from, width, LinearNorm)
        self.blocks = nn.ModuleList(LabelBlock(config, width, a) for a in adjacencies)

    def forward(
        self, labels: Tensor, patches: Patches, seen: list[Drawing] | None = None
    ) -> Tensor:
        """``(B, S, D')`` labels and ``(B, F, T, C)`` patches to ``(B, S, D)``."""
        labels = self.projection(labels)
        patches = patches.with_features(self.patch_projection(patches.x, patches.mask))
        for block in self.blocks:
            labels = block(labels, patches, seen=seen)
        return labels


def _project(inputs: int, outputs: int, kind: type[LinearNorm]) -> nn.Module:
    return Unchanged() if inputs == outputs else kind(inputs, outputs)


class LabelBranch(nn.Module):
    """Label embeddings, their blocks along the encoder, and the readout (eq. 8)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        levels = config.label_levels
        count = config.num_labels
        after_stage = config.label_placement == "after_stage"
        self.looks_at = _stage_ends if after_stage else _every_block
        width = levels[0][0] if config.label_width is None else config.label_width
        self.embedding = nn.Parameter(torch.empty(count, width))
        self.levels = nn.ModuleList()
        for channels, blocks in levels:
            adjacencies = [nn.Parameter(torch.empty(count, count)) for _ in range(blocks)]
            self.levels.append(LabelLevel(config, width, channels, adjacencies))
            width = channels if config.label_width is None else config.label_width
        self.readout = nn.Parameter(torch.empty(count, width))
        if config.shared_adjacency:
            self.share_adjacency()

    def share_adjacency(self) -> None:
        """Give all blocks the first one's adjacency; again after loading weights by assignment."""
        graphs = [module for module in self.modules() if isinstance(module, LabelGraph)]
        for graph in graphs[1:]:
            graph.adjacency = graphs[0].adjacency

    def forward(self, stages: list[list[Patches]], seen: list[Drawing] | None = None) -> Tensor:
        """Patch nodes after every block to label logits ``(B, S)``: ``y_s = w_s . l_s``.

        What the labels drew from patches is appended to `seen`, block by block.
        """
        levels = self.looks_at(stages)
        labels = self.embedding.expand(levels[0].x.shape[0], -1, -1)
        for level, patches in zip(self.levels, levels, strict=True):
            labels = level(labels, patches, seen=seen)
        return read_out(labels, self.readout)


def read_out(labels: Tensor, readout: Tensor) -> Tensor:
    """``y_s = w_s . l_s``: ``(B, S, D)`` labels and ``(S, D)`` rows to ``(B, S)``, in float32."""
    with without_autocast(labels):  # what comes from A l may be too large for fp16
        labels = at_least_float32(labels)
        return torch.einsum("bsd,sd->bs", labels, readout.to(labels.dtype))


def _stage_ends(stages: list[list[Patches]]) -> list[Patches]:
    return [stage[-1] for stage in stages]


def _every_block(stages: list[list[Patches]]) -> list[Patches]:
    return [patches for stage in stages for patches in stage]


class NoLabels(nn.Module):
    """Stands in for the label branch in encoder-only models (the paper's "-MLG")."""

    def forward(self, stages: list[list[Patches]], seen: list[Drawing] | None = None) -> float:
        """Nothing to add, nothing seen."""
        return 0.0
