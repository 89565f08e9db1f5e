"""What lies in the files that other tools write: scores, and whose they are where that is said.

    .npy            scores alone: EfficientAT's and PaSST's teacher predictions
    .npz .pt .h5    named arrays: scores, perhaps names and labels; .pt also scores by name
    .h5 + .parquet  the best few of CED's `save_logits.py`, and which excerpt each row is
    .csv .tsv       a table with a header: a column of names, one of each label; without a header
                    (PSLA's and AST's predictions), scores alone
    .parquet        such a table, or a score file of ours

Nothing that is read can run code: no pickles in NumPy files, weights only in PyTorch's.

N rows, L labels, K labels that are kept of a row.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atgnn.data.hdf5 import ENDINGS
from atgnn.errors import MissingExtraError, counted
from atgnn.scoring import ScoresError, ScoreTable, is_score_file

__all__ = [
    "NAMES",
    "SUFFIXES",
    "Found",
    "brief",
    "load_torch",
    "open_hdf5",
    "pandas_for",
    "read_scores",
    "texts",
]

#: What arrays and columns of scores, file names and labels are called, the likeliest first.
SCORES = (
    "scores", "probabilities", "probs", "predictions", "preds", "outputs", "clipwise_output",
    "logits",
)  # fmt: skip
NAMES = (
    "path", "filename", "file_name", "fname", "file", "name", "audio_name", "names", "filenames",
    "files", "paths", "fnames", "wav",
)  # fmt: skip
LABELS = ("labels", "label_names", "classes", "class_names", "mids")


@dataclass(frozen=True)
class Found:
    """What a file says.

    Attributes:
        values: numbers (N, L), perhaps still on the disk: teachers of all AudioSet have a billion.
        names: N names of clips; None where the file has none.
        labels: L labels as the file has them; None where it has none.
        starts, ends: float64 (N,), seconds; None where the rows are whole files.
        ready: a score file of ours, which needs nothing else.
    """

    values: np.ndarray
    names: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    starts: np.ndarray | None = None
    ends: np.ndarray | None = None
    ready: ScoreTable | None = None


def read_scores(path: Path, labels: int | None = None, array: str | None = None) -> Found:
    """The scores in a file.

    `labels` is how many there are, for files that keep only the best of a row; `array` says which
    of several arrays the scores are.

    Raises:
        ScoresError: no such file, it is damaged, or holds no scores or several arrays of them.
        MissingExtraError: an HDF5 file, and h5py is not installed.
    """
    if not path.is_file():
        raise ScoresError(f"no file of scores {path}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ScoresError(f"{path.name}: expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        return reader(path, labels, array)
    except MissingExtraError:
        raise
    except ScoresError as error:
        raise ScoresError(f"{path}: {error}") from None
    except Exception as error:  # of other bytes, readers of zip, CSV, HDF5 raise almost anything
        raise ScoresError(f"{path} cannot be read: {brief(error)}") from None


def brief(error: Exception) -> str:
    """What somebody else's reader says, in a part of a line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


# ---------------------------------------------------------------- arrays


def _npy(path: Path, labels: int | None, array: str | None) -> Found:
    return Found(_matrix(np.load(path, mmap_mode="r", allow_pickle=False)))


def _npz(path: Path, labels: int | None, array: str | None) -> Found:
    with np.load(path, allow_pickle=False) as file:
        parts = {name: file[name] for name in file.files}
    return _of_arrays({n: one for n, one in parts.items() if isinstance(one, np.ndarray)}, array)


def _torch(path: Path, labels: int | None, array: str | None) -> Found:
    content = load_torch(path)
    if isinstance(content, torch.Tensor):
        return Found(_matrix(_plain(content)))
    if isinstance(content, list) and content and all(map(torch.is_tensor, content)):
        return Found(_matrix(np.concatenate([np.atleast_2d(_plain(one)) for one in content])))
    if not isinstance(content, Mapping):
        raise ScoresError(f"expected a tensor or tensors by name, got {type(content).__name__}")
    parts = {str(name): _plain(value) for name, value in content.items()}
    rows = all(part.ndim == 1 and part.dtype.kind == "f" for part in parts.values())
    if rows and len({len(part) for part in parts.values()}) == 1:  # scores by the clip's name
        return Found(_matrix(np.stack(list(parts.values()))), tuple(parts))
    return _of_arrays(parts, array)


def _hdf5(path: Path, labels: int | None, array: str | None) -> Found:
    with open_hdf5(path) as file:
        if "topk_values" in file and "topk_indexes" in file:
            best, which = file["topk_values"][()], file["topk_indexes"][()]
            return _of_best(path, best, which, 527 if labels is None else labels)
        parts = {name: data[()] for name, data in file.items() if hasattr(data, "shape")}
    return _of_arrays(parts, array)


def _of_arrays(parts: Mapping[str, np.ndarray], array: str | None) -> Found:
    """Which of several arrays is what, by shape and name."""
    tables = {name: part for name, part in parts.items() if part.ndim == 2 and _is_numeric(part)}
    name = array
    if name is None:
        likely = [one for one in SCORES if one in tables]
        name = likely[0] if likely else next(iter(tables), "")
        if not likely and len(tables) > 1:
            raise ScoresError(f"holds several tables, {', '.join(tables)}: say which with --array")
    if name not in tables:
        raise ScoresError(
            f"no table of scores {'' if array is None else repr(array) + ' '}of clips x labels; "
            f"it holds {', '.join(f'{one} {part.shape}' for one, part in parts.items()) or 'none'}"
        )
    values = _matrix(tables[name])
    rows, columns = values.shape
    return Found(values, _words(parts, NAMES, rows), _words(parts, LABELS, columns))


def _words(
    parts: Mapping[str, np.ndarray], known: Iterable[str], count: int
) -> tuple[str, ...] | None:
    """The first array that is called so and is as long as asked for."""
    for name in known:
        if name in parts and parts[name].shape == (count,):
            return tuple(texts(parts[name]))
    return None


def _of_best(path: Path, best: np.ndarray, which: np.ndarray, labels: int) -> Found:
    """CED's files: the K best of each row, and its place in a Parquet file of the same name.

    What is not kept gets an equal share of the least that is, as CED itself reads its files.
    """
    beside = path.with_suffix(".parquet")
    if not beside.is_file():
        raise ScoresError(f"CED writes {beside.name} beside it, which names the rows: put it there")
    best, which = best.astype(np.float32), which.astype(np.int64)
    if best.shape != which.shape or best.ndim != 2 or which.min() < 0 or which.max() >= labels:
        raise ScoresError(
            f"the best of each row do not fit {counted(labels, 'label')}: give them with --labels"
        )
    rest = best.min(axis=1, keepdims=True) / max(1, labels - best.shape[1])
    values = np.repeat(rest, labels, axis=1)
    np.put_along_axis(values, which, best, axis=1)
    columns = ["filename", "start", "end"]
    table = pandas_for(beside).read_parquet(beside, columns=columns)
    if len(table) != len(values):
        raise ScoresError(f"{len(values)} rows, {beside.name} has {len(table)}")
    starts, ends = (table[name].to_numpy(np.float64) for name in ("start", "end"))
    return Found(values, tuple(map(str, table["filename"])), None, starts, ends)


def _plain(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().to("cpu")
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _is_numeric(part: np.ndarray) -> bool:
    return part.dtype.kind in "fiu"


def _matrix(values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        raise ScoresError(f"expected one array, got {type(values).__name__}")
    if values.ndim != 2 or not _is_numeric(values) or 0 in values.shape:
        raise ScoresError(
            f"expected numbers of shape (clips, labels), got {values.dtype} of {values.shape}"
        )
    return values


def texts(values: np.ndarray) -> list[str]:
    """An array of texts or bytes, as texts."""
    return [one.decode() if isinstance(one, bytes) else str(one) for one in values.tolist()]


def load_torch(path: str | Path) -> Any:
    """What `torch.save` wrote, if it is tensors, numbers, texts, lists and mappings alone.

    ScoresError, without the file's name, where it is not.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of other bytes the unpickler raises almost anything
        raise ScoresError(f"cannot be read as tensors alone ({brief(error)})") from None


def open_hdf5(path: Path) -> Any:
    """An HDF5 file to read, for a ``with`` block; MissingExtraError without h5py."""
    try:
        import h5py
    except ImportError:
        raise MissingExtraError.of("h5py", "hdf5", f"reading {path.name}") from None
    return h5py.File(path, "r")


# ---------------------------------------------------------------- tables


def pandas_for(path: Path) -> Any:
    """The package, to read a table; MissingExtraError without it."""
    try:
        import pandas
    except ImportError:
        raise MissingExtraError.of("pandas", "train", f"reading {path.name}") from None
    return pandas


def _table(path: Path, labels: int | None, array: str | None) -> Found:
    """Text: with a header and names, or numbers alone."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file, delimiter=separator), [])
    if first and all(map(_is_number, first)):
        return Found(np.loadtxt(path, np.float32, delimiter=separator, ndmin=2))
    return _of_table(pandas_for(path).read_csv(path, sep=separator))


def _parquet(path: Path, labels: int | None, array: str | None) -> Found:
    if is_score_file(path):
        ready = ScoreTable.read(path)
        return Found(ready.values, ready.paths, ready.labels, ready.starts, ready.ends, ready)
    return _of_table(pandas_for(path).read_parquet(path))


def _of_table(table: Any) -> Found:
    """A column of names, columns of labels, and perhaps where each excerpt starts and ends."""
    named = [name for name in NAMES if name in table]
    if not named and len(table.columns) and table.iloc[:, 0].dtype.kind not in "fiu":
        named = [table.columns[0]]
    if not named:
        raise ScoresError(f"no column of names: expected one called {', '.join(NAMES[:4])}")
    excerpts = "start" in table and "end" in table
    places = {named[0], *(("start", "end") if excerpts else ())}
    columns = [name for name in table.columns if name not in places]
    texts_ = [str(name) for name in columns if table[name].dtype.kind not in "fiu"]
    if texts_:
        raise ScoresError(f"the column {texts_[0]!r} holds no numbers: leave it out")
    if not len(table) or not columns:
        raise ScoresError("no rows, or no columns of labels")
    starts, ends = (
        (table[name].to_numpy(np.float64) for name in ("start", "end")) if excerpts else (None,) * 2
    )
    values = _matrix(table[columns].to_numpy(np.float32))
    words = tuple(map(str, columns))
    numbered = all(word.isdigit() for word in words)  # by pandas: it says nothing
    names = tuple(map(str, table[named[0]]))
    return Found(values, names, None if numbered else words, starts, ends)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


READERS: dict[str, Callable[[Path, int | None, str | None], Found]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    **dict.fromkeys(ENDINGS, _hdf5),
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}
SUFFIXES = tuple(READERS)
