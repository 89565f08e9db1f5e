"""The folder of a run, which explains itself.

OUT/recipe.yaml      the resolved recipe
OUT/environment.json versions of what it ran on
OUT/init.txt         where the run starts from weights: what was loaded, converted, left new
OUT/history.csv      losses and metrics, a row per epoch
OUT/logs/            the same for TensorBoard, where it is installed
OUT/resume/last.ckpt state after the last whole epoch; `--resume` goes on from there
OUT/best/            the checkpoint with the best validation metric so far
OUT/epochs/021/      the checkpoint after an epoch, as far as `keep_epochs` says
OUT/model/           the result
OUT/metrics.json     its epoch and validation metrics
"""

import json
import platform
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from atgnn import __version__
from atgnn.errors import ConfigError
from atgnn.files import write_text
from atgnn.training.recipe import Recipe, load_recipe

__all__ = ["append_row", "check_folder", "claim", "environment"]


def check_folder(recipe: Recipe, out: Path, resume: bool) -> None:
    """A new run needs an empty folder, a resumed one a folder of the same recipe."""
    saved = out / "recipe.yaml"
    if resume and not saved.is_file():
        raise ConfigError(f"nothing to resume in {out}: it has no recipe.yaml")
    if resume and load_recipe(saved) != recipe:
        raise ConfigError(f"{saved} differs from this recipe: resume needs the same settings")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty: give --resume to go on, or another --out")


def claim(recipe: Recipe, out: Path, start: str) -> None:
    """Write down what the run is."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "recipe.yaml", recipe.to_yaml())
    write_text(out / "environment.json", json.dumps(environment(), indent=1) + "\n")
    if start:
        write_text(out / "init.txt", start + "\n")


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the history; a resumed run writes over what it repeats."""
    lines = path.read_text().splitlines() if path.is_file() else [",".join(row)]
    kept = [line for line in lines[1:] if int(line.split(",")[0]) < row["epoch"]]
    text = "\n".join([lines[0], *kept, ",".join(map(str, row.values()))])
    write_text(path, text + "\n")


def environment() -> dict[str, Any]:
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
