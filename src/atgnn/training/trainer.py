"""Lightning's trainer, set up as a recipe says."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from atgnn.errors import ConfigError
from atgnn.training.keeper import Keeper
from atgnn.training.recipe import Recipe

__all__ = ["check_precision", "make_trainer"]


def make_trainer(recipe: Recipe, out: Path, keeper: Keeper) -> Any:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    loggers: list[Any] = []
    with contextlib.suppress(ModuleNotFoundError):  # a comfort: history.csv says the same
        loggers.append(TensorBoardLogger(out, name="", version="logs"))
    last = ModelCheckpoint(
        dirpath=out / "resume", save_top_k=0, save_last=True, save_on_train_epoch_end=True
    )
    return lightning.Trainer(
        max_epochs=recipe.optim.epochs,
        accelerator="auto",
        devices=1,
        precision=recipe.precision,
        gradient_clip_val=recipe.optim.gradient_clip or None,
        logger=loggers or False,
        callbacks=[keeper, last],
        default_root_dir=out,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def check_precision(recipe: Recipe) -> None:
    if recipe.precision == "16-mixed" and not torch.cuda.is_available():
        raise ConfigError("precision 16-mixed needs a CUDA GPU: use bf16-mixed or 32-true here")
