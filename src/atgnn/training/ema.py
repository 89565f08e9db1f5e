"""The exponential moving average of a network's weights, which often does better than the last.

After update t (from 1), with d_t = min(decay, (1 + t) / (10 + t)):  average <- d_t average +
(1 - d_t) weights. The growing d_t lets a short run forget its random start. Running statistics of
the norms are averaged like weights, so that they belong to them.
"""

import copy
from itertools import compress

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage", "decay_at"]


def decay_at(update: int, decay: float) -> float:
    """What the average keeps of itself at update number `update`, counted from 1."""
    return min(decay, (1 + update) / (10 + update))


class MovingAverage(nn.Module):
    """A network in evaluation mode whose weights follow another's; part of a run's saved state."""

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self._count: int | None = None  # `updates`, once read: asking a GPU would wait for it

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow `network`, whose weights were just updated."""
        if self._count is None:
            self._count = int(self.updates)
        self._count += 1
        self.updates.fill_(self._count)
        share = 1 - decay_at(self._count, self.decay)
        ours, theirs = _tensors(self.network), _tensors(network)  # what is shared, once
        follows = [value.is_floating_point() for value in theirs]
        torch._foreach_lerp_(list(compress(ours, follows)), list(compress(theirs, follows)), share)
        for mine, value, averaged in zip(ours, theirs, follows, strict=True):
            if not averaged:
                mine.copy_(value)

    def train(self, mode: bool = True) -> "MovingAverage":
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits of the averaged network, ``(B, S)``."""
        out: Tensor = self.network(mel, lengths)
        return out


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
