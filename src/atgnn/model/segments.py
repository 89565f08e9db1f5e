"""Segments of the network that training computes twice, to keep less between forward and backward.

PyTorch keeps what the backward pass reads: about 13 values a node and channel in a patch block. A
lean segment keeps what went into it and is run again, by PyTorch's own `checkpoint`, when the
backward pass arrives. Only cheap steps are in segments, or those whose results are many. What a
segment measures or searches (statistics of batch norms, neighbours) is small; it is noted the first
time and looked up the second, so that running statistics move once and nothing is searched twice.
The second time does what the first did, with the same inputs: gradients are the same.

There is no randomness inside a segment, and none in another.
"""

from collections.abc import Callable
from threading import local
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["lean", "note", "once", "recalled", "run_again", "segment"]

_Out = TypeVar("_Out")


def lean(model: nn.Module, on: bool = True) -> int:
    """Let a model's segments be computed twice in training, or no longer; returns how many."""
    modules = [module for module in model.modules() if hasattr(module, "lean")]
    for module in modules:
        module.lean = on  # type: ignore[assignment]
    return len(modules)


def segment(twice: bool, function: Callable[..., _Out], *inputs: Any) -> _Out:
    """``function(*inputs)``; where `twice`, what happens in it is computed again for backward.

    Under `torch.compile`, which itself weighs what to keep, it is computed once.
    """
    if not twice or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    notes = _Notes()
    out: _Out = checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (_Noting(notes, again=False), _Noting(notes, again=True)),
    )
    return out


class _Notes:
    """What one segment noted, in order."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.at: int | None = None  # the one to recall next; None while they are taken


_running = local()  # the segment's notes; a backward pass may have a thread of its own


class _Noting:
    """Around a segment that runs; to be entered as often as it does (`retain_graph`)."""

    def __init__(self, notes: _Notes, again: bool) -> None:
        self._notes, self._again = notes, again

    def __enter__(self) -> None:
        self._notes.at = 0 if self._again else None
        _running.notes = self._notes

    def __exit__(self, *error: object) -> None:
        _running.notes = None


def _notes() -> _Notes | None:
    return getattr(_running, "notes", None)


def run_again() -> bool:
    """Whether this is the second time of a segment."""
    notes = _notes()
    return notes is not None and notes.at is not None


def note(value: object) -> None:
    """Keep a value for the second time, if there is to be one."""
    notes = _notes()
    if notes is not None:
        notes.values.append(value)


def recalled() -> Any:
    """What was noted next, in a segment that runs again."""
    notes = _notes()
    assert notes is not None, "there is no segment"
    assert notes.at is not None, "ask run_again() first"
    notes.at += 1
    return notes.values[notes.at - 1]


def once(compute: Callable[[], _Out]) -> _Out:
    """``compute()``; in a segment that runs again, what it gave the first time."""
    if run_again():
        out: _Out = recalled()
        return out
    out = compute()
    note(out)
    return out
