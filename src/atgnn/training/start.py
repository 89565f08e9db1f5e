"""The network that a run starts from: random weights, published ones, or a checkpoint's."""

from pathlib import Path
from typing import NamedTuple

import torch

from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.encoder import Encoder, is_encoder
from atgnn.errors import CheckpointError, ConfigError
from atgnn.frontend import FRONT_ENDS, FrontEndConfig
from atgnn.model import ATGNN
from atgnn.model.transfer import transfer
from atgnn.networks import (
    KINDS,
    Network,
    build,
    initialise_network,
    kind_of,
    preset_of,
    published_front_end,
)
from atgnn.trained_on import Heard
from atgnn.training.division import Division
from atgnn.training.recipe import Recipe

__all__ = ["Start", "ancestors", "new_model"]

MISSING = "???"  # what stands in a recipe that cannot do without


class Start(NamedTuple):
    """The network to train and where its weights come from."""

    model: Network
    report: str = ""  # what was loaded, converted, left new; "" for random weights
    lineage: tuple[str, ...] = ()  # what they had learned from, for the card
    heard: Heard | None = None  # the clips that they had learned from, where that is known

    def taught(self, lineage: tuple[str, ...]) -> "Start":
        """The same, with more that its network learns from."""
        return self._replace(lineage=(*self.lineage, *lineage))


def new_model(recipe: Recipe, division: Division) -> Start:
    """The network of a recipe, filled with what `init` names."""
    torch.manual_seed(recipe.seed)
    model = build(recipe.model_config_for(len(division.vocabulary)))
    initialise_network(model, recipe.residual_scale)
    if recipe.init is None:
        return Start(model)
    if recipe.init == MISSING:
        raise ConfigError(
            f"the recipe {recipe.name} starts from a trained model: add --set init=CHECKPOINT"
        )
    if any(recipe.init in kind.starts for kind in KINDS.values()):
        return _from_name(recipe.init, model)
    path = Path(recipe.init)
    if path.is_file() or (path.exists() and kind_of(model.config).loads(path)):
        return _from_published(recipe, path, model)
    return _from_checkpoint(recipe, division, model)


def _from_name(name: str, model: Network) -> Start:
    starts = kind_of(model.config).starts
    if name not in starts:
        saw = " or ".join(kind.start_preset for kind in KINDS.values() if name in kind.starts)
        raise ConfigError(f"init: {name} needs a network that saw it: set model.preset={saw}")
    report, lineage = starts[name](model)
    return Start(model, report, (lineage,))


def _from_published(recipe: Recipe, path: Path, model: Network) -> Start:
    kind = kind_of(model.config)
    if kind.load is None or not kind.loads(path):
        others = " or ".join(kind.starts) or "nothing"
        raise ConfigError(
            f"init: {path} can start no network of kind {model.config.kind}: name a folder with a "
            f"checkpoint or {others}"
        )
    heard = published_front_end(kind, path)
    if heard is not None and recipe.front_end_config() != FRONT_ENDS[heard]:
        raise ConfigError(
            f"{path} learned from another front end: add --set front_end={{preset: {heard}}}"
        )
    if path.is_dir():  # of the Hub, which says its statistics; lengths and bins are resized
        ours, told = recipe.front_end_config(), kind.told(path).front_end
        kept = {name: told[name] for name in ("sample_rate", "mean", "std") if name in told}
        _check_front_end(recipe, FrontEndConfig(**{**ours.model_dump(), **kept}))
    report = str(kind.load(model, path))
    return Start(model, report, (f"Initial weights: the published ones of {path.name}.",))


def _from_checkpoint(recipe: Recipe, division: Division, model: Network) -> Start:
    assert recipe.init is not None
    path = Path(recipe.init)
    if path.suffix[1:].isalpha() and not path.exists():  # .pth, but not the end of model-v1.5
        raise ConfigError(f"init: no file {path}")
    if is_encoder(recipe.init):
        return _from_encoder(recipe, model)
    try:
        source = Checkpoint.from_pretrained(recipe.init)
    except CheckpointError as error:
        raise ConfigError(f"init: {error}") from None
    _check_front_end(recipe, source.front_end)
    known = {name: row for row, name in enumerate(source.vocabulary.names)}
    rows = [known.get(name) for name in division.vocabulary.names]
    try:
        report = str(transfer(source.model, model, rows))
    except CheckpointError as error:
        like = preset_of(source.model.config)
        way = f"set model.preset={like}" if like else "give model its layout"
        raise ConfigError(
            f"init: {recipe.init} does not fit this run's model: {way}, or init=null to start from "
            f"nothing ({error})"
        ) from None
    lineage = ancestors("Initial weights", recipe.init, source.provenance)
    return Start(model, report, lineage, source.heard)


def _from_encoder(recipe: Recipe, model: Network) -> Start:
    assert recipe.init is not None
    encoder = Encoder.from_pretrained(recipe.init)
    _check_front_end(recipe, encoder.front_end)
    if not isinstance(model, ATGNN):
        raise ConfigError(f"init: the encoder {recipe.init} can start an ATGNN alone")
    report = encoder.start(model)
    return Start(model, report, ancestors("Initial weights", recipe.init, encoder.provenance))


def ancestors(role: str, name: str, about: Provenance) -> tuple[str, ...]:
    """Lines for the card about a model that another one learned from, and what stands behind it."""
    learned = f", trained on: {about.training_data}" if about.training_data else ""
    return (f"{role}: {Path(name).name}{learned.rstrip('.')}.", *about.lineage)


def _check_front_end(recipe: Recipe, theirs: FrontEndConfig) -> None:
    """Weights that learned from one front end are of no use with another."""
    ours, given = recipe.front_end_config().model_dump(), theirs.model_dump()
    differ = [name for name in ours if ours[name] != given[name]]
    if differ:
        pairs = ", ".join(f"{name} {given[name]}, here {ours[name]}" for name in differ)
        settings = " ".join(f"--set front_end.{name}={given[name]}" for name in differ)
        raise ConfigError(
            f"init: {recipe.init} was trained with another front end ({pairs}): {settings}"
        )
