"""The label side: learnable label nodes, tied to patches (PLG) and to one another (LLG).

B batch, S labels, N patches, K neighbours, C channels of the patches, D width of the labels.
Labels read from patches; patches never hear from labels.
"""

import torch
from torch import Tensor, nn

from atgnn.graph import min_relative, nearest_neighbours
from atgnn.graph.neighbours import Distance
from atgnn.graph.precision import at_least_float32, without_autocast
from atgnn.model.config import ModelConfig
from atgnn.model.layers import DropPath, FeedForward, GraphUpdate, LinearNorm, Patches

__all__ = ["LabelBlock", "LabelBranch", "LabelGraph", "LabelLevel", "NoLabels", "PatchLabelGraph"]


class PatchLabelGraph(nn.Module):
    """PLG: each label looks at the patches nearest to it (eq. 4 and 5).

    ``m_i = max_j (l_i - x_j)`` over the k nearest patches, then
    ``l + W_update [l, m]`` and a feed-forward network.
    """

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.update = GraphUpdate(width, width, config.label_update_groups)
        self.drop_path = DropPath(config.label_drop_path)
        self.ffn: nn.Module = nn.Identity()
        if config.label_ffn_ratio:
            self.ffn = FeedForward(width, config.label_ffn_ratio, config.label_drop_path)
        self.k = config.k_plg
        self.distance: Distance = config.distance

    def forward(self, l_i: Tensor, x_j: Tensor, mask: Tensor | None) -> Tensor:
        """``(B, S, D)`` labels and ``(B, N, D)`` patches to ``(B, S, D)``."""
        neighbours = nearest_neighbours(
            l_i, x_j, self.k, candidate_mask=mask, distance=self.distance
        )
        m_i = min_relative(l_i, x_j, neighbours)
        l_i = l_i + self.drop_path(self.update(l_i, m_i))
        out: Tensor = self.ffn(l_i)
        return out


class LabelGraph(nn.Module):
    """LLG: labels speak to one another through a learned adjacency, ``l + A l`` (eq. 6).

    The product is taken in float32 whatever the autocast: it is not normalised, and the published
    model overflows in fp16 here.
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

    def forward(self, labels: Tensor, patches: Tensor, mask: Tensor | None) -> Tensor:
        """``(B, S, D)`` labels and ``(B, N, D)`` patches to ``(B, S, D)``."""
        out: Tensor = self.llg(self.plg(labels, patches, mask))
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
        self.projection = _project(labels_from, width)
        self.patch_projection = _project(patches_from, width)
        self.blocks = nn.ModuleList(LabelBlock(config, width, a) for a in adjacencies)

    def forward(self, labels: Tensor, patches: Patches) -> Tensor:
        """``(B, S, D')`` labels and ``(B, F, T, C)`` patches to ``(B, S, D)``."""
        mask = patches.mask
        labels = self.projection(labels)
        x = self.patch_projection(patches.x, mask).flatten(1, 2)  # (B, N, D)
        nodes = None if mask is None else mask.flatten(1)
        for block in self.blocks:
            labels = block(labels, x, nodes)
        return labels


class _Same(nn.Module):
    """Widths agree already."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


def _project(inputs: int, outputs: int) -> nn.Module:
    return _Same() if inputs == outputs else LinearNorm(inputs, outputs)


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

    def forward(self, stages: list[list[Patches]]) -> Tensor:
        """Patch nodes after every block to label logits ``(B, S)``: ``y_s = w_s . l_s``."""
        levels = self.looks_at(stages)
        labels = self.embedding.expand(levels[0].x.shape[0], -1, -1)
        for level, patches in zip(self.levels, levels, strict=True):
            labels = level(labels, patches)
        with without_autocast(labels):  # what comes from A l may be too large for fp16
            labels = at_least_float32(labels)
            return torch.einsum("bsd,sd->bs", labels, self.readout.to(labels.dtype))


def _stage_ends(stages: list[list[Patches]]) -> list[Patches]:
    return [stage[-1] for stage in stages]


def _every_block(stages: list[list[Patches]]) -> list[Patches]:
    return [patches for stage in stages for patches in stage]


class NoLabels(nn.Module):
    """Stands in for the label branch in encoder-only models (the paper's "-MLG")."""

    def forward(self, stages: list[list[Patches]]) -> float:
        """Nothing to add."""
        return 0.0
