"""What a run runs on: versions, processor, devices, the state of the code beside it."""

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import torch

from atgnn import __version__
from atgnn.doctor import processor
from atgnn.graph.operator import backend_in_use
from atgnn.training.cluster import Cluster

__all__ = ["COMMAND", "command_line", "describe_environment", "git_state"]

PACKAGES = ("torch", "lightning", "numpy", "soundfile", "soxr", "pandas", "pyarrow", "triton")

COMMAND = "ATGNN_COMMAND"  # variable: what the user typed, where that started this process


def command_line() -> str:
    """This process's own command, to type again."""
    return shlex.join(["atgnn", *sys.argv[1:]])


def describe_environment(cluster: Cluster, device: str) -> dict[str, Any]:
    """Whatever may explain a difference between two runs of one recipe; no names of persons."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": os.environ.get(COMMAND) or command_line(),
        "atgnn": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": asdict(processor()),
        "cores": os.cpu_count(),
        "device": device,
        "graphs_by": backend_in_use(device),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "processes": {
            "devices": cluster.devices,
            "nodes": cluster.nodes,
            "started_by": cluster.launcher or "atgnn",
        },
        "git": git_state(),
    }


def git_state(folder: str = ".") -> dict[str, Any] | None:
    """Commit and branch of the repository around a folder, and which tracked files differ.

    None where there is no repository, or no git.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no") or ""
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "changed_files": [line[3:] for line in changed.splitlines()],
    }


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # only looks
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip("\n")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
