"""Metrics of a ranking: average precision, ROC-AUC, d', lwlrap, and accuracy.

The definitions are scikit-learn's (step-sum average precision, ties shared), the means over labels
and d' those of PSLA's `stats.py`. A label is sorted once (`Ranking`) and can then be measured under
any number of weightings of its clips, which is what resampling needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn.functional import embedding_bag

from atgnn.errors import AtgnnError

__all__ = [
    "Ranking",
    "accuracy",
    "average_precision",
    "checked",
    "d_prime",
    "hits",
    "label_ranking",
    "one_label",
    "precision_recall",
    "ranked_precision",
    "roc_auc",
]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The known clips of one label from the highest score down, as units of resampling.

    Clips of equal score form a block and pass a threshold together. Only blocks that hold a
    positive matter to both metrics: B of them, found once.

    Attributes:
        units: int64 (K,), the unit of each known clip, by falling score.
        edges: int64 (2B + 1,), where in `units` the stretches begin: 0, then begin and end of
            each block; so stretches are gap, block, gap, block, ..., gap.
        positive_units: int64 (P,), the units of the positives, by falling score.
        positive_edges: int64 (B,), where in `positive_units` each block begins.
        levels: float64 (B,), the score of each block.
    """

    units: torch.Tensor
    edges: torch.Tensor
    positive_units: torch.Tensor
    positive_edges: torch.Tensor
    levels: np.ndarray

    @classmethod
    def of(cls, target: np.ndarray, score: np.ndarray, unit: np.ndarray) -> Ranking:
        """From checked (N,) arrays; `unit` is the number of each clip's unit."""
        known = np.flatnonzero(~np.isnan(target))
        order = known[np.argsort(-score[known], kind="stable")]
        falling, positive = score[order], target[order] == 1
        fresh = np.ones(len(order), dtype=bool)
        fresh[1:] = falling[1:] != falling[:-1]
        begins = np.flatnonzero(fresh)
        ends = np.append(begins[1:], len(order))
        block = np.cumsum(fresh) - 1
        held, first = np.unique(block[positive], return_index=True)
        edges = np.zeros(2 * len(held) + 1, dtype=np.int64)
        edges[1::2], edges[2::2] = begins[held], ends[held]
        units = torch.from_numpy(unit[order].astype(np.int64))
        return cls(
            units,
            torch.from_numpy(edges),
            units[torch.from_numpy(positive)],
            torch.from_numpy(first.astype(np.int64)),
            falling[begins[held]],
        )

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the weighted clips amount to, for `weights` (U, R) of the units.

        Returns the positives in each block, positives and negatives down to the end of each block
        and negatives in each block, all (B, R), with the negatives of the whole label appended to
        the last as row B.
        """
        table = torch.from_numpy(weights)
        stretches = embedding_bag(self.units, table, self.edges, mode="sum").numpy()
        own = embedding_bag(self.positive_units, table, self.positive_edges, mode="sum").numpy()
        through = np.cumsum(stretches[:-1:2] + stretches[1::2], axis=0)
        found = np.cumsum(own, axis=0)
        total = through[-1] + stretches[-1] - found[-1]
        return own, found, through - found, np.vstack([stretches[1::2] - own, total])

    def measure(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and AUC, each float64 (R,), for `weights` (U, R); NaN if undefined."""
        draws = weights.shape[1]
        if not len(self.levels):
            return np.full(draws, np.nan), np.full(draws, np.nan)
        own, found, alarms, negative = self.counts(weights)
        total = negative[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.nan_to_num(found / (found + alarms))
            area = (own * precision).sum(axis=0, dtype=np.float64) / found[-1]
            # negatives below a positive; those of the same score count one half
            below = total - alarms + negative[:-1] / 2
            auc = (own * below).sum(axis=0, dtype=np.float64) / found[-1] / total
        return area, auc


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


def precision_recall(
    targets: ArrayLike, scores: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and threshold at every score that a positive has, each float64 (B,).

    `targets` and `scores` are of one label, (N,). Thresholds fall; a clip counts from its own
    score on. Average precision is the sum of precision times the steps of recall.
    """
    truth, given = checked(targets, scores)
    if truth.ndim != 1:
        raise AtgnnError(f"a curve is of one label: expected shape (clips,), got {truth.shape}")
    ranking = Ranking.of(truth, given, np.zeros(len(truth), np.int64))
    if not len(ranking.levels):
        return np.empty(0), np.empty(0), np.empty(0)
    _, found, alarms, _ = (part[:, 0] for part in ranking.counts(np.ones((1, 1))))
    return found / (found + alarms), found / found[-1], ranking.levels


def label_ranking(targets: ArrayLike, scores: ArrayLike) -> float:
    """Label-weighted label-ranking average precision (lwlrap) of (N, L); NaN without a positive.

    Each clip ranks its known labels; a label that is there has the precision of the list down to
    it (ties rank last); the mean over all such labels of all clips, so that each counts the same.
    Equal to label-ranking average precision with a clip weighted by its number of labels.
    """
    truth, given = checked(targets, scores)
    if truth.ndim != 2:
        raise AtgnnError(f"lwlrap needs targets of shape (clips, labels), got {truth.shape}")
    sums, counts = ranked_precision(truth, given)
    return float(sums.sum() / counts.sum()) if counts.any() else math.nan


def ranked_precision(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every clip the sum of its labels' precisions, and their number; each float64 (N,)."""
    sums, counts = np.zeros(len(targets)), np.zeros(len(targets))
    for row, (target, score) in enumerate(zip(targets, scores, strict=True)):
        own = score[target == 1]
        if not len(own):
            continue
        rising = np.sort(score[~np.isnan(target)])
        rank = len(rising) - np.searchsorted(rising, own, side="left")
        correct = len(own) - np.searchsorted(np.sort(own), own, side="left")
        sums[row], counts[row] = (correct / rank).sum(), len(own)
    return sums, counts


def accuracy(targets: ArrayLike, scores: ArrayLike) -> float:
    """Share of clips whose highest score is at their one label; ties go to the lower index.

    Raises `AtgnnError` unless every clip of `targets` (N, L) has exactly one label and no
    unknown cell.
    """
    return float(hits(*checked(targets, scores)).mean())


def one_label(targets: np.ndarray) -> np.ndarray:
    """Which clips of targets (N, L) have exactly one label and no unknown cell, bool (N,)."""
    known: np.ndarray = targets.sum(axis=1) == 1  # an unknown cell makes the sum NaN
    return known


def hits(truth: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Which clips are named right, float64 (N,); see `accuracy`."""
    if truth.ndim != 2:
        raise AtgnnError(f"accuracy needs targets of shape (clips, labels), got {truth.shape}")
    odd = np.flatnonzero(~one_label(truth))
    if len(odd):
        raise AtgnnError(
            f"accuracy needs exactly one label per clip and no unknown ones: {len(odd)} of "
            f"{len(truth)} clips differ, the first is number {odd[0]}; evaluate as multi-label"
        )
    return (truth.argmax(axis=1) == given.argmax(axis=1)).astype(np.float64)


def checked(targets: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
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
    truth, given = checked(targets, scores)
    if truth.ndim == 2:
        return plain_ranking(truth, given)
    ap, auc = plain_ranking(truth[:, None], given[:, None])
    return ap[0], auc[0]


def plain_ranking(truth: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and AUC, each float64 (L,), of checked (N, L): every clip counts once."""
    together, once = np.zeros(len(truth), np.int64), np.ones((1, 1))
    measured = [
        Ranking.of(target, score, together).measure(once)
        for target, score in zip(truth.T, given.T, strict=True)
    ]
    ap, auc = (np.concatenate(part) for part in zip(*measured, strict=True))
    return ap, auc
