"""The folder of a run, which explains itself.

OUT/README.md        what happened, how it stands, how to go on
OUT/recipe.yaml      the resolved recipe
OUT/environment.json versions, processor, devices and git state, an entry for each start
OUT/data.json        digests of labels, clips, targets and of the files that listed them
OUT/init.txt         where the run starts from weights: what was loaded, converted, left new
OUT/history.csv      losses, metrics and learning rate, a row per epoch
OUT/curves.png       the same as a picture
OUT/logs/            the same for TensorBoard, where it is installed
OUT/resume/last.ckpt state after the last epoch or within one; `--resume` goes on from there
OUT/best/            the checkpoint with the best validation metric so far
OUT/epochs/          checkpoints after the last `keep_epochs` epochs; 021 is that after epoch 21
OUT/model/           the result
OUT/metrics.json     its epoch and validation metrics
"""

import json
import time
from datetime import datetime, timezone
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from atgnn.errors import ConfigError, counted
from atgnn.files import write_text
from atgnn.training.curves import METRICS, draw_curves, read_history
from atgnn.training.recipe import Recipe
from atgnn.training.settings import (
    Settings,
    changed_settings,
    read_settings,
    saved_settings,
    settings_from,
)

__all__ = ["RunFolder", "append_row", "check_folder", "note_start"]

REDRAWN_EVERY = 60  # seconds


def check_folder(settings: Settings, out: Path, resume: bool) -> None:
    """A new run needs an empty folder, a resumed one a folder of the same recipe.

    Training and pre-training ask it alike. Raises `ConfigError` where it is otherwise.
    """
    if resume:
        saved = saved_settings(out)
        text = read_settings(saved)
        changes = changed_settings(settings_from(type(settings), text, str(saved)), settings)
        if changes:
            listed = ", ".join(changes[:5]) + (f" and {len(changes) - 5} more" * (len(changes) > 5))
            raise ConfigError(
                f"{out} was begun with another recipe: {listed}; leave recipe and settings out to "
                "go on with its own, or start a new run"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty: give --resume to go on, or another --out")


class RunFolder:
    """What the leading process writes down of a run, besides weights."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe
        self._drawn_at = time.monotonic()

    def claim(self, start: str, data: dict[str, Any], environment: dict[str, Any]) -> None:
        """Write down what the run is, each time it starts."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "recipe.yaml", self.recipe.to_yaml())
        write_text(self.path / "data.json", json.dumps(data, indent=1) + "\n")
        note_start(self.path / "environment.json", environment)
        if start:
            write_text(self.path / "init.txt", start + "\n")
        self.tell("It is under way, or was ended without notice.")

    def add_epoch(self, row: dict[str, Any]) -> None:
        """Add a row to the history; a resumed run writes over what it repeats."""
        append_row(self.path / "history.csv", row)
        if time.monotonic() - self._drawn_at > REDRAWN_EVERY:
            self.draw()
        self.tell("It is under way, or was ended without notice.")

    def draw(self) -> None:
        """The curves, from the history."""
        history = self.path / "history.csv"
        if history.is_file():
            draw_curves(history, self.path / "curves.png")
            self._drawn_at = time.monotonic()

    def tell(self, state: str) -> None:
        """Write README.md: how the run stands, what it was, how to go on."""
        write_text(self.path / "README.md", "\n".join(self._story(state)) + "\n")

    def _story(self, state: str) -> list[str]:
        recipe, now = self.recipe, datetime.now(timezone.utc).isoformat(timespec="seconds")
        history = self.path / "history.csv"
        columns = read_history(history) if history.is_file() else {"epoch": []}
        done = int(columns["epoch"][-1]) if columns["epoch"] else 0
        out, model, logs = (quote(str(self.path / part)) for part in ("", "model", "logs"))
        return [
            f"# Run of the recipe `{recipe.name}`",
            "",
            f"{state} {done} of {counted(recipe.optim.epochs, 'epoch')} are complete ({now}).",
            "",
            *(f"- {line}" for line in self._facts(columns)),
            "",
            *(["![Loss, metrics, learning rate](curves.png)", ""] * bool(done)),
            "## How to go on",
            "",
            "```sh",
            f"atgnn train --out {out} --resume     # goes on where it stopped",
            *([f"atgnn tag SOUND --model {model}"] * (self.path / "model").is_dir()),
            f"tensorboard --logdir {logs}" if "tensorboard" in recipe.loggers else "",
            "```",
            "",
            "## What lies here",
            "",
            *_contents(self.path),
        ]

    def _facts(self, columns: dict[str, list[float]]) -> list[str]:
        data = json.loads((self.path / "data.json").read_text(encoding="utf-8"))
        starts = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))["starts"]
        first, last = starts[0], starts[-1]
        facts = [
            f"{counted(data['training']['clips'], 'clip')} to train on, "
            f"{data.get('validation', {}).get('clips', 0)} to validate, "
            f"{counted(data['labels']['number'], 'label')}; from {', '.join(data['sources'])}",
            f"model `{self.recipe.model.get('preset', 'pyr-s')}`, seed {self.recipe.seed}",
            f"begun {first['time']}, started {counted(len(starts), 'time')}, the last "
            f"time on {last['device']} by `{last['command']}`",
        ]
        if last["git"]:
            changed = len(last["git"]["changed_files"])
            facts.append(
                f"git commit {last['git']['commit'][:12]}, {counted(changed, 'file')} changed since"
            )
        for name, title in METRICS.items():
            values = np.array(columns.get(name, []))
            if np.isfinite(values).any():
                best = int(np.nanargmax(values))
                epoch = int(columns["epoch"][best])
                facts.append(f"best {title} in validation: {values[best]:.4f}, epoch {epoch}")
        return facts


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add an epoch's row to a history, in place of it and what follows where they are there."""
    lines = path.read_text().splitlines() if path.is_file() else [",".join(row)]
    kept = [line for line in lines[1:] if int(line.split(",")[0]) < row["epoch"]]
    own = ",".join(str(row.get(name, "")) for name in lines[0].split(","))
    write_text(path, "\n".join([lines[0], *kept, own]) + "\n")


def note_start(path: Path, environment: dict[str, Any]) -> None:
    """Add what a run starts on to the list of its starts."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    starts = [*before.get("starts", []), environment]
    write_text(path, json.dumps({"starts": starts}, indent=1) + "\n")


def _contents(folder: Path) -> list[str]:
    """The list at the top of this file, of what is there."""
    lines = [line for line in (__doc__ or "").splitlines() if line.startswith("OUT/")]
    entries = [line.removeprefix("OUT/").split(maxsplit=1) for line in lines]
    return [f"- `{name}`: {text}" for name, text in entries if (folder / name).exists()]
