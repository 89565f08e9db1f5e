"""Write a miniature FSD50K in the exact official layout, from the development sounds.

    python -m benchmarks.miniature.make ../shared/data MINIATURE

Labels are those of the sounds that are among FSD50K's 200, with their ancestors, as FSD50K has
them. Whole authors are in train, val or eval: none is in two. Same arguments, same bytes.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import soundfile

from atgnn import audio
from atgnn.data.clips import Clips
from atgnn.labels import Ontology, Vocabulary

COLLECTIONS = ("esc10", "cc_sounds", "ambient", "sonicpi")
RATE = 44_100  # Hz, as FSD50K is
FIRST_ID = 100_000
EVAL, VAL = 0.25, 0.12  # shares of the authors


@dataclass(frozen=True)
class Row:
    """One clip of the miniature."""

    fname: str
    source: Path
    labels: tuple[str, ...]  # with ancestors
    split: str  # train, val or eval
    author: str
    license: str


def choose(data: Path, clips: int | None = None, seed: int = 0) -> list[Row]:
    """The clips with a label of FSD50K, at most so many, with their split."""
    table = Clips.concat(
        Clips.read(data / name) for name in COLLECTIONS if (data / name / "meta.csv").is_file()
    ).table
    vocabulary, ontology = Vocabulary.fsd50k(), Ontology.audioset()
    rows = []
    for number, clip in table.iterrows():
        own = [name for name in clip["labels"] if name in vocabulary]
        above = {i for name in clip["labels"] for i in ontology.implied(name, vocabulary)}
        labels = dict.fromkeys([*own, *(vocabulary[i].name for i in sorted(above))])
        if labels:
            author = str(clip["author"] or clip["source_id"])
            rows.append(
                Row(
                    str(FIRST_ID + int(str(number))),
                    clip["path"],
                    tuple(labels),
                    _split(author, seed),
                    author,
                    str(clip["license"]),
                )
            )
    if clips is not None and clips < len(rows):
        kept = np.random.default_rng(seed).permutation(len(rows))[:clips]
        rows = [rows[i] for i in sorted(kept)]
    return rows


def _split(author: str, seed: int) -> str:
    """Of an author, by a number between 0 and 1 that follows from the name alone."""
    place = crc32(f"{seed} {author}".encode()) / 2**32
    return "eval" if place < EVAL else "val" if place < EVAL + VAL else "train"


def make(
    data: Path,
    out: Path,
    *,
    clips: int | None = None,
    seconds: float | None = None,
    prefix: str = "FSD50K.",
    seed: int = 0,
) -> list[Row]:
    """Write the miniature into `out` and return its rows.

    `clips` is the largest number of clips, `seconds` the largest length of one; `prefix` stands
    before the names of the folders.
    """
    rows = choose(data, clips, seed)
    for row in rows:
        part = "eval" if row.split == "eval" else "dev"
        place = out / f"{prefix}{part}_audio" / f"{row.fname}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        wave = audio.load(row.source, RATE).samples
        wave = wave if seconds is None else wave[: round(seconds * RATE)]
        soundfile.write(place, wave, RATE, subtype="PCM_16")
    write_lists(rows, out, prefix)
    return rows


def write_lists(rows: Sequence[Row], out: Path, prefix: str = "FSD50K.") -> None:
    """Ground truth and metadata."""
    vocabulary = Vocabulary.fsd50k()
    mids = {label.name: label.mid or "" for label in vocabulary}
    truth, info = out / f"{prefix}ground_truth", out / f"{prefix}metadata"
    for folder in (truth, info):
        folder.mkdir(parents=True, exist_ok=True)
    _write(
        truth / "vocabulary.csv", [(i, label.name, label.mid) for i, label in enumerate(vocabulary)]
    )
    for part, header in (
        ("dev", ("fname", "labels", "mids", "split")),
        ("eval", ("fname", "labels", "mids")),
    ):
        here = [row for row in rows if (row.split == "eval") == (part == "eval")]
        lines = [
            (
                row.fname,
                ",".join(row.labels),
                ",".join(mids[n] or "" for n in row.labels),
                row.split,
            )
            for row in here
        ]
        _write(truth / f"{part}.csv", [header, *(line[: len(header)] for line in lines)])
        content = {
            row.fname: {
                "title": row.source.name,
                "description": "",
                "tags": [],
                "license": row.license,
                "uploader": row.author,
            }
            for row in here
        }
        place = info / f"{part}_clips_info_FSD50K.json"
        place.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write(path: Path, rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the development sounds")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--clips", type=int, help="at most so many clips")
    parser.add_argument("--seconds", type=float, help="at most so many seconds of each")
    parser.add_argument("--prefix", default="FSD50K.", help="before the names of the folders")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    rows = make(**options)
    counts = {split: sum(row.split == split for row in rows) for split in ("train", "val", "eval")}
    print(f"{options['out']}: {len(rows)} clips, {counts}")


if __name__ == "__main__":
    main()
