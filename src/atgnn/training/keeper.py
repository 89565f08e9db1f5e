"""What a run keeps: a row for each epoch, the best checkpoint so far, the result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback

from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.files import write_text
from atgnn.labels import Vocabulary
from atgnn.training.folder import append_row
from atgnn.training.module import TaggingModule
from atgnn.training.recipe import Recipe

__all__ = ["Keeper", "headline_of", "numbers_of"]


class Keeper(Callback):
    """Saves the best checkpoint as it appears, and the result at the end."""

    def __init__(
        self, recipe: Recipe, vocabulary: Vocabulary, out: Path, lineage: tuple[str, ...] = ()
    ) -> None:
        self.recipe, self.vocabulary, self.out = recipe, vocabulary, out
        self.lineage = lineage  # what the run's network had learned from before
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
        value = headline_of(pl_module)
        if value is None:
            return
        self.latest = {"epoch": trainer.current_epoch + 1, **numbers_of(pl_module)}
        if self.headline is None or value > self.headline:
            self.headline, self.best = value, self.latest
            self._save(pl_module, self.out / "best", self.best)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch's row to the history."""
        row = {"epoch": trainer.current_epoch + 1}
        for name in ("train_loss", "val_loss", "val_mAP", "val_accuracy"):
            value = trainer.callback_metrics.get(name)
            row[name] = "" if value is None else f"{float(value):.6f}"
        append_row(self.out / "history.csv", row)

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
            lineage=self.lineage,
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


def headline_of(module: TaggingModule) -> float | None:
    """The number by which epochs are compared; None where no validation label has a clip."""
    if module.metrics is None:
        return None
    accuracy, mean_ap = module.metrics.accuracy, module.metrics.mean_ap
    value = mean_ap if accuracy is None else accuracy
    return None if np.isnan(value) else value  # NaN as the best so far would stay it for ever


def numbers_of(module: TaggingModule) -> dict[str, float]:
    if module.metrics is None:
        return {}
    numbers = {
        "mAP": module.metrics.mean_ap,
        "AUC": module.metrics.auc,
        "d_prime": module.metrics.d_prime,
        "accuracy": module.metrics.accuracy,
    }
    return {k: round(v, 6) for k, v in numbers.items() if v is not None and np.isfinite(v)}
