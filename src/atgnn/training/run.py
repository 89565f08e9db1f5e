"""A training run from recipe to checkpoint, in a folder that explains itself.

OUT/recipe.yaml      the resolved recipe
OUT/environment.json versions of what it ran on
OUT/init.txt         where the run starts from weights: what was loaded, converted, left new
OUT/history.csv      losses and metrics, a row per epoch
OUT/logs/            the same for TensorBoard, where it is installed
OUT/resume/last.ckpt state after the last whole epoch; `--resume` goes on from there
OUT/best/            the checkpoint with the best validation metric so far
OUT/model/           the result
OUT/metrics.json     its epoch and validation metrics
"""

import contextlib
import json
import logging
import os
import platform
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atgnn import __version__
from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms, is_packed
from atgnn.errors import ConfigError, MissingExtraError
from atgnn.labels import Vocabulary
from atgnn.model import ATGNN
from atgnn.model.atgnn import initialise
from atgnn.model.transfer import transfer
from atgnn.model.weights import load_published
from atgnn.training.division import Division, divide
from atgnn.training.recipe import Recipe, load_recipe

try:
    import lightning
except ImportError:
    raise MissingExtraError.of("Lightning", "train", "training") from None

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from atgnn.training.loading import ClipDataset, EpochSampler, Loader, Waveforms
from atgnn.training.module import TaggingModule

__all__ = ["train"]


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> Path:
    """Run a recipe; returns the folder of the resulting checkpoint, ``out/model``.

    Interrupted by Ctrl-C, a crash or kill -9, the same call with `resume` goes on after the last
    whole epoch and ends with the same weights as an uninterrupted run.

    Raises:
        ConfigError: `out` is in use, or `resume` with another recipe.
        ClipsError: the clips are missing or do not fit the recipe.
    """
    _check_precision(recipe)
    _check_folder(recipe, out, resume)
    division = divide(recipe)
    training, validation = _loaders(recipe, division)
    model, start = _new_model(recipe, division)
    _claim(recipe, out, start)  # only now: whatever does not fit has been found
    module = TaggingModule(recipe, model, division.vocabulary.names, len(training))
    keeper = _Keeper(recipe, division.vocabulary, out)
    trainer = _make_trainer(recipe, out, keeper)
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


# ---------------------------------------------------------------------- data


def _loaders(recipe: Recipe, division: Division) -> tuple[Loader, Loader | None]:
    packed = _packed(recipe)

    def waveforms(clips: Clips) -> Waveforms:
        rate, room = recipe.front_end_config().sample_rate, recipe.data.cache_gigabytes
        return Waveforms(clips, rate, room, recipe.window_seconds, packed)

    training = ClipDataset(
        waveforms(division.train), division.train_targets, recipe.augment, recipe.seed
    )
    batch_size = min(recipe.optim.batch_size, len(training))
    sampler = EpochSampler(len(training), recipe.seed)
    first = Loader(training, batch_size, recipe.workers, sampler)
    if division.validation is None or division.validation_targets is None:
        return first, None
    validation = ClipDataset(waveforms(division.validation), division.validation_targets)
    return first, Loader(validation, batch_size, recipe.workers)


def _packed(recipe: Recipe) -> list[PackedWaveforms]:
    """The packed folders that a recipe names, as such or among its clips."""
    folders = [*filter(is_packed, recipe.data.clips), *recipe.data.packed]
    return [PackedWaveforms.open(folder) for folder in dict.fromkeys(folders)]


# ---------------------------------------------------------------------- model


def _new_model(recipe: Recipe, division: Division) -> tuple[ATGNN, str]:
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
    source = Checkpoint.from_pretrained(recipe.init)
    _check_front_end(recipe, source)
    known = {name: row for row, name in enumerate(source.vocabulary.names)}
    rows = [known.get(name) for name in division.vocabulary.names]
    return model, str(transfer(source.model, model, rows))


def _check_front_end(recipe: Recipe, source: Checkpoint) -> None:
    """Weights that learned from one front end are of no use with another."""
    ours, theirs = recipe.front_end_config().model_dump(), source.front_end.model_dump()
    differ = [name for name in ours if ours[name] != theirs[name]]
    if differ:
        settings = " ".join(f"--set front_end.{name}={theirs[name]}" for name in differ)
        raise ConfigError(
            f"{recipe.init} was trained with another front end ({', '.join(differ)} differ): "
            f"add {settings}"
        )


# ---------------------------------------------------------------------- the run


class _Keeper(Callback):
    """Saves the best checkpoint as it appears, and the result at the end."""

    def __init__(self, recipe: Recipe, vocabulary: Vocabulary, out: Path) -> None:
        self.recipe, self.vocabulary, self.out = recipe, vocabulary, out
        self.headline: float | None = None  # of the best epoch
        self.best: dict[str, float] = {}  # its number and metrics
        self.latest: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"headline": self.headline, "best": self.best, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.headline = state_dict["headline"]
        self.best, self.latest = state_dict["best"], state_dict["latest"]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the weights when the validation metric is the best so far."""
        value = _headline(pl_module)
        if value is None:
            return
        self.latest = {"epoch": trainer.current_epoch + 1, **_numbers(pl_module)}
        if self.headline is None or value > self.headline:
            self.headline, self.best = value, self.latest
            self._save(pl_module, self.out / "best", self.best)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch's row to the history."""
        row = {"epoch": trainer.current_epoch + 1}
        for name in ("train_loss", "val_loss", "val_mAP", "val_accuracy"):
            value = trainer.callback_metrics.get(name)
            row[name] = "" if value is None else f"{float(value):.6f}"
        _append_row(self.out / "history.csv", row)

    def finish(self, module: TaggingModule) -> Path:
        """Write ``model``: the best epoch's weights or the last one's, as the recipe says."""
        result, half = self.out / "model", self.recipe.save_half
        report = self.latest or {"epoch": self.recipe.optim.epochs}
        if self.recipe.select == "best" and (self.out / "best").is_dir():
            report = self.best
            Checkpoint.from_pretrained(self.out / "best").save_pretrained(result, half=half)
        else:
            self._save(module, result, report, half=half)
        write_text(self.out / "metrics.json", json.dumps(report, indent=1) + "\n")
        return result

    def _save(
        self, module: TaggingModule, folder: Path, report: dict[str, float], half: bool = False
    ) -> None:
        metrics = {name: value for name, value in report.items() if name != "epoch"}
        provenance = Provenance(
            training_data=", ".join(Path(p).name for p in self.recipe.data.clips),
            metrics=metrics,
            evaluated_on=f"Validation clips, after epoch {report['epoch']}." if metrics else "",
            command="atgnn train recipe.yaml --out RUN   # the recipe.yaml that the run saved",
        )
        Checkpoint(
            module.model,
            self.recipe.front_end_config(),
            self.vocabulary,
            activation="softmax" if self.recipe.task == "single_label" else "sigmoid",
            window_seconds=self.recipe.window_seconds,
            provenance=provenance,
        ).save_pretrained(folder, half=half)


def _append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the history; a resumed run writes over what it repeats."""
    lines = path.read_text().splitlines() if path.is_file() else [",".join(row)]
    kept = [line for line in lines[1:] if int(line.split(",")[0]) < row["epoch"]]
    text = "\n".join([lines[0], *kept, ",".join(map(str, row.values()))])
    write_text(path, text + "\n")


def _headline(module: TaggingModule) -> float | None:
    """The number by which epochs are compared; None where no validation label has a clip."""
    if module.metrics is None:
        return None
    accuracy, mean_ap = module.metrics.accuracy, module.metrics.mean_ap
    value = mean_ap if accuracy is None else accuracy
    return None if np.isnan(value) else value  # NaN as the best so far would stay it for ever


def _numbers(module: TaggingModule) -> dict[str, float]:
    if module.metrics is None:
        return {}
    numbers = {
        "mAP": module.metrics.mean_ap,
        "AUC": module.metrics.auc,
        "d_prime": module.metrics.d_prime,
        "accuracy": module.metrics.accuracy,
    }
    return {k: round(v, 6) for k, v in numbers.items() if v is not None and np.isfinite(v)}


def _make_trainer(recipe: Recipe, out: Path, keeper: _Keeper) -> Any:
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


def _check_precision(recipe: Recipe) -> None:
    if recipe.precision == "16-mixed" and not torch.cuda.is_available():
        raise ConfigError("precision 16-mixed needs a CUDA GPU: use bf16-mixed or 32-true here")


def _check_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    """A new run needs an empty folder, a resumed one a folder of the same recipe."""
    saved = out / "recipe.yaml"
    if resume and not saved.is_file():
        raise ConfigError(f"nothing to resume in {out}: it has no recipe.yaml")
    if resume and load_recipe(saved) != recipe:
        raise ConfigError(f"{saved} differs from this recipe: resume needs the same settings")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty: give --resume to go on, or another --out")


def _claim(recipe: Recipe, out: Path, start: str) -> None:
    """Write down what the run is."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "recipe.yaml", recipe.to_yaml())
    write_text(out / "environment.json", json.dumps(_environment(), indent=1) + "\n")
    if start:
        write_text(out / "init.txt", start + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves the old one or the new one."""
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def _environment() -> dict[str, Any]:
    return {
        "atgnn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "numpy": np.__version__,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
