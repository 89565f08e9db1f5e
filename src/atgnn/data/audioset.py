"""AudioSet: its lists of segments, and whatever clips of them are here, named by their YouTube id.

A list has the columns YTID, start_seconds, end_seconds, positive_labels (mids); three comment lines
that begin with ``#`` stand first, or one header line, or nothing. Source: research.google.com/
audioset/download.html.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from atgnn.data.listing import Draft, Key, Listing, place_of, read_rows, sounds_by_stem
from atgnn.errors import ClipsError
from atgnn.labels import Vocabulary

__all__ = ["SPLITS", "find_lists", "read_audioset", "segment_names"]

SPLITS = ("unbalanced", "balanced", "eval")
LIST_ENDING = "_segments.csv"

ID = "[A-Za-z0-9_-]{11}"
#: An id, perhaps with a Y before it and times behind it: seconds, or thousandths of one.
NAMED = re.compile(rf"(?P<id>{ID})(?P<times>(?:[_,-]\d+(?:\.\d+)?)*)")
BRACKETED = re.compile(rf".*\[(?P<id>{ID})\](?P<times>)")  # as yt-dlp names its downloads


def find_lists(folder: Path) -> list[Path]:
    """The lists of segments in a folder or beside it. Raises `ClipsError` where there are none."""
    for place in (folder, folder.resolve().parent):
        found = sorted(place.glob(f"*{LIST_ENDING}"))
        if found:
            return found
    raise ClipsError(
        f"no list of segments (*{LIST_ENDING}) in or beside {folder}: give --list FILE"
    )


def read_audioset(
    folder: Path,
    lists: Sequence[str],
    vocabulary: Vocabulary | None = None,
    *,
    whole_videos: bool = False,
    links: bool = False,
) -> Listing:
    """Match lists of segments with the sounds below `folder`.

    A list is a path, or SPLIT=PATH; without it, the split follows from the file's name. With
    `whole_videos`, sounds are whole videos and every clip is cut out of one; else a sound is a
    clip. Raises `ClipsError` for a list that is none, or where `folder` is no folder.
    """
    given = dict(_split_and_path(entry) for entry in lists)
    splits = (*(split for split in given.values() if split not in SPLITS), *SPLITS)
    draft = Draft("AudioSet", vocabulary or Vocabulary.audioset(), tuple(dict.fromkeys(splits)))
    names = {label.mid: label.name for label in draft.vocabulary if label.mid}
    for path, split in given.items():
        _read_list(draft, path, split, names)
    return draft.listing(_places(draft, folder, whole_videos, links), cut=whole_videos)


def _split_and_path(entry: str) -> tuple[Path, str]:
    split, equals, path = entry.partition("=")
    if equals and not Path(entry).is_file():
        return Path(path), split
    stem = Path(entry).stem
    for known in SPLITS:  # "unbalanced" before "balanced"
        if known in stem:
            return Path(entry), known
    return Path(entry), stem.removesuffix("_segments")


def _read_list(draft: Draft, path: Path, split: str, names: Mapping[str, str]) -> None:
    """Add the rows of one list."""
    before = len(draft.rows)
    good = 0
    for line, row in read_rows(path, spaced=True):
        if row[0].startswith("#") or row[0] == "YTID":
            continue
        try:
            name, start, end = row[0].strip(), float(row[1]), float(row[2])
            mids = [mid.strip() for mid in row[3].split(",") if mid.strip()]
            understood = bool(re.fullmatch(ID, name)) and 0 <= start < end and len(row) == 4
        except (ValueError, IndexError):
            understood = False
        if not understood:
            draft.note("rows that cannot be understood", f"{path.name}, line {line}")
            continue
        good += 1
        labels = [names.get(mid, mid) for mid in mids]
        draft.add(name, labels, split, (start, end), mids=",".join(mids), group=name)
    if not good and len(draft.rows) == before:
        raise ClipsError(
            f"{path} is no list of AudioSet segments: no row has YTID, start_seconds, end_seconds "
            "and quoted labels"
        )


def segment_names(stem: str) -> Iterator[tuple[str, tuple[float, ...]]]:
    """What a file name without its ending may stand for: an id, and the times behind it.

    A name may be read in two ways, with and without a leading Y; the lists know which is right.
    """
    for pattern, text in (
        (NAMED, stem),
        (NAMED, stem[1:] if stem[:1] == "Y" else ""),
        (BRACKETED, stem),
    ):
        match = pattern.fullmatch(text)
        if match:
            yield match["id"], tuple(map(float, re.findall(r"\d+(?:\.\d+)?", match["times"])))


def _places(draft: Draft, folder: Path, whole_videos: bool, links: bool) -> dict[Key, Path]:
    """Where the sound of each row is."""
    starts: dict[str, list[float]] = {}
    for name, start in draft.rows:
        starts.setdefault(name, []).append(start)
    candidates: dict[Key, list[Path]] = {}
    for stem, files in sounds_by_stem(folder, links).items():
        keys, reason = _keys_of(stem, starts, whole_videos)
        if reason:
            draft.note(reason, files[0].name, len(files))
        for key in keys:
            candidates.setdefault(key, []).extend(files)
    for (name, _), files in candidates.items():
        if len(files) > 1:
            draft.note("clips that are here several times (one is taken)", name)
    return {key: place_of(files) for key, files in candidates.items()}


def _keys_of(
    stem: str, starts: Mapping[str, list[float]], whole_videos: bool
) -> tuple[list[Key], str]:
    """The rows whose sound a file is, and, where there are none, why."""
    reason = "sounds that no list names"
    for name, times in segment_names(stem):
        if name not in starts:
            continue
        if whole_videos:
            return [(name, start) for start in starts[name]], ""
        if not times and len(starts[name]) == 1:
            return [(name, starts[name][0])], ""
        here = [s for s in starts[name] if times and _same_start(s, times[0])]
        if here:
            return [(name, here[0])], ""
        reason = (
            "sounds of listed videos, but of other segments"
            if times
            else "sounds that do not say which of several segments they are"
        )
    return [], reason


def _same_start(start: float, stated: float) -> bool:
    """Whether a file name states this start, in seconds (perhaps rounded) or milliseconds."""
    return abs(start - stated) < 1 or abs(1000 * start - stated) < 1
