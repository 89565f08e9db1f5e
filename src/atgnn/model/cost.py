"""What a model costs: parameters and multiply-accumulates, measured on the model itself."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from atgnn.model.atgnn import ATGNN
from atgnn.model.config import ModelConfig

__all__ = ["PAPER", "Cost", "measure_cost"]


@dataclass(frozen=True)
class Cost:
    """Size and work of one model."""

    trainable_parameters: int
    stored_parameters: int  # trainable, and the frozen relative tables of the legacy geometry
    gmacs: float  # 1e9 multiply-accumulates of dense layers and k-NN score products, one clip


# The paper's Table I and II: million parameters and "GFLOPs" (multiply-accumulates in fact).
# SPEC section H tells how far the two can agree.
PAPER: dict[str, tuple[float, float]] = {
    "iso-s": (38.7, 14.93),
    "pyr-s-encoder": (27.3, 12.94),
    "pyr-s": (36.4, 14.72),
    "pyr-m-encoder": (51.2, 24.93),
    "pyr-m": (62.7, 27.20),
}


def measure_cost(config: ModelConfig, frames: int = 1024) -> Cost:
    """Count parameters and run one clip of `frames` frames without computing anything.

    The model is built on torch's "meta" device, so that even the largest takes no memory; torch's
    own counter sees every convolution and matrix product. Norms, activations, pooling and the
    choice of neighbours are not counted, as is usual.
    """
    with torch.device("meta"):
        model = ATGNN(config).eval().requires_grad_(False)
        mel = torch.empty(1, frames, config.n_mels)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(mel)
    parameters = sum(p.numel() for p in model.parameters())
    tables = sum(b.numel() for name, b in model.named_buffers() if name.endswith("position.table"))
    return Cost(parameters, parameters + tables, counter.get_total_flops() / 2e9)
