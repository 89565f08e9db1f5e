"""A published file of weights as a checkpoint: to tag with, to compare with, to learn from."""

from pathlib import Path

from atgnn.baselines.published import Activation
from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.errors import CheckpointError, ConfigError, some_of
from atgnn.frontend import FRONT_ENDS, FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.model.weights import WeightsReport
from atgnn.networks import (
    Kind,
    build,
    kind_of,
    network_preset,
    own_front_end,
    published_front_end,
)

__all__ = ["convert"]

LONGEST = 10.0  # seconds of a window

#: Presets of which weights were published that score labels; pyr-s for the author's ATGNN.
CONVERTIBLE = ("cnn14", "cnn14-16k", "psla", "ast", "pyr-s")


def convert(
    weights: Path,
    preset: str,
    vocabulary: Vocabulary | None = None,
    *,
    activation: Activation | None = None,
) -> tuple[Checkpoint, WeightsReport]:
    """A checkpoint of a published file, behind the front end that it learned from.

    That is the front end of the preset, but for what the file says of itself, as folders of the Hub
    do.

    Args:
        weights: what the preset's system was published as.
        preset: which system it is, such as ``cnn14``.
        vocabulary: what the rows of its classifier mean; None for what the file says, else
            AudioSet's 527.
        activation: whether labels are independent or exclude one another; None for what the file
            says, else independent.

    Returns:
        The checkpoint, and what became of every tensor.

    Raises:
        ConfigError: there is no such preset, or nothing is known of how it was published.
        CheckpointError: there is no such file, it does not fit, or leaves something at random.
        LabelError: the labels that it names are no labels.
    """
    own, kind = own_front_end(preset), kind_of(network_preset(preset))
    if kind.load is None:
        known = ", ".join(CONVERTIBLE)
        raise ConfigError(f"{preset} has no published weights to convert: choose from {known}")
    if not weights.exists() or not kind.loads(weights):
        raise CheckpointError(
            f"no published weights of {preset} at {weights}: {_sought(weights, kind)}"
        )
    heard = published_front_end(kind, weights)
    if heard is not None and FRONT_ENDS[heard] != own:
        raise ConfigError(f"{weights} learned from the front end of {heard}: give --preset {heard}")
    told = kind.told(weights)
    front_end = FrontEndConfig(**{**own.model_dump(), **told.front_end})
    if vocabulary is None:
        vocabulary = Vocabulary.from_names(told.labels) if told.labels else Vocabulary.audioset()
    sizes = {"num_labels": len(vocabulary), "n_mels": front_end.n_mels}
    network = build(network_preset(preset, **{**told.layout, **sizes})).eval()
    report = kind.load(network, weights)
    if report.left_new:
        names = some_of([fate.key for fate in report.left_new], 3)
        raise CheckpointError(
            f"{weights} has nothing for {names} with {len(vocabulary)} labels: give the labels "
            "that it was trained on, or train from it with --set init=FILE"
        )
    checkpoint = Checkpoint(
        network,
        front_end,
        vocabulary,
        activation=activation or told.activation,
        window_seconds=_window(front_end),
        provenance=_about(weights, preset),
    )
    return checkpoint, report


def _sought(path: Path, kind: Kind) -> str:
    """Why there are none at a path, and what is looked for."""
    if not path.exists():
        return "there is no such file or folder"
    described = path / "config.json"
    if described.is_file() and '"format_version"' in described.read_text("utf-8", "replace"):
        return "it is a checkpoint already, to be given as --model"
    return f"expected {kind.form}"


def _window(front_end: FrontEndConfig) -> float:
    """Seconds that are tagged at once: 10, or what an input of fixed length holds, if that is less.

    What a padded input cuts off would otherwise never be heard.
    """
    if front_end.pad_to_frames is None:
        return LONGEST
    held = front_end.frames_to_samples(front_end.pad_to_frames) / front_end.sample_rate
    return min(LONGEST, held)


def _about(weights: Path, preset: str) -> Provenance:
    return Provenance(
        lineage=(f"The published weights of {weights.name}, as they are.",),
        command=f"atgnn convert {weights.name} --preset {preset}",
    )
