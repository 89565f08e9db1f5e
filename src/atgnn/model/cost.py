"""What a model costs: parameters and multiply-accumulates, measured on the model itself."""

import math
from typing import Any, TypeAlias

from torch import nn

from atgnn.costs import Cost
from atgnn.graph import ceil_div
from atgnn.model.atgnn import ATGNN
from atgnn.model.config import ModelConfig
from atgnn.model.empty import empty_model
from atgnn.model.inverted import SpatialNorm
from atgnn.model.label import LabelBranch
from atgnn.model.layers import ConvNorm, GraphUpdate

__all__ = ["measure_cost"]

Grid: TypeAlias = tuple[int, int]  # rows and columns


def measure_cost(config: ModelConfig, frames: int = 1024) -> Cost:
    """Parameters of the model, and its multiply-accumulates for one clip of `frames` frames.

    The model is built without values, so that even the largest takes no memory, and every linear
    map, convolution and score product is counted on the grid it works on. Norms, activations,
    pooling and the choice of neighbours are not counted, as is usual.
    """
    model = empty_model(config)
    parameters = sum(p.numel() for p in model.parameters())
    tables = sum(b.numel() for name, b in model.named_buffers() if name.endswith("position.table"))
    macs = _encoder_macs(model, frames) + _weights(model.patch_head)
    if isinstance(model.label_branch, LabelBranch):
        macs += _label_macs(model.label_branch, config, frames)
    return Cost(parameters, parameters + tables, macs / 1e9)


def _encoder_macs(model: ATGNN, frames: int) -> int:
    config = model.config
    macs, grid = _convolution_macs(model.encoder.stem, (config.n_mels, frames))
    stage: Any
    for index, stage in enumerate(model.encoder.stages):
        entry, grid = _convolution_macs(stage.entry, grid)
        ratio = config.reductions[index]
        candidates = math.prod(ceil_div(side, ratio) for side in grid)
        scores = candidates * config.channels[index] * len(stage.blocks)
        macs += entry + math.prod(grid) * (_weights(stage.blocks) + scores)
    return macs


def _convolution_macs(module: nn.Module, grid: Grid) -> tuple[int, Grid]:
    """Of convolutions one after the other, from a grid of rows and columns; and the grid behind."""
    macs = 0
    for part in module.modules():
        if isinstance(part, ConvNorm | SpatialNorm):
            grid = ceil_div(grid[0], part.stride), ceil_div(grid[1], part.stride)
        if isinstance(part, nn.Linear | nn.Conv2d):
            macs += math.prod(grid) * part.weight.numel()
    return macs, grid


def _label_macs(branch: LabelBranch, config: ModelConfig, frames: int) -> int:
    count, macs = config.num_labels, branch.readout.numel()
    stages = list(range(len(config.channels)))
    if config.label_placement == "after_block":
        stages = [stage for stage, blocks in enumerate(config.blocks) for _ in range(blocks)]
    level: Any
    for stage, level in zip(stages, branch.levels, strict=True):
        rows, columns = config.grid(frames, stage)
        width = config.channels[stage] if config.label_width is None else config.label_width
        products = (rows * columns + count) * width  # scores against patches, labels to labels
        macs += count * (_weights(level.projection) + _weights(level.blocks))
        macs += count * products * len(level.blocks)
        macs += rows * columns * _weights(level.patch_projection)
    return macs


def _weights(module: nn.Module) -> int:
    """Multiply-accumulates per row of everything linear inside."""
    linear = (nn.Linear, nn.Conv2d, GraphUpdate)
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, linear))
