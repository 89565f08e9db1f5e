"""Weights from one of our models to another that has other labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from atgnn.errors import CheckpointError
from atgnn.model.atgnn import ATGNN

__all__ = ["TransferReport", "transfer"]

# Weights whose first axis counts labels; an adjacency counts them on both.
_BY_LABEL = (
    "patch_head.fc2.weight",
    "patch_head.fc2.bias",
    "label_branch.embedding",
    "label_branch.readout",
)


@dataclass(frozen=True)
class TransferReport:
    """What became of a model's weights."""

    copied: int
    labels_kept: int
    labels_new: int

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.copied} tensors copied, {self.labels_kept} labels keep their weights, "
            f"{self.labels_new} are new"
        )


@torch.no_grad()
def transfer(source: ATGNN, model: ATGNN, rows: list[int | None]) -> TransferReport:
    """Copy `source` into `model`, in place.

    Args:
        source: a trained model.
        model: one of the same layout, whatever its labels.
        rows: for each label of `model`, its row in `source`, or None for a label that is new and
            keeps its initial weights.

    Raises:
        CheckpointError: the layouts differ; `model` is unchanged then.
    """
    theirs, ours = source.state_dict(), model.state_dict()
    _check_layout(theirs, ours)
    kept = [(new, old) for new, old in enumerate(rows) if old is not None]
    to = torch.tensor([new for new, _ in kept], dtype=torch.long)
    of = torch.tensor([old for _, old in kept], dtype=torch.long)
    for name, value in theirs.items():
        if name in _BY_LABEL:
            ours[name][to] = value[of]
        elif name.endswith("adjacency"):
            ours[name][to[:, None], to] = value[of[:, None], of]
        else:
            ours[name].copy_(value)
    return TransferReport(len(theirs), len(kept), len(rows) - len(kept))


def _check_layout(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    for name in sorted(set(theirs) | set(ours)):
        if name not in theirs or name not in ours:
            where = "the model to start from" if name not in theirs else "the new model"
            raise CheckpointError(f"the layouts differ: {where} has no {name}")
        first = 1 if name in _BY_LABEL else 2 if name.endswith("adjacency") else 0
        came, expected = tuple(theirs[name].shape[first:]), tuple(ours[name].shape[first:])
        if came != expected:
            raise CheckpointError(
                f"the layouts differ: {name} is {came} in the model to start from, "
                f"{expected} in the new one"
            )
