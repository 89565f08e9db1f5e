"""Work done in threads, a little ahead of whoever waits for it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["map_ahead"]

_T = TypeVar("_T")
_U = TypeVar("_U")


def map_ahead(
    function: Callable[[_T], _U], items: Iterable[_T], threads: int, ahead: int
) -> Generator[_U, None, None]:
    """`map` in threads: results in order, at most `ahead` of them begun before they are asked for.

    An exception is raised at its item's turn. Closing the generator ends the threads.
    """
    waiting, pending = iter(items), deque[Future[_U]]()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="atgnn-ahead")
    try:
        while True:
            for item in islice(waiting, ahead - len(pending)):
                pending.append(pool.submit(function, item))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
