"""What new labels say of clips whose nodes are known, without listening again.

W windows, N new labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from atgnn.learn.fit import heard_windows
from atgnn.learn.nodes import Window
from atgnn.model import ATGNN
from atgnn.model.beside import LabelsBeside, NewLabels

__all__ = ["new_logits"]


@torch.no_grad()
def new_logits(network: ATGNN, new: NewLabels, windows: Sequence[Window]) -> Tensor:
    """``(W, N)``: as the network with the labels beside it, but for half precision of the nodes."""
    beside = LabelsBeside(network, new)
    hidden = torch.stack([window.hidden for window in windows])
    pooled = torch.stack([window.summary for window in windows])
    out = torch.zeros(len(windows), len(new))
    for rows, found in heard_windows(network, windows):
        out[rows] = beside.new_logits(hidden[rows], pooled[rows], found)
    return out
