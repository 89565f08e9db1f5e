"""Lightning's trainer, set up as a recipe says."""

import contextlib
import logging
import uuid
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from atgnn.errors import ConfigError, MissingExtraError
from atgnn.files import write_text
from atgnn.training.bar import EpochBar
from atgnn.training.cluster import Cluster, accelerator
from atgnn.training.recipe import Recipe
from atgnn.training.resume import AtomicCheckpoints

__all__ = ["check_precision", "make_trainer"]


def make_trainer(
    recipe: Recipe, out: Path, cluster: Cluster, callbacks: list[Any], unit: str = "Epoch"
) -> Any:
    """A trainer for these processes; nothing is started yet. `unit` is what its bar counts."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    plugins: list[Any] = [AtomicCheckpoints()]
    if cluster.launcher == "SLURM":
        # Lightning's own requeueing saves from within a signal, in the middle of a step.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    kind = accelerator(recipe.scale)
    trainer = lightning.Trainer(
        max_epochs=recipe.optim.epochs,
        accelerator="gpu" if kind == "cuda" else kind,
        devices=cluster.devices,
        num_nodes=cluster.nodes,
        strategy=_strategy(cluster, kind),
        plugins=plugins,
        use_distributed_sampler=False,  # our loaders know their part
        precision=recipe.precision,
        accumulate_grad_batches=recipe.optim.accumulate,
        gradient_clip_val=recipe.optim.gradient_clip or None,
        logger=_loggers(recipe, out, cluster) or False,
        callbacks=[*callbacks, EpochBar(unit)],
        default_root_dir=out,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    if (trainer.global_rank, trainer.world_size) != cluster.part:
        raise ConfigError(
            f"Lightning found {trainer.world_size} processes, this one number "
            f"{trainer.global_rank}; expected {cluster.part.world} and {cluster.rank}: start the "
            "run with --devices and --nodes, torchrun or SLURM"
        )
    return trainer


def _strategy(cluster: Cluster, kind: str) -> Any:
    if cluster.part.world == 1:
        return "auto"
    return DDPStrategy(
        process_group_backend="gloo" if kind == "cpu" else None,
        # Not at each step: processes may have different numbers of batches to validate.
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def _loggers(recipe: Recipe, out: Path, cluster: Cluster) -> list[Any]:
    loggers: list[Any] = []
    if "tensorboard" in recipe.loggers:
        with contextlib.suppress(ModuleNotFoundError):  # a comfort: history.csv says the same
            loggers.append(TensorBoardLogger(out, name="", version="logs"))
    if "wandb" in recipe.loggers:
        try:
            logger = WandbLogger(
                project="atgnn",
                name=out.resolve().name,
                id=_wandb_id(out) if cluster.leads else None,
                resume="allow",
                save_dir=out,
                config=recipe.model_dump(mode="json"),
            )
        except ModuleNotFoundError:
            raise MissingExtraError.of("wandb", "wandb", "logging to Weights & Biases") from None
        loggers.append(logger)
    return loggers


def _wandb_id(out: Path) -> str:
    """The run's name there, kept in its folder, so that a resumed run goes on in the same one."""
    file = out / "wandb-id.txt"
    if not file.is_file():
        write_text(file, uuid.uuid4().hex[:12] + "\n")
    return file.read_text(encoding="utf-8").strip()


def check_precision(recipe: Recipe) -> None:
    """Half precision with loss scaling is for CUDA."""
    if recipe.precision == "16-mixed" and accelerator(recipe.scale) != "cuda":
        raise ConfigError("precision 16-mixed needs a CUDA GPU: use bf16-mixed or 32-true here")
