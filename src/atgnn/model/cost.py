"""What a model costs: parameters and multiply-accumulates, measured on the model itself."""

from typing import Any

from torch import nn

from atgnn.costs import Cost
from atgnn.graph import ceil_div
from atgnn.model.atgnn import ATGNN
from atgnn.model.config import ModelConfig
from atgnn.model.empty import empty_model
from atgnn.model.label import LabelBranch
from atgnn.model.layers import GraphUpdate

__all__ = ["measure_cost"]


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
    config, macs = model.config, 0
    rows, columns = config.n_mels, frames
    stem: Any = model.encoder.stem
    conv: Any
    for conv in stem.convs:
        rows, columns = ceil_div(rows, conv.stride), ceil_div(columns, conv.stride)
        macs += rows * columns * conv.conv.weight.numel()
    stage: Any
    for index, stage in enumerate(model.encoder.stages):
        rows, columns = config.grid(frames, index)
        ratio = config.reductions[index]
        candidates = ceil_div(rows, ratio) * ceil_div(columns, ratio)
        scores = candidates * config.channels[index] * len(stage.blocks)
        macs += rows * columns * (_weights(stage) + scores)
    return macs


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
