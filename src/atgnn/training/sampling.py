"""In which order an epoch visits the clips: all of them once, or rare labels more often.

An order is a plain function of the seed and the epoch, so that whoever repeats an epoch, or does
a part of it on another machine, knows all of it. N clips, L labels.
"""

import numpy as np

from atgnn.errors import ClipsError

__all__ = ["balanced_order", "balanced_weights", "repeats", "shuffled_order"]


def shuffled_order(clips: int, seed: int, epoch: int) -> np.ndarray:
    """Every clip once, int64 (N,)."""
    return np.random.default_rng((seed, epoch)).permutation(clips)


def balanced_order(weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """As many draws as there are clips, with replacement, in proportion to `weights`, int64 (N,).

    So a clip of rare labels comes several times in an epoch and others not at all, as in PSLA.
    """
    share = weights / weights.sum()
    return np.random.default_rng((seed, epoch)).choice(len(weights), len(weights), p=share)


def balanced_weights(targets: np.ndarray) -> np.ndarray:
    """How often to draw each clip, float64 (N,), from its targets (N, L): PSLA's rule.

    A label that n clips carry weighs 1000 / (n + 0.01), a clip the sum of its labels. Cells that
    are unknown (NaN) count neither for the label nor for the clip. A clip without any label weighs
    nothing and is never drawn.

    Raises `ClipsError` where no clip has a label.
    """
    present = targets == 1
    weights: np.ndarray = present @ (1000 / (present.sum(axis=0) + 0.01))
    if not weights.any():
        raise ClipsError("no training clip has a label: there is nothing to balance")
    return weights


def repeats(order: np.ndarray) -> np.ndarray:
    """How often each entry of an order has come before in it, int64 (N,).

    >>> repeats(np.array([4, 2, 4, 4, 2])).tolist()
    [0, 0, 1, 2, 1]
    """
    places = np.argsort(order, kind="stable")
    ordered = order[places]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    run = np.repeat(first, np.diff(np.append(first, len(order))))
    times = np.empty(len(order), np.int64)
    times[places] = np.arange(len(order)) - run
    return times
