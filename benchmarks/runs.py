"""Training runs as `atgnn train` makes them, for scripts: they resume, and log to a file."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["train"]


def train(recipe: str, out: Path, settings: list[str], threads: int) -> Path:
    """One run of a recipe with these settings; returns its model. An interrupted run goes on.

    Raises `subprocess.CalledProcessError` when it fails: OUT.log says why.
    """
    if (out / "metrics.json").is_file():
        return out / "model"
    command = [sys.executable, "-m", "atgnn", "train", recipe, "--out", str(out)]
    for setting in settings:
        command += ["--set", setting]
    if (out / "recipe.yaml").is_file():
        command.append("--resume")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{out}.log", "a") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
    return out / "model"
