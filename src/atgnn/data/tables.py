"""Any table of clips, and a folder of folders, as listings."""

from pathlib import Path

import numpy as np

from atgnn.data.clips import Clips, sounds_of_folders
from atgnn.data.listing import Draft, Listing, Missing, from_training
from atgnn.errors import ClipsError, counted
from atgnn.labels import Vocabulary

__all__ = ["read_folders", "read_table"]


def read_table(
    path: Path, vocabulary: Vocabulary | None = None, label_column: str = "labels"
) -> Listing:
    """The rows of a CSV, TSV or Parquet table (see `Clips.read`) whose sounds are there.

    `vocabulary`: None takes the labels of the rows. Raises `ClipsError` for a malformed table.
    """
    clips, missing = Clips.read_present(path, labelled=label_column == "labels")
    if not len(clips):
        raise ClipsError(
            f"none of the {counted(len(missing), 'sound')} that {path} names is here; the first "
            "would be "
            f"{missing[0]}: relative paths start at {path.resolve().parent}"
        )
    clips = clips.labelled_by(label_column)
    return _listing(clips, path.stem, vocabulary, tuple(Missing(m, "", 0.0, None) for m in missing))


def read_folders(root: Path, vocabulary: Vocabulary | None = None, links: bool = False) -> Listing:
    """A folder whose folders are labels; or train, val and test folders with such folders in them.

    Raises `ClipsError` where it is no folder, or sounds lie in no label's folder.
    """
    root = root.resolve()
    found = sounds_of_folders(root, links)
    names = sorted({label for _, labels, _ in found for label in labels})
    draft = Draft(root.name, vocabulary or Vocabulary.from_names(names))
    for sound, labels, split in found:
        draft.add(str(sound), labels, split)
    return draft.listing({key: Path(key[0]) for key in draft.rows})


def _listing(
    clips: Clips, name: str, vocabulary: Vocabulary | None, missing: tuple[Missing, ...]
) -> Listing:
    """Rows that come once, with labels of the vocabulary; the rest is counted."""
    chosen = vocabulary or clips.vocabulary()
    draft = Draft(name, chosen)
    clips = _known_labels(_once(clips, draft), draft)
    if not len(clips):
        raise ClipsError(f"no clip of {name} has a label of the vocabulary: see --labels")
    splits = [] if "split" not in clips.table else clips.table["split"].fillna("").tolist()
    listed = {split: splits.count(split) for split in dict.fromkeys(splits)} or {"": len(clips)}
    if missing:
        listed[""] = listed.get("", 0) + len(missing)
    return Listing(name, clips, chosen, listed, missing, draft.oddities())


def _once(clips: Clips, draft: Draft) -> Clips:
    """Every excerpt once; in the split that is furthest from training, where it comes in two."""
    keys = list(zip(clips.paths, clips.table["start"], clips.table["end"].fillna(-1), strict=True))
    splits = clips.column("split") if "split" in clips.table else [None] * len(clips)
    place: dict[tuple[Path, float, float], int] = {}
    for row, (key, split) in enumerate(zip(keys, splits, strict=True)):
        other = place.setdefault(key, row)
        if other == row:
            continue
        if splits[other] == split:
            draft.note("duplicate rows", key[0].name)
            continue
        first, last = sorted((splits[other], split), key=from_training)
        draft.note(
            "clips listed in two splits", f"{key[0].name} in {first} and {last}: stays in {last}"
        )
        if last == split:
            place[key] = row
    return clips.subset(np.array(sorted(place.values()), int))


def _known_labels(clips: Clips, draft: Draft) -> Clips:
    """Without the labels that are not in the vocabulary, and without clips that lose all."""
    known = [
        draft.known(path.name, names) for path, names in zip(clips.paths, clips.labels, strict=True)
    ]
    keep = np.array([names is not None for names in known])
    labels = [names or () for names in known]
    return Clips(clips.table.assign(labels=labels)[keep])
