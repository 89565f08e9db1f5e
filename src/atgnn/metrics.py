"""Numbers from scores: average precision, ROC-AUC, d', accuracy, and intervals.

Symbols: N clips, L labels. `targets` are 1 (present), 0 (absent) or NaN (unknown); an unknown
cell takes no part. `scores` are any numbers that grow with confidence: logits do as well as
probabilities. The definitions are scikit-learn's (step-sum average precision, ties shared);
SPEC E9 for the means and d'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from atgnn.errors import AtgnnError

__all__ = [
    "ClassMetrics",
    "Interval",
    "Metrics",
    "accuracy",
    "average_precision",
    "cluster_interval",
    "d_prime",
    "evaluate_scores",
    "roc_auc",
]

# Labels ranked at a time: bounds the memory at a few arrays of N x this.
BLOCK = 32


@dataclass(frozen=True)
class ClassMetrics:
    """One label. `average_precision` and `auc` are NaN where they are not defined."""

    label: str
    average_precision: float
    auc: float
    positives: int
    known: int


@dataclass(frozen=True)
class Metrics:
    """A model on a set of clips.

    `mean_ap` is the mean over the labels with a positive clip, `auc` over those with a negative
    one too; `d_prime` comes from the mean AUC. `left_out` names the labels without a positive
    clip (in neither mean), `without_negatives` those that lack only a negative one (not in
    `auc`). `accuracy` is None unless every clip has exactly one label. Means over nothing are NaN.
    """

    mean_ap: float
    auc: float
    d_prime: float
    accuracy: float | None
    per_class: tuple[ClassMetrics, ...]
    left_out: tuple[str, ...]
    without_negatives: tuple[str, ...]
    clips: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN and infinity, which JSON lacks, become None."""
        return _jsonable(asdict(self))


@dataclass(frozen=True)
class Interval:
    """A mean and the interval in which it falls with probability `confidence`."""

    mean: float
    low: float
    high: float
    confidence: float
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN becomes None."""
        return _jsonable(asdict(self))


def evaluate_scores(
    targets: ArrayLike, scores: ArrayLike, names: Sequence[str], single_label: bool = False
) -> Metrics:
    """All metrics of `scores` (N, L) against `targets` (N, L) for the labels `names`.

    Raises `AtgnnError` for shapes that do not fit, NaN scores, targets other than 0, 1 and NaN,
    no clips, or, with `single_label`, a clip that has not exactly one label.
    """
    truth, given = _checked(targets, scores)
    if truth.ndim != 2 or truth.shape[1] != len(names):
        raise AtgnnError(
            f"targets have shape {truth.shape}, expected (clips, {len(names)}): one column per name"
        )
    ap, auc = _ranked(truth, given)
    positives, known = (truth == 1).sum(axis=0), (~np.isnan(truth)).sum(axis=0)
    per_class = tuple(
        ClassMetrics(str(name), float(ap[i]), float(auc[i]), int(positives[i]), int(known[i]))
        for i, name in enumerate(names)
    )
    mean_auc = _mean(auc)
    return Metrics(
        mean_ap=_mean(ap),
        auc=mean_auc,
        d_prime=d_prime(mean_auc),
        accuracy=accuracy(truth, given) if single_label else None,
        per_class=per_class,
        left_out=tuple(one.label for one in per_class if not one.positives),
        without_negatives=tuple(
            one.label for one in per_class if one.positives and one.positives == one.known
        ),
        clips=len(truth),
    )


def average_precision(targets: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Average precision per label, (L,); scalar array for (N,) input. NaN without a positive.

    The sum over thresholds of precision times the step in recall, without interpolation; clips
    with equal scores pass a threshold together.
    """
    return _per_label(targets, scores)[0]


def roc_auc(targets: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Area under the ROC curve per label, (L,); scalar array for (N,) input.

    The share of (positive, negative) pairs in the right order, ties counting one half. NaN
    without a positive or without a negative.
    """
    return _per_label(targets, scores)[1]


def d_prime(auc: float) -> float:
    """d' = sqrt(2) * inverse normal CDF of a (mean) AUC; infinite at 0 and 1, NaN for NaN."""
    if math.isnan(auc):
        return math.nan
    if not 0 <= auc <= 1:
        raise AtgnnError(f"an AUC lies between 0 and 1, got {auc}")
    if auc in (0, 1):
        return math.inf if auc else -math.inf
    return math.sqrt(2) * NormalDist().inv_cdf(auc)


def accuracy(targets: ArrayLike, scores: ArrayLike) -> float:
    """Share of clips whose highest score is at their one label; ties go to the lower index.

    Raises `AtgnnError` unless every clip of `targets` (N, L) has exactly one label and no
    unknown cell.
    """
    truth, given = _checked(targets, scores)
    if truth.ndim != 2:
        raise AtgnnError(f"accuracy needs targets of shape (clips, labels), got {truth.shape}")
    odd = np.flatnonzero(np.isnan(truth).any(axis=1) | (np.nansum(truth, axis=1) != 1))
    if len(odd):
        raise AtgnnError(
            f"accuracy needs exactly one label per clip and no unknown ones: {len(odd)} of "
            f"{len(truth)} clips differ, the first is number {odd[0]}; evaluate as multi-label"
        )
    return float((truth.argmax(axis=1) == given.argmax(axis=1)).mean())


def cluster_interval(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Bootstrap interval of the mean of `values` (N,), resampling whole `groups` (N,).

    Clips of one author resemble each other, so an interval from resampling clips is too narrow:
    authors are drawn with replacement, each with all of its clips, and the percentiles of the
    resampled means are returned. `generator` decides the draws: the same one, the same result.
    """
    numbers, owners = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if numbers.ndim != 1 or not numbers.size or owners.shape != numbers.shape:
        raise AtgnnError(
            f"expected as many groups as values and at least one, got {owners.shape} and "
            f"{numbers.shape}"
        )
    if not np.isfinite(numbers).all():
        raise AtgnnError("an interval needs finite values: leave out or fix NaN and infinity")
    if not 0 < confidence < 1 or resamples < 1:
        raise AtgnnError(f"confidence {confidence} must be in (0, 1), resamples {resamples} >= 1")
    _, group_of = np.unique(owners.astype(str), return_inverse=True)
    sizes = np.bincount(group_of)
    sums = np.bincount(group_of, weights=numbers)
    count = len(sizes)
    means = []
    for done in range(0, resamples, 1000):
        draws = min(1000, resamples - done)
        times = generator.multinomial(count, np.full(count, 1 / count), size=draws)
        means.append((times @ sums) / (times @ sizes))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(numbers.mean()), float(low), float(high), confidence, count)


def _checked(targets: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays of one shape, or one clear error."""
    truth, given = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth.shape != given.shape:
        raise AtgnnError(f"targets {truth.shape} and scores {given.shape} differ in shape")
    if truth.ndim not in (1, 2) or not truth.size:
        raise AtgnnError(f"expected scores of at least one clip and label, got {given.shape}")
    bad = int(np.isnan(given).sum())
    if bad:
        raise AtgnnError(
            f"{bad} of {given.size} scores are NaN: the model diverged or an input was bad"
        )
    if not (np.isnan(truth) | (truth == 0) | (truth == 1)).all():
        raise AtgnnError("targets must be 1 (present), 0 (absent) or NaN (unknown)")
    return truth, given


def _per_label(targets: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    truth, given = _checked(targets, scores)
    if truth.ndim == 2:
        return _ranked(truth, given)
    ap, auc = _ranked(truth[:, None], given[:, None])
    return ap[0], auc[0]


def _ranked(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and AUC, each (L,), of checked (N, L) arrays."""
    parts = [
        _ranked_block(targets[:, first : first + BLOCK], scores[:, first : first + BLOCK])
        for first in range(0, targets.shape[1], BLOCK)
    ]
    ap, auc = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ap, auc


def _ranked_block(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One pass down the ranking of every label; unknown clips rank along but weigh nothing."""
    # (L, N), so that sorting and summing run over contiguous memory
    order = np.argsort(-scores.T, axis=1)
    score = np.take_along_axis(scores.T, order, axis=1)
    target = np.take_along_axis(targets.T, order, axis=1)
    positive, negative = target == 1, target == 0
    hits = np.cumsum(positive, axis=1)
    alarms = np.cumsum(negative, axis=1)

    # Clips of equal score form a run; all of them see the counts at its two ends.
    number = score.shape[1]
    place = np.arange(number)
    changes = score[:, 1:] != score[:, :-1]
    edge = np.ones((len(score), 1), dtype=bool)
    last = np.where(np.hstack([changes, edge]), place, number)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    hits_through = np.take_along_axis(hits, last, axis=1)
    alarms_through = np.take_along_axis(alarms, last, axis=1)
    first = np.maximum.accumulate(np.where(np.hstack([edge, changes]), place, 0), axis=1)
    alarms_before = np.take_along_axis(alarms - negative, first, axis=1)

    positives, negatives = hits[:, -1], alarms[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = hits_through / (hits_through + alarms_through)
        ap = np.where(positive, precision, 0).sum(axis=1) / positives
        # twice the number of negatives below a positive, ties counting one half
        below = 2 * negatives[:, None] - alarms_before - alarms_through
        auc = np.where(positive, below, 0).sum(axis=1) / (2 * positives * negatives)
    return ap, auc


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined; NaN when nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _jsonable(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
