"""The one operator of every dynamic graph: k nearest neighbours, and the extremum over them.

Patch blocks take the maximum over a patch's neighbours, label blocks the minimum over a label's
patches; both are the same search and the same reduction. `knn_extremum` is registered with
PyTorch as ``atgnn::knn_extremum``, so that autograd, autocast, `torch.compile` and `torch.export`
see a single node, and has several backends:

- C++ on a processor (`kernels/cpu.py`), where it has been built;
- Triton on an NVIDIA GPU (`kernels/gpu.py`);
- plain PyTorch everywhere else and for float64 (`kernels/plain.py`): the oracle of the others.

B batch, N query nodes, M candidate nodes, K neighbours, C channels, F frequency, T time.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from atgnn.errors import KernelError
from atgnn.graph.extremum import neighbour_extremum
from atgnn.graph.kernels import cpu, plain
from atgnn.graph.neighbours import Distance, check_nodes
from atgnn.graph.position import NO_POSITION, Position
from atgnn.graph.removal import without_removed

__all__ = [
    "BACKENDS",
    "KernelWarning",
    "backend_in_use",
    "extremum_over",
    "knn_extremum",
    "use_backend",
]

BACKENDS = ("auto", "plain", *cpu.LEVELS)
_chosen = os.environ.get("ATGNN_KERNEL") or "auto"  # for a whole process; `use_backend` for a part
if _chosen not in BACKENDS:  # a level that is not here is refused when a graph is to be built
    raise KernelError(f"ATGNN_KERNEL={_chosen}: unknown backend (there are {', '.join(BACKENDS)})")


class KernelWarning(RuntimeWarning):
    """Graphs are built by plain PyTorch because a kernel is missing."""


def knn_extremum(
    query: Tensor,
    candidates: Tensor,
    k: int,
    dilation: int = 1,
    *,
    position: Position = NO_POSITION,
    lengths: Tensor | None = None,
    columns: int | None = None,
    reduce: Literal["max", "min"] = "max",
    distance: Distance = "cosine",
) -> tuple[Tensor, Tensor]:
    """Connect each query node to its nearest candidates and reduce over them, channel by channel.

    Candidates are ranked by ``||y_j||^2 - 2 x_i . y_j + position``, in float32 at least; a node
    takes the ranks 0, d, 2d, ... (k of them). Where a graph is small, first d and then k shrink,
    each clip by its own number of valid candidates (see `atgnn.graph.shrink`).

    Args:
        query: ``(B, N, C)``.
        candidates: ``(B, M, C)``, a grid of frequency x time flattened.
        k: neighbours of a node.
        dilation: d.
        position: added to the squared distance.
        lengths: ``(B,)`` valid columns of the candidates' grid, or a mask ``(B, F, T)`` of it,
            False where a node was removed; None: all are valid.
        columns: columns of the candidates' grid; by default those of `position`, or M: one row.
        reduce: "max" or "min".
        distance: "cosine" L2-normalises the vectors before they are ranked, not what is reduced.

    Returns:
        The extremum ``(B, N, C)`` and the neighbours ``(B, N, K)`` int32, nearest first; the
        lowest index wins ties. The gradient goes to the candidate that won each channel, the
        nearest where several did, and not through the choice of neighbours.

    Raises:
        ValueError: the shapes do not fit together.
        KernelError: the environment variable ATGNN_KERNEL asks for what is not here.
    """
    if columns is None:
        columns = candidates.shape[1] if position.by_time is None else position.by_time.shape[-1]
    _check(query, candidates, k, dilation, lengths, columns)
    _check_position(query, candidates, position, columns)
    if lengths is not None and lengths.ndim == 3:
        mask = lengths.flatten(1)
        candidates, position, lengths, own = without_removed(candidates, position, mask)
        extremum, places = knn_extremum(
            query, candidates, k, dilation,
            position=position, lengths=lengths, reduce=reduce, distance=distance,
        )  # fmt: skip
        near = own.gather(1, places.long().flatten(1)).view_as(places)
        return extremum, near.int()
    for other in (candidates, lengths, *position):
        if other is not None and other.device != query.device:
            raise ValueError(f"query is on {query.device}, what goes with it on {other.device}")
    operator: Any = plain.forward if _chosen == "plain" else torch.ops.atgnn.knn_extremum
    extremum, neighbours = operator(
        query,
        candidates,
        position.by_frequency,
        position.by_time,
        position.table,
        lengths,
        columns,
        k,
        dilation,
        reduce == "max",
        distance == "cosine",
    )
    return extremum, neighbours


def extremum_over(
    candidates: Tensor, neighbours: Tensor, reduce: Literal["max", "min"] = "max"
) -> Tensor:
    """Reduce over neighbours that `knn_extremum` found: in every bit what it gave with them.

    Args:
        candidates: ``(B, M, C)``, as they were.
        neighbours: ``(B, N, K)`` int32.
        reduce: as it was.

    Returns:
        ``(B, N, C)``, with the same gradient.
    """
    if _chosen == "plain":
        return neighbour_extremum(candidates, neighbours.long(), reduce)
    out: Tensor = torch.ops.atgnn.extremum_over(candidates, neighbours, reduce == "max")
    return out


def _check(
    query: Tensor, candidates: Tensor, k: int, dilation: int, lengths: Tensor | None, columns: int
) -> None:
    check_nodes(query, candidates)
    if k < 1 or dilation < 1:
        raise ValueError(f"k and dilation must be 1 or more, got {k} and {dilation}")
    if columns < 1 or candidates.shape[1] % columns:
        raise ValueError(f"{candidates.shape[1]} candidates do not make rows of {columns}")
    grid = (query.shape[0], candidates.shape[1] // columns, columns)
    if lengths is not None and tuple(lengths.shape) not in (grid[:1], grid):
        raise ValueError(
            f"expected {query.shape[0]} lengths or a mask {grid}, got {tuple(lengths.shape)}"
        )


def _check_position(query: Tensor, candidates: Tensor, position: Position, columns: int) -> None:
    batch, nodes, count = *query.shape[:2], candidates.shape[1]
    high, wide, table = position
    if (high is None) != (wide is None):
        raise ValueError("position needs a table for frequency and one for time, or neither")
    if high is not None and wide is not None:
        fits = high.ndim == wide.ndim == 2 and high.shape[0] * wide.shape[0] == nodes
        if not fits or high.shape[1] * columns != count or wide.shape[1] != columns:
            raise ValueError(
                f"position tables {tuple(high.shape)} and {tuple(wide.shape)} do not fit {nodes} "
                f"nodes and {count} candidates in rows of {columns}"
            )
    elif table is not None and table.shape not in ((nodes, count), (batch, nodes, count)):
        raise ValueError(
            f"expected a position table {(nodes, count)} or {(batch, nodes, count)}, got "
            f"{tuple(table.shape)}"
        )


# ------------------------------------------------------------------ the choice of backend


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with this backend inside a ``with`` block: one of `BACKENDS`.

    "plain" also leaves the registered operator out, so that tracers and exporters see its
    PyTorch operations. Not for several threads at once.

    Raises:
        KernelError: there is no such backend here.
    """
    global _chosen
    if name not in BACKENDS:
        raise KernelError(f"unknown backend {name!r} (there are {', '.join(BACKENDS)})")
    _check_level(name)
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def _check_level(name: str) -> None:
    if name not in cpu.LEVELS:
        return
    if not cpu.loads():
        raise KernelError(f"backend {name!r} needs the compiled kernel: run `atgnn doctor --build`")
    if cpu.LEVELS.index(name) > cpu.newest_level():
        raise KernelError(f"this processor does not run {name!r}")


def backend_in_use(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """What computes graphs on a device: "plain", "triton" or the kernel's instruction set."""
    module = _backend(torch.device(device).type, dtype)
    if module is not cpu:
        return "plain" if module is plain else "triton"
    return cpu.LEVELS[cpu.best_level()] if _chosen == "auto" else _chosen


def _backend(device: str, dtype: torch.dtype) -> ModuleType:
    if _chosen == "plain" or dtype == torch.float64:
        return plain
    if device == "cpu":
        _check_level(_chosen)
        if cpu.loads():
            return cpu
        _warn_of_plain()
        return plain
    if device == "cuda":
        return _gpu() or plain
    return plain


@cache
def _warn_of_plain() -> None:
    warnings.warn(
        "no compiled graph kernel was found that fits this version, so plain PyTorch serves, "
        "several times slower: `atgnn doctor --build` builds it (this is said once)",
        KernelWarning,
        stacklevel=2,
    )


@cache
def _gpu() -> ModuleType | None:
    if torch.version.hip is not None or torch.cuda.get_device_capability() < (8, 0):
        return None  # made for NVIDIA's Ampere and later
    try:
        from atgnn.graph.kernels import gpu
    except ImportError:
        warnings.warn(
            "Triton is not installed, so plain PyTorch builds the graphs on the GPU, several "
            "times slower: `pip install triton` (this is said once)",
            KernelWarning,
            stacklevel=2,
        )
        return None
    return gpu


def _level() -> int | None:
    return cpu.LEVELS.index(_chosen) if _chosen in cpu.LEVELS else None


# ------------------------------------------------------------------ registration


def _register(name: str, compute: Callable, shapes: Callable) -> None:
    """As `torch.library.custom_op` does, whose first call, though, takes seconds: it imports all
    of `torch._dynamo`."""
    schema = torch.library.infer_schema(compute, mutates_args=())
    torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "default", compute)
    torch.library.register_fake(name, shapes)


def _knn_extremum(
    query: Tensor,
    candidates: Tensor,
    by_frequency: Tensor | None,
    by_time: Tensor | None,
    table: Tensor | None,
    lengths: Tensor | None,
    columns: int,
    k: int,
    dilation: int,
    largest: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(query.dtype, candidates.dtype)
    backend = _backend(query.device.type, dtype)
    forward: Any = partial(cpu.forward, level=_level()) if backend is cpu else backend.forward
    extremum, neighbours = forward(
        query,
        candidates,
        by_frequency,
        by_time,
        table,
        lengths,
        columns,
        k,
        dilation,
        largest,
        cosine,
    )
    return extremum, neighbours


def _shapes(
    query: Tensor,
    candidates: Tensor,
    by_frequency: Tensor | None,
    by_time: Tensor | None,
    table: Tensor | None,
    lengths: Tensor | None,
    columns: int,
    k: int,
    dilation: int,
    largest: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    count = torch.sym_min(k, candidates.shape[1])
    neighbours = query.new_empty((*query.shape[:2], count), dtype=torch.int32)
    return candidates.new_empty(query.shape), neighbours


def _extremum_over(candidates: Tensor, neighbours: Tensor, largest: bool) -> Tensor:
    if _backend(candidates.device.type, candidates.dtype) is cpu:
        return cpu.extremum(candidates, neighbours, largest, level=_level())
    return plain.extremum(candidates, neighbours, largest)


def _extremum_shapes(candidates: Tensor, neighbours: Tensor, largest: bool) -> Tensor:
    return candidates.new_empty((*neighbours.shape[:2], candidates.shape[2]))


def _knn_extremum_backward(
    grad: Tensor, candidates: Tensor, neighbours: Tensor, largest: bool
) -> Tensor:
    backend = _backend(grad.device.type, torch.promote_types(grad.dtype, candidates.dtype))
    if backend is cpu:
        return cpu.backward(grad, candidates, neighbours, largest, level=_level())
    out: Tensor = backend.backward(grad, candidates, neighbours, largest)
    return out


def _backward_shapes(grad: Tensor, candidates: Tensor, neighbours: Tensor, largest: bool) -> Tensor:
    return torch.empty_like(candidates, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[1], output[1])
    ctx.largest = inputs[9]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    if not ctx.needs_input_grad[1]:
        return (None,) * 11
    candidates, neighbours = ctx.saved_tensors
    out = torch.ops.atgnn.knn_extremum_backward(grad, candidates, neighbours, ctx.largest)
    return None, out, *(None,) * 9


def _save_over(ctx: Any, inputs: Any, output: Any) -> None:
    candidates, neighbours, ctx.largest = inputs
    ctx.save_for_backward(candidates, neighbours)  # as the search does, in its order


def _backward_over(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    candidates, neighbours = ctx.saved_tensors
    out = torch.ops.atgnn.knn_extremum_backward(grad, candidates, neighbours, ctx.largest)
    return out, None, None


def _backward_twice(ctx: Any, grad: Tensor) -> tuple[None, ...]:
    raise RuntimeError("atgnn::knn_extremum has no second derivative")


_register("atgnn::knn_extremum", _knn_extremum, _shapes)
_register("atgnn::extremum_over", _extremum_over, _extremum_shapes)
_register("atgnn::knn_extremum_backward", _knn_extremum_backward, _backward_shapes)
torch.library.register_autograd("atgnn::knn_extremum", _backward, setup_context=_save)
torch.library.register_autograd("atgnn::extremum_over", _backward_over, setup_context=_save_over)
torch.library.register_autograd("atgnn::knn_extremum_backward", _backward_twice)
