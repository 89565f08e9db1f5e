"""What nodes and edges gave to a label's log-odds.

Where the evidence is, two views have to agree on. By removal: blocks of the first stage's patch
nodes are removed from the graph, one at a time and overlapping; a node gave what the log-odds lost
in the mean when a block with it was missing. By the last stage: a patch node there gave its
gradient times how far it lies from the average node. The first is a measurement, but a block that
is removed takes its neighbours' neighbours along; the second says where the score was read. The
evidence is their geometric mean (docs/explain.md has what each is worth by itself).

Edges: in each label block a channel of the label's node comes from the patch that won it; what
that gave is its gradient times how far it lies from what the average patch would have given.

F x T patch nodes of the first stage, S labels, D width of labels, E edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atgnn.explain.examine import Drawn, Examination

__all__ = ["EdgeWeights", "by_last_stage", "by_removal", "edge_weights", "evidence", "finer"]

BLOCKS = 256  # removed from a window, about
SILENT = 1e-3  # a spectrogram whose normalised values differ by less is the same everywhere


@dataclass(frozen=True)
class EdgeWeights:
    """A label node's edges in one block, by the patch at the other end.

    Attributes:
        drawn: the block.
        patches: the patches drawn on, (E,).
        channels: the share of channels that each won, (E,); they add up to 1.
        effects: log-odds that these channels gave, (E,).
    """

    drawn: Drawn
    patches: np.ndarray
    channels: np.ndarray
    effects: np.ndarray


def evidence(examination: Examination, label: int, removed: np.ndarray) -> np.ndarray:
    """The evidence for a label in each node of the first stage, float64 (F, T), none negative.

    `removed` (F, T, S) is `by_removal` of the window. Zero everywhere in a sound that is the same
    everywhere, such as digital silence.
    """
    mel = examination.mel
    if float(mel.amax() - mel.amin()) < SILENT:
        return np.zeros(examination.shape)
    last = finer(by_last_stage(examination, label), examination.shape)
    both: np.ndarray = np.sqrt(removed[..., label].clip(min=0) * last.clip(min=0))
    return both


def by_removal(examination: Examination, blocks: int = BLOCKS) -> np.ndarray:
    """What each node of the first stage gave to every label's log-odds, float64 (F, T, S).

    About so many `blocks` are removed, each twice as high and wide as they are apart.
    """
    rows, columns = examination.shape
    step = max(1, math.ceil(math.sqrt(rows * columns / blocks)))
    places = [
        (slice(max(0, row), row + 2 * step), slice(max(0, column), column + 2 * step))
        for row in range(-step, rows, step)
        for column in range(-step, columns, step)
    ]
    kept = torch.ones(len(places), rows, columns, dtype=torch.bool)
    for one, place in zip(kept, places, strict=True):
        one[place] = False
    kept[~kept.any(2).any(1), 0, 0] = True  # a graph needs a node
    whole = examination.examiner.checkpoint.log_odds(examination.logits)
    lost = (whole - examination.log_odds(kept)).double().cpu().numpy()  # (blocks, S)
    given, times = np.zeros((rows, columns, lost.shape[1])), np.zeros((rows, columns, 1))
    for place, values in zip(places, lost, strict=True):
        given[place] += values
        times[place] += 1
    out: np.ndarray = given / times
    return out


def by_last_stage(examination: Examination, label: int) -> np.ndarray:
    """What each patch node at the end of the last stage gave to a label's log-odds, (F', T')."""
    stages = examination.stages()
    x = stages[-1][-1].x
    log_odds = examination.examiner.checkpoint.log_odds(examination.examiner.model.scored(stages))
    (gradient,) = torch.autograd.grad(log_odds[0, label], x)
    x = x.detach()
    given: np.ndarray = (
        (gradient * (x - x.mean((1, 2), keepdim=True))).sum(-1)[0].double().cpu().numpy()
    )
    return given


def finer(weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Weights of a later stage's nodes (F', T') at the nodes of the first one (F, T).

    Each node has what the later node with the nearest centre has.
    """
    places = []
    for few, many in zip(weights.shape, shape, strict=True):
        ratio = 2 ** round(math.log2(max(1, many) / few)) if many > few else 1
        places.append(((np.arange(many) + ratio // 2) // ratio).clip(max=few - 1))
    return weights[np.ix_(*places)]


def edge_weights(examination: Examination, label: int) -> list[EdgeWeights]:
    """What each edge of a label's node gave to its log-odds, a record for each label block."""
    blocks, row, log_odds = examination.drawn(label)
    if not blocks:
        return []
    extrema = [block.extremum for block in blocks]
    gradients = torch.autograd.grad(log_odds[0, label], extrema)
    return [_of_block(*pair, row) for pair in zip(blocks, gradients, strict=True)]


def _of_block(drawn: Drawn, gradient: Tensor, row: int) -> EdgeWeights:
    winners = drawn.winners(row)
    given = gradient[0, row] * (drawn.extremum.detach()[0, row] - drawn.patches.mean(0))
    patches, which = winners.unique(return_inverse=True)
    effects = torch.zeros(len(patches)).index_add_(0, which.cpu(), given.float().cpu())
    channels = which.bincount(minlength=len(patches)) / len(winners)
    return EdgeWeights(drawn, patches.cpu().numpy(), channels.cpu().numpy(), effects.numpy())
