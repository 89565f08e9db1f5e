"""What a run learns of moments beside whole clips, from tables of events.

B clips, P moments, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from atgnn.data.clips import Clips
from atgnn.data.strong import StrongLabel, moment_targets, read_strong
from atgnn.errors import ClipsError, ConfigError
from atgnn.labels import Ontology
from atgnn.model import ATGNN
from atgnn.model.layers import BatchNorm, Patches
from atgnn.model.moments import moment_logits, moment_places
from atgnn.networks import Network
from atgnn.training.division import Division
from atgnn.training.loading import Batch, ClipDataset
from atgnn.training.recipe import Recipe

__all__ = ["Moments", "make_moments"]


class Moments:
    """The moments of a run's clips: what is heard in them, and what a network says of them."""

    def __init__(self, recipe: Recipe, division: Division, network: ATGNN) -> None:
        self.weight, self.labels = recipe.moments.weight, len(division.vocabulary)
        front_end = recipe.front_end_config()
        self.places = moment_places(network.config, front_end)
        self._rate = front_end.sample_rate
        self.count = self.places.columns(round(recipe.window_seconds * self._rate))
        self._truth = self._read(recipe, division)

    def _read(self, recipe: Recipe, division: Division) -> np.ndarray:
        """Of the training clips, float32 (N, P, L)."""
        heard: dict[str, list[StrongLabel]] = {}
        for path in recipe.moments.events:
            more = read_strong(path)
            twice = sorted(set(heard) & set(more))
            if twice:
                raise ClipsError(f"two tables of events name {twice[0]}: give the clips one name")
            heard |= more
        names = _names(division.train)
        if not any(name in heard for name in names):
            raise ClipsError(
                f"no training clip has an event in {', '.join(recipe.moments.events)}: clips are "
                f"found there by file name, such as {names[0]}"
            )
        return moment_targets(
            names,
            division.train_targets,
            heard,
            self.places.time_edges(self.count),
            division.vocabulary,
            Ontology.audioset() if recipe.data.ontology else None,
        )

    def prepare(self, dataset: ClipDataset) -> None:
        """Put the moments' columns beside the training targets: what is mixed is mixed alike.

        ``(N, L)`` become ``(N, L + P L)``.
        """
        flat = self._truth.reshape(len(self._truth), -1)
        dataset.targets = np.concatenate([dataset.targets, flat], axis=1)

    def logits(self, network: ATGNN, stages: list[list[Patches]]) -> Tensor:
        """Of all moments, ``(B, P', L)``; P' is that of the longest clip.

        The norms behind the encoder go by what whole clips have shown so far: statistics that
        moments had a share in would be neither's.
        """
        with _settled(network.patch_head, network.label_branch):
            return moment_logits(network, stages, self.places.stage)

    def truth(self, batch: Batch, count: int) -> Tensor:
        """What is heard in the first `count` moments of each clip, ``(B, count, L)``.

        NaN past a clip's end.
        """
        columns = batch.targets[:, self.labels :]
        truth = columns.unflatten(1, (self.count, self.labels))[:, :count]
        if batch.equal:
            return truth
        own = [self.places.columns(samples) for samples in batch.lengths.tolist()]
        over = torch.arange(count)[None] >= torch.tensor(own)[:, None]
        return truth.masked_fill(over.to(truth.device)[..., None], torch.nan)


@contextmanager
def _settled(*parts: nn.Module) -> Iterator[None]:
    """Batch normalisations go by their running statistics and leave them as they are."""
    norms = [one for part in parts for one in part.modules() if isinstance(one, BatchNorm)]
    active = [norm for norm in norms if norm.training]
    try:
        for norm in active:
            norm.eval()
        yield
    finally:
        for norm in active:
            norm.train()


def _names(clips: Clips) -> list[str]:
    return [Path(path).name for path in clips.paths]


def make_moments(recipe: Recipe, division: Division, network: Network) -> Moments | None:
    """What a recipe's `moments` asks for; None where it names no events.

    ConfigError for a network without patch nodes, `ClipsError` for tables that do not fit.
    """
    if not recipe.moments.events:
        return None
    if not isinstance(network, ATGNN):
        raise ConfigError(
            f"a network of kind {network.config.kind} is not read out by moments: leave "
            "moments.events out"
        )
    return Moments(recipe, division, network)
