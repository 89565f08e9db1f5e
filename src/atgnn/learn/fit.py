"""The arithmetic of a new label: where its node looks, what its rows weigh, how sure it is.

A label is learned in two steps. First its node: embedding and adjacency rows are moved by gradient
so that the node's state tells the given clips apart. Then its head: a ridge regression on what
the label reads of a clip (summary, hidden layer, its own node), in closed form, with each clip
left out once to see what the label would have said of a clip that it does not know.

W windows of all clips, D width of the label, S old labels, E numbers of the summary, H width of the
head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atgnn.learn.nodes import Window
from atgnn.model import ATGNN
from atgnn.model.beside import Heard, heard, new_states, shapes
from atgnn.model.layers import Patches

__all__ = [
    "Examples",
    "Head",
    "LeftOut",
    "Node",
    "fit_head",
    "fit_node",
    "heard_windows",
    "node_states",
]

STEPS = 30  # of the node, by gradient
RATE = 0.05  # of each step, as a share of what is moved
MOST_FOR_NODE = 48  # windows that the node learns from, so that it takes seconds
AT_ONCE = 16  # windows through the label blocks together
RIDGE = 0.1  # of a kernel whose diagonal is about 1
BACKGROUND_SHARE = 0.3  # of the negatives' weight, where there are given ones


@dataclass(frozen=True)
class Examples:
    """Windows to learn one label from.

    Attributes:
        windows: W of them.
        clip: int (W,), the number of the clip that each is from.
        positive: bool (W,).
        weight: float64 (W,); positives and negatives weigh 0.5 each in all.
        given: bool (W,), False for background made by rule.
    """

    windows: Sequence[Window]
    clip: np.ndarray
    positive: np.ndarray
    weight: np.ndarray
    given: np.ndarray

    @classmethod
    def of(
        cls,
        positives: Sequence[Sequence[Window]],
        negatives: Sequence[Sequence[Window]],
        background: Sequence[Sequence[Window]],
    ) -> "Examples":
        """From the windows of clips. A clip's weight is shared by its windows."""
        clips = [*positives, *negatives, *background]
        share = BACKGROUND_SHARE if negatives else 1.0
        each = [
            *[0.5 / len(positives)] * len(positives),
            *[0.5 * (1 - share) / max(1, len(negatives))] * len(negatives),
            *[0.5 * share / max(1, len(background))] * len(background),
        ]
        if negatives and not background:
            each[len(positives) :] = [0.5 / len(negatives)] * len(negatives)
        counts = [len(windows) for windows in clips]
        number = np.repeat(np.arange(len(clips)), counts)
        return cls(
            [window for windows in clips for window in windows],
            number,
            number < len(positives),
            np.repeat(np.array(each) / counts, counts),
            number < len(positives) + len(negatives),
        )


class Node(NamedTuple):
    """Where a label looks: embedding ``(D,)`` and adjacency rows ``(P, S + 1)``."""

    embedding: Tensor
    rows: Tensor


# ------------------------------------------------------------------ the node


def fit_node(network: ATGNN, examples: Examples, seed: int = 0) -> Node:
    """Learn where a label looks and what it hears from the old labels.

    It begins by looking at patches that positive windows have and others have not, and by hearing
    all old labels alike.
    """
    shape = {name: size[1:] for name, size in shapes(network.config, 1).items()}
    if not shape["rows"][0]:
        return Node(torch.zeros(shape["embedding"]), torch.zeros(shape["rows"]))
    chosen = _some(examples, MOST_FOR_NODE, seed)
    batches = heard_windows(network, [examples.windows[i] for i in chosen])
    positive = torch.from_numpy(examples.positive[chosen])
    weight = torch.from_numpy(examples.weight[chosen]).float()
    weight = torch.where(
        positive, weight / weight[positive].sum(), weight / weight[~positive].sum()
    )
    embedding = torch.nn.Parameter(_first_look(network, batches, positive, weight))
    rows = torch.nn.Parameter(torch.zeros(shape["rows"]))
    with torch.no_grad():
        rows[:, :-1] = 1 / max(1, rows.shape[1] - 1)
        states = _states(batches, embedding, rows)
        centre, spread = states.mean(0), states.std(0, correction=0) + 1e-3
    read = torch.nn.Parameter(torch.zeros(states.shape[1] + 1))
    rates = (RATE * float(embedding.detach().abs().mean()), RATE / rows.shape[1], RATE)
    adam = _Adam((embedding, rows, read), rates)
    target = positive.float()
    for _ in range(STEPS):
        states = (_states(batches, embedding, rows) - centre) / spread
        logits = states @ read[:-1] + read[-1]
        losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss = (losses * weight).sum() / 2 + 0.01 * read[:-1].square().sum()
        adam.step(loss)
    return Node(embedding.detach(), rows.detach())


class _Adam:
    """Adam (Kingma and Ba, 2015) with its usual constants, a rate for each parameter.

    PyTorch's own loads its compiler when the first one is made, which takes longer than all the
    steps here (5 s of a busy machine).
    """

    def __init__(self, parameters: Sequence[Tensor], rates: Sequence[float]) -> None:
        self.parameters, self.rates, self.count = parameters, rates, 0
        self.first = [torch.zeros_like(one) for one in parameters]
        self.second = [torch.zeros_like(one) for one in parameters]

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`."""
        self.count += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for x, rate, first, second, gradient in zip(
                self.parameters, self.rates, self.first, self.second, gradients, strict=True
            ):
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.001)
                spread = (second / (1 - 0.999**self.count)).sqrt() + 1e-8
                x -= rate * first / (1 - 0.9**self.count) / spread


def node_states(network: ATGNN, windows: Sequence[Window], node: Node) -> np.ndarray:
    """The label's node after all blocks, float64 (W, D); (W, 0) where there are no label blocks."""
    if not len(node.rows):
        return np.zeros((len(windows), 0))
    with torch.no_grad():
        return _states(heard_windows(network, windows), node.embedding, node.rows).double().numpy()


def _some(examples: Examples, most: int, seed: int) -> np.ndarray:
    """Rows of at most so many windows, positives and others even where there are enough."""
    rng = np.random.default_rng(seed)
    positive, other = (np.flatnonzero(examples.positive == side) for side in (True, False))
    half = max(most // 2, most - len(other))
    chosen = rng.permutation(positive)[:half]
    return np.sort(np.concatenate([chosen, rng.permutation(other)[: most - len(chosen)]]))


class _Batch(NamedTuple):
    rows: Tensor  # which windows these are
    heard: list[Heard]


@torch.no_grad()
def heard_windows(network: ATGNN, windows: Sequence[Window]) -> list[_Batch]:
    """What the label blocks need of windows, equal ones together."""
    by_shape: dict[tuple[torch.Size, ...], list[int]] = {}
    for row, window in enumerate(windows):
        by_shape.setdefault(tuple(nodes.shape for nodes in window.levels), []).append(row)
    batches = []
    for rows in by_shape.values():
        for part in torch.tensor(rows).split(AT_ONCE):
            levels = [
                Patches(torch.stack(nodes).float(), None)
                for nodes in zip(*(windows[row].levels for row in part.tolist()), strict=True)
            ]
            batches.append(_Batch(part, heard(network.label_branch, levels)[0]))
    return batches


def _states(batches: list[_Batch], embedding: Tensor, rows: Tensor) -> Tensor:
    """``(W, D)`` in the order of the windows."""
    parts = [new_states(batch.heard, embedding[None], rows[None])[:, 0] for batch in batches]
    order = torch.cat([batch.rows for batch in batches])
    return torch.cat(parts)[order.argsort()]


def _first_look(network: ATGNN, batches: list[_Batch], positive: Tensor, weight: Tensor) -> Tensor:
    """The mean patch of positive windows less that of the others, as long as old embeddings."""
    means = torch.cat([batch.heard[0].patches.x.mean((1, 2)) for batch in batches])
    order = torch.cat([batch.rows for batch in batches])
    signed = torch.where(positive, weight, -weight)[order]
    difference = (signed[:, None] * means).sum(0)
    own = network.label_branch.embedding
    assert isinstance(own, Tensor)
    if difference.shape != own.shape[1:]:  # labels of another width than the first patches
        return own.detach().mean(0).clone()
    length = own.detach().norm(dim=1).mean()
    return difference / difference.norm().clamp(min=1e-12) * length


# ------------------------------------------------------------------ the head


@dataclass(frozen=True)
class LeftOut:
    """What the label says of given clips when each was left out, float64 (N,) logits.

    `known` is False for the only positive clip, of which nothing can be left out.
    """

    logits: np.ndarray
    positive: np.ndarray
    given: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Head:
    """Weights of what a label reads, and what it says of clips that it does not know."""

    summary: np.ndarray
    hidden: np.ndarray
    node: np.ndarray
    bias: float
    left_out: LeftOut


def fit_head(examples: Examples, states: np.ndarray) -> Head:
    """Ridge regression on summary, hidden layer and node, then a line that makes it a probability.

    Every part weighs alike however wide it is; every number of it is standardised. The line is
    fitted to clips that were left out, each with all its windows.
    """
    parts = [
        np.stack([window.summary.double().numpy() for window in examples.windows]),
        np.stack([window.hidden.double().numpy() for window in examples.windows]),
        states,
    ]
    scaled = [_standardised(part, examples.weight) for part in parts]
    present = sum(part.shape[1] > 0 for part in parts)
    kernel = 1.0 + sum(x @ x.T / max(1, x.shape[1]) for x, _, _ in scaled) / present
    target = np.where(examples.positive, 1.0, -1.0)
    noise = RIDGE / (examples.weight * len(target))
    inverse = np.linalg.inv(kernel + np.diag(noise))
    dual = inverse @ target
    out = _left_out(inverse, dual, target, examples)
    slope, shift = _line(out)
    weights, bias = [], float(dual.sum())
    for x, centre, spread in scaled:
        row = x.T @ dual / max(1, x.shape[1]) / present / spread
        bias -= float(row @ centre)
        weights.append(slope * row)
    calibrated = LeftOut(slope * out.logits + shift, out.positive, out.given, out.known)
    pooled, hidden, node = weights
    return Head(pooled, hidden, node, slope * bias + shift, calibrated)


def _standardised(
    part: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each column less its mean over its deviation, both of these too; flat ones stay small."""
    if not part.shape[1]:
        return part, np.zeros(0), np.ones(0)
    share = weight / weight.sum()
    centre = share @ part
    variance = share @ (part - centre) ** 2
    spread = np.sqrt(variance + 1e-6 * variance.max() + 1e-12)
    return (part - centre) / spread, centre, spread


def _left_out(
    inverse: np.ndarray, dual: np.ndarray, target: np.ndarray, examples: Examples
) -> LeftOut:
    """What the regression says of each clip when fitted without it, in closed form.

    With ``H`` the inverse of the kernel with its noise, the windows G of a clip get
    ``t_G - (H_GG)^-1 (H t)_G`` from all the others.
    """
    clips = np.unique(examples.clip)
    logits, positive, given = (np.zeros(len(clips)) for _ in range(3))
    for place, clip in enumerate(clips):
        own = np.flatnonzero(examples.clip == clip)
        block = inverse[np.ix_(own, own)]
        logits[place] = (target[own] - np.linalg.solve(block, dual[own])).mean()
        positive[place], given[place] = examples.positive[own[0]], examples.given[own[0]]
    is_positive = positive > 0
    known = ~is_positive | (is_positive.sum() > 1)
    return LeftOut(logits, is_positive, given > 0, known)


def _line(out: LeftOut) -> tuple[float, float]:
    """Slope and shift that make left-out values log-odds where positives and others are even.

    Platt's fit with his smoothed targets, drawn weakly toward a slope of 3. Where the only positive
    clip cannot be left out, that slope and no shift.
    """
    sides = [out.known & (out.positive == side) for side in (True, False)]
    if not all(side.any() for side in sides):
        return 3.0, 0.0
    values = np.concatenate([out.logits[side] for side in sides])
    weight = np.concatenate([np.full(side.sum(), 0.5 / side.sum()) for side in sides])
    high, low = (sides[0].sum() + 1) / (sides[0].sum() + 2), 1 / (sides[1].sum() + 2)
    target = np.concatenate([np.full(sides[0].sum(), high), np.full(sides[1].sum(), low)])
    line = np.array([3.0, 0.0])
    design = np.stack([values, np.ones_like(values)], 1)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(design @ line, -30, 30)))
        slope = design.T @ (weight * (chance - target)) + np.array([2e-3 * (line[0] - 3), 0])
        curve = (design * (weight * chance * (1 - chance))[:, None]).T @ design
        step = np.linalg.solve(curve + np.diag([2e-3, 1e-6]), slope)
        line = line - np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return float(max(line[0], 0.1)), float(line[1])
