"""Probabilities that mean what they say, and from which score on a label counts as present.

Both are fitted to scores of clips that the scoring model did not learn from: those of a data set's
folds, each scored by the model of the others. Calibration is one straight line through the logits
of all labels (Platt), for models that choose one label a temperature. The threshold is the one for
all labels that gives the best mean F1; a label known from enough authors gets one between its own
best and that.

N clips, L labels, G candidate thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atgnn.checkpoint import Calibration, Checkpoint
from atgnn.data.clips import Clips
from atgnn.errors import ClipsError, ConfigError, some_of
from atgnn.labels import Ontology
from atgnn.scoring import ScoresError, ScoreTable

__all__ = ["Fit", "Thresholds", "calibrate", "fit_calibration", "fit_thresholds", "mean_f1"]

ENOUGH_AUTHORS = 10  # with a positive clip, for a threshold of a label's own
SHRINK = 20.0  # authors that the common threshold weighs as much as
FOLDS = 5  # of authors, to say what thresholds are worth on clips that they were not fitted to

#: Candidate thresholds (G,): evenly spaced in logits.
CANDIDATES = 1 / (1 + np.exp(-np.arange(-8, 8.01, 0.1)))


@dataclass(frozen=True)
class Thresholds:
    """From which score on each label is present.

    Attributes:
        values: float64 (L,).
        common: the one for all labels.
        own: bool (L,), labels whose own best threshold had a say.
    """

    values: np.ndarray
    common: float
    own: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A calibrated model and what its thresholds are worth.

    Attributes:
        checkpoint: the model with calibration and thresholds.
        thresholds: None where they were not asked for.
        loss_before, loss_after: mean log loss of the scores, before and after calibration.
        f1: mean F1 of authors' folds that took no part in the choice: by 0.5, by the common
            threshold, by the labels' own ones; empty where all clips are of one author.
        clips: clips that it was fitted to.
        without_clips: labels that none of these clips carries; they get the common threshold.
    """

    checkpoint: Checkpoint
    thresholds: Thresholds | None
    loss_before: float
    loss_after: float
    f1: dict[str, float]
    clips: int
    without_clips: tuple[str, ...]

    def summary(self) -> str:
        """The account in a few lines."""
        line = self.checkpoint.calibration or Calibration()
        lines = [
            f"{self.clips} clips, log loss {self.loss_before:.4f} -> {self.loss_after:.4f} "
            f"(logits x {line.scale:.3f} {line.shift:+.3f})"
        ]
        if self.thresholds is not None:
            own = int(self.thresholds.own.sum())
            lines.append(
                f"threshold {self.thresholds.common:.3f} for all labels, {own} of "
                f"{len(self.thresholds.values)} with a say of their own"
            )
            shown = ", ".join(f"{name} {value:.3f}" for name, value in self.f1.items())
            shown = shown or "unknown, all clips are of one author"
            lines.append(f"mean F1 on authors left out: {shown}")
        if self.without_clips:
            shown = some_of(self.without_clips)
            lines.append(f"{len(self.without_clips)} labels without a clip: {shown}")
        return "\n".join(lines)


def calibrate(
    checkpoint: Checkpoint,
    scores: ScoreTable,
    clips: Clips,
    *,
    calibration: bool = True,
    thresholds: bool = True,
    shrink: float = SHRINK,
    as_marked: bool = False,
    seed: int = 0,
) -> Fit:
    """Fit a checkpoint's calibration and thresholds to scores of clips it did not learn from.

    `scores` are uncalibrated, of any models of this recipe, such as those of folds. A label makes
    its ontology ancestors true, unless `as_marked`. The larger `shrink`, the less labels' own
    thresholds count (infinite: one threshold for all). `seed` divides authors for the estimate.

    Raises:
        ScoresError: clips or labels that have no scores, or scores that are calibrated already.
        ClipsError: no clip carries a label, or labels outside the vocabulary.
        ConfigError: neither calibration nor thresholds are asked for.
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
    line = fit_calibration(targets, given, exclusive) if calibration else None
    after = given if line is None else line.apply(given, exclusive)
    fitted, f1 = None, {}
    if thresholds:
        fitted = fit_thresholds(targets, after, clips.groups, shrink)
        f1 = _estimate(targets, after, clips.groups, shrink, seed)
    return Fit(
        checkpoint.changed(
            calibration=line,
            thresholds=None if fitted is None else tuple(fitted.values.tolist()),
        ),
        fitted,
        _log_loss(targets, given, exclusive),
        _log_loss(targets, after, exclusive),
        f1,
        len(clips),
        tuple(np.array(vocabulary.names)[~(targets == 1).any(axis=0)]),
    )


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


# ---------------------------------------------------------------------- calibration


def fit_calibration(targets: np.ndarray, scores: np.ndarray, exclusive: bool) -> Calibration:
    """The line through the logits of scores (N, L) that fits targets (N, L) best.

    Unknown (NaN) cells take no part; with `exclusive`, clips with one do not.
    """
    if exclusive:
        return Calibration(scale=_fit_temperature(targets, scores))
    known = ~np.isnan(targets)
    truth, logits = targets[known] == 1, _logits(scores[known])
    # Platt's targets: as if one more clip of each kind had been seen; so the fit is always finite.
    positives, negatives = int(truth.sum()), int((~truth).sum())
    wanted = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    scale, shift = _fit_line(logits, wanted)
    return Calibration(scale=scale, shift=shift)


def _fit_line(logits: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Logistic regression on one variable, by Newton's method with halved steps."""
    inputs = np.stack([logits, np.ones_like(logits)])
    line = np.array([1.0, 0.0])

    def loss(line: np.ndarray) -> float:
        outputs = line @ inputs
        return float(np.mean(np.logaddexp(0, outputs) - wanted * outputs))

    for _ in range(50):
        given = 1 / (1 + np.exp(-(line @ inputs)))
        slope = inputs @ (given - wanted) / len(logits)
        curve = (inputs * (given * (1 - given))) @ inputs.T / len(logits)
        step = np.linalg.solve(curve + 1e-12 * np.eye(2), slope)
        now = loss(line)
        while loss(line - step) > now and np.abs(step).max() > 1e-9:
            step = step / 2
        line = line - step
        if np.abs(step).max() < 1e-8:
            break
    return max(float(line[0]), 1e-3), float(line[1])  # a model worse than chance stays in order


def _fit_temperature(targets: np.ndarray, scores: np.ndarray) -> float:
    """The factor of log probabilities with the least cross-entropy, by golden sections."""
    known = ~np.isnan(targets).any(axis=1)
    logs, rows = np.log(np.maximum(scores[known], 1e-30)), np.arange(int(known.sum()))
    right = targets[known].argmax(axis=1)

    def loss(power: float) -> float:
        scaled = logs * np.exp(power)
        largest = scaled.max(axis=1)
        total = largest + np.log(np.exp(scaled - largest[:, None]).sum(axis=1))
        return float(np.mean(total - scaled[rows, right]))

    low, high, ratio = -3.0, 3.0, (5**0.5 - 1) / 2
    while high - low > 1e-6:
        left, more = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, more) if loss(left) < loss(more) else (left, high)
    return float(np.exp((low + high) / 2))


def _logits(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(scores, 1e-7, 1 - 1e-7)
    out: np.ndarray = np.log(inside) - np.log1p(-inside)
    return out


def _log_loss(targets: np.ndarray, scores: np.ndarray, exclusive: bool) -> float:
    inside = np.clip(scores, 1e-7, 1 - 1e-7)
    if exclusive:
        known = ~np.isnan(targets).any(axis=1)
        return float(-np.log(inside[known][targets[known] == 1]).mean())
    known = ~np.isnan(targets)
    cells = np.where(targets == 1, np.log(inside), np.log1p(-inside))
    return float(-cells[known].mean())


# ---------------------------------------------------------------------- thresholds


def fit_thresholds(
    targets: np.ndarray, scores: np.ndarray, groups: Sequence[str] | np.ndarray, shrink: float
) -> Thresholds:
    """Thresholds from targets and scores (N, L) of clips whose authors are `groups` (N,).

    The common one has the best mean F1 over labels. A label whose positive clips come from n
    authors, 10 or more, gets (n own + shrink common) / (n + shrink), in logits.
    """
    hits, alarms, misses = _counts(targets, scores)
    f1 = _f1(hits, alarms, misses)
    has_clips = (targets == 1).any(axis=0)
    common = _best(f1[has_clips].mean(axis=0))
    _, author = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    authors = np.array([len(np.unique(author[column == 1])) for column in targets.T])
    own = (authors >= ENOUGH_AUTHORS) & np.isfinite(shrink)
    values = np.full(targets.shape[1], common)
    for label in np.flatnonzero(own):
        weight = authors[label] / (authors[label] + shrink)
        best = _logits(np.array([_best(f1[label]), common]))
        values[label] = 1 / (1 + np.exp(-(weight * best[0] + (1 - weight) * best[1])))
    return Thresholds(values, common, own)


def mean_f1(targets: np.ndarray, present: np.ndarray) -> float:
    """Mean F1 over the labels with a positive clip, of decisions (N, L); NaN without any."""
    hits = ((targets == 1) & present).sum(axis=0)
    alarms = ((targets == 0) & present).sum(axis=0)
    misses = ((targets == 1) & ~present).sum(axis=0)
    has_clips = hits + misses > 0
    if not has_clips.any():
        return float("nan")
    return float(_f1(hits, alarms, misses)[has_clips].mean())


def _counts(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """Hits, false alarms and misses of every label at every candidate, (L, G) each."""
    hits, alarms, misses = [], [], []
    for target, score in zip(targets.T, scores.T, strict=True):
        positive, negative = np.sort(score[target == 1]), np.sort(score[target == 0])
        below = np.searchsorted(positive, CANDIDATES)  # scores that do not reach it
        misses.append(below)
        hits.append(len(positive) - below)
        alarms.append(len(negative) - np.searchsorted(negative, CANDIDATES))
    return np.array(hits), np.array(alarms), np.array(misses)


def _f1(hits: np.ndarray, alarms: np.ndarray, misses: np.ndarray) -> np.ndarray:
    return 2 * hits / np.maximum(2 * hits + alarms + misses, 1)


def _best(values: np.ndarray) -> float:
    """The candidate with the highest value (G,); the middle one of several."""
    highest = np.flatnonzero(values >= values.max() - 1e-12)
    return float(CANDIDATES[highest[len(highest) // 2]])


def _estimate(
    targets: np.ndarray, scores: np.ndarray, groups: np.ndarray, shrink: float, seed: int
) -> dict[str, float]:
    """Mean F1 where each fold of authors is decided by thresholds of the others; {} for one."""
    names, author = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if len(names) < 2:
        return {}
    fold = np.random.default_rng(seed).permutation(len(names))[author] % FOLDS
    common, own = np.zeros(targets.shape, bool), np.zeros(targets.shape, bool)
    for number in range(FOLDS):
        rest, held = fold != number, fold == number
        if not (targets[rest] == 1).any() or not held.any():
            continue
        fitted = fit_thresholds(targets[rest], scores[rest], np.asarray(groups)[rest], shrink)
        common[held] = scores[held] >= fitted.common
        own[held] = scores[held] >= fitted.values
    return {
        "at 0.5": mean_f1(targets, scores >= 0.5),
        "one threshold": mean_f1(targets, common),
        "own thresholds": mean_f1(targets, own),
    }
