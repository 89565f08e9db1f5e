"""New labels beside those of a trained model, which they leave as they are.

A new label is one more label node: an embedding, a row of each label adjacency, a readout row and
a head row. Its row of an adjacency says what it hears from the old labels; the column, what they
hear from it, is zero, and so is what new labels hear from one another. That is why new labels can
be learned by different people and put together in any order.

Larger matrices are multiplied in another order. So new labels are not appended to the old ones but
take the same way after them: what the old ones compute is the same in every bit.

B batch, S old labels, N new labels, P label blocks, D width of labels, H width of the head,
E numbers of the summary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atgnn.graph.precision import at_least_float32, without_autocast
from atgnn.model.atgnn import ATGNN
from atgnn.model.config import ModelConfig
from atgnn.model.label import LabelBlock, LabelBranch, LabelLevel, read_out
from atgnn.model.layers import Patches, check_input, spread_of

__all__ = [
    "Heard",
    "LabelsBeside",
    "NewLabels",
    "heard",
    "label_levels",
    "new_states",
    "stage_ends",
    "summary",
]


BANDS = 4


class NewLabels(nn.Module):
    """All weights of N new labels.

    Beside what an old label has, a new one reads a summary of the sound, mean and deviation of each
    stage's patch nodes in `BANDS` bands of frequency: the hidden layer of the head was trained to
    tell the old labels apart and drops what new ones need.
    """

    def __init__(self, config: ModelConfig, count: int) -> None:
        super().__init__()
        for name, shape in shapes(config, count).items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    embedding: nn.Parameter  # (N, D)
    rows: nn.Parameter  # (N, P, S + 1): what it hears from old labels, and last from itself
    readout: nn.Parameter  # (N, D)
    head: nn.Parameter  # (N, H)
    bias: nn.Parameter  # (N,)
    summary: nn.Parameter  # (N, E)

    def __len__(self) -> int:
        return len(self.bias)

    @classmethod
    def of(cls, config: ModelConfig, weights: dict[str, Tensor]) -> "NewLabels":
        """From tensors by name, float32; `ValueError` where one is missing or of another shape."""
        count = weights["bias"].numel() if "bias" in weights else 0
        expected = shapes(config, count)
        for name in sorted(set(expected) | set(weights)):
            came = tuple(weights[name].shape) if name in weights else "missing"
            if came != expected.get(name, "unknown"):
                raise ValueError(
                    f"{name} is {came}, expected {expected.get(name, 'no such thing')}"
                )
        new = cls(config, count)
        new.load_state_dict({name: value.float() for name, value in weights.items()})
        return new.requires_grad_(False)


def shapes(config: ModelConfig, count: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of `count` new labels, by name."""
    levels = config.label_levels
    first = last = blocks = 0
    if levels:
        own = config.label_width
        first, last = (levels[0][0], levels[-1][0]) if own is None else (own, own)
        blocks = sum(number for _, number in levels)
    return {
        "embedding": (count, first),
        "rows": (count, blocks, config.num_labels + 1),
        "readout": (count, last),
        "head": (count, config.head_width),
        "bias": (count,),
        "summary": (
            count,
            sum(2 * c * n for c, n in zip(config.channels, bands(config), strict=True)),
        ),
    }


def bands(config: ModelConfig) -> list[int]:
    """How many bands of frequency the summary of each stage has: no more than rows of nodes."""
    return [min(BANDS, config.grid(1, stage)[0]) for stage in range(len(config.channels))]


class Heard(NamedTuple):
    """What a new label needs of one level of label blocks."""

    level: LabelLevel
    patches: Patches  # at the width of the labels
    old: tuple[Tensor, ...]  # (B, S, D) for each block: old labels after they heard from patches


def label_levels(network: ATGNN, stages: list[list[Patches]]) -> list[Patches]:
    """The patch nodes that label blocks look at; the ends of stages where there are none."""
    branch = network.label_branch
    if isinstance(branch, LabelBranch):
        return branch.looks_at(stages)
    return [stage[-1] for stage in stages]


def heard(branch: nn.Module, levels: list[Patches]) -> tuple[list[Heard], Tensor | float]:
    """Run the old labels: what new ones need of each level, and the old ones' logits ``(B, S)``.

    The same operations on the same values as `LabelBranch.forward`.
    """
    if not isinstance(branch, LabelBranch):
        return [], 0.0
    labels = branch.embedding.expand(levels[0].x.shape[0], -1, -1)
    found = []
    for level, patches in zip(branch.levels, levels, strict=True):
        assert isinstance(level, LabelLevel)
        labels = level.projection(labels)
        patches = patches.with_features(level.patch_projection(patches.x, patches.mask))
        old = []
        for block in level.blocks:
            assert isinstance(block, LabelBlock)
            old.append(block.plg(labels, patches))
            labels = block.llg(old[-1])
        found.append(Heard(level, patches, tuple(old)))
    return found, read_out(labels, branch.readout)


def new_states(found: list[Heard], embedding: Tensor, rows: Tensor) -> Tensor:
    """Nodes of new labels after all blocks: ``(N, D)`` and ``(N, P, S + 1)`` to ``(B, N, D')``."""
    labels = embedding.expand(found[0].patches.x.shape[0], -1, -1)
    place = 0
    for level, patches, old in found:
        labels = level.projection(labels)
        for block, states in zip(level.blocks, old, strict=True):
            assert isinstance(block, LabelBlock)
            labels = block.plg(labels, patches)
            row = rows[:, place]
            place += 1
            with without_autocast(labels):
                labels, states = at_least_float32(labels), at_least_float32(states)
                from_old = torch.matmul(row[:, :-1].to(labels.dtype), states)
                labels = labels + from_old + row[:, -1:].to(labels.dtype) * labels
    return labels


def summary(config: ModelConfig, ends: list[Patches]) -> Tensor:
    """Mean and deviation of the patch nodes in bands of each stage's end, ``(B, E)`` float32."""
    parts = []
    for patches, count in zip(ends, bands(config), strict=True):
        bands_of = torch.tensor_split(at_least_float32(patches.x), count, dim=1)
        kept = [None] * count if patches.kept is None else patches.kept.tensor_split(count, dim=1)
        for x, part in zip(bands_of, kept, strict=True):
            parts.append(spread_of(Patches(x, patches.lengths, part)))
    return torch.cat(parts, 1)


def stage_ends(config: ModelConfig, levels: list[Patches]) -> list[Patches]:
    """The ends of stages among what `label_levels` gave."""
    if len(levels) == len(config.channels):
        return levels
    last, ends = -1, []
    for blocks in config.blocks:
        last += blocks
        ends.append(levels[last])
    return ends


class LabelsBeside(nn.Module):
    """A network and new labels beside its own; logits of the old ones come first.

    `network` may be folded for inference (see `atgnn.model.inference`).
    """

    def __init__(self, network: ATGNN, new: NewLabels) -> None:
        super().__init__()
        self.network, self.new = network, new
        self.config = network.config.replace(num_labels=network.config.num_labels + len(new))

    # What explains or embeds reads these of any network.
    @property
    def encoder(self) -> nn.Module:
        """The network's patch encoder."""
        return self.network.encoder

    @property
    def patch_head(self) -> nn.Module:
        """The network's head, of the old labels alone."""
        return self.network.patch_head

    @property
    def label_branch(self) -> nn.Module:
        """The network's label nodes, the old ones alone."""
        return self.network.label_branch

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `ATGNN.forward`: logits ``(B, S + N)``."""
        check_input(self.config, mel, lengths)
        return self.scored(self.network.encoder(mel, lengths))

    def scored(self, stages: list[list[Patches]]) -> Tensor:
        """Patch nodes after every block, by stage, to logits ``(B, S + N)``."""
        head = self.network.patch_head
        hidden = head.hidden(stages[-1][-1])
        found, label_logits = heard(self.network.label_branch, label_levels(self.network, stages))
        old = head.fc2(hidden) + label_logits
        pooled = summary(self.network.config, [stage[-1] for stage in stages])
        new = self.new_logits(hidden, pooled, found)
        return torch.cat([old, new.to(old.dtype)], 1)

    def new_logits(self, hidden: Tensor, pooled: Tensor, found: list[Heard]) -> Tensor:
        """``(B, H)``, ``(B, E)`` and what was heard, to ``(B, N)`` in float32 at least."""
        with without_autocast(hidden):
            new: Any = self.new
            out: Tensor = new.bias + at_least_float32(hidden) @ new.head.T + pooled @ new.summary.T
        if found:
            out = out + read_out(new_states(found, new.embedding, new.rows), new.readout)
        return out
