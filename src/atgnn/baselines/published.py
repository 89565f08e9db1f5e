"""Published weights into a baseline: every tensor of the file, and of the model, accounted for."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from atgnn.baselines.base import Baseline
from atgnn.errors import CheckpointError, ConfigError
from atgnn.labels import Vocabulary
from atgnn.model.atgnn import ATGNN
from atgnn.model.weights import Fate, WeightsReport

__all__ = ["Piece", "Told", "fill", "hub_activation"]

Activation: TypeAlias = Literal["sigmoid", "softmax"]


class Told(NamedTuple):
    """What published weights say of themselves; empty where they say nothing."""

    layout: Mapping[str, Any] = {}  # fields of the network's configuration
    front_end: Mapping[str, Any] = {}  # fields of the front end's
    labels: tuple[str, ...] = ()  # names, in the order of the outputs
    activation: Activation = "sigmoid"


def hub_activation(problem: str | None, labels: Collection[str]) -> Activation:
    """Whether labels are independent, by the ``problem_type`` of a model on the Hub.

    Where it says nothing, they are if all are AudioSet's. ConfigError for a regression.
    """
    if problem == "regression":
        raise ConfigError("the model predicts numbers, not labels: choose one that classifies")
    if problem is None:
        return "sigmoid" if set(labels) <= set(Vocabulary.audioset().names) else "softmax"
    return "sigmoid" if problem == "multi_label_classification" else "softmax"


class Piece(NamedTuple):
    """A tensor made of a published one, and where it goes."""

    key: str  # in the file
    target: str  # in our model, "" for a tensor that is not used
    value: Tensor
    note: str = "as it is"  # what was done to it, or why it is not used
    fate: Literal["loaded", "converted", "resized"] = "loaded"


def fill(
    model: Baseline | ATGNN, pieces: Iterable[Piece], source: str, head: Collection[str] = ()
) -> WeightsReport:
    """Copy pieces into a model, in place; it is unchanged where they do not fit.

    What counts labels (`Baseline.by_label`) stays new where the file counts others, and so does the
    `head` (names of our weights) where the file has none.

    Raises:
        CheckpointError: a tensor is unknown, missing or misshapen.
    """
    ours = model.state_dict()
    fates: dict[str, list[Fate]] = {
        name: [] for name in ("loaded", "converted", "resized", "left_new", "dropped")
    }
    new: dict[str, Tensor] = {}
    pieces = list(pieces)
    filled = {piece.target for piece in pieces}
    bare = [n for n in ours if n not in filled and n not in model.by_label and n not in head]
    for piece in pieces:
        if not piece.target:
            fates["dropped"].append(Fate(piece.key, piece.note))
            continue
        if piece.target not in ours:
            name = type(model).__name__
            if bare:
                raise CheckpointError(
                    f"{source}: not {name}'s weights: expected something for {bare[0]}, "
                    f"got {piece.key}"
                )
            raise CheckpointError(f"{source}: {piece.key} is unknown to {name} of this layout")
        came, wanted = tuple(piece.value.shape), tuple(ours[piece.target].shape)
        if came == wanted:
            new[piece.target] = piece.value
            fates[piece.fate].append(Fate(piece.key, piece.note))
        elif piece.target in model.by_label and came[:1] and came[1:] == wanted[1:]:
            fates["dropped"].append(Fate(piece.key, f"for {came[0]} classes"))
        else:
            raise CheckpointError(
                f"{source}: {piece.key} gives {came}, this network's {piece.target} is {wanted}"
            )
    for name in [name for name in ours if name not in new]:
        if name not in model.by_label and name not in head:
            raise CheckpointError(f"{source}: nothing in this file fills {name}")
        fates["left_new"].append(Fate(name, "not in the file, or for other classes"))
    with torch.no_grad():
        for name, value in new.items():
            ours[name].copy_(value)
    return WeightsReport(source, **{name: tuple(value) for name, value in fates.items()})
