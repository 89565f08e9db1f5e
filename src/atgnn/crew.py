"""Batches side by side: for small networks better than many threads in each layer of one batch.

A layer that is split over threads ends when the last of them does. On a processor that others use
as well, that thread is often not even running, and the rest wait for it, awake, in every layer. A
batch in a thread of its own waits for nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

__all__ = ["Crew"]

MOST = 4  # batches at a time: each needs memory


class Crew:
    """Threads that compute by themselves, each with its share of those that PyTorch may use.

    Attributes:
        count: how many there are; with one, whoever asks does the work.
    """

    def __init__(self, threads: int | None = None) -> None:
        """For so many threads of PyTorch, by default as many as it has here."""
        whole = torch.get_num_threads() if threads is None else threads
        self.count = max(1, min(MOST, whole))
        self._each = max(1, whole // self.count)
        self._pool: ThreadPoolExecutor | None = None

    def run(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """What `work` makes of the arguments, in one of the threads, when it is done."""
        if self.count == 1:
            done: Future[Any] = Future()
            done.set_result(work(*arguments))
            return done
        if self._pool is None:
            self._pool = self._started()
        return self._pool.submit(work, *arguments)

    def _started(self) -> ThreadPoolExecutor:
        """The threads; what PyTorch does elsewhere is left as it was."""
        before, ready = torch.get_num_threads(), threading.Barrier(self.count + 1)
        pool = ThreadPoolExecutor(self.count, "atgnn-network", _settle, (self._each,))
        for _ in range(self.count):
            pool.submit(ready.wait)
        ready.wait()
        torch.set_num_threads(before)  # of threads that begin later; ours keep their own
        return pool


def _settle(threads: int) -> None:
    """Give the thread that calls this so many threads of PyTorch."""
    torch.get_num_threads()  # a thread takes the process's number when it first asks, and only then
    torch.set_num_threads(threads)
