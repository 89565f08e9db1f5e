"""A training run from recipe to checkpoint, in a folder that explains itself (`folder.py`)."""

import warnings
from pathlib import Path

from atgnn.errors import MissingExtraError
from atgnn.training.division import divide
from atgnn.training.recipe import Recipe

try:
    import lightning  # noqa: F401
except ImportError:
    raise MissingExtraError.of("Lightning", "train", "training") from None

from atgnn.training.folder import check_folder, claim
from atgnn.training.keeper import Keeper
from atgnn.training.loaders import make_loaders
from atgnn.training.module import TaggingModule
from atgnn.training.start import new_model
from atgnn.training.trainer import check_precision, make_trainer

__all__ = ["train"]


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> Path:
    """Run a recipe; returns the folder of the resulting checkpoint, ``out/model``.

    Interrupted by Ctrl-C, a crash or kill -9, the same call with `resume` goes on after the last
    whole epoch and ends with the same weights as an uninterrupted run.

    Raises:
        ConfigError: `out` is in use, or `resume` with another recipe.
        ClipsError: the clips are missing or do not fit the recipe.
    """
    check_precision(recipe)
    check_folder(recipe, out, resume)
    division = divide(recipe)
    training, validation = make_loaders(recipe, division)
    start = new_model(recipe, division)
    claim(recipe, out, start.report)  # only now: whatever does not fit has been found
    module = TaggingModule(recipe, start.model, division.vocabulary.names, len(training))
    keeper = Keeper(recipe, division.vocabulary, out, start.lineage)
    trainer = make_trainer(recipe, out, keeper)
    last = out / "resume" / "last.ckpt"
    resumed_from = last if resume and last.is_file() else None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")
            trainer.fit(module, training, validation, ckpt_path=resumed_from, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    return keeper.finish(module)
