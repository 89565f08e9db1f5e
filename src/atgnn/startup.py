"""How a command gets to its first result sooner. Only for processes that are ours alone."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_collections"]


@contextmanager
def without_collections() -> Iterator[None]:
    """Around imports and the making of a model: a million objects, all of which stay.

    The garbage collector would look through them again and again, and once more at the end (a
    fifth of the time that importing PyTorch takes). From here on it minds only what is made later.
    A process that has imported PyTorch before is left as it is: it is not a command's.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
