"""Several processes that train one model: who one is, and what it needs from the others.

Everything here is plain in a single process, where no group has been formed.

W processes (world size), R rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as group

__all__ = [
    "Part",
    "gather_rows",
    "leave_processes",
    "largest_over_processes",
    "mean_over_processes",
    "own_rows",
    "part",
    "take_buffers_of_first",
    "uniform",
]


class Part(NamedTuple):
    """Which of how many processes one is; 0 leads."""

    rank: int = 0
    world: int = 1


def part() -> Part:
    """This process's place in the group it belongs to."""
    if group.is_available() and group.is_initialized():
        return Part(group.get_rank(), group.get_world_size())
    return Part()


def leave_processes() -> None:
    """This process is alone again."""
    if part().world > 1:
        group.destroy_process_group()


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; without gradients."""
    world = part().world
    if world == 1:
        return value
    total = value.detach().clone()
    group.all_reduce(total)
    return total / world


def largest_over_processes(value: int, device: torch.device | None = None) -> int:
    """The largest of a number that every process has; waits for all of them."""
    if part().world == 1:
        return int(value)
    together = torch.tensor([int(value)], device=device)
    group.all_reduce(together, group.ReduceOp.MAX)
    return int(together)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, one process after another: ``(R_0 + R_1 + ..., ...)``.

    Processes may hold different numbers of rows, none included; shapes of a row are the same.
    """
    world = part().world
    if world == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world)]
    group.all_gather(counts, count)
    sizes = [int(one) for one in counts]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    group.all_gather(parts, padded)
    return torch.cat([one[:size] for one, size in zip(parts, sizes, strict=True)])


def take_buffers_of_first(module: nn.Module) -> None:
    """Give all processes the first one's buffers, running statistics of norms above all."""
    if part().world == 1:
        return
    for buffer in module.buffers():
        if not buffer.is_complex():
            group.broadcast(buffer, 0)


# ------------------------------------------------------------------ draws for a whole batch


def own_rows(drawn: Tensor, axis: int = 0) -> Tensor:
    """Of what was drawn for the clips of all processes along `axis`, those of this process.

    Every process holds as many clips of a batch, one process's after another's. All of them draw
    the same numbers for the whole batch: so a run does not depend on how many processes it has.
    """
    rank, world = part()
    size = drawn.shape[axis] // world
    return drawn.narrow(axis, rank * size, size)


def uniform(*shape: int, clips: int, generator: torch.Generator) -> Tensor:
    """``torch.rand(shape)`` on the CPU, the same for a clip whatever process holds it.

    Args:
        shape: of what this process gets.
        clips: the axis of `shape` along which there is one entry a clip.
        generator: in the same state in all processes; ends in the same state in all.
    """
    whole = [size * part().world if axis == clips else size for axis, size in enumerate(shape)]
    return own_rows(torch.rand(whole, generator=generator), clips)
