"""A checkpoint whose probabilities and thresholds are fitted, and what they are worth.

N clips, W windows of background, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from atgnn.calibrate.background import Background
from atgnn.calibrate.line import fit_calibration, log_loss
from atgnn.calibrate.thresholds import SHRINK, Thresholds, fit_thresholds, lifted, mean_f1
from atgnn.checkpoint import Calibration, Checkpoint, Provenance
from atgnn.data.clips import Clips
from atgnn.errors import ClipsError, ConfigError, counted, some_of
from atgnn.labels import Ontology
from atgnn.metrics import one_label
from atgnn.scoring import ScoresError, ScoreTable

__all__ = ["Fit", "calibrate"]

FOLDS = 5  # of authors, to say what thresholds are worth on clips that they were not fitted to
MARGINS = np.arange(0, 12.01, 0.1)  # in logits, that thresholds are raised by besides
NOTE = "Thresholds: "  # how the card's line about them begins


@dataclass(frozen=True)
class Fit:
    """A calibrated model and what its thresholds are worth.

    Attributes:
        checkpoint: the model with calibration and thresholds.
        thresholds: None where they were not asked for.
        loss_before, loss_after: mean log loss of the scores, before and after calibration.
        f1: mean F1 of authors' folds that took no part in the choice: by 0.5, by one threshold for
            all labels, by the labels' own ones; empty where all clips are of one author.
        alarms: the same for false alarms an hour of background; empty without background.
        margin: in logits, what all thresholds were raised by so that alarms stay under the limit
            on authors who took no part, too.
        background_hours: of sound; 0 without background.
        clips: clips that it was fitted to.
        without_clips: labels that none of these clips carries; they get the common threshold.
    """

    checkpoint: Checkpoint
    thresholds: Thresholds | None
    loss_before: float
    loss_after: float
    f1: dict[str, float]
    alarms: dict[str, float]
    margin: float
    background_hours: float
    clips: int
    without_clips: tuple[str, ...]

    def summary(self) -> str:
        """The account in a few lines."""
        line = self.checkpoint.calibration or Calibration()
        lines = [
            f"{counted(self.clips, 'clip')}, log loss {self.loss_before:.4f} -> "
            f"{self.loss_after:.4f} (logits x {line.scale:.3f} {line.shift:+.3f})"
        ]
        if self.thresholds is not None:
            lines += self._about_thresholds(self.thresholds)
        if self.without_clips:
            shown = some_of(self.without_clips)
            lines.append(f"{counted(len(self.without_clips), 'label')} without a clip: {shown}")
        return "\n".join(lines)

    def _about_thresholds(self, thresholds: Thresholds) -> list[str]:
        raised = int(thresholds.raised.sum())
        lines = [
            f"threshold {thresholds.common:.3f} for all labels, {int(thresholds.own.sum())} of "
            f"{len(thresholds.values)} with a say of their own"
            + (f", {raised} raised because of false alarms" if raised else "")
            + (f", all by {self.margin:.1f} in logits" if self.margin else ""),
            "mean F1 on authors left out: "
            + (_listed(self.f1) or "unknown, all clips are of one author"),
        ]
        if self.background_hours:
            lines.append(
                f"false alarms an hour of background, authors left out: {_listed(self.alarms)}; it "
                f"lasts {60 * self.background_hours:.1f} minutes, too short to tell fewer than "
                f"{3 / self.background_hours:.2g} an hour from none"
            )
        return lines


def calibrate(
    checkpoint: Checkpoint,
    scores: ScoreTable,
    clips: Clips,
    *,
    calibration: bool = True,
    thresholds: bool = True,
    shrink: float = SHRINK,
    background: Background | None = None,
    most_alarms: float | None = None,
    as_marked: bool = False,
    seed: int = 0,
) -> Fit:
    """Fit a checkpoint's calibration and thresholds to scores of clips it did not learn from.

    `scores` are uncalibrated, of any models of this recipe, such as those of folds. A label makes
    its ontology ancestors true, unless `as_marked`. The larger `shrink`, the less labels' own
    thresholds count (infinite: one threshold for all). `background`, with uncalibrated scores too,
    has a say in thresholds, not in calibration, which needs clips as often as they occur;
    `most_alarms` an hour are allowed in it, also when thresholds are fitted to the other authors:
    as little background says little of the next, all thresholds are raised by what that takes.
    `seed` divides authors.

    Raises:
        ScoresError: clips or labels that have no scores, or scores that are calibrated already.
        ClipsError: no clip carries a label (one alone, where the model chooses one), or labels
            outside the vocabulary.
        ConfigError: neither calibration nor thresholds are asked for, or a limit of false alarms
            without background to count them in.
    """
    if not calibration and not thresholds:
        raise ConfigError("neither calibration nor thresholds are asked for: nothing to fit")
    _check_scores(scores, checkpoint)
    vocabulary = checkpoint.vocabulary
    exclusive = checkpoint.activation == "softmax"
    ontology = None if as_marked or exclusive else Ontology.audioset()
    targets = clips.targets(vocabulary, ontology)
    given = scores.aligned(clips, vocabulary.names).astype(np.float64)
    if not (targets == 1).any():
        raise ClipsError("none of the clips carries a label of the model: nothing to fit to")
    if exclusive and not one_label(targets).any():
        raise ClipsError(
            "the model chooses one label, and no clip has exactly one: nothing to fit to"
        )
    line = fit_calibration(targets, given, exclusive) if calibration else None
    after = given if line is None else line.apply(given, exclusive)
    if background is not None and line is not None:
        background = background.with_scores(line.apply(background.scores, exclusive))
    fitted, worth = None, _Worth({}, {}, 0.0)
    changes: dict[str, Any] = {"calibration": line, "thresholds": None}
    if thresholds:
        rest = (shrink, background, most_alarms)
        worth = _estimate(targets, after, clips.groups, *rest, seed)
        fitted = fit_thresholds(targets, after, clips.groups, *rest).lifted(worth.margin)
        changes["thresholds"] = tuple(fitted.values.tolist())
        changes["provenance"] = _noted(checkpoint, background, most_alarms)
    return Fit(
        checkpoint.changed(**changes),
        fitted,
        log_loss(targets, given, exclusive),
        log_loss(targets, after, exclusive),
        worth.f1,
        worth.alarms,
        worth.margin,
        0.0 if background is None else float(background.hours.sum()),
        len(clips),
        tuple(np.array(vocabulary.names)[~(targets == 1).any(axis=0)]),
    )


def _noted(checkpoint: Checkpoint, background: Background | None, most: float | None) -> Provenance:
    """The card's notes with a line on how thresholds were set, in place of an older one."""
    limit = "" if most is None else f", of which at most {most:g} an hour are allowed"
    heard = 0 if background is None else 60 * background.hours.sum()
    silence = (
        f", and false alarms in {heard:.1f} minutes of sound without any label{limit}"
        if heard
        else ""
    )
    line = (
        f"{NOTE}set by the mean F1 on clips that the scoring models had not learned from{silence}."
    )
    kept = (note for note in checkpoint.provenance.notes if not note.startswith(NOTE))
    return checkpoint.provenance.model_copy(update={"notes": (*kept, line)})


def _check_scores(scores: ScoreTable, checkpoint: Checkpoint) -> None:
    """A line through logits that went through one already would be put in the place of both."""
    if scores.calibrated:
        raise ScoresError(
            f"the scores of {scores.source or 'a model'} are calibrated already: score the clips "
            "with the model as it was trained"
        )
    if scores.activation != checkpoint.activation:
        raise ScoresError(
            f"the scores are {scores.activation} ones, the model gives {checkpoint.activation} "
            "ones: score the clips with models of the same task"
        )


class _Worth(NamedTuple):
    """Mean F1 and false alarms an hour, by the kind of thresholds; the margin of labels' own."""

    f1: dict[str, float]
    alarms: dict[str, float]
    margin: float


def _estimate(
    targets: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    shrink: float,
    background: Background | None,
    most_alarms: float | None,
    seed: int,
) -> _Worth:
    """Of clips and background by thresholds that were fitted to other authors'."""
    given = np.asarray(groups).astype(str)
    heard = np.empty(0, str) if background is None else background.authors
    names, author = np.unique(np.concatenate([given, heard]), return_inverse=True)
    if len(np.unique(given)) < 2:
        return _Worth({}, {}, 0.0)
    fold = np.random.default_rng(seed).permutation(len(names))[author] % FOLDS
    worth = _Worth({}, {}, 0.0)
    for kind, drawn in (("at 0.5", None), ("one threshold", np.inf), ("own thresholds", shrink)):
        values = np.full((len(fold), targets.shape[1]), 0.5)
        if drawn is not None:
            values = _of_others(targets, scores, given, drawn, background, most_alarms, fold=fold)
        margin = 0.0
        if background is not None and most_alarms is not None and drawn is not None:
            margin = _margin(values[len(given) :], background, most_alarms)
        values = lifted(values, margin)
        worth.f1[kind] = mean_f1(targets, scores >= values[: len(given)])
        if background is not None:
            worth.alarms[kind] = background.alarms_per_hour(values[len(given) :])
        worth = worth._replace(margin=margin)
    return worth


def _of_others(
    targets: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    shrink: float,
    background: Background | None,
    most_alarms: float | None,
    *,
    fold: np.ndarray,
) -> np.ndarray:
    """For each clip and then each window (N + W, L), thresholds fitted to the other folds.

    Where these have no positive clip, or no background, thresholds that nothing reaches.
    """
    of_clips, of_windows = fold[: len(groups)], fold[len(groups) :]
    values = np.full((len(fold), targets.shape[1]), 1.0)
    for number in range(FOLDS):
        rest = of_clips != number
        others = None if background is None else background.subset(of_windows != number)
        if not (targets[rest] == 1).any() or (others is not None and not len(others.scores)):
            continue
        fitted = fit_thresholds(
            targets[rest], scores[rest], groups[rest], shrink, others, most_alarms
        )
        values[fold == number] = fitted.values
    return values


def _margin(values: np.ndarray, background: Background, most: float) -> float:
    """The smallest margin with which thresholds (W, L) keep alarms at `most` an hour."""
    for margin in MARGINS.tolist():
        if background.alarms_per_hour(lifted(values, margin)) <= most:
            return float(margin)
    return float(MARGINS[-1])


def _listed(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
