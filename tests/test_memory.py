"""Freed memory is used again, or goes back to the system."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from atgnn.memory import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
def use():
    torch.empty(2**24).fill_(1)
for _ in range(10):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_large_tensors_take_over_freed_memory() -> None:
    faults = []
    for kept in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(kept=kept)],
            capture_output=True,
            text=True,
            check=True,
        )
        faults.append(int(done.stdout))
    # Without, each of the five takes new pages (few, where the system makes them huge).
    assert faults[1] < max(faults[0] / 2, 1000)


GIVEN_BACK = """
from pathlib import Path
import torch
from atgnn.memory import give_back_freed_memory, keep_freed_memory
assert keep_freed_memory()
assert not {given} or give_back_freed_memory()
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
large, small = [], []
for _ in range(30):  # the small ones lie between the large ones
    large.append(torch.ones(2**19))
    small.append(torch.ones(2**10))
before = resident()
del large
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_large_tensors_give_their_memory_back() -> None:
    freed = []
    for given in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", GIVEN_BACK.format(given=given)],
            capture_output=True,
            text=True,
            check=True,
        )
        freed.append(int(done.stdout))
    assert freed[0] < 10_000  # KiB, of 61,440
    assert freed[1] > 50_000
