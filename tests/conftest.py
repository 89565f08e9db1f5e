"""Shared fixtures. `ATGNN_SHARED` points to the folder with the development sounds."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Tests that run side by side (`pytest -n auto`), and what they start, take one thread each: more
# threads than processors wait for one another. Before anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Numbers computed with the public reference implementations (see tests/fixtures/README.md)."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development sounds, or a skip that says how to provide them."""
    folder = Path(os.environ.get("ATGNN_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"development sounds not found at {folder}: set ATGNN_SHARED to their folder")
    return folder
