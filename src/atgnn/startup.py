"""How a command gets to its first result sooner. Only for processes that are ours alone."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quick_start"]

# Rounds that a thread of GNU OpenMP, PyTorch's on Linux, waits awake for its next piece of work.
# By default 300,000 where a machine has as many threads as processors: with other work beside it
# they hold up what they wait for (a batch: 3.3 s; with this 0.5 s; alone on the machine 0.08 s
# either way, and twice that with 1,000).
SPIN_COUNT = "10000"


@contextmanager
def quick_start() -> Iterator[None]:
    """Around imports and the making of a model: a million objects, all of which stay.

    The garbage collector would look through them again and again, and once more at the end (a
    fifth of the time that importing PyTorch takes). From here on it minds only what is made later.
    A process that has imported PyTorch before is left as it is: it is not a command's.
    """
    if "torch" in sys.modules:
        yield
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
