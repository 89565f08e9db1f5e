"""One window before the network: what its scores are, with and without some of its nodes.

B sets of nodes, F x T patch nodes of the first stage, S labels, D width of labels, N = F x T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atgnn.checkpoint import Checkpoint
from atgnn.errors import ConfigError
from atgnn.model import ATGNN
from atgnn.model.beside import LabelsBeside
from atgnn.model.label import LabelBranch, PatchLabelGraph
from atgnn.model.layers import Patches
from atgnn.networks import for_inference

__all__ = ["Drawn", "Examination", "Examiner"]

AT_ONCE = 16  # sets of nodes, or clips of a path, that go through the network together


@dataclass(frozen=True)
class Drawn:
    """What label nodes drew from patches in one label block.

    Attributes:
        stage, block: whose, counted from 0.
        grid: rows and columns of the patches.
        patches: their features at the width of the labels, (N, D).
        neighbours: the patches that each label looked at, (S, K).
        extremum: the smallest value of each channel among them, (1, S, D), in autograd's graph.
    """

    stage: int
    block: int
    grid: tuple[int, int]
    patches: Tensor
    neighbours: Tensor
    extremum: Tensor

    def winners(self, row: int) -> Tensor:
        """The patch that each channel of a label was drawn from, (D,): the nearest with it."""
        near = self.neighbours[row]
        return near[self.patches[near].argmin(0)]


class Examiner:
    """A model made ready to be asked for reasons.

    Attributes:
        checkpoint: whose model this is.
        model: the network in float32, in evaluation mode, for gradients.
        encoder: its patch encoder.
        fast: the network with its norms folded away, for scores.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises `ConfigError` for a network without patch nodes."""
        model = checkpoint.model
        if not isinstance(model, ATGNN | LabelsBeside):
            raise ConfigError(
                f"a network of kind {model.config.kind!r} has no patch nodes, so there is nothing "
                "to explain its tags with: give an ATGNN model"
            )
        self.checkpoint, self.model = checkpoint, model.eval()
        self.encoder: Any = model.encoder
        self.fast: Any = for_inference(model).folded

    @property
    def label_branch(self) -> LabelBranch | None:
        """The label nodes; None in a model without."""
        branch = self.model.label_branch
        return branch if isinstance(branch, LabelBranch) else None

    def examine(self, mel: Tensor) -> Examination:
        """A window's normalised log-mel ``(1, T, n_mels)``."""
        return Examination(self, mel)


class Examination:
    """One window before one model.

    Attributes:
        mel: ``(1, T, n_mels)``.
        nodes: the patch nodes that the first block gets.
        logits: of the whole window, ``(S,)``.
    """

    def __init__(self, examiner: Examiner, mel: Tensor) -> None:
        self.examiner, self.mel = examiner, mel
        with torch.no_grad():
            self.nodes: Patches = examiner.fast.encoder.nodes(mel)
            self.logits = self._scored(self.nodes)[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the first stage's nodes."""
        rows, columns = self.nodes.x.shape[1:3]
        return rows, columns

    def _scored(self, patches: Patches) -> Tensor:
        out: Tensor = self.examiner.fast.scored(self.examiner.fast.encoder.through(patches))
        return out

    @torch.no_grad()
    def log_odds(self, kept: Tensor) -> Tensor:
        """Log-odds ``(B, S)`` with only the nodes kept ``(B, F, T)``, at least one of them."""
        out = []
        for part in kept.to(self.mel.device).split(AT_ONCE):
            x = self.nodes.x.expand(len(part), -1, -1, -1)
            out.append(self._scored(self.nodes.with_features(x).keeping(part)))
        return self.examiner.checkpoint.log_odds(torch.cat(out))

    # ------------------------------------------------------------------ label nodes

    @cached_property
    def influences(self) -> np.ndarray:
        """What each label node's being there adds to each label's log-odds, (removed S', S).

        Of the model's own label nodes: no rows where it has none.
        """
        branch = self.examiner.label_branch
        count = 0 if branch is None else len(branch.embedding)
        whole = self.examiner.checkpoint.log_odds(self.logits)
        if not count:
            return np.zeros((0, len(whole)))
        effects: np.ndarray = (whole - self.without_labels([*range(count)])).cpu().numpy()
        return effects

    @cached_property
    def from_labels(self) -> list[float | None]:
        """The part of each label's logit that is read from its node; None where it has none here.

        Labels beside the model's own have none.
        """
        count, fast = len(self.logits), self.examiner.fast
        if self.examiner.label_branch is None:
            return [None] * count
        with torch.no_grad():
            logits = fast.label_branch(fast.encoder.through(self.nodes))[0].tolist()
        return [*logits, *[None] * (count - len(logits))]

    @torch.no_grad()
    def without_labels(self, removed: list[int]) -> Tensor:
        """Log-odds ``(B, S)`` with label node ``removed[b]`` taken out of the graph in row b."""
        fast, out = self.examiner.fast, []
        stages = fast.encoder.through(self.nodes)
        for first in range(0, len(removed), AT_ONCE):
            part = removed[first : first + AT_ONCE]
            many = [[_repeated(patches, len(part)) for patches in stage] for stage in stages]
            with _unheard(fast.label_branch, part):
                out.append(fast.scored(many))
        return self.examiner.checkpoint.log_odds(torch.cat(out))

    @cached_property
    def _patches(self) -> list[list[Patches]]:
        encoder = self.examiner.encoder
        with torch.no_grad():
            out: list[list[Patches]] = encoder.through(encoder.nodes(self.mel))
        return out

    def stages(self) -> list[list[Patches]]:
        """The patch nodes after every block, by stage; gradients can be asked of them."""
        return [
            [patches.with_features(patches.x.detach().requires_grad_()) for patches in stage]
            for stage in self._patches
        ]

    def drawn(self, label: int) -> tuple[list[Drawn], int, Tensor]:
        """What label nodes drew in every block, as autograd sees it.

        Returns the blocks, the label's row in them, and all log-odds ``(1, S)``.
        """
        model, branch = self.examiner.model, self.examiner.label_branch
        stages = self.stages()
        caught: list[tuple[PatchLabelGraph, Tensor, Patches, Tensor]] = []
        with _listening(branch, caught):
            logits = model.scored(stages)
        old = model.network.config.num_labels if isinstance(model, LabelsBeside) else None
        row = label if old is None or label < old else label - old
        numbers = [[number] * len(stage) for number, stage in enumerate(stages)]
        blocks = _of_label(branch, numbers, caught, old is not None and label >= old)
        return blocks, row, self.examiner.checkpoint.log_odds(logits)


def _repeated(patches: Patches, count: int) -> Patches:
    return patches.with_features(patches.x.expand(count, -1, -1, -1))


@contextmanager
def _unheard(branch: nn.Module, removed: list[int]) -> Iterator[None]:
    """Label node ``removed[b]`` of clip b is taken out: what others would hear of it is nothing.

    Its state is zeroed where label nodes speak to one another, which is all that others know of it.
    """
    spoken: set[nn.Module] = set()

    def silence(module: nn.Module, args: Any, states: Tensor) -> Tensor:
        if module in spoken:  # labels beside the model's own come after these, and are not heard
            return states
        spoken.add(module)
        states = states.clone()
        states[torch.arange(len(removed)), removed] = 0
        return states

    with _hooks(branch, lambda graph: [graph.register_forward_hook(silence)]):
        yield


@contextmanager
def _listening(branch: nn.Module | None, caught: list[Any]) -> Iterator[None]:
    """Append what each patch-label graph was given, and the extremum it drew, call by call."""

    def given(module: nn.Module, args: tuple[Tensor, Patches]) -> None:
        caught.append([module, *args])

    def drew(module: nn.Module, args: tuple[Tensor, Tensor]) -> None:
        caught[-1].append(args[1])

    def attach(graph: PatchLabelGraph) -> list[Any]:
        return [
            graph.register_forward_pre_hook(given),
            graph.update.register_forward_pre_hook(drew),
        ]

    with _hooks(branch, attach):
        yield


@contextmanager
def _hooks(
    branch: nn.Module | None, attach: Callable[[PatchLabelGraph], list[Any]]
) -> Iterator[None]:
    """Hooks on every patch-label graph, for as long as the block lasts."""
    modules = () if branch is None else branch.modules()
    handles = [
        handle
        for graph in modules
        if isinstance(graph, PatchLabelGraph)
        for handle in attach(graph)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_label(
    branch: LabelBranch | None, stages: list[Any], caught: list[Any], beside: bool
) -> list[Drawn]:
    """The calls that a label took part in: of each graph the first, or that of labels beside.

    `stages` holds, in place of the patches after each block, the number of their stage.
    """
    if branch is None:
        return []
    calls: dict[nn.Module, list[Any]] = {}
    for call in caught:
        calls.setdefault(call[0], []).append(call[1:])
    places: list[Any] = branch.looks_at(stages)
    found = []
    block = 0
    for stage, level in zip(places, branch.levels, strict=True):
        for one in level.blocks:  # type: ignore[union-attr]
            labels, patches, extremum = calls[one.plg][-1 if beside else 0]
            _, near = one.plg.drawn(labels.detach(), patches.with_features(patches.x.detach()))
            rows, columns = patches.x.shape[1:3]
            features = patches.x.detach()[0].flatten(0, 1)
            found.append(Drawn(stage, block, (rows, columns), features, near[0].long(), extremum))
            block += 1
    return found
