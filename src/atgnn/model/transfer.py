"""Weights from one of our models to another that has other labels."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from atgnn.errors import CheckpointError, counted

__all__ = ["TransferReport", "transfer"]


@dataclass(frozen=True)
class TransferReport:
    """What became of a model's weights."""

    copied: int
    labels_kept: int
    labels_new: int

    def __str__(self) -> str:
        """One line."""
        return (
            f"{counted(self.copied, 'tensor')} copied, "
            f"{counted(self.labels_kept, 'label keeps its', 'labels keep their')} "
            f"weights, {self.labels_new} are new"
        )


@torch.no_grad()
def transfer(source: nn.Module, model: nn.Module, rows: list[int | None]) -> TransferReport:
    """Copy `source` into `model`, in place.

    Args:
        source: a trained network; its `by_label` names the weights whose first axis counts labels.
        model: one of the same layout, whatever its labels.
        rows: for each label of `model`, its row in `source`, or None for a label that is new and
            keeps its initial weights.

    Raises:
        CheckpointError: the layouts differ; `model` is unchanged then.
    """
    if type(source) is not type(model):
        raise CheckpointError(
            f"the model to start from is of class {type(source).__name__}, the new one of class "
            f"{type(model).__name__}: choose a preset of the same kind"
        )
    theirs, ours = source.state_dict(), model.state_dict()
    by_label = cast("tuple[str, ...]", source.by_label)
    _check_layout(theirs, ours, by_label)
    kept = [(new, old) for new, old in enumerate(rows) if old is not None]
    to = torch.tensor([new for new, _ in kept], dtype=torch.long)
    of = torch.tensor([old for _, old in kept], dtype=torch.long)
    for name, value in theirs.items():
        if name in by_label:
            ours[name][to] = value[of]
        elif name.endswith("adjacency"):
            ours[name][to[:, None], to] = value[of[:, None], of]
        else:
            ours[name].copy_(value)
    return TransferReport(len(theirs), len(kept), len(rows) - len(kept))


def _check_layout(
    theirs: dict[str, Tensor], ours: dict[str, Tensor], by_label: tuple[str, ...]
) -> None:
    for name in sorted(set(theirs) | set(ours)):
        if name not in theirs or name not in ours:
            where = "the model to start from" if name not in theirs else "the new model"
            raise CheckpointError(f"the layouts differ: {where} has no {name}")
        first = 1 if name in by_label else 2 if name.endswith("adjacency") else 0
        came, expected = tuple(theirs[name].shape[first:]), tuple(ours[name].shape[first:])
        if came != expected:
            raise CheckpointError(
                f"the layouts differ: {name} is {came} in the model to start from, "
                f"{expected} in the new one"
            )
