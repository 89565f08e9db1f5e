"""What a network says of every moment of a clip, not of the clip as a whole.

The encoder hears the whole clip; then its patch nodes are read out moment by moment, by the same
head and the same label nodes: the labels look at the patches of one moment alone, fine ones for
when, coarse ones for what. A network says something sensible there once it was trained to
(`atgnn.training.moments`).

B batch, P moments of a clip, F frequency, T time columns, C channels, S labels, R columns of a
later stage or of an earlier one for each moment.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atgnn.frontend import FrontEndConfig
from atgnn.model.config import ModelConfig
from atgnn.model.geometry import NodePlaces
from atgnn.model.label import Drawing
from atgnn.model.layers import Patches

__all__ = ["LONGEST", "at_moments", "moment_logits", "moment_places", "moment_stage"]

LONGEST = 0.35  # s of a moment, where the stages leave a choice


def moment_stage(config: ModelConfig, front_end: FrontEndConfig) -> int:
    """The stage whose columns are the moments: the last with columns of at most `LONGEST` s."""
    stages = range(len(config.channels))
    short = [n for n in stages if NodePlaces(config, front_end, n).seconds <= LONGEST]
    return max(short, default=0)


def moment_places(config: ModelConfig, front_end: FrontEndConfig) -> NodePlaces:
    """Where moments lie in a clip."""
    return NodePlaces(config, front_end, moment_stage(config, front_end))


def moment_logits(
    network: Any, stages: list[list[Patches]], stage: int, seen: list[Drawing] | None = None
) -> Tensor:
    """Logits ``(B, P, S)`` of all moments, the columns of `stage`.

    Args:
        network: an `ATGNN` or `LabelsBeside`, folded or not.
        stages: what its encoder gave for ``(B, T, n_mels)``.
        stage: see `moment_stage`.
        seen: where what the labels of an `ATGNN` drew is appended, as of B x P clips.

    Moments past the end of a shorter clip of the batch mean nothing.
    """
    count = stages[stage][-1].x.shape[2]
    if network.config.label_placement == "after_stage":
        stages = [blocks[-1:] for blocks in stages]
    parts = [[at_moments(p, n - stage, count) for p in blocks] for n, blocks in enumerate(stages)]
    logits: Tensor = network.scored(parts) if seen is None else network.scored(parts, seen)
    return logits.unflatten(0, (-1, count))


def at_moments(patches: Patches, later: int, count: int) -> Patches:
    """The columns around each of `count` moments: ``(B, F, T, C)`` to ``(B * P, F, R, C)``.

    `later` is how many stages after that of the moments these patches are, negative if before.
    Every node's centre is at its number times its stride, so moment p lies at column ``p / 2^k`` of
    the k-th stage after, or between the two next to that, and in the middle of ``2^k + 1`` columns
    of the k-th stage before. What is beyond the clip's ends is the column at the end.
    """
    moments = torch.arange(count, device=patches.x.device)
    if later > 0:
        columns = torch.stack([moments >> later, (moments + (1 << later) - 1) >> later], 1)
    else:
        around = torch.arange(1 + (1 << -later if later else 0), device=moments.device)
        columns = (moments << -later)[:, None] + around - (len(around) // 2)
    x, reach = patches.x.transpose(1, 2), columns.shape[1]  # (B, T, F, C)
    if patches.lengths is None:
        columns = columns.clamp(0, x.shape[1] - 1)
        chosen = x.index_select(1, columns.flatten())  # (B, P * R, F, C)
    else:
        last = patches.lengths[:, None] - 1
        columns = torch.minimum(columns.flatten()[None].clamp(min=0), last)  # (B, P * R)
        chosen = x[torch.arange(len(x), device=x.device)[:, None], columns]
    parts = chosen.unflatten(1, (count, reach)).flatten(0, 1)  # (B * P, R, F, C)
    return Patches(parts.transpose(1, 2).contiguous(), None)
