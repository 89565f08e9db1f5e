"""Calibration: the straight line through the logits that makes scores honest probabilities.

One line for all labels (Platt), for models that choose one label a temperature. N clips, L labels.
"""

from __future__ import annotations

import numpy as np

from atgnn.checkpoint import Calibration
from atgnn.metrics import one_label

__all__ = ["fit_calibration", "log_loss", "logits_of"]


def fit_calibration(targets: np.ndarray, scores: np.ndarray, exclusive: bool) -> Calibration:
    """The line through the logits of scores (N, L) that fits targets (N, L) best.

    Unknown (NaN) cells take no part; with `exclusive`, clips take part that have one label and no
    unknown cell, of which there must be one.
    """
    if exclusive:
        return Calibration(scale=_fit_temperature(targets, scores))
    known = ~np.isnan(targets)
    truth, logits = targets[known] == 1, logits_of(scores[known])
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
    known = one_label(targets)
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


def logits_of(scores: np.ndarray) -> np.ndarray:
    """The logits of scores; of 0 and 1 those of the nearest scores that have some."""
    inside = np.clip(scores, 1e-7, 1 - 1e-7)
    out: np.ndarray = np.log(inside) - np.log1p(-inside)
    return out


def log_loss(targets: np.ndarray, scores: np.ndarray, exclusive: bool) -> float:
    """The mean log loss of scores (N, L) against targets (N, L) in the cells that are known."""
    inside = np.clip(scores, 1e-7, 1 - 1e-7)
    if exclusive:
        known = one_label(targets)
        return float(-np.log(inside[known][targets[known] == 1]).mean())
    known = ~np.isnan(targets)
    cells = np.where(targets == 1, np.log(inside), np.log1p(-inside))
    return float(-cells[known].mean())
