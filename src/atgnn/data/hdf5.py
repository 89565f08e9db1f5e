"""Clips that lie in an HDF5 file each, as the author of ATGNN keeps them: dataset ``audio``."""

from pathlib import Path

import numpy as np

from atgnn.errors import AudioError, MissingExtraError

__all__ = ["ENDINGS", "is_hdf5", "read_hdf5"]

ENDINGS = (".h5", ".hdf5", ".hdf")
DATASET = "audio"

#: The author's preparation resamples before it writes; the files do not say so.
RATE = 16_000


def is_hdf5(path: Path) -> bool:
    """Whether the name is an HDF5 file's."""
    return path.suffix.lower() in ENDINGS


def read_hdf5(path: Path) -> tuple[np.ndarray, int]:
    """Samples (T,) or (T, channels) and their rate (Hz): as an attribute states it, else 16 kHz.

    Raises `AudioError` for a file without ``audio`` or that is damaged, `MissingExtraError`
    without h5py.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError.of("h5py", "hdf5", f"reading {path.name}") from None
    try:
        with h5py.File(path, "r") as file:
            if DATASET not in file:
                has = ", ".join(file) or "nothing"
                raise AudioError(f"{path}: has no dataset 'audio', it holds {has}")
            data = file[DATASET]
            stated = [{**file.attrs, **data.attrs}.get(name) for name in ("sample_rate", "sr")]
            rate = next((int(value) for value in stated if value is not None), RATE)
            return np.asarray(data[()]), rate
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the path") from None
    except (OSError, RuntimeError, AttributeError, TypeError) as error:  # what h5py raises
        reason = " ".join(str(error).split())[:120]
        raise AudioError(f"{path}: cannot be read as HDF5 ({reason})") from None
