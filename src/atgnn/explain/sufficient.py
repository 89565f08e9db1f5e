"""The smallest set of patch nodes that carries a decision, found by removing the others.

Every set that is tried is scored by the real network with all other nodes removed. The search goes
by the evidence in the nodes (`contributions`): first, how many of the best are enough, then, what
can still be left out; it finds a small set from which no tried part could be spared, not
always the smallest there is.

F x T nodes of the first stage, B sets of nodes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from atgnn.explain.examine import Examination

__all__ = ["Search", "smallest_set"]

BUDGET = 240  # sets scored at most
TRIES = 12  # sets scored together

#: Scores sets of nodes, bool (B, F, T) to (B,).
Judge = Callable[[np.ndarray], np.ndarray]


class Search:
    """Scores of sets of nodes, counted.

    Attributes:
        limit: log-odds from which on the decision stands.
        scored: how many sets were scored.
    """

    def __init__(self, judge: Judge, shape: tuple[int, int], limit: float) -> None:
        self.judge, self.shape, self.limit, self.scored = judge, shape, limit, 0

    @classmethod
    def of(cls, examination: Examination, label: int, limit: float) -> Search:
        """On the real network, of one label."""

        def judge(sets: np.ndarray) -> np.ndarray:
            kept = torch.from_numpy(sets)
            out: np.ndarray = examination.log_odds(kept)[:, label].double().cpu().numpy()
            return out

        return cls(judge, examination.shape, limit)

    def log_odds(self, sets: list[np.ndarray]) -> np.ndarray:
        """Of sets, each the flat indices of its nodes, (B,)."""
        kept = np.zeros((len(sets), self.shape[0] * self.shape[1]), dtype=bool)
        for row, one in zip(kept, sets, strict=True):
            row[one] = True
        self.scored += len(sets)
        return self.judge(kept.reshape(-1, *self.shape))

    def stands(self, sets: list[np.ndarray]) -> np.ndarray:
        """Whether the decision stands with each of the sets, bool (B,)."""
        held: np.ndarray = self.log_odds(sets) >= self.limit
        return held


def smallest_set(search: Search, order: np.ndarray) -> np.ndarray:
    """Nodes (F, T) that carry the decision by themselves, bool.

    `order` holds the flat indices of all nodes, those first that are likely to be needed. All nodes
    together have to carry the decision.
    """
    chosen = _spared(search, order[: _enough(search, order)])
    kept = np.zeros(order.shape, dtype=bool)
    kept[chosen] = True
    return kept.reshape(search.shape)


def _enough(search: Search, order: np.ndarray) -> int:
    """How many of the first nodes are enough: powers of two, then between the last two."""
    everything = len(order)
    sizes = sorted({*(2**power for power in range(everything.bit_length())), everything})
    low, high = 0, everything
    while sizes:
        held = search.stands([order[:size] for size in sizes[:TRIES]])
        enough = [size for size, stood in zip(sizes[:TRIES], held, strict=True) if stood]
        if enough:
            high = enough[0]
            low = max([size for size in sizes if size < high], default=low)
            sizes = _between(low, high)
        else:
            low, sizes = sizes[:TRIES][-1], sizes[TRIES:]
    return high


def _between(low: int, high: int) -> list[int]:
    """Sizes to try next, until they are within a fiftieth of each other."""
    if high - low <= max(1, high // 50):
        return []
    inner = np.linspace(low, high, min(TRIES, high - low - 1) + 2)[1:-1]
    return sorted({round(size) for size in inner.tolist()})


def _spared(search: Search, chosen: np.ndarray) -> np.ndarray:
    """Leave out parts that the decision does not need, large ones first, then smaller ones."""
    size = max(1, len(chosen) // 4)
    while search.scored < BUDGET and len(chosen) > 1:
        parts = np.array_split(chosen, max(2, -(-len(chosen) // size)))
        parts = parts[::-1][: max(2, BUDGET - search.scored)]  # those that gave least first
        alone = search.log_odds([np.setdiff1d(chosen, part, True) for part in parts])
        spare = [int(i) for i in np.argsort(-alone) if alone[i] >= search.limit]
        if not spare:
            if size == 1:
                break
            size = max(1, size // 2)
            continue
        chosen = _without(search, chosen, [parts[i] for i in spare])
    return chosen


def _without(search: Search, chosen: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Without as many of the parts, in order, as can be spared together; each can alone."""
    count = 1
    tried = [np.setdiff1d(chosen, np.concatenate(parts[: n + 1]), True) for n in range(len(parts))]
    tried = [one for one in tried if len(one)]
    held = search.stands(tried[1 : TRIES + 1]) if len(tried) > 1 else np.zeros(0, bool)
    while count <= len(held) and held[count - 1]:
        count += 1
    return tried[count - 1]
