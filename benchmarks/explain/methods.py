"""Ways to say where the evidence for a label is: ours, its parts and variants, and others' ways.

Each gives a density over the spectrogram, float64 (T, F), none of it negative; where nothing speaks
for the label it is zero everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atgnn.explain.contributions import by_removal, edge_weights, evidence
from atgnn.explain.examine import AT_ONCE, Examination
from atgnn.graph import ceil_div

__all__ = ["METHODS", "densities", "node_shares"]

by_blocks = lru_cache(2)(by_removal)  # of a window, for all labels at once

#: A density (T, F) of a window for a label.
Method: TypeAlias = Callable[[Examination, int], np.ndarray]

BOX, STEP = 32, 16  # occlusion: frames and bins hidden at a time, and from one box to the next
BLOCK = 4  # removal at random: nodes that go or stay together, along both axes


def densities(
    examination: Examination, label: int, names: Sequence[str] = ()
) -> Iterator[tuple[str, np.ndarray]]:
    """The density of each method of these names, by default of all."""
    for name in names or METHODS:
        yield name, METHODS[name](examination, label)


def _nodes(weigh: Callable[[Examination, int], np.ndarray]) -> Method:
    """A method that weighs the nodes of the first stage."""

    def density(examination: Examination, label: int) -> np.ndarray:
        stride = examination.examiner.model.config.time_stride
        return spread(examination.mel, weigh(examination, label), stride)

    return density


def _stage(stage: int, which: int) -> Method:
    """Grad-CAM (`which` 0) or gradient times change (1) at a stage's end."""

    def density(examination: Examination, label: int) -> np.ndarray:
        stride = examination.examiner.model.config.time_stride << stage
        return spread(examination.mel, by_stage(examination, label)[stage][which], stride)

    return density


def _edges(block: int | None, channels: bool = False) -> Method:
    """Edges of the label's node in one label block, or in all."""

    def density(examination: Examination, label: int) -> np.ndarray:
        total = np.zeros(tuple(examination.mel.shape[1:]))
        for found in edge_weights(examination, label):
            if block is None or found.drawn.block == block:
                weights = np.zeros(found.drawn.grid[0] * found.drawn.grid[1])
                weights[found.patches] = found.channels if channels else found.effects
                stride = examination.examiner.model.config.time_stride << found.drawn.stage
                total += spread(examination.mel, weights.reshape(found.drawn.grid), stride)
        return total

    return density


def _both(first: str, second: str) -> Method:
    """Where two methods agree: the geometric mean of their densities."""

    def density(examination: Examination, label: int) -> np.ndarray:
        return np.sqrt(METHODS[first](examination, label) * METHODS[second](examination, label))

    return density


def energy(examination: Examination, label: int) -> np.ndarray:
    """The power of the sound."""
    config = examination.examiner.checkpoint.front_end
    power: np.ndarray = (examination.mel[0].double() * config.std + config.mean).exp().cpu().numpy()
    return power


#: Spectrograms to start from, other than each bin's quiet level.
BACKGROUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "medians": lambda mel: mel.quantile(0.5, dim=1, keepdim=True).expand_as(mel).contiguous(),
    "the mean": lambda mel: torch.full_like(mel, float(mel.mean())),
    "quiet everywhere": lambda mel: torch.full_like(mel, float(mel.quantile(0.02))),
}


def spread(mel: Tensor, weights: Any, stride: int) -> np.ndarray:
    """Positive weights of nodes (F', T') over the frames and bins of their cells, (T, F)."""
    positive = np.clip(np.asarray(weights, dtype=float), 0, None)
    frames, bins = mel.shape[1:]
    columns, rows = cells_of(frames, stride), cells_of(bins, stride)
    area = np.outer(np.bincount(rows), np.bincount(columns))
    out: np.ndarray = (positive / area)[np.ix_(rows, columns)].T
    return out


def node_shares(density: np.ndarray, stride: int) -> np.ndarray:
    """What of a density (T, F) lies in each node's cell, (F', T')."""
    columns, rows = cells_of(density.shape[0], stride), cells_of(density.shape[1], stride)
    out = np.zeros((rows[-1] + 1, columns[-1] + 1))
    np.add.at(out, (rows[None, :], columns[:, None]), density)
    return out


def cells_of(size: int, stride: int) -> np.ndarray:
    """In whose cell each frame (or bin) of an axis lies: indices of nodes, (size,)."""
    nearest: np.ndarray = (np.arange(size) + stride // 2) // stride
    return nearest.clip(max=ceil_div(size, stride) - 1)


def background(mel: Tensor) -> Tensor:
    """A spectrogram in which nothing happens: each bin at its quiet level, ``(1, T, n_mels)``."""
    return mel.quantile(0.1, dim=1, keepdim=True).expand_as(mel).contiguous()


@lru_cache(2)
def by_gradient(
    examination: Examination, label: int, steps: int = 16, quiet: Tensor | None = None
) -> np.ndarray:
    """What each node of the first stage gave, by integrated gradients, float64 (F', T').

    The nodes go from those of `quiet` ``(1, T, n_mels)``, by default the `background`, to what
    they are, and the gradient at `steps` places on the way, which runs back through the edges that
    won each channel, is added up (Sundararajan, Taly and Yan, 2017). What the nodes gave adds up to
    the log-odds less the background's, but for jumps where neighbours change on the way. One step
    is the gradient at the sound itself.
    """
    examiner = examination.examiner
    with torch.no_grad():
        nodes = examiner.encoder.nodes(examination.mel)
        quiet = background(examination.mel) if quiet is None else quiet
        origin = examiner.encoder.nodes(quiet).x
    change = nodes.x - origin
    total = torch.zeros_like(change)
    shares = (torch.arange(steps, device=change.device) + (0.5 if steps > 1 else 1.0)) / steps
    for part in shares.split(8):
        x = (origin + part.view(-1, 1, 1, 1) * change).requires_grad_()
        logits = examiner.model.scored(examiner.encoder.through(nodes.with_features(x)))
        log_odds = examiner.checkpoint.log_odds(logits)[:, label].sum()
        (gradient,) = torch.autograd.grad(log_odds, x)
        total += gradient.sum(0, keepdim=True)
    given: np.ndarray = (total * change)[0].sum(-1).double().cpu().numpy() / steps
    return given


def smoothed(weights: np.ndarray, size: int) -> np.ndarray:
    """Means over size x size nodes, in which what is for and what is against cancel."""
    image = torch.from_numpy(weights)[None, None]
    out: np.ndarray = functional.avg_pool2d(
        image, size, 1, size // 2, count_include_pad=False
    ).numpy()[0, 0]
    return out


def by_stage(examination: Examination, label: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """At each stage's end Grad-CAM (Selvaraju et al., 2017), and gradient times change."""
    examiner = examination.examiner
    with torch.no_grad():
        nodes = examiner.encoder.nodes(examination.mel)
    stages = examiner.encoder.through(nodes.with_features(nodes.x.requires_grad_()))
    ends = [stage[-1].x for stage in stages]
    log_odds = examiner.checkpoint.log_odds(examiner.model.scored(stages))[0, label]
    found = []
    for x, gradient in zip(ends, torch.autograd.grad(log_odds, ends), strict=True):
        x = x.detach()
        cam = (gradient.mean((1, 2), keepdim=True) * x).sum(-1)[0]
        change = (gradient * (x - x.mean((1, 2), keepdim=True))).sum(-1)[0]
        found.append((cam.double().cpu().numpy(), change.double().cpu().numpy()))
    return found


def ours(examination: Examination, label: int) -> np.ndarray:
    """What `atgnn explain` shows, (F', T')."""
    return evidence(examination, label, by_blocks(examination))


def occlusion(examination: Examination, label: int) -> np.ndarray:
    """How much the log-odds fall when a box of the spectrogram becomes background, (T, F)."""
    return hidden_boxes(examination)[..., label].clip(min=0)


@lru_cache(2)
def hidden_boxes(examination: Examination) -> np.ndarray:
    """The mean fall of all labels' log-odds over the boxes that hide a place, (T, F, S)."""
    mel, checkpoint = examination.mel, examination.examiner.checkpoint
    quiet = background(mel)
    frames, bins = mel.shape[1:]
    boxes = [
        (slice(max(0, t), t + BOX), slice(max(0, f), f + BOX))
        for t in range(STEP - BOX, frames - 1, STEP)
        for f in range(STEP - BOX, bins - 1, STEP)
    ]
    whole = checkpoint.log_odds(examination.logits)
    fall = np.zeros((frames, bins, len(whole)))
    times = np.zeros((frames, bins, 1))
    with torch.no_grad():
        for first in range(0, len(boxes), AT_ONCE):
            some = boxes[first : first + AT_ONCE]
            hidden = mel.repeat(len(some), 1, 1)
            for row, box in zip(hidden, some, strict=True):
                row[box] = quiet[0][box]
            now = checkpoint.log_odds(examination.examiner.fast(hidden))
            for box, lost in zip(some, (whole - now).double().cpu().numpy(), strict=True):
                fall[box] += lost
                times[box] += 1
    out: np.ndarray = fall / times
    return out


def at_random(examination: Examination, label: int, sets: int = 320) -> np.ndarray:
    """Mean log-odds with a node less those without, over random halves of the graph, (F', T').

    What is kept are blocks of nodes at random places (after RISE: Petsiuk, Das and Saenko, 2018).
    """
    rows, columns = examination.shape
    random = np.random.default_rng(0)
    size = -(-rows // BLOCK) + 1, -(-columns // BLOCK) + 1
    coarse = random.random((sets, *size)) < 0.5
    fine = coarse.repeat(BLOCK, 1).repeat(BLOCK, 2)
    kept = np.stack(
        [one[a : a + rows, b : b + columns]
         for one, a, b in zip(fine, *random.integers(BLOCK, size=(2, sets)), strict=True)]
    )  # fmt: skip
    kept[:, 0, 0] |= ~kept.any((1, 2))
    values = examination.log_odds(torch.from_numpy(kept))[:, label].double().cpu().numpy()
    with_it = np.tensordot(values, kept, (0, 0)) / np.maximum(kept.sum(0), 1)
    without = np.tensordot(values, ~kept, (0, 0)) / np.maximum((~kept).sum(0), 1)
    out: np.ndarray = with_it - without
    return out


METHODS: dict[str, Method] = {
    "ours": _nodes(ours),
    "removal": _nodes(lambda one, label: by_blocks(one)[..., label]),
    "removal, 64 blocks": _nodes(lambda one, label: by_blocks(one, 64)[..., label]),
    "removal, 1024 blocks": _nodes(lambda one, label: by_blocks(one, 1024)[..., label]),
    "removal at random": _nodes(at_random),
    "gradient": _nodes(by_gradient),
    "gradient, means of 3 x 3": _nodes(lambda one, label: smoothed(by_gradient(one, label), 3)),
    **{
        f"gradient, from {name}": _nodes(
            lambda one, label, quiet=quiet: by_gradient(one, label, quiet=quiet(one.mel))
        )
        for name, quiet in BACKGROUNDS.items()
    },
    "gradient at the sound": _nodes(lambda one, label: by_gradient(one, label, steps=1)),
    "edges": _edges(None),
    "edges, channels alone": _edges(None, channels=True),
    **{f"edges, block {block + 1}": _edges(block) for block in range(3)},
    **{f"Grad-CAM, stage {stage + 1}": _stage(stage, 0) for stage in range(3)},
    **{f"gradient x change, stage {stage + 1}": _stage(stage, 1) for stage in range(3)},
    "removal, 64 blocks, and last stage": _both("removal, 64 blocks", "gradient x change, stage 3"),
    "gradient and last stage": _both("gradient, means of 3 x 3", "gradient x change, stage 3"),
    "removal, gradient and last stage": _both("ours", "gradient, means of 3 x 3"),
    "occlusion": occlusion,
    "energy": energy,
    "anywhere": lambda one, label: np.ones(tuple(one.mel.shape[1:])),
}
