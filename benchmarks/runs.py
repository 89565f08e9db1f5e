"""Runs as `atgnn train` and `atgnn pretrain` make them, for scripts: they resume, and log."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from atgnn.data.clips import Clips

__all__ = ["pretrain", "train"]


def train(recipe: str, out: Path, settings: Iterable[str], threads: int) -> Path:
    """One run of a recipe with these settings; returns its model. An interrupted run goes on.

    Raises `subprocess.CalledProcessError` when it fails: OUT.log says why.
    """
    if not (out / "metrics.json").is_file():
        _run(["train", recipe], out, settings, threads)
    return out / "model"


def pretrain(clips: Clips, out: Path, settings: Iterable[str], threads: int) -> Path:
    """One encoder from these clips; otherwise as `train`."""
    if not (out / "encoder").is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        _run(["pretrain", str(clips.write(Path(f"{out}.csv")))], out, settings, threads)
    return out / "encoder"


def _run(command: list[str], out: Path, settings: Iterable[str], threads: int) -> None:
    command = [sys.executable, "-m", "atgnn", *command, "--out", str(out)]
    for setting in settings:
        command += ["--set", setting]
    if (out / "recipe.yaml").is_file():
        command.append("--resume")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{out}.log", "a") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
