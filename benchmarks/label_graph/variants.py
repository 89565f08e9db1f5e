"""The models that are compared, all from one small preset. B batch, S labels, N patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atgnn.model import ATGNN
from atgnn.model.config import ModelConfig
from atgnn.model.label import LabelBranch, LabelGraph, PatchLabelGraph
from atgnn.model.layers import Patches

__all__ = ["VARIANTS", "build", "parameters", "without_label"]

VARIANTS = ("full", "encoder", "wide", "zero", "frozen", "mean")
SMALL: dict[str, Any] = {
    "stem_widths": (8, 12, 16, 16),
    "stem_strides": (2, 2, 2, 1),
    "channels": (16, 32, 64),
    "blocks": (1, 2, 1),
    "reductions": (2, 1, 1),
    "k": 6,
    "k_plg": 6,
    "dilation_every": 2,
    "head_width": 128,
    "label_blocks": (1, 1, 1),
}
#: The encoder alone, widened until it has the parameters of the full model.
WIDE = {"channels": (20, 40, 72), "stem_widths": (8, 12, 20, 20), "head_width": 226}


def build(name: str, labels: int, n_mels: int, frames: int, seed: int) -> ATGNN:
    """A variant with random weights; what variants share begins alike for the same seed."""
    config = ModelConfig(**SMALL, num_labels=labels, n_mels=n_mels, nominal_frames=frames)
    torch.manual_seed(seed)
    if name == "encoder":
        return ATGNN(config.replace(label_blocks=()))
    if name == "wide":
        return ATGNN(config.replace(label_blocks=(), **WIDE))
    model = ATGNN(config)
    if name == "mean":
        for level in model.label_branch.levels:
            for block in level.blocks:
                block.plg.__class__ = MeanPatchLabel
    for graph in graphs(model):
        if name == "zero":
            torch.nn.init.zeros_(graph.adjacency)
        graph.adjacency.requires_grad_(name not in ("zero", "frozen"))
    return model


class MeanPatchLabel(PatchLabelGraph):
    """PLG without a graph: every label is told the mean of all patches instead of the nearest."""

    def drawn(self, l_i: Tensor, patches: Patches) -> tuple[Tensor, Tensor]:
        """The mean of all patches (all valid) for each label, ``(B, S, D)``, from no neighbour."""
        mean = patches.x.flatten(1, 2).mean(1, keepdim=True).expand_as(l_i)
        return mean, torch.empty(*l_i.shape[:2], 0, dtype=torch.int32, device=l_i.device)


def graphs(model: ATGNN) -> list[LabelGraph]:
    """The label-label graphs of a model, in order."""
    return [module for module in model.modules() if isinstance(module, LabelGraph)]


def parameters(model: ATGNN) -> int:
    """Those that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def without_label(model: ATGNN, stages: list[list[Patches]], label: int) -> Tensor:
    """Label logits ``(B, S)`` when no other label node hears from `label`.

    A node speaks to others through its column of the adjacencies alone: without that column it is
    not there for them.
    """
    branch = model.label_branch
    assert isinstance(branch, LabelBranch)
    before = [graph.adjacency.detach().clone() for graph in graphs(model)]
    for graph in graphs(model):
        own = graph.adjacency[label, label].clone()
        graph.adjacency[:, label] = 0
        graph.adjacency[label, label] = own
    out: Tensor = branch(stages)
    for graph, kept in zip(graphs(model), before, strict=True):
        graph.adjacency.copy_(kept)
    return out
