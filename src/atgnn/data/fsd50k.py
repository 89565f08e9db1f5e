"""FSD50K as Zenodo gives it: folders of sounds, ground truth, metadata.

ROOT/[FSD50K.]dev_audio/ID.wav, ROOT/[FSD50K.]eval_audio/ID.wav
ROOT/[FSD50K.]ground_truth/{dev,eval,vocabulary}.csv
ROOT/[FSD50K.]metadata/{dev,eval}_clips_info_FSD50K.json (optional: who uploaded what)

dev.csv has fname,labels,mids,split (train or val), eval.csv the same without split; several labels
are one quoted cell, separated by commas, already with their ancestors. vocabulary.csv has
index,name,mid and no header. Source: Zenodo record 4060432.
"""

import json
from pathlib import Path
from typing import Any

from atgnn.data.listing import Draft, Listing, place_of, read_rows, sounds_by_stem
from atgnn.errors import ClipsError
from atgnn.labels import Vocabulary

__all__ = ["SPLITS", "read_fsd50k"]

SPLITS = ("train", "val", "eval")


def read_fsd50k(root: Path, links: bool = False) -> Listing:
    """Match FSD50K's lists with the sounds below `root`.

    The official division is the column `split`: train, val and eval. `group` is the uploader, where
    the metadata are there. Raises `ClipsError` for missing folders or lists.
    """
    truth = _folder(root, "ground_truth")
    draft = Draft("FSD50K", Vocabulary.from_csv(_file(truth, "vocabulary.csv")), SPLITS)
    places: dict[tuple[str, float], Path] = {}
    for part in ("dev", "eval"):
        names = _read_list(draft, _file(truth, f"{part}.csv"), part, _uploads(root, part))
        sounds = sounds_by_stem(_folder(root, f"{part}_audio", f"{part}_audio_16k"), links)
        unlisted = [stem for stem in sounds if stem not in names]
        if unlisted:
            kind = f"sounds of {part} that its list does not name"
            draft.note(kind, ", ".join(sorted(unlisted)[:3]), len(unlisted))
        for name in names & sounds.keys():
            # A clip of both lists stays in eval (see Draft); eval comes last and wins here too.
            places[name, 0.0] = place_of(sounds[name])
    return draft.listing(places)


def _folder(root: Path, *names: str) -> Path:
    """A folder of the data set by its official name, or without ``FSD50K.``."""
    for name in names:
        for prefix in ("FSD50K.", ""):
            if (root / f"{prefix}{name}").is_dir():
                return root / f"{prefix}{name}"
    raise ClipsError(
        f"{root} has no folder FSD50K.{names[0]} or {names[0]}: give the folder that FSD50K was "
        "unpacked in, or --download to fetch it there"
    )


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ClipsError(f"{folder} has no {name}, which comes with FSD50K: unpack it again")
    return folder / name


def _read_list(draft: Draft, path: Path, part: str, uploads: dict[str, Any]) -> set[str]:
    """Add the rows of dev.csv or eval.csv; returns the names of all clips in it."""
    expected = ["fname", "labels", "mids"] + (["split"] if part == "dev" else [])
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    if [cell.strip() for cell in header[: len(expected)]] != expected:
        raise ClipsError(
            f"{path} begins with {','.join(header)[:60]!r}, expected the header "
            f"{','.join(expected)}: it is not FSD50K's"
        )
    names = set()
    for line, row in rows:
        split = row[3].strip() if part == "dev" and len(row) > 3 else part
        if len(row) < len(expected) or split not in SPLITS:
            draft.note("rows that cannot be understood", f"{path.name}, line {line}")
            continue
        name = row[0].strip().removesuffix(".wav")
        names.add(name)
        upload = uploads.get(name, {})
        draft.add(
            name,
            [label.strip() for label in row[1].split(",") if label.strip()],
            split,
            mids=row[2],
            group=upload.get("uploader"),
            license=upload.get("license"),
        )
    return names


def _uploads(root: Path, part: str) -> dict[str, Any]:
    """What the metadata say of every clip; nothing where they are not there."""
    try:
        path = _folder(root, "metadata") / f"{part}_clips_info_FSD50K.json"
    except ClipsError:
        return {}
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): dict(info) for name, info in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ClipsError(f"{path} is not FSD50K's metadata ({error}): unpack it again") from None
