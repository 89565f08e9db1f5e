"""Memory of this process: what becomes of what it frees, and the most that it has held."""

import ctypes
import sys
from pathlib import Path

__all__ = ["give_back_freed_memory", "keep_freed_memory", "peak_memory"]

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4


def keep_freed_memory() -> bool:
    """Have large tensors take over the memory of earlier ones; False where that cannot be set.

    By default the C library of Linux fetches every large block from the system, which clears it
    page by page, and gives it back at once: a tenth of the time of a training step on a
    processor. The process keeps the most memory that it once needed. For programs of their own,
    such as the command line, not for a library to decide.
    """
    return _set((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))


def give_back_freed_memory() -> bool:
    """Have large tensors return their memory at once; False where that cannot be set.

    Freed tensors leave gaps of which the C library of Linux fills a part only: a third of what a
    training step takes may be gaps. Here whatever has a megabyte or more is fetched from the system
    by itself and goes back when it is freed. The opposite of `keep_freed_memory`, and slower for
    the same reason.
    """
    return _set(
        (_MMAP_MAX, 2**16), (_MMAP_THRESHOLD, 2**20), (_TRIM_THRESHOLD, 2**20), (_TOP_PAD, 0)
    )


def peak_memory() -> float:
    """The most resident memory that this process has had so far, in MB (1e6 bytes).

    Not from `getrusage` on Linux, where a process inherits the peak of the one that started it.
    NaN where the system does not tell.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _set(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    return all(mallopt(name, value) == 1 for name, value in settings)
