"""A training run from recipe to checkpoint, in a folder that explains itself.

OUT/recipe.yaml      the resolved recipe
OUT/environment.json versions of what it ran on
OUT/init.txt         where the run starts from weights: what was loaded, converted, left new
OUT/history.csv      losses and metrics, a row per epoch
OUT/logs/            the same for TensorBoard, where it is installed
OUT/resume/last.ckpt state after the last whole epoch; `--resume` goes on from there
OUT/best/            the checkpoint with the best validation metric so far
OUT/model/           the result
OUT/metrics.json     its validation metrics
"""

import contextlib
import json
import logging
import platform
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atgnn import __version__
from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.data.clips import Clips
from atgnn.errors import ClipsError, ConfigError, MissingExtraError
from atgnn.labels import Ontology, Vocabulary
from atgnn.model import ATGNN
from atgnn.model.atgnn import initialise
from atgnn.model.transfer import transfer
from atgnn.model.weights import load_published
from atgnn.training.recipe import DataSettings, Recipe, load_recipe

try:
    import lightning
except ImportError:
    raise MissingExtraError.of("Lightning", "train", "training") from None

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from atgnn.training.loading import ClipDataset, EpochSampler, Waveforms, make_loader
from atgnn.training.module import TaggingModule

__all__ = ["Division", "divide", "read_clips", "train"]


@dataclass(frozen=True)
class Division:
    """The clips of a run, their vocabulary and their targets."""

    vocabulary: Vocabulary
    train: Clips
    validation: Clips | None
    train_targets: np.ndarray  # (N, L): 1, 0 or NaN
    validation_targets: np.ndarray | None


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> Path:
    """Run a recipe; returns the folder of the resulting checkpoint, ``out/model``.

    Interrupted by Ctrl-C, a crash or kill -9, the same call with `resume` goes on after the last
    whole epoch and ends with the same weights as an uninterrupted run.

    Raises:
        ConfigError: `out` is in use, or `resume` with another recipe.
        ClipsError: the clips are missing or do not fit the recipe.
    """
    _check_precision(recipe)
    _claim(recipe, out, resume)
    division = divide(recipe)
    training, validation = _loaders(recipe, division)
    model = _new_model(recipe, division, out)
    module = TaggingModule(recipe, model, division.vocabulary.names, len(training))
    keeper = _Keeper(recipe, division.vocabulary, out)
    trainer = _make_trainer(recipe, out, keeper)
    last = out / "resume" / "last.ckpt"
    resumed_from = last if resume and last.is_file() else None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            trainer.fit(module, training, validation, ckpt_path=resumed_from, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    return keeper.finish(module)


# ---------------------------------------------------------------------- data


def read_clips(settings: DataSettings) -> Clips:
    """All clips of a recipe, labelled by its label column."""
    if not settings.clips:
        raise ConfigError("the recipe names no clips: add --clips PATH or --set data.clips=PATH")
    clips = Clips.concat(Clips.read(path) for path in settings.clips)
    if settings.label_column == "labels":
        return clips
    return clips.labelled_by(settings.label_column)


def divide(recipe: Recipe) -> Division:
    """Read the clips and divide them into training and validation, never by chance alone.

    Rows that `validation` or `test` name are never trained on. Where no validation rows are
    named, a share of the authors (or source recordings) is held out.
    """
    settings = recipe.data
    clips = read_clips(settings)
    held_out = _rows(clips, settings.validation)
    hidden = _rows(clips, settings.test)
    chosen = _rows(clips, settings.train) if settings.train else np.ones(len(clips), dtype=bool)
    if settings.train and (chosen & (held_out | hidden)).any():
        raise ConfigError("data.train names clips that data.validation or data.test names too")
    chosen &= ~held_out & ~hidden
    if not settings.validation and settings.validation_share:
        held_out = _hold_out(clips, chosen, settings.validation_share, recipe.seed)
        chosen &= ~held_out
    if not chosen.any():
        raise ClipsError("no clips to train on: data.train, validation and test leave none")
    return _with_targets(settings, clips, chosen, held_out)


def _with_targets(
    settings: DataSettings, clips: Clips, chosen: np.ndarray, held_out: np.ndarray
) -> Division:
    vocabulary = _vocabulary(settings, clips)
    targets = clips.targets(
        vocabulary,
        Ontology.audioset() if settings.ontology else None,
        outside="drop" if settings.drop_other_labels else "error",
    )
    has_validation = bool(held_out.any())
    return Division(
        vocabulary,
        clips.subset(chosen),
        clips.subset(held_out) if has_validation else None,
        targets[chosen],
        targets[held_out] if has_validation else None,
    )


def _rows(clips: Clips, conditions: dict[str, Any]) -> np.ndarray:
    """Mask of the rows that a recipe's conditions name; none where there are no conditions."""
    keep = np.full(len(clips), bool(conditions))
    for column, wanted in conditions.items():
        allowed = set(wanted) if isinstance(wanted, list) else {wanted}
        keep &= np.array([value in allowed for value in clips.column(column)], dtype=bool)
    if conditions and not keep.any():
        raise ClipsError(f"no clip has {conditions}: check the recipe's data settings")
    return keep


def _hold_out(clips: Clips, chosen: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of the groups (authors, else recordings), drawn with the recipe's seed."""
    groups = np.asarray(clips.groups)
    names = np.unique(groups[chosen].astype(str))
    count = max(1, round(share * len(names)))
    if count >= len(names):
        raise ClipsError(f"{len(names)} author or recording: too few to hold any out")
    drawn = np.random.default_rng(seed).permutation(names)[:count]
    return chosen & np.isin(groups.astype(str), drawn)


def _vocabulary(settings: DataSettings, clips: Clips) -> Vocabulary:
    if settings.vocabulary is None:
        return clips.vocabulary()
    if settings.vocabulary == "audioset":
        return Vocabulary.audioset()
    if settings.vocabulary == "fsd50k":
        return Vocabulary.fsd50k()
    return Vocabulary.from_csv(settings.vocabulary)


def _loaders(recipe: Recipe, division: Division) -> tuple[Any, Any]:
    rate = recipe.front_end_config().sample_rate
    room, longest = recipe.data.cache_gigabytes, recipe.window_seconds
    training = ClipDataset(
        Waveforms(division.train, rate, room, longest),
        division.train_targets,
        recipe.augment,
        recipe.seed,
    )
    batch_size = min(recipe.optim.batch_size, len(training))
    sampler = EpochSampler(len(training), recipe.seed)
    first = make_loader(training, batch_size, recipe.workers, sampler)
    if division.validation is None or division.validation_targets is None:
        return first, None
    validation = ClipDataset(
        Waveforms(division.validation, rate, room, longest), division.validation_targets
    )
    return first, make_loader(validation, batch_size, recipe.workers)


# ---------------------------------------------------------------------- model


def _new_model(recipe: Recipe, division: Division, out: Path) -> ATGNN:
    torch.manual_seed(recipe.seed)
    model = ATGNN(recipe.model_config_for(len(division.vocabulary)))
    initialise(model, recipe.residual_scale)
    if recipe.init is not None:
        report = _start_from(model, recipe.init, division.vocabulary)
        (out / "init.txt").write_text(report + "\n", encoding="utf-8")
    return model


def _start_from(model: ATGNN, init: str, vocabulary: Vocabulary) -> str:
    """Fill a new model from published weights (a file) or one of our checkpoints (a folder)."""
    if Path(init).is_file():
        return str(load_published(init, model))
    source = Checkpoint.from_pretrained(init)
    known = {name: row for row, name in enumerate(source.vocabulary.names)}
    return str(transfer(source.model, model, [known.get(name) for name in vocabulary.names]))


# ---------------------------------------------------------------------- the run


class _Keeper(Callback):
    """Saves the best checkpoint as it appears, and the result at the end."""

    def __init__(self, recipe: Recipe, vocabulary: Vocabulary, out: Path) -> None:
        self.recipe, self.vocabulary, self.out = recipe, vocabulary, out
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the weights when the validation metric is the best so far."""
        value = _headline(pl_module)
        if trainer.sanity_checking or value is None or not trainer.is_global_zero:
            return
        if self.best is None or value > self.best:
            self.best = value
            self._save(pl_module, self.out / "best", epoch=trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch's row to the history."""
        if not trainer.is_global_zero:
            return
        row = {"epoch": trainer.current_epoch + 1}
        for name in ("train_loss", "val_loss", "val_mAP", "val_accuracy"):
            value = trainer.callback_metrics.get(name)
            row[name] = "" if value is None else f"{float(value):.6f}"
        _append_row(self.out / "history.csv", row)

    def finish(self, module: TaggingModule) -> Path:
        """Write ``model``: the best epoch's weights or the last one's, as the recipe says."""
        result = self.out / "model"
        if self.recipe.select == "best" and (self.out / "best").is_dir():
            checkpoint = Checkpoint.from_pretrained(self.out / "best")
            checkpoint.save_pretrained(result, half=self.recipe.save_half)
        else:
            self._save(module, result, epoch=self.recipe.optim.epochs, half=self.recipe.save_half)
        return result

    def _save(self, module: TaggingModule, folder: Path, epoch: int, half: bool = False) -> None:
        metrics = _numbers(module)
        provenance = Provenance(
            training_data=", ".join(Path(p).name for p in self.recipe.data.clips),
            metrics=metrics,
            evaluated_on=f"Validation clips, after epoch {epoch}." if metrics else "",
            command=f"atgnn train {self.recipe.name}",
        )
        Checkpoint(
            module.model,
            self.recipe.front_end_config(),
            self.vocabulary,
            activation="softmax" if self.recipe.task == "single_label" else "sigmoid",
            window_seconds=self.recipe.window_seconds,
            provenance=provenance,
        ).save_pretrained(folder, half=half)
        report = {"epoch": epoch, **metrics}
        path = self.out / ("metrics.json" if folder.name == "model" else f"{folder.name}.json")
        path.write_text(json.dumps(report, indent=1) + "\n")


def _append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the history; a resumed run writes over what it repeats."""
    lines = path.read_text().splitlines() if path.is_file() else [",".join(row)]
    kept = [line for line in lines[1:] if int(line.split(",")[0]) < row["epoch"]]
    text = "\n".join([lines[0], *kept, ",".join(map(str, row.values()))])
    path.write_text(text + "\n")


def _headline(module: TaggingModule) -> float | None:
    """The number by which epochs are compared."""
    if module.metrics is None:
        return None
    if module.metrics.accuracy is not None:
        return module.metrics.accuracy
    return module.metrics.mean_ap


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
        devices=recipe.devices,
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


def _claim(recipe: Recipe, out: Path, resume: bool) -> None:
    """Make the run folder, or check that it belongs to the same recipe."""
    saved = out / "recipe.yaml"
    if resume:
        if not saved.is_file():
            raise ConfigError(f"nothing to resume in {out}: it has no recipe.yaml")
        if load_recipe(saved) != recipe:
            raise ConfigError(f"{saved} differs from this recipe: resume needs the same settings")
        return
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: give --resume to go on, or another --out")
    out.mkdir(parents=True, exist_ok=True)
    try:
        divide(recipe)  # fail before anything is written
    except Exception:
        shutil.rmtree(out)
        raise
    saved.write_text(recipe.to_yaml(), encoding="utf-8")
    (out / "environment.json").write_text(json.dumps(_environment(), indent=1) + "\n")


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
