"""The model that a run starts from: random weights, published ones, or a checkpoint's."""

from pathlib import Path

import torch

from atgnn.checkpoint import Checkpoint
from atgnn.encoder import Encoder, is_encoder
from atgnn.errors import ConfigError
from atgnn.frontend import FrontEndConfig
from atgnn.model import ATGNN
from atgnn.model.atgnn import initialise
from atgnn.model.transfer import transfer
from atgnn.model.weights import load_published
from atgnn.training.division import Division
from atgnn.training.recipe import Recipe

__all__ = ["new_model"]


def new_model(recipe: Recipe, division: Division) -> tuple[ATGNN, str]:
    """The model to train, and a report of the weights it starts from ("" for random ones)."""
    torch.manual_seed(recipe.seed)
    model = ATGNN(recipe.model_config_for(len(division.vocabulary)))
    initialise(model, recipe.residual_scale)
    if recipe.init is None:
        return model, ""
    if Path(recipe.init).is_file():
        return model, str(load_published(recipe.init, model))
    if Path(recipe.init).suffix:
        raise ConfigError(f"init: no file {recipe.init}")
    if is_encoder(recipe.init):
        encoder = Encoder.from_pretrained(recipe.init)
        _check_front_end(recipe, encoder.front_end)
        return model, encoder.start(model)
    source = Checkpoint.from_pretrained(recipe.init)
    _check_front_end(recipe, source.front_end)
    known = {name: row for row, name in enumerate(source.vocabulary.names)}
    rows = [known.get(name) for name in division.vocabulary.names]
    return model, str(transfer(source.model, model, rows))


def _check_front_end(recipe: Recipe, theirs: FrontEndConfig) -> None:
    """Weights that learned from one front end are of no use with another."""
    ours, given = recipe.front_end_config().model_dump(), theirs.model_dump()
    differ = [name for name in ours if ours[name] != given[name]]
    if differ:
        settings = " ".join(f"--set front_end.{name}={given[name]}" for name in differ)
        raise ConfigError(
            f"{recipe.init} was trained with another front end ({', '.join(differ)} differ): "
            f"add {settings}"
        )
