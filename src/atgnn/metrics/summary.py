"""All metrics of a model on a set of clips, and what they become when authors are drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from atgnn.errors import AtgnnError
from atgnn.metrics.ranking import (
    Ranking,
    checked,
    d_prime,
    hits,
    plain_ranking,
    ranked_precision,
)
from atgnn.metrics.resampling import (
    Interval,
    Owners,
    Scale,
    check_resampling,
    jsonable,
    pivotal,
    ratio,
)

__all__ = ["ENOUGH", "ClassMetrics", "Metrics", "Resampled", "evaluate_scores", "resample"]

#: A label's average precision is shown from so many independent positives on.
ENOUGH = 10


@dataclass(frozen=True)
class ClassMetrics:
    """One label. `average_precision` and `auc` are NaN where they are not defined.

    `independent` positives share no author (or recording) with one another; None where nobody said
    whose the clips are.
    """

    label: str
    average_precision: float
    auc: float
    positives: int
    known: int
    independent: int | None = None

    @property
    def enough(self) -> bool:
        """Whether so many positives are independent that its average precision means something."""
        return (self.positives if self.independent is None else self.independent) >= ENOUGH


@dataclass(frozen=True)
class Metrics:
    """A model on a set of clips.

    `mean_ap` is the mean over the labels with a positive clip, `mean_ap_enough` over those with
    `ENOUGH` independent ones; `auc` over those with a negative one too; `d_prime` comes from the
    mean AUC. `lwlrap` counts every positive cell the same. `left_out` names the labels without a
    positive clip (in no mean), `without_negatives` those that lack only a negative one (not in
    `auc`), `too_few` those that are in `mean_ap` alone. `accuracy` is None unless every clip has
    exactly one label. Means over nothing are NaN.
    """

    mean_ap: float
    auc: float
    d_prime: float
    accuracy: float | None
    per_class: tuple[ClassMetrics, ...]
    left_out: tuple[str, ...]
    without_negatives: tuple[str, ...]
    clips: int
    mean_ap_enough: float = math.nan
    lwlrap: float = math.nan
    too_few: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN and infinity, which JSON lacks, become None."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data


def evaluate_scores(
    targets: ArrayLike,
    scores: ArrayLike,
    names: Sequence[str],
    single_label: bool = False,
    owners: Owners | None = None,
) -> Metrics:
    """All metrics of `scores` (N, L) against `targets` (N, L) for the labels `names`.

    `owners` says whose the clips are; without it each counts as independent.

    Raises `AtgnnError` for shapes that do not fit, NaN scores, targets other than 0, 1 and NaN,
    no clips, or, with `single_label`, a clip that has not exactly one label.
    """
    truth, given = _table(targets, scores, names, owners)
    ap, auc = plain_ranking(truth, given)
    positives, known = (truth == 1).sum(axis=0), (~np.isnan(truth)).sum(axis=0)
    per_class = tuple(
        ClassMetrics(
            str(name),
            float(ap[i]),
            float(auc[i]),
            int(positives[i]),
            int(known[i]),
            None if owners is None else owners.independent(truth[:, i] == 1),
        )
        for i, name in enumerate(names)
    )
    mean_auc = _mean(auc)
    precisions, labels = ranked_precision(truth, given)
    return Metrics(
        mean_ap=_mean(ap),
        auc=mean_auc,
        d_prime=d_prime(mean_auc),
        accuracy=float(hits(truth, given).mean()) if single_label else None,
        per_class=per_class,
        left_out=tuple(one.label for one in per_class if not one.positives),
        without_negatives=tuple(
            one.label for one in per_class if one.positives and one.positives == one.known
        ),
        clips=len(truth),
        mean_ap_enough=_mean(ap[[one.enough for one in per_class]]),
        lwlrap=float(precisions.sum() / labels.sum()) if labels.any() else math.nan,
        too_few=tuple(one.label for one in per_class if one.positives and not one.enough),
    )


@dataclass(frozen=True, eq=False)
class Resampled:
    """The metrics of each resample, R of them.

    Attributes:
        average_precision, auc: float32 (R, L), NaN where a label has no positive (negative).
        lwlrap: float64 (R,).
        accuracy: float64 (R,), or None where clips have not one label each.
        owners: what was drawn.
    """

    average_precision: np.ndarray
    auc: np.ndarray
    lwlrap: np.ndarray
    accuracy: np.ndarray | None
    owners: Owners

    def mean_ap(self, labels: np.ndarray | slice = slice(None)) -> np.ndarray:
        """float64 (R,): mean over those labels that are defined, in each resample."""
        return _row_means(self.average_precision[:, labels])

    def mean_auc(self) -> np.ndarray:
        """float64 (R,): as `mean_ap`."""
        return _row_means(self.auc)

    def interval(
        self,
        estimate: float,
        values: np.ndarray,
        confidence: float = 0.95,
        scale: Scale = "arcsine",
    ) -> Interval:
        """The pivotal interval around `estimate` from its resampled `values` (R,)."""
        low, high = pivotal(
            estimate, values, confidence=confidence, spread=self.owners.spread, scale=scale
        )
        return Interval(estimate, low, high, confidence, self.owners.count)


def resample(
    targets: ArrayLike,
    scores: Sequence[ArrayLike],
    owners: Owners,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    single_label: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Resampled, ...]:
    """The metrics of one or several models' `scores` (N, L) under the same draws of authors.

    `generator` decides the draws. `progress` is told the number of resamples done.
    """
    check_resampling(0.95, resamples)
    tables = [_table(targets, one, None, owners) for one in scores]
    parts = [_Parts.of(truth, given, owners.unit_of, single_label) for truth, given in tables]
    measured: list[list[tuple[np.ndarray, ...]]] = [[] for _ in parts]
    done = 0
    for weights in owners.draws(generator, resamples):
        for part, values in zip(parts, measured, strict=True):
            values.append(part.measure(weights))
        done += weights.shape[1]
        if progress is not None:
            progress(done)
    finished = []
    for values in measured:
        ap, auc, lwlrap, right = (np.concatenate(one) for one in zip(*values, strict=True))
        finished.append(Resampled(ap, auc, lwlrap, right if single_label else None, owners))
    return tuple(finished)


@dataclass(frozen=True, eq=False)
class _Parts:
    """A model's scores, sorted and summed as far as that does not depend on the draw."""

    rankings: list[Ranking]
    precisions: tuple[np.ndarray, np.ndarray]
    right: np.ndarray
    unit_of: np.ndarray

    @classmethod
    def of(
        cls, truth: np.ndarray, given: np.ndarray, unit_of: np.ndarray, single_label: bool
    ) -> _Parts:
        columns = zip(truth.T, given.T, strict=True)
        return cls(
            [Ranking.of(target, score, unit_of) for target, score in columns],
            ranked_precision(truth, given),
            hits(truth, given) if single_label else np.zeros(len(truth)),
            unit_of,
        )

    def measure(self, weights: np.ndarray) -> tuple[np.ndarray, ...]:
        """AP and AUC (R, L), lwlrap and accuracy (R,) for `weights` (U, R)."""
        measured = [ranking.measure(weights) for ranking in self.rankings]
        ap, auc = (
            np.stack(part, axis=1).astype(np.float32) for part in zip(*measured, strict=True)
        )
        ones = np.ones_like(self.right)
        return (
            ap,
            auc,
            ratio(self.unit_of, *self.precisions, weights),
            ratio(self.unit_of, self.right, ones, weights),
        )


def _table(
    targets: ArrayLike, scores: ArrayLike, names: Sequence[str] | None, owners: Owners | None
) -> tuple[np.ndarray, np.ndarray]:
    truth, given = checked(targets, scores)
    if truth.ndim != 2 or (names is not None and truth.shape[1] != len(names)):
        wanted = "labels" if names is None else len(names)
        raise AtgnnError(
            f"targets have shape {truth.shape}, expected (clips, {wanted}): one column per name"
        )
    if owners is not None and len(owners) != len(truth):
        raise AtgnnError(f"{len(owners)} owners do not fit {len(truth)} clips: give one for each")
    return truth, given


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined; NaN when nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def _row_means(values: np.ndarray) -> np.ndarray:
    """float64 (R,) of (R, L): of each row the mean of what is defined."""
    defined = ~np.isnan(values)
    sums = np.where(defined, values, 0).sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = sums / defined.sum(axis=1)
    return means
