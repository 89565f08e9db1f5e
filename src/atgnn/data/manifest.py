"""JSON manifests as PSLA, AST and the author of ATGNN use them, one for each split.

{"data": [{"wav": path, "labels": "/m/0a,/m/0b"}, ...]}; other keys are passed over. ``wav`` is a
sound, or an HDF5 file with one clip (`hdf5`).
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atgnn.audio import walk_sounds
from atgnn.data.hdf5 import ENDINGS, is_hdf5
from atgnn.data.listing import Draft, Key, Listing, from_training
from atgnn.errors import ClipsError, MissingExtraError
from atgnn.labels import Vocabulary

__all__ = ["read_manifests"]


def read_manifests(
    manifests: Sequence[str],
    vocabulary: Vocabulary | None = None,
    audio: Path | None = None,
    links: bool = False,
) -> Listing:
    """Read manifests and match them with their sounds.

    A manifest is a path, or SPLIT=PATH; without it, the split is the file's name. `vocabulary` maps
    mids to names (None: FSD50K's where it has every label, else AudioSet's). `audio` is the folder
    where the sounds are now, if they are not where the manifests say: they are found by name.

    Raises `ClipsError` for a file that is no manifest, `MissingExtraError` for HDF5 without h5py.
    """
    entries = [
        (split, path, entry)
        for split, path in map(_split_and_path, manifests)
        for entry in _entries(path)
    ]
    chosen = vocabulary or _guess([entry for _, _, entry in entries])
    # In the order of their ranks: by name, else as they are given.
    splits = sorted(dict.fromkeys(split for split, _, _ in entries), key=from_training)
    draft = Draft("the manifests", chosen, tuple(splits))
    names = {label.mid: label.name for label in chosen if label.mid}
    moved = None if audio is None else _by_name(audio, links)
    places: dict[Key, Path] = {}
    for split, path, entry in entries:
        mids = [mid.strip() for mid in entry["labels"].split(",") if mid.strip()]
        stated = Path(entry["wav"])
        name = str(stated)
        labels = [names.get(mid, mid) for mid in mids]
        draft.add(name, labels, split, mids=",".join(mids))
        place = _place(stated, path.parent, moved)
        if place is not None:
            places[name, 0.0] = place
    if any(is_hdf5(place) for place in places.values()):
        _require_h5py()
    return draft.listing(places)


def _split_and_path(entry: str) -> tuple[str, Path]:
    split, equals, path = entry.partition("=")
    if equals and not Path(entry).is_file():
        return split, Path(path)
    return Path(entry).stem, Path(entry)


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ClipsError(f"no manifest at {path}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClipsError(f"{path} is not readable JSON: {reason}") from None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        raise ClipsError(f'{path} is no manifest: expected {{"data": [...]}} with clips in it')
    for number, entry in enumerate(data):
        good = isinstance(entry, dict) and all(
            isinstance(entry.get(name), str) and entry[name] for name in ("wav", "labels")
        )
        if not good:
            raise ClipsError(
                f"{path}, clip {number + 1}: expected the texts 'wav' and 'labels' (mids with "
                f"commas between them), got {json.dumps(entry)[:80]}"
            )
    return data


def _guess(entries: list[dict[str, Any]]) -> Vocabulary:
    """FSD50K's labels where they are enough, else AudioSet's, which are more."""
    used = {mid.strip() for entry in entries for mid in entry["labels"].split(",")}
    fsd50k = Vocabulary.fsd50k()
    return fsd50k if used <= {*fsd50k.mids, ""} else Vocabulary.audioset()


def _by_name(folder: Path, links: bool) -> dict[str, list[Path]]:
    """Absolute paths of sounds and HDF5 files below a folder, by names without the ending."""
    found: dict[str, list[Path]] = {}
    for path in map(Path, walk_sounds(os.path.abspath(folder), links, more=ENDINGS)):
        found.setdefault(path.stem, []).append(path)
    return found


def _place(stated: Path, beside: Path, moved: dict[str, list[Path]] | None) -> Path | None:
    """Where a sound is: below the new folder, by name and as many folder names as agree, or as
    stated (relative paths start at the manifest)."""
    if moved is not None:
        candidates = moved.get(stated.stem, ())
        return max(candidates, key=lambda path: _agreement(path, stated), default=None)
    place = stated if stated.is_absolute() else beside / stated
    return Path(os.path.abspath(place)) if place.is_file() else None


def _agreement(one: Path, other: Path) -> int:
    """How many names from the end two paths share, the endings of the files aside."""
    pairs = zip(one.with_suffix("").parts[::-1], other.with_suffix("").parts[::-1], strict=False)
    count = 0
    for a, b in pairs:
        if a != b:
            break
        count += 1
    return count


def _require_h5py() -> None:
    """Ask before the work: without it, every single clip would fail."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise MissingExtraError.of("h5py", "hdf5", "a manifest of HDF5 files") from None
