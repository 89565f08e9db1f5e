"""Learning from another model's scores as well as from the labels.

    loss = (1 - weight) loss(labels) + weight T^2 loss(teacher, T)

The teacher's loss compares both at temperature T: binary cross-entropy over every cell for
independent labels, those that are unknown in the labels too, but for labels that the teacher's
scores lack (``distill.partial``); Kullback-Leibler divergence where one
of the labels is true. T^2 keeps its gradients of the same size whatever T (Hinton, Vinyals, Dean:
"Distilling the Knowledge in a Neural Network", 2015).

The teacher's probabilities come from a score file, mixed as the clips are mixed, or from models
that listen along: they hear the same augmented, mixed waveform, each through its own front end.

B clips, S samples, L labels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atgnn.checkpoint import Checkpoint
from atgnn.errors import ConfigError, LabelError, counted, did_you_mean
from atgnn.frontend import FrontEnd
from atgnn.networks import for_inference
from atgnn.scoring import ScoreTable
from atgnn.training.division import Division
from atgnn.training.loading import Batch, ClipDataset
from atgnn.training.recipe import Recipe
from atgnn.training.start import ancestors

__all__ = ["Distillation", "Teacher", "make_distillation", "teacher_loss"]

LEAST = 1e-6  # a probability's distance from 0 and 1: its logit is at most 13.8

_ACTIVATIONS = {"multi_label": "sigmoid", "single_label": "softmax"}


class Teacher:
    """A checkpoint that says what it hears in waveforms, for a student's labels."""

    def __init__(self, checkpoint: Checkpoint, name: str, labels: Sequence[str]) -> None:
        known = {label: row for row, label in enumerate(checkpoint.vocabulary.names)}
        missing = [label for label in labels if label not in known]
        if missing:
            raise LabelError(
                f"the teacher {name} lacks {len(missing)} of {counted(len(labels), 'label')}, the "
                "first is "
                f"{missing[0]!r}{did_you_mean(missing[0], known)}: choose one that knows them all"
            )
        self.name, self.rate = name, checkpoint.front_end.sample_rate
        self.activation = checkpoint.activation
        self.lineage = ancestors("Taught by", name, checkpoint.provenance)
        self._columns = torch.tensor([known[label] for label in labels])
        self._network = for_inference(checkpoint.model)
        self._front_end = FrontEnd(checkpoint.front_end)

    @torch.no_grad()
    def hear(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """Probabilities ``(B, L)`` of waveforms ``(B, S)``, valid up to `lengths` ``(B,)``."""
        network, front_end = self._network.to(wave.device), self._front_end.to(wave.device)
        mel, frames = front_end(wave, lengths)
        logits = network(mel, None if lengths is None else frames).float()
        logits = logits[:, self._columns.to(logits.device)]
        return logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()


class Distillation:
    """What a run learns beside the labels: from a score file or from teachers."""

    def __init__(
        self,
        recipe: Recipe,
        scores: np.ndarray | None,
        teachers: Sequence[Teacher],
        lineage: tuple[str, ...],
    ) -> None:
        self.settings, self.task = recipe.distill, recipe.task
        self.scores, self.teachers, self.lineage = scores, tuple(teachers), lineage

    def prepare(self, dataset: ClipDataset) -> None:
        """Put the score file's columns beside the training targets: what is mixed is mixed alike.

        ``(N, L)`` become ``(N, 2 L)``; nothing changes where teachers listen along.
        """
        if self.scores is not None:
            dataset.targets = np.concatenate([dataset.targets, self.scores], axis=1)

    def blend(self, loss: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """The labels' loss and the teacher's, as the recipe weighs them."""
        weight, labels = self.settings.weight, logits.shape[1]
        taught = self._hear(batch) if self.teachers else batch.targets[:, labels:]
        by_teacher = teacher_loss(logits, taught, self.task, self.settings.temperature)
        return (1 - weight) * loss + weight * by_teacher

    def _hear(self, batch: Batch) -> Tensor:
        """The mean of what the teachers say."""
        wave, lengths = batch.wave(), None if batch.equal else batch.lengths
        return torch.stack([teacher.hear(wave, lengths) for teacher in self.teachers]).mean(0)


def make_distillation(recipe: Recipe, division: Division) -> Distillation | None:
    """What a recipe's `distill` asks for; None where it names no teacher.

    Raises:
        ScoresError: the score file is damaged, or lacks clips or labels.
        LabelError: a teacher does not know the labels.
        ConfigError: a teacher hears or answers in another way than the run.
    """
    settings, names = recipe.distill, division.vocabulary.names
    if settings.scores is not None:
        table = ScoreTable.read(settings.scores)
        _check_activation(recipe, settings.scores, table.activation)
        line = f"Taught by the scores of {table.source or Path(settings.scores).name}."
        scores = table.aligned(division.train, names, partial=_partial(recipe))
        return Distillation(recipe, scores, (), (line,))
    if not settings.teacher:
        return None
    teachers = [Teacher(Checkpoint.from_pretrained(one), one, names) for one in settings.teacher]
    rate = recipe.front_end_config().sample_rate
    for teacher in teachers:
        _check_activation(recipe, teacher.name, teacher.activation)
        if teacher.rate != rate:
            raise ConfigError(
                f"the teacher {teacher.name} hears {teacher.rate} Hz, the run {rate} Hz: score the "
                "clips with it and set distill.scores"
            )
    lineage = tuple(dict.fromkeys(line for teacher in teachers for line in teacher.lineage))
    return Distillation(recipe, None, teachers, lineage)


def _partial(recipe: Recipe) -> bool:
    """Whether scores may lack labels; ConfigError where that cannot be."""
    if recipe.distill.partial and recipe.task == "single_label":
        raise ConfigError(
            "distill.partial is for labels that are independent: where one of them is true, its "
            "probability says something of all the others"
        )
    return recipe.distill.partial


def _check_activation(recipe: Recipe, name: str, activation: str) -> None:
    expected = _ACTIVATIONS[recipe.task]
    if activation != expected:
        raise ConfigError(
            f"the teacher {name} gives {activation} scores, task {recipe.task} learns from "
            f"{expected} ones: choose a teacher that was trained for the same task"
        )


def teacher_loss(logits: Tensor, taught: Tensor, task: str, temperature: float = 1.0) -> Tensor:
    """T^2 times the distance of the student's logits ``(B, L)`` from probabilities ``(B, L)``.

    ``multi_label``: mean binary cross-entropy over the cells that the teacher has an opinion of,
    NaN being none. ``single_label``: mean divergence KL(teacher,
    student); the teacher's probabilities, of some of its labels perhaps, are made to sum to 1.
    """
    student = logits.float() / temperature
    sure = taught.float().clamp(LEAST, 1 - LEAST)
    if task == "single_label":
        soft = (sure.log() / temperature).softmax(1)
        loss = functional.kl_div(student.log_softmax(1), soft, reduction="batchmean")
    else:
        known = ~sure.isnan()
        soft = (sure.nan_to_num(0.5).logit() / temperature).sigmoid()
        cells = functional.binary_cross_entropy_with_logits(student, soft, reduction="none")
        loss = (cells * known).sum() / known.sum().clamp(min=1)
    return temperature**2 * loss
