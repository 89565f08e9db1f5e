"""Which clip each row of somebody's scores is.

N rows, C clips of a table.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from atgnn.data.audioset import segment_names
from atgnn.data.clips import Clips
from atgnn.data.hdf5 import ENDINGS
from atgnn.errors import AtgnnError
from atgnn.others.arrays import NAMES, brief, open_hdf5, pandas_for, texts
from atgnn.scoring import ScoresError

__all__ = ["clips_named", "read_names"]

CLOSE = 0.001  # s: starts of the same excerpt


def read_names(path: Path) -> list[str]:
    """The names of clips in a file, in the order of their rows.

    Text with a name on each line; a table (CSV, TSV, Parquet) with a column of names; JSON: a
    list, a mapping from names to rows, or a manifest as PSLA and AST use it; a pickled mapping from
    names to rows, as EfficientAT has it; an HDF5 file with ``audio_name``, as PANNs and PaSST pack
    sounds.

    Raises:
        ScoresError: no such file, or it holds nothing of the kind.
    """
    if not path.is_file():
        raise ScoresError(f"no list of names {path}: give a file that names the clips in order")
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv", ".parquet"):
            return _of_table(path)
        if suffix in ENDINGS:
            with open_hdf5(path) as file:
                return _of_arrays({name: file[name][()] for name in NAMES if name in file}, path)
        if suffix == ".json":
            return _of_content(json.loads(path.read_text(encoding="utf-8-sig")), path)
        if suffix in (".pkl", ".pickle"):
            return _of_content(_PlainUnpickler(io.BytesIO(path.read_bytes())).load(), path)
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except AtgnnError:
        raise
    except Exception as error:  # of other bytes, readers raise almost anything
        raise ScoresError(f"the names in {path} cannot be read: {brief(error)}") from None


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and mappings; a pickle that wants to run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"it holds {module}.{name}, and unpickling that may run anything: save the names as "
            "JSON"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def _of_table(path: Path) -> list[str]:
    pandas = pandas_for(path)
    if path.suffix.lower() == ".parquet":
        table = pandas.read_parquet(path)
    else:
        table = pandas.read_csv(path, sep=_separator(path), dtype=str)
    known = [name for name in NAMES if name in table]
    if not known and len(table.columns) > 1:
        raise ScoresError(
            f"{path} has no column of names: expected one called {', '.join(NAMES[:3])} or the like"
        )
    return [str(name) for name in table[known[0] if known else table.columns[0]]]


def _separator(path: Path) -> str:
    """What parts the columns of a text table: what its first line has; a comma where nothing."""
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    return next((sign for sign in ("\t", ";", ",") if sign in header), ",")


def _of_arrays(found: Mapping[str, Any], path: Path) -> list[str]:
    if not found:
        raise ScoresError(f"{path} has no dataset of names ({', '.join(NAMES)})")
    return texts(next(iter(found.values())))


def _of_content(content: Any, path: Path) -> list[str]:
    if isinstance(content, Mapping) and isinstance(content.get("data"), list):
        entries = content["data"]
        if not all(isinstance(entry, Mapping) and "wav" in entry for entry in entries):
            raise ScoresError(f"{path}: every entry of a manifest's 'data' needs a 'wav'")
        return [str(entry["wav"]) for entry in entries]
    if isinstance(content, Mapping):
        try:
            by_row = {int(row): str(name) for name, row in content.items()}
        except (TypeError, ValueError):
            by_row = {}
        if sorted(by_row) != list(range(len(content))):
            raise ScoresError(f"{path}: rows must be 0, 1, 2, ..., each once")
        return [by_row[row] for row in range(len(by_row))]
    if isinstance(content, list):
        return [str(name) for name in content]
    raise ScoresError(f"{path} holds no names: expected a list, or rows by name")


def clips_named(names: Sequence[str], clips: Clips, starts: np.ndarray | None = None) -> list[int]:
    """The clip (C) that each name means, or -1.

    By its file's name, with or without ending; of several clips called so, the one whose folders
    agree the furthest. Where the folder of any name agrees with that of its clip, folders count,
    and those that contradict are no match; where none does, the sounds lay elsewhere and file
    names alone decide. Else, for AudioSet, by the id of the video in the name, with times and a
    leading Y or without. Of several excerpts of a file the one that begins where `starts` (N,)
    says, in seconds.

    Raises:
        ScoresError: a name means several clips, or several names mean one.
    """
    paths = [_parts(name) for name in names]
    called = _called(paths, clips)
    folders_count = any(agreeing for _, agreeing in called)
    videos = _index(
        (video, row)
        for row, path in enumerate(clips.paths)
        for video, _ in segment_names(path.stem)
    )
    begins = clips.table["start"].to_numpy(float)
    found = []
    for at, (name, parts, (rows, agreeing)) in enumerate(zip(names, paths, called, strict=True)):
        if folders_count and len(parts) > 1 and not agreeing:
            rows = []
        if not rows:
            rows = next((videos[video] for video, _ in _segments(name) if video in videos), [])
        if len(rows) > 1 and starts is not None:
            rows = [row for row in rows if abs(begins[row] - starts[at]) < CLOSE]
        if len(rows) > 1:
            raise ScoresError(
                f"{name} means {len(rows)} of the clips, the first is {clips.paths[rows[0]]}: "
                "name them with their folders, or give a table without the others"
            )
        found.append(rows[0] if rows else -1)
    return found


def _parts(name: str) -> tuple[str, ...]:
    """Folders and file of a name, without what says where it begins."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return tuple(part for part in parts if part not in ("/", ".", "..")) or (name,)


def _called(paths: Sequence[tuple[str, ...]], clips: Clips) -> list[tuple[list[int], int]]:
    """The clips that have each name's file name, and how many folders above it agree."""
    by_file = _index((path.name, row) for row, path in enumerate(clips.paths))
    by_stem = _index((path.stem, row) for row, path in enumerate(clips.paths))
    found = []
    for *folders, file in paths:
        rows = by_file.get(file) or by_stem.get(Path(file).stem) or by_stem.get(file) or []
        depths = [_agreement(folders, clips.paths[row].parent.parts) for row in rows]
        deepest = max(depths, default=0)
        found.append(
            ([row for row, depth in zip(rows, depths, strict=True) if depth == deepest], deepest)
        )
    return found


def _agreement(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many folders are the same, counted from the file upwards."""
    pairs = zip(reversed(ours), reversed(theirs), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _index(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for key, row in pairs:
        if row not in rows.setdefault(key, []):
            rows[key].append(row)
    return rows


def _segments(name: str) -> list[tuple[str, tuple[float, ...]]]:
    return [one for stem in (Path(name).stem, Path(name).name) for one in segment_names(stem)]
