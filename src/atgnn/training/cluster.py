"""How many processes train together, and which of them this one is.

Lightning starts and connects them; here is only what has to be known before it does: who writes
the run's folder, who reads which clips. torchrun and SLURM start processes themselves and say so
in environment variables.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from atgnn.distributed import Part
from atgnn.errors import ConfigError
from atgnn.training.recipe import ScaleSettings

__all__ = ["Cluster", "accelerator", "find_cluster", "was_restarted"]


@dataclass(frozen=True)
class Cluster:
    """Processes of each node, nodes, this process's number, and who started them."""

    devices: int = 1
    nodes: int = 1
    rank: int = 0
    launcher: str = ""  # torchrun, SLURM, or nobody: then Lightning starts a node's processes

    @property
    def part(self) -> Part:
        """This process among all."""
        return Part(self.rank, self.devices * self.nodes)

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.rank == 0


def find_cluster(settings: ScaleSettings, environment: Mapping[str, str] = os.environ) -> Cluster:
    """The processes that a recipe and whoever started this one ask for.

    Raises `ConfigError` where they disagree, or there are not so many GPUs.
    """
    kind = accelerator(settings)
    if _by_torchrun(environment):
        world, here = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
        found = Cluster(here, world // here, int(environment["RANK"]), "torchrun")
    elif _by_slurm(environment):
        world, nodes = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", "1"))
        found = Cluster(world // nodes, nodes, int(environment["SLURM_PROCID"]), "SLURM")
    else:
        devices, nodes = _count(settings, kind), settings.nodes or 1
        node = int(environment.get("NODE_RANK", environment.get("GROUP_RANK", "0")))
        return Cluster(devices, nodes, node * devices + int(environment.get("LOCAL_RANK", "0")))
    asked = settings.devices if settings.devices != "all" else None
    for name, wanted, there in (
        ("devices", asked, found.devices),
        ("nodes", settings.nodes, found.nodes),
    ):
        if wanted is not None and wanted != there:
            raise ConfigError(
                f"{name} is {wanted}, but {found.launcher} started {there}: leave it out, or "
                "start as many"
            )
    return found


def accelerator(settings: ScaleSettings) -> str:
    """What to train on: cuda, mps or cpu. Raises `ConfigError` where it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if settings.accelerator == "auto":
        return next((name for name, found in there.items() if found), "cpu")
    if not there.get(settings.accelerator, True):
        raise ConfigError(f"scale.accelerator is {settings.accelerator}, which is not there")
    return settings.accelerator


def was_restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun or SLURM started this very command before, and starts it again."""
    names = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    counts = [environment.get(name, "0") for name in names]
    return any(count.isdigit() and int(count) > 0 for count in counts)


def _count(settings: ScaleSettings, kind: str) -> int:
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if settings.devices is None:
        return 1
    if settings.devices == "all":
        return there
    if kind != "cpu" and settings.devices > there:
        raise ConfigError(f"devices is {settings.devices}, but there are {there} of {kind}")
    return settings.devices


def _by_torchrun(environment: Mapping[str, str]) -> bool:
    return {"TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK"} <= environment.keys()


def _by_slurm(environment: Mapping[str, str]) -> bool:
    """As Lightning: a job's shell, which only looks around, has one of these names."""
    name = environment.get("SLURM_JOB_NAME")
    started = {"SLURM_NTASKS", "SLURM_PROCID"} <= environment.keys()
    return started and name not in ("bash", "interactive")
