"""Means over an epoch that survive an interruption, and count every process's part."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from atgnn.distributed import mean_over_processes

__all__ = ["EpochMeans", "step_seed"]


class EpochMeans:
    """Sums of an epoch's numbers so far, each by name; nothing waits for the device.

    Lightning keeps such sums too, but does not save them with a checkpoint.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def clear(self) -> None:
        """Begin an epoch."""
        self._sums.clear()
        self._counts.clear()

    def add(self, name: str, value: Tensor) -> None:
        """One step's number, a tensor of one element: this process's share of it.

        Shares are such that the mean over processes is the number.
        """
        wide = torch.float32 if value.device.type == "mps" else torch.float64
        before = self._sums.get(name, value.new_zeros((), dtype=wide))
        self._sums[name] = before.to(value.device) + value.detach().to(wide)
        self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The epoch's means so far; to be asked by all processes together."""
        return {
            name: float(mean_over_processes(total)) / self._counts[name]
            for name, total in self._sums.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """To be asked by all processes together: what one of them saves serves them all."""
        sums = {name: mean_over_processes(total).cpu() for name, total in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A 63-bit number for the draws of a training step, the same in every process.

    Not a sum or product of the three: neighbouring runs would share whole epochs of draws.
    """
    key = f"atgnn {seed} {epoch} {step}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
