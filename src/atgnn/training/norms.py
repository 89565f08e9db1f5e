"""Statistics of batch norms, measured anew for weights that did not gather their own."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["measure_norms"]


@torch.no_grad()
def measure_norms(network: nn.Module, inputs: Iterable[tuple[Any, ...]]) -> None:
    """Set every batch norm's statistics to their mean over batches; each counts the same.

    `inputs` are the arguments of the network's forward. All but the norms are as in evaluation.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
    for number, arguments in enumerate(inputs):
        for norm in norms:
            norm.momentum = 1 / (number + 1)
        network(*arguments)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
