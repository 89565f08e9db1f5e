"""What a run learns from, as numbers short enough to compare: data.json in its folder."""

import json
from collections.abc import Iterable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np

from atgnn.data.clips import Clips
from atgnn.data.store import is_packed, table_of
from atgnn.errors import ConfigError
from atgnn.training.division import Division
from atgnn.training.recipe import Recipe

__all__ = ["check_same_data", "describe_data"]

SIZES_UP_TO = 100_000  # clips; on a network each question takes a while


def describe_data(recipe: Recipe, division: Division) -> dict[str, Any]:
    """Digests of labels, clips, what is in them, and of the files that listed them."""
    parts = {"training": (division.train, division.train_targets)}
    if division.validation is not None and division.validation_targets is not None:
        parts["validation"] = (division.validation, division.validation_targets)
    sources = [*recipe.data.clips, *recipe.data.packed]
    packed = any(map(is_packed, sources))
    return {
        "labels": {
            "number": len(division.vocabulary),
            "digest": _digest(name.encode() for name in division.vocabulary.names),
        },
        **{name: _part(clips, targets, packed) for name, (clips, targets) in parts.items()},
        **_teachers(recipe),
        **_moments(recipe),
        "sources": {path: _source(Path(path)) for path in sources},
    }


def check_same_data(path: Path, now: dict[str, Any]) -> None:
    """Raises `ConfigError` where a run would go on with other labels or clips than it began with.

    Files may have moved; names, order, excerpts, sizes and targets must be the same, and packed
    waveforms the same to the bit.
    """
    if not path.is_file():  # a run of an earlier version
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    differ = [
        _difference(name, before.get(name), now.get(name))
        for name in ("labels", "training", "validation", "teachers", "events")
        if before.get(name) != now.get(name)
    ]
    old, new = (
        sorted(one["packed"] for one in data["sources"].values() if one and "packed" in one)
        for data in (before, now)
    )
    if old != new:
        differ.append("packed waveforms")
    if differ:
        raise ConfigError(
            f"the data are not those that {path.parent} began with ({', '.join(differ)}): resume "
            "needs the same clips and labels; start a new run, with init=RUN/best if it should go "
            "on from these weights"
        )


def _moments(recipe: Recipe) -> dict[str, Any]:
    """Digest of the tables of events."""
    tables = [str(_source(Path(path))) for path in recipe.moments.events]
    if not tables:
        return {}
    return {"events": {"number": len(tables), "digest": _digest(map(str.encode, tables))}}


def _teachers(recipe: Recipe) -> dict[str, Any]:
    """Digests of the scores or weights that a run learns from beside the labels."""
    scores = recipe.distill.scores
    files = [Path(one) / "model.safetensors" for one in recipe.distill.teacher]
    files += [] if scores is None else [Path(scores)]
    there = [str(_source(path)) for path in files]
    return (
        {"teachers": {"number": len(there), "digest": _digest(map(str.encode, there))}}
        if there
        else {}
    )


def _difference(name: str, before: Any, now: Any) -> str:
    old, new = ((one or {}).get("number", (one or {}).get("clips", 0)) for one in (before, now))
    return f"{name}: {old} then, {new} now" if old != new else f"{name} differ"


def _part(clips: Clips, targets: np.ndarray, packed: bool) -> dict[str, Any]:
    named = zip(clips.paths, clips.table["start"], clips.table["end"], strict=True)
    sizes = _sizes(clips.paths) if not packed and len(clips) <= SIZES_UP_TO else {}
    keys = (f"{p.name}|{start:.6f}|{end:.6f}|{sizes.get(p)}".encode() for p, start, end in named)
    return {
        "clips": len(clips),
        "digest": _digest(keys),
        "targets": blake2b(np.ascontiguousarray(targets).tobytes(), digest_size=16).hexdigest(),
    }


def _sizes(paths: list[Path]) -> dict[Path, int | None]:
    return {path: path.stat().st_size if path.is_file() else None for path in set(paths)}


def _digest(parts: Iterable[bytes]) -> str:
    state = blake2b(digest_size=16)
    for one in parts:
        state.update(len(one).to_bytes(8, "big") + one)
    return state.hexdigest()


def _source(path: Path) -> dict[str, str] | None:
    """Digest of a table; of a packed folder, of its table, which holds a checksum a clip."""
    if is_packed(path):
        return {"packed": sha256(table_of(path).read_bytes()).hexdigest()}
    return {"sha256": sha256(path.read_bytes()).hexdigest()} if path.is_file() else None
