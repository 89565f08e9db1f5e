"""What a run keeps: a row for each epoch, the best checkpoint so far, the result."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback

from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.files import write_text
from atgnn.labels import Vocabulary
from atgnn.trained_on import Heard
from atgnn.training.averaging import average
from atgnn.training.epochs import epoch_folder
from atgnn.training.folder import RunFolder
from atgnn.training.module import TaggingModule, numbers_of
from atgnn.training.recipe import Recipe

__all__ = ["Keeper", "headline_of"]


LAST = 5  # epochs whose metrics `select: last5` averages


#: Of history.csv, behind the epoch. The learning rate is that of the next update.
COLUMNS = {
    "train_loss": ".6f",
    "val_loss": ".6f",
    "val_mAP": ".6f",
    "val_accuracy": ".6f",
    "learning_rate": ".6g",
}
AVERAGE_COLUMNS = {"ema_mAP": ".6f", "ema_accuracy": ".6f"}  # where weights are averaged


class Keeper(Callback):
    """Saves the best checkpoint as it appears, and the result at the end."""

    def __init__(
        self,
        recipe: Recipe,
        vocabulary: Vocabulary,
        folder: RunFolder,
        lineage: tuple[str, ...] = (),
        heard: Heard | None = None,
    ) -> None:
        self.recipe, self.vocabulary, self.folder = recipe, vocabulary, folder
        self.out = folder.path
        self.lineage = lineage  # what the run's network had learned from before
        self.heard = heard  # the clips that it learns from, and had learned from before
        self.headline: float | None = None  # of the best epoch
        self.best: dict[str, float] = {}  # its number and metrics
        self.recent: list[dict[str, float]] = []  # of the last epochs, oldest first

    @property
    def latest(self) -> dict[str, float]:
        """The last epoch's number and metrics; empty before the first."""
        return self.recent[-1] if self.recent else {}

    def state_dict(self) -> dict[str, Any]:
        return {"headline": self.headline, "best": self.best, "recent": self.recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.headline = state_dict["headline"]
        self.best, self.recent = state_dict["best"], state_dict["recent"]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the weights when the validation metric is the best so far.

        Of equals the later epoch is: few clips validate alike from early on, and the rate has
        fallen since.
        """
        value = headline_of(pl_module)
        if value is None:
            return
        latest = {"epoch": trainer.current_epoch + 1, **numbers_of(pl_module.metrics)}
        self.recent = [*self.recent, latest][-LAST:]
        if self.headline is None or value >= self.headline:
            self.headline, self.best = value, latest
            if trainer.is_global_zero:
                self._save(pl_module, self.out / "best", self.best)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch's row to the history; keep its weights, where the recipe says so."""
        epoch = trainer.current_epoch + 1
        numbers = {**trainer.callback_metrics, **pl_module.means.means()}
        numbers["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row: dict[str, Any] = {"epoch": epoch}
        columns = COLUMNS | (AVERAGE_COLUMNS if pl_module.average is not None else {})
        for name, digits in columns.items():
            row[name] = "" if name not in numbers else f"{float(numbers[name]):{digits}}"
        if not trainer.is_global_zero:
            return
        self.folder.add_epoch(row)
        if epoch > self.recipe.optim.epochs - self.recipe.keep_epochs:
            report = self.latest if self.latest.get("epoch") == epoch else {"epoch": epoch}
            self._save(pl_module, epoch_folder(self.out, epoch), report, half=True)

    def finish(self, module: TaggingModule) -> Path:
        """Write ``model``, as the recipe's `select` says, and its metrics."""
        result, half = self.out / "model", self.recipe.save_half
        report = self.latest or {"epoch": self.recipe.optim.epochs}
        if self.recipe.select == "averaged":
            _, report = average(self.out, result, device=module.device)
        elif self.recipe.select == "best" and (self.out / "best").is_dir():
            report = self.best
            Checkpoint.from_pretrained(self.out / "best").save_pretrained(result, half=half)
        else:
            if self.recipe.select == "last5" and self.recent:
                report = mean_report(self.recent)
            self._save(module, result, report, half=half)
        write_text(self.out / "metrics.json", json.dumps(report, indent=1) + "\n")
        self.folder.draw()
        self.folder.tell("It is finished.")
        return result

    def _save(
        self, module: TaggingModule, folder: Path, report: dict[str, float], half: bool = False
    ) -> None:
        metrics = {name: value for name, value in report.items() if not name.startswith("epoch")}
        since = report.get("epochs_from")
        span = f"mean of epochs {since} to" if since else "after epoch"
        provenance = Provenance(
            training_data=", ".join(Path(p).name for p in self.recipe.data.clips),
            lineage=self.lineage,
            metrics=metrics,
            evaluated_on=f"Validation clips, {span} {report['epoch']}." if metrics else "",
            command="atgnn train recipe.yaml --out RUN   # the recipe.yaml that the run saved",
        )
        Checkpoint(
            module.kept,
            self.recipe.front_end_config(),
            self.vocabulary,
            activation="softmax" if self.recipe.task == "single_label" else "sigmoid",
            window_seconds=self.recipe.window_seconds,
            provenance=provenance,
            heard=self.heard,
            moments=bool(self.recipe.moments.events),
        ).save_pretrained(folder, half=half)


def mean_report(recent: Sequence[dict[str, float]]) -> dict[str, float]:
    """The last epoch's number with the mean of its and earlier epochs' metrics."""
    known = [name for name in recent[-1] if name != "epoch" and all(name in one for one in recent)]
    means = {name: round(sum(one[name] for one in recent) / len(recent), 6) for name in known}
    return {"epochs_from": recent[0]["epoch"], "epoch": recent[-1]["epoch"], **means}


def headline_of(module: TaggingModule) -> float | None:
    """The number by which epochs are compared; None where no validation label has a clip."""
    if module.metrics is None:
        return None
    accuracy, mean_ap = module.metrics.accuracy, module.metrics.mean_ap
    value = mean_ap if accuracy is None else accuracy
    return None if np.isnan(value) else value  # NaN as the best so far would stay it for ever
