"""ESC-50 and ESC-10: 2,000 clips of 5 s in 50 categories and five folds.

ROOT/meta/esc50.csv has filename,fold,target,category,esc10,src_file,take; the sounds are in
ROOT/audio. Source: github.com/karolpiczak/ESC-50.
"""

from pathlib import Path
from typing import Any

from atgnn.data.listing import Draft, Listing, place_of, read_rows, sounds_by_stem
from atgnn.errors import ClipsError
from atgnn.labels import Vocabulary

__all__ = ["read_esc50"]

LISTS = (Path("meta", "esc50.csv"), Path("esc50.csv"), Path("meta.csv"))
NEEDED = ("filename", "fold", "category")
KEPT = ("target", "category", "esc10", "take", "author", "license")


def read_esc50(root: Path, only_esc10: bool = False, links: bool = False) -> Listing:
    """Match the list with the sounds; with `only_esc10`, only the ten categories of ESC-10.

    Sounds may have another ending than the list says (ESC-10 came as Ogg). `group` is the recording
    that a clip was cut from. Raises `ClipsError` where it is not ESC-50.
    """
    path = next((root / name for name in LISTS if (root / name).is_file()), None)
    if path is None:
        raise ClipsError(
            f"{root} has no meta/esc50.csv: give the folder of ESC-50 that holds meta and audio, "
            "or --download to fetch it there"
        )
    rows = _rows(path)
    if only_esc10 and "esc10" in rows[0]:
        rows = [row for row in rows if row["esc10"].strip().casefold() in ("true", "1")]
    categories = sorted({row["category"] for row in rows})
    if not categories:
        raise ClipsError(f"{path} lists no clips of {'ESC-10' if only_esc10 else 'ESC-50'}")
    draft = Draft(
        "ESC-10" if len(categories) == 10 else "ESC-50", Vocabulary.from_names(categories)
    )
    for row in rows:
        kept: dict[str, Any] = {name: row[name] for name in KEPT if name in row}
        if not row["fold"].isdecimal():
            draft.note("rows that cannot be understood", f"{row['filename']}: no fold")
            continue
        group = row.get("src_file") or row.get("source_id")
        name = Path(row["filename"]).stem
        draft.add(name, [row["category"]], fold=int(row["fold"]), group=group, **kept)
    sounds = sounds_by_stem(root / "audio" if (root / "audio").is_dir() else root, links)
    found = {key: place_of(sounds[key[0]]) for key in draft.rows if key[0] in sounds}
    return draft.listing(found)


def _rows(path: Path) -> list[dict[str, str]]:
    lines = read_rows(path)
    _, header = next(lines, (0, []))
    header = [cell.strip() for cell in header]
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise ClipsError(f"{path} is not the list of ESC-50: it lacks {', '.join(missing)}")
    rows = []
    for line, row in lines:
        if len(row) != len(header):
            raise ClipsError(f"{path}, line {line}: {len(row)} cells, expected {len(header)}")
        rows.append(dict(zip(header, row, strict=True)))
    if not rows:
        raise ClipsError(f"{path} lists no clips")
    return rows
