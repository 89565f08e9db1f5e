"""Freed memory is used again."""

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
