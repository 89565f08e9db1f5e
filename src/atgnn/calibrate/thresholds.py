"""Thresholds: from which score on each label is present.

One for all labels that gives the best mean F1; a label known from enough authors gets one between
its own best and that. Where there is background, sound with none of the labels, it counts among the
negatives, and thresholds are raised until it causes no more false alarms than are allowed.

N clips, W windows of background, L labels, G candidate thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from atgnn.calibrate.background import Background
from atgnn.calibrate.line import logits_of
from atgnn.errors import ConfigError

__all__ = ["CANDIDATES", "SHRINK", "Thresholds", "fit_thresholds", "lifted", "mean_f1"]

ENOUGH_AUTHORS = 10  # with a positive clip, for a threshold of a label's own
SHRINK = 20.0  # authors that the common threshold weighs as much as

#: Candidate thresholds (G,): evenly spaced in logits.
CANDIDATES = 1 / (1 + np.exp(-np.arange(-8, 8.01, 0.1)))


@dataclass(frozen=True)
class Thresholds:
    """From which score on each label is present.

    Attributes:
        values: float64 (L,).
        common: the one for all labels, before any was raised.
        own: bool (L,), labels whose own best threshold had a say.
        raised: bool (L,), labels whose threshold false alarms have raised.
    """

    values: np.ndarray
    common: float
    own: np.ndarray
    raised: np.ndarray

    def lifted(self, margin: float) -> Thresholds:
        """All of them higher by so much, in logits."""
        if not margin:
            return self
        return replace(self, values=lifted(self.values, margin), raised=np.ones_like(self.raised))


def lifted(values: np.ndarray, margin: float) -> np.ndarray:
    """Thresholds (..., L) that are higher by so much, in logits; none gets lower by rounding."""
    higher: np.ndarray = np.maximum(values, 1 / (1 + np.exp(-(logits_of(values) + margin))))
    return higher


def fit_thresholds(
    targets: np.ndarray,
    scores: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    shrink: float,
    background: Background | None = None,
    most_alarms: float | None = None,
) -> Thresholds:
    """Thresholds from targets and scores (N, L) of clips whose authors are `groups` (N,).

    The common one has the best mean F1 over labels. A label whose positive clips come from n
    authors, 10 or more, gets (n own + shrink common) / (n + shrink), in logits. The windows of
    `background` are further negatives. With `most_alarms`, some label may reach its threshold in at
    most so many of them an hour: no label then alarms more often than b times an hour, for the
    largest b that keeps all together below the limit. One threshold for all labels (`shrink`
    infinite) is raised as one.

    Raises `ConfigError` for a limit without background.
    """
    names = np.asarray(groups).astype(str)
    if background is not None:
        targets = np.concatenate([targets, background.targets])
        scores = np.concatenate([scores, background.scores])
        names = np.concatenate([names, background.authors])
    hits, alarms, misses = _counts(targets, scores)
    f1 = _f1(hits, alarms, misses)
    has_clips = (targets == 1).any(axis=0)
    common = _best(f1[has_clips].mean(axis=0))
    _, author = np.unique(names, return_inverse=True)
    authors = np.array([len(np.unique(author[column == 1])) for column in targets.T])
    own = (authors >= ENOUGH_AUTHORS) & np.isfinite(shrink)
    values = np.full(targets.shape[1], common)
    for label in np.flatnonzero(own):
        weight = authors[label] / (authors[label] + shrink)
        best = logits_of(np.array([_best(f1[label]), common]))
        values[label] = 1 / (1 + np.exp(-(weight * best[0] + (1 - weight) * best[1])))
    if most_alarms is None:
        return Thresholds(values, common, own, np.zeros_like(own))
    if background is None:
        raise ConfigError("a limit of false alarms needs background to count them in")
    limited = _limited(values, background, most_alarms, together=not np.isfinite(shrink))
    return Thresholds(limited, common, own, limited > values)


def _limited(values: np.ndarray, background: Background, most: float, together: bool) -> np.ndarray:
    """Thresholds (L,), raised as little as keeps alarms at `most` an hour.

    Each label may alarm in a share of all windows. The fewer windows, the higher the thresholds
    and the fewer alarms, so that the largest share that will do is found by halving.
    """

    def with_alarms(windows: int) -> np.ndarray:
        floors = _floors(background, windows)
        return np.maximum(values, floors.max() if together else floors)

    enough, too_many = 0, len(background.scores) + 1  # none can alarm in more than all windows
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        if background.alarms_per_hour(with_alarms(middle)) <= most:
            enough = middle
        else:
            too_many = middle
    return with_alarms(enough)


def _floors(background: Background, windows: int) -> np.ndarray:
    """The lowest thresholds (L,) at which no label alarms in more of all windows than so many.

    A label that is known to be absent in a part of the sound only may alarm in as much fewer.
    """
    floors = np.zeros(background.scores.shape[1])
    total = background.hours.sum()
    for label, absent in enumerate(background.absent.T):
        allowed = int(windows * background.hours[absent].sum() / total + 1e-9)
        heard = np.sort(background.scores[absent, label])[::-1]
        if allowed < len(heard):
            place = int(np.searchsorted(CANDIDATES, heard[allowed], side="right"))
            higher = (
                CANDIDATES[place] if place < len(CANDIDATES) else np.nextafter(heard[allowed], 2)
            )
            floors[label] = higher
    return floors


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
