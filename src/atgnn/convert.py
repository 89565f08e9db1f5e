"""A published file of weights as a checkpoint: to tag with, to compare with, to learn from."""

from pathlib import Path

from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.errors import CheckpointError, ConfigError, some_of
from atgnn.frontend import FRONT_ENDS
from atgnn.labels import Vocabulary
from atgnn.model.weights import WeightsReport
from atgnn.networks import (
    KINDS,
    Kind,
    build,
    kind_of,
    network_preset,
    own_front_end,
    published_front_end,
)

__all__ = ["convert"]


def convert(weights: Path, preset: str, vocabulary: Vocabulary) -> tuple[Checkpoint, WeightsReport]:
    """A checkpoint of a published file, behind the front end of its preset.

    Args:
        weights: what the preset's system was published as.
        preset: one of a baseline, such as ``cnn14``.
        vocabulary: what the rows of its classifier mean; ``Vocabulary.audioset()`` for most.

    Returns:
        The checkpoint, and what became of every tensor.

    Raises:
        ConfigError: there is no such preset, or nothing is known of how it was published.
        CheckpointError: there is no such file, it does not fit, or leaves something at random.
    """
    front_end = own_front_end(preset)
    config = network_preset(preset, num_labels=len(vocabulary), n_mels=front_end.n_mels)
    kind = kind_of(config)
    if kind.load is None or config.kind == "atgnn":
        known = ", ".join(name for one in _convertible() for name in one.presets)
        raise ConfigError(f"{preset} has no published weights to convert: choose from {known}")
    if not weights.exists() or not kind.loads(weights):
        raise CheckpointError(f"no published weights of {preset} at {weights}")
    heard = published_front_end(kind, weights)
    if heard is not None and FRONT_ENDS[heard] != front_end:
        raise ConfigError(f"{weights} learned from the front end of {heard}: give --preset {heard}")
    network = build(config).eval()
    report = kind.load(network, weights)
    if report.left_new:
        names = some_of([fate.key for fate in report.left_new], 3)
        raise CheckpointError(
            f"{weights} has nothing for {names} with {len(vocabulary)} labels: give the labels "
            "that it was trained on, or train from it with --set init=FILE"
        )
    return Checkpoint(network, front_end, vocabulary, provenance=_about(weights, preset)), report


def _convertible() -> list[Kind]:
    return [kind for name, kind in KINDS.items() if kind.load is not None and name != "atgnn"]


def _about(weights: Path, preset: str) -> Provenance:
    return Provenance(
        lineage=(f"The published weights of {weights.name}, as they are.",),
        command=f"atgnn convert {weights.name} --preset {preset}",
    )
