"""Label packs: new labels for one model, learned by somebody, in a file of kilobytes.

A pack is one safetensors file. Its tensors are the rows of `atgnn.model.beside.NewLabels`; its
metadata, JSON under the key ``atgnn_pack``, say for which model it was made (a digest of weights,
layout and front end), what each label is called, from which score on it counts as present, and
from which clips it was learned, as content digests and file names. It holds no sound.
"""

import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atgnn import __version__
from atgnn.checkpoint import Checkpoint
from atgnn.errors import (
    CheckpointError,
    ConfigError,
    LabelError,
    counted,
    describe_error,
    printable,
    some_of,
)
from atgnn.files import new_file
from atgnn.labels import Label, Vocabulary
from atgnn.model import ATGNN
from atgnn.model.beside import LabelsBeside, NewLabels
from atgnn.model.digest import weights_digest
from atgnn.networks import Network

__all__ = [
    "KEY",
    "LabelPack",
    "Lesson",
    "PackedLabel",
    "Review",
    "base_of",
    "model_digest",
    "with_packs",
]

KEY = "atgnn_pack"
MOST_BYTES = 64 << 20  # a pack is kilobytes: what is larger is no pack


class Lesson(BaseModel):
    """A clip that a label was learned from: content digest, file name, and what it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    name: str
    positive: bool


class Review(BaseModel):
    """A refit after people accepted and rejected segments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: str
    who: tuple[str, ...]
    accepted: int
    rejected: int


class PackedLabel(BaseModel):
    """What a pack says of one label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Label
    threshold: float = Field(0.5, ge=0, le=1)
    lessons: tuple[Lesson, ...] = ()
    separation: float | None = Field(
        None, description="area under the ROC curve of clips that were left out, one at a time"
    )
    negatives: Literal["given", "made by rule"] = "given"
    learned: str = Field("", description="when, ISO 8601")
    reviews: tuple[Review, ...] = ()

    def __str__(self) -> str:
        """One line."""
        positive = sum(lesson.positive for lesson in self.lessons)
        negative = len(self.lessons) - positive
        parts = [
            f"{printable(self.label.name)}: counts as present from {self.threshold:.2f}",
            f"learned from {counted(positive, 'clip')} and "
            + (f"{negative} without it" if negative else "sounds made by rule"),
        ]
        if self.separation is not None:
            parts.append(f"clips left out one at a time: AUC {self.separation:.2f}")
        elif positive == 1:
            parts.append("the threshold is a guess: one clip cannot be left out")
        if self.reviews:
            last = self.reviews[-1]
            parts.append(f"reviewed: {last.accepted} accepted, {last.rejected} rejected")
        return "; ".join(parts)


class _Description(BaseModel):
    """The JSON in a pack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["atgnn label pack"] = "atgnn label pack"
    format_version: Literal[1] = 1
    model: str = Field(min_length=32, max_length=32)
    model_labels: int
    labels: tuple[PackedLabel, ...] = Field(min_length=1)
    atgnn_version: str = __version__

    @model_validator(mode="after")
    def _distinct(self) -> "_Description":
        names = [one.label.name for one in self.labels]
        if len(set(names)) < len(names):
            raise ValueError("a label is listed twice")
        return self


class LabelPack:
    """New labels of one model.

    Attributes:
        model: digest of the model that they were learned for.
        model_labels: number of that model's own labels.
        labels: name, threshold, lessons and reviews of each.
        weights: tensors by name, a row for each label (see `NewLabels`).
    """

    def __init__(
        self,
        model: str,
        model_labels: int,
        labels: Sequence[PackedLabel],
        weights: dict[str, Tensor],
    ) -> None:
        try:
            self._description = _Description(
                model=model, model_labels=model_labels, labels=tuple(labels)
            )
        except ValidationError as error:
            raise CheckpointError(f"label pack: {describe_error(error)}") from None
        self.model, self.model_labels = model, model_labels
        self.labels, self.weights = tuple(labels), weights
        for name, value in weights.items():
            if value.ndim == 0 or len(value) != len(labels):
                raise CheckpointError(f"label pack: {name} has not a row for each label")

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names."""
        return tuple(one.label.name for one in self.labels)

    def index(self, name: str) -> int:
        """The place of a label; `LabelError` where the pack has no such label."""
        if name not in self.names:
            raise LabelError(f"the pack has no label {name!r}: it has {some_of(self.names)}")
        return self.names.index(name)

    def digest(self) -> str:
        """32 hex digits that change with any weight or name: the version of the pack."""
        state = blake2b(" ".join(self.names).encode(), digest_size=16)
        for name, value in sorted(self.weights.items()):
            state.update(f"{name} {tuple(value.shape)}\n".encode())
            state.update(value.detach().float().contiguous().numpy().tobytes())
        return state.hexdigest()

    # ------------------------------------------------------------------ file

    def write(self, path: str | os.PathLike[str], force: bool = False) -> Path:
        """Write the file, whole or not at all; one that is there is kept unless `force`."""
        text = self._description.model_dump_json()
        weights = {
            name: value.detach().float().contiguous() for name, value in self.weights.items()
        }
        with new_file(path, force) as scratch:
            scratch.write_bytes(save(weights, metadata={KEY: text}))
        return Path(path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "LabelPack":
        """Read a file that `write` wrote; `CheckpointError` where it is no whole pack."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file: give a label pack of `atgnn learn`")
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{path} is no label pack: it is larger than one can be")
        try:
            with safe_open(path, "pt") as file:
                text = (file.metadata() or {}).get(KEY)
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or no label pack: {error}") from None
        if text is None:
            raise CheckpointError(f"{path} is no label pack: its metadata have no {KEY}")
        return cls._checked(path, text, weights)

    @classmethod
    def _checked(cls, path: Path, text: str, weights: dict[str, Tensor]) -> "LabelPack":
        try:
            about = _Description.model_validate_json(text)
        except ValidationError as error:
            raise CheckpointError(f"{path}: {describe_error(error)}") from None
        for name, value in weights.items():
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"{path} is damaged: {name} holds what is no number")
        try:
            return cls(about.model, about.model_labels, about.labels, weights)
        except CheckpointError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None

    # ------------------------------------------------------------------ together

    @classmethod
    def merged(cls, packs: Sequence["LabelPack"]) -> "LabelPack":
        """The labels of several packs of one model in one, in the order given.

        Raises:
            CheckpointError: they were made for different models.
            LabelError: two of them have a label of one name.
        """
        first = packs[0]
        for pack in packs[1:]:
            if pack.model != first.model:
                raise CheckpointError(
                    f"the packs of {some_of(first.names)} and of {some_of(pack.names)} were made "
                    "for different models: packs of one model go together"
                )
        names = [name for pack in packs for name in pack.names]
        _refuse_twice(names, ())
        if any(pack._rows() != first._rows() for pack in packs):
            raise CheckpointError("the packs hold different tensors: one of them is damaged")
        weights = {
            name: torch.cat([pack.weights[name] for pack in packs]) for name in first.weights
        }
        labels = [one for pack in packs for one in pack.labels]
        return cls(first.model, first.model_labels, labels, weights)

    def _rows(self) -> dict[str, tuple[int, ...]]:
        """The shape of a label's row in each tensor."""
        return {name: tuple(value.shape[1:]) for name, value in self.weights.items()}

    def replacing(self, name: str, other: "LabelPack") -> "LabelPack":
        """The same pack with one label as `other` has it."""
        place, theirs = self.index(name), other.index(name)
        labels = list(self.labels)
        labels[place] = other.labels[theirs]
        weights = {key: value.clone() for key, value in self.weights.items()}
        for key, value in weights.items():
            value[place] = other.weights[key][theirs]
        return LabelPack(self.model, self.model_labels, labels, weights)

    def new_labels(self, checkpoint: Checkpoint) -> NewLabels:
        """The weights as a module for a model; `CheckpointError` where it is another model's."""
        network = base_of(checkpoint.model)
        if model_digest(checkpoint) != self.model:
            raise CheckpointError(
                f"the pack of {some_of(self.names)} was made for another model "
                f"({self.model[:12]}; this one is {model_digest(checkpoint)[:12]}): use it with "
                "the model that it was learned with, or learn its labels anew"
            )
        try:
            return NewLabels.of(network.config, self.weights)
        except ValueError as error:
            raise CheckpointError(f"the pack of {some_of(self.names)}: {error}") from None

    def beside(self, checkpoint: Checkpoint) -> Checkpoint:
        """A checkpoint whose model has these labels after its own.

        Raises:
            CheckpointError: the pack was made for another model.
            ConfigError: the model's labels exclude one another.
            LabelError: the model has a label of one name already.
        """
        network = base_of(checkpoint.model)
        if checkpoint.activation == "softmax":
            raise ConfigError(
                "this model gives exactly one label to each sound, so that a further one would "
                "change the others' scores: take packs with a model of independent labels"
            )
        new = self.new_labels(checkpoint)
        _refuse_twice(self.names, checkpoint.vocabulary.names)
        _undo_calibration(new, checkpoint)
        model = LabelsBeside(network, new)
        labels = [*checkpoint.vocabulary, *(one.label for one in self.labels)]
        limits = checkpoint.thresholds
        if limits is not None:
            limits = (*limits, *(one.threshold for one in self.labels))
        return checkpoint.changed(
            model=model.eval(), vocabulary=Vocabulary(labels), thresholds=limits
        )


def with_packs(
    checkpoint: Checkpoint, packs: Iterable["LabelPack | str | os.PathLike[str]"]
) -> Checkpoint:
    """A checkpoint with the labels of packs after its own; errors as `LabelPack.beside`."""
    read = [pack if isinstance(pack, LabelPack) else LabelPack.read(pack) for pack in packs]
    if not read:
        return checkpoint
    for pack in read:  # so that the error names the pack that is another model's
        pack.new_labels(checkpoint)
    return LabelPack.merged(read).beside(checkpoint)


def _refuse_twice(names: Sequence[str], known: Iterable[str]) -> None:
    seen = set(known)
    for name in names:
        if name in seen:
            where = "the model" if name in set(known) else "another pack"
            raise LabelError(f"the label {name!r} is in {where} already: learn it by another name")
        seen.add(name)


def _undo_calibration(new: NewLabels, checkpoint: Checkpoint) -> None:
    """New labels are calibrated by themselves: what the model's line does to them is undone."""
    line = checkpoint.calibration
    if line is None:
        return
    for name in ("readout", "head", "summary", "bias"):
        getattr(new, name).div_(line.scale)
    new.bias.sub_(line.shift / line.scale)


def base_of(network: Network) -> ATGNN:
    """The network that new labels go beside; `ConfigError` where it is none of ours."""
    if isinstance(network, LabelsBeside):
        return network.network
    if not isinstance(network, ATGNN):
        raise ConfigError(f"{type(network).__name__} has no label nodes: new labels need an ATGNN")
    return network


def model_digest(checkpoint: Checkpoint) -> str:
    """A digest of all that a new label builds on: weights, layout and front end."""
    network = base_of(checkpoint.model)
    return weights_digest(network, network.config, checkpoint.front_end)
