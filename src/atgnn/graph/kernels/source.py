"""What the C++ kernel is made from, and how it is compiled.

Imports nothing but the standard library: setup.py runs this file too, where there is no PyTorch.
"""

import hashlib
from pathlib import Path

__all__ = ["FILE", "FLAGS", "SOURCES", "compile_flags", "digest"]

FILE = Path(__file__)
SOURCES = (FILE.with_name("cpu.cpp"), *sorted(FILE.parent.glob("*.inc")))
FLAGS = ("-O3", "-g0", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-w")


def digest() -> str:
    """16 hexadecimal digits that change with the sources and the flags."""
    parts = [*(flag.encode() for flag in FLAGS), *(path.read_bytes() for path in SOURCES)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def compile_flags() -> list[str]:
    """For the compiler: with the digest, which the library then answers when it is asked."""
    return [*FLAGS, f"-DATGNN_DIGEST=0x{digest()}"]
