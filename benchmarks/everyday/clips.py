"""The clips behind the first shipped model: one table from the four development collections.

    python -m benchmarks.everyday.clips --data ../shared/data --out runs/clips.csv

Rules, each in one function below:

- **Labels**: those marked, as given, on clips of at least 8 authors. A clip's labels are then
  closed under the AudioSet ontology (a bark is a dog), inside the kept labels only.
- **Counting as one**: labels that occur on exactly the same clips are one label. It keeps the
  name with the fewest ontology descendants, that is the most specific one: "Bark" rather than
  "Dog", because barking is all that the model has heard, and a bark implies a dog but not the
  other way round.
- **Unknown cells**: `unmarked.csv` lists what may be in which clips without being marked
  (by collection, and category or source recording where given). Those cells, and those of
  their ontology ancestors, are unknown unless marked; every other cell is 0.
- **Folds**: clips that share an author or a source recording, over all collections, stay
  together; the groups are spread so that labels, authors and collections are even. No random
  number is drawn: the same data give the same folds.
- Clips under CC Sampling+ are left out, so that the weights may ship.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from atgnn.data import Clips
from atgnn.data.clips import connected
from atgnn.errors import AtgnnError, ClipsError
from atgnn.labels import Ontology, Vocabulary

COLLECTIONS = ("esc10", "cc_sounds", "ambient", "sonicpi")
UNMARKED = Path(__file__).with_name("unmarked.csv")
NOT_SHIPPABLE = ("CC-Sampling+",)
MIN_AUTHORS = 8
FOLDS = 5


@dataclass(frozen=True)
class Edition:
    """`clips` with folds and unknown cells; `merged` maps a kept label to those it stands for."""

    clips: Clips
    merged: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Unmarked:
    """One row of `unmarked.csv`; empty `categories` or `sources` means any."""

    collection: str
    categories: frozenset[str]
    sources: frozenset[str]
    labels: tuple[str, ...]
    reason: str

    def covers(self, collection: str, category: str, source: str) -> bool:
        """Whether the row speaks of a clip."""
        return (
            collection == self.collection
            and (not self.categories or category in self.categories)
            and (not self.sources or source in self.sources)
        )


def build(data: Path, unmarked: Path = UNMARKED, min_authors: int = MIN_AUTHORS) -> Edition:
    """Read the collections below `data` and apply the rules above."""
    clips = Clips.concat([Clips.read(data / name) for name in COLLECTIONS])
    licences = clips.column("license")
    clips = clips.subset([i for i in range(len(clips)) if licences[i] not in NOT_SHIPPABLE])
    authors = [author_names(name) for name in clips.column("author")]

    kept = Vocabulary.from_names(labels_by_many(clips.labels, authors, min_authors))
    ontology = Ontology.audioset()
    marked = clips.targets(kept, ontology, outside="drop") == 1
    representative = count_as_one(kept, marked, ontology)

    def spelt(cells: np.ndarray) -> tuple[str, ...]:
        return tuple(sorted({representative[kept[int(i)].name] for i in np.flatnonzero(cells)}))

    maybe = may_be_there(clips, read_unmarked(unmarked), kept, ontology) & ~marked
    sources = list(clips.column("source_id"))
    owners = [
        [*(("author", name) for name in names), ("source", source)]
        for names, source in zip(authors, sources, strict=True)
    ]
    groups = connected(owners)

    table = clips.table.rename(columns={"fold": "published_fold"})
    table["published_labels"] = [";".join(labels) for labels in clips.labels]
    table["labels"] = [spelt(row) for row in marked]
    # The cells of labels counted as one agree in `marked`; unknown if any of them is.
    table["unknown"] = [
        tuple(name for name in spelt(row) if name not in own)
        for row, own in zip(maybe, table["labels"], strict=True)
    ]
    names = sorted(set(representative.values()))
    counts = np.array([[name in labels for name in names] for labels in table["labels"]])
    places = np.array([[place == name for name in COLLECTIONS] for place in table["collection"]])
    table["fold"] = spread(groups, np.hstack([counts, places]), FOLDS) + 1
    table["group"] = [f"g{group:03d}" for group in groups]
    merged: dict[str, list[str]] = defaultdict(list)
    for name in kept.names:
        merged[representative[name]].append(name)
    return Edition(Clips(table), {name: tuple(stands) for name, stands in merged.items()})


def author_names(written: str) -> tuple[str, ...]:
    """Comparable names of the people in an author cell.

    >>> author_names("InspectorJ (mix by Peter Havran Raven 2236)")
    ('inspectorj', 'peterhavranraven2236')
    """
    people = re.split(r"&|\(mix by ", unquote(str(written)))
    plain = ("".join(re.findall(r"\w+", name.casefold())).replace("_", "") for name in people)
    return tuple(name for name in plain if name)


def labels_by_many(
    labels: Sequence[Iterable[str]], authors: Sequence[Iterable[str]], least: int
) -> list[str]:
    """Labels, sorted, that clips of at least `least` different authors are marked with."""
    by: dict[str, set[str]] = defaultdict(set)
    for names, people in zip(labels, authors, strict=True):
        for name in names:
            by[name].update(people)
    return sorted(name for name, people in by.items() if len(people) >= least)


def count_as_one(kept: Vocabulary, marked: np.ndarray, ontology: Ontology) -> dict[str, str]:
    """For every kept label the name under which it is counted; `marked` is (N, L) bool."""
    alike: dict[bytes, list[str]] = defaultdict(list)
    for name, column in zip(kept.names, marked.T, strict=True):
        alike[np.packbits(column).tobytes()].append(name)

    def generality(name: str) -> tuple[int, str]:
        return len(ontology.descendants(name)), name

    return {name: min(names, key=generality) for names in alike.values() for name in names}


def read_unmarked(path: Path) -> list[Unmarked]:
    """The rows of `unmarked.csv`. Raises `ClipsError` for a malformed row or unknown label."""
    ontology = Ontology.audioset()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    entries = []
    for row in rows:
        cells = {name: _several(row.get(name) or "") for name in ("category", "source_id", "label")}
        if row.get("collection") not in COLLECTIONS or not cells["label"] or not row.get("reason"):
            raise ClipsError(f"{path}: expected collection, label and reason in every row: {row}")
        for name in cells["label"]:
            ontology.resolve(name)
        entries.append(
            Unmarked(
                collection=row["collection"],
                categories=frozenset(cells["category"]),
                sources=frozenset(cells["source_id"]),
                labels=cells["label"],
                reason=row["reason"],
            )
        )
    return entries


def _several(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(";") if part.strip())


def may_be_there(
    clips: Clips, rows: Sequence[Unmarked], kept: Vocabulary, ontology: Ontology
) -> np.ndarray:
    """Bool (N, L): cells that `rows` or the ancestors of what they name leave open.

    Raises `ClipsError` for a row that speaks of no clip: a misspelt category would go unseen.
    """
    where = list(
        zip(*(clips.column(name) for name in ("collection", "category", "source_id")), strict=True)
    )
    cells = np.zeros((len(clips), len(kept)), dtype=bool)
    for row in rows:
        covered = [i for i, place in enumerate(where) if row.covers(*place)]
        seen = {place[1] for place in where if row.covers(*place)}
        sources = {where[i][2] for i in covered}
        if not covered or row.categories - seen or row.sources - sources:
            raise ClipsError(f"unmarked.csv speaks of clips that do not exist: {row}")
        for name in row.labels:
            own = [kept.index(name)] if name in kept else []
            columns = own + list(ontology.implied(name, kept))
            cells[np.ix_(covered, columns)] = True
    return cells


def spread(groups: np.ndarray, traits: np.ndarray, folds: int) -> np.ndarray:
    """A fold from 0 per clip, (N,), groups undivided, every trait as even as can be.

    `traits` (N, K) bool. Even means in clips and in groups, so that no fold has all its
    barks from one author. Large groups choose first; then single groups move, or two change
    places, as long as that helps.
    """
    count = int(groups.max()) + 1
    clips = np.zeros((count, traits.shape[1] + 1))
    np.add.at(clips, groups, np.hstack([traits, np.ones((len(traits), 1))]))
    loads = np.hstack([clips, clips > 0])  # (groups, 2K + 2)
    ideal = loads.sum(axis=0) / folds
    loads = loads / np.where(ideal > 0, ideal, 1)

    def cost(held: np.ndarray) -> np.ndarray:
        # A fold without a trait costs extra: there it could be neither learned nor measured.
        uneven = (held - 1) ** 2 + 4.0 * (held < 1e-9)
        return uneven[..., ideal > 0].sum(axis=-1)

    held = np.zeros((folds, loads.shape[1]))
    fold_of = np.zeros(count, dtype=int)
    for group in np.argsort(-loads.sum(axis=1), kind="stable"):
        fold_of[group] = int(np.argmin(np.round(cost(held + loads[group]) - cost(held), 9)))
        held[fold_of[group]] += loads[group]
    while sum(_improve(group, fold_of, held, loads, cost) for group in range(count)):
        pass
    return fold_of[groups]


def _improve(
    group: int,
    fold_of: np.ndarray,
    held: np.ndarray,
    loads: np.ndarray,
    cost: Callable[[np.ndarray], np.ndarray],
) -> bool:
    """Make, in place, the best move or exchange of `group`; whether one helps."""
    here = fold_of[group]
    best, choice = 0.0, None
    for there in range(len(held)):
        if there == here:
            continue
        partners = np.flatnonzero(fold_of == there)
        # The first candidate gives nothing back: a move.
        change = loads[group] - np.vstack([np.zeros_like(loads[:1]), loads[partners]])
        gain = cost(held[here] - change) + cost(held[there] + change)
        # Rounded, so that the last bit of a sum never decides and folds are the same anywhere.
        gain = np.round(gain - cost(held[here]) - cost(held[there]), 9)
        at = int(np.argmin(gain))
        if gain[at] < best:
            best, choice = float(gain[at]), (there, partners[at - 1] if at else None, change[at])
    if choice is None:
        return False
    there, partner, moved = choice
    held[here] -= moved
    held[there] += moved
    fold_of[group] = there
    if partner is not None:
        fold_of[partner] = here
    return True


def summary(edition: Edition) -> str:
    """A table for people: clips, authors and unknown cells per label and fold."""
    clips = edition.clips
    authors = [author_names(name) for name in clips.column("author")]
    folds = clips.table["fold"].to_numpy(dtype=int)
    numbers = sorted(set(folds))
    wide = max(len(name) for name in edition.merged)
    lines = [
        f"{'label':{wide}}  clips  authors  {'clips per fold':24}{'authors per fold':24}"
        f"{'unknown per fold':24}stands for"
    ]
    for name, stands in sorted(edition.merged.items()):
        has = np.array([name in labels for labels in clips.labels])
        maybe = np.array([name in unknown for unknown in clips.table["unknown"]])

        def people(rows: np.ndarray) -> int:
            return len({person for row in np.flatnonzero(rows) for person in authors[row]})

        shown = [
            "".join(f"{count:4d}" for count in counts).ljust(24)
            for counts in (
                [int((has & (folds == fold)).sum()) for fold in numbers],
                [people(has & (folds == fold)) for fold in numbers],
                [int((maybe & (folds == fold)).sum()) for fold in numbers],
            )
        ]
        others = ", ".join(other for other in stands if other != name)
        lines.append(f"{name:{wide}}  {has.sum():5d}  {people(has):7d}  {''.join(shown)}{others}")
    sizes = ", ".join(f"{int((folds == fold).sum())}" for fold in numbers)
    without = sum(not labels for labels in clips.labels)
    lines.append(
        f"{len(clips)} clips in folds of {sizes}; {len(set(clips.groups))} groups of authors; "
        f"{len(edition.merged)} labels; {without} clips with none of them"
    )
    return "\n".join(lines)


def main() -> int:
    """Exit code 0, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four collections")
    parser.add_argument("--out", type=Path, required=True, help="table to write (.csv, .parquet)")
    parser.add_argument("--min-authors", type=int, default=MIN_AUTHORS)
    parser.add_argument("--fold", type=int, help="write the clips of this fold alone")
    options = parser.parse_args()
    try:
        edition = build(options.data, min_authors=options.min_authors)
        clips = edition.clips if options.fold is None else edition.clips.where(fold=options.fold)
        clips.write(options.out)
    except AtgnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary(edition))
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
