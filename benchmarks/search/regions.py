"""Does a box on a spectrogram find the same kind of sound, by time and frequency?

    python -m benchmarks.search.regions --data ESC10 [--folds 1 2 3 4 5]

For each fold of ESC-10, scenes of 10 s with two of its sounds in each are indexed with weights that
never heard the fold (benchmarks/esc10/first). Every event is a query: the box is its band, and of
its time the first 2 s at most. Scenes with a sound by the query's author are left out. The
best match of each other scene is ranked; it is right if its middle lies in an event of the query's
label, in time and in its band (*inside*), or in time alone.

Beside it, in time alone: the search by the clip's embedding over the same 5 s, and the whole
search by region with random weights. *Chance* is what the same boxes would have in scenes taken
blindly: each match is tried in every scene that is allowed.

M matches, S scenes that are allowed, N queries.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from atgnn.data.clips import Clips
from atgnn.data.scenes import Event, Scene, Scenes
from atgnn.embeddings import Embedder
from atgnn.metrics import cluster_interval
from atgnn.search import Box, Index, IndexSettings, Match
from benchmarks.explain.run import RATE, scenes_of
from benchmarks.search.run import KEPT, RANKS, untrained_embedder

LONGEST = 2.0  # s of a box
SEGMENT = 5.0  # s
ALL = 10_000  # matches asked for


@dataclass(frozen=True)
class Query:
    """An event of scene number `scene`, and the box that is drawn around it."""

    scene: int
    event: Event
    authors: frozenset[str]
    box: Box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of ESC-10")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--count", type=int, default=40, help="scenes of each fold")
    parser.add_argument("--seed", type=int, default=1, help="of the random weights")
    args = parser.parse_args()
    rows: dict[str, list[tuple[float, ...]]] = {}
    authors: list[str] = []
    clips = Clips.read(args.data)
    for fold in args.folds:
        scenes = scenes_of(clips, (fold,), args.count, seed=3, events=(2, 2))
        with tempfile.TemporaryDirectory() as folder:
            found, owners = measured(scenes, KEPT / f"fold{fold}", Path(folder), args.seed)
        authors += owners
        for name, numbers in found.items():
            rows.setdefault(name, []).extend(numbers)
    report(rows, authors)


def report(rows: dict[str, list[tuple[float, ...]]], authors: list[str]) -> None:
    """Print a table: means over queries, intervals from resampling their authors."""
    print("| search | right by | AP@10 | precision@1 | precision@10 | chance | queries |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, numbers in rows.items():
        precise = cluster_interval(
            [row[0] for row in numbers], authors, generator=np.random.default_rng(0)
        )
        first = f"{precise.mean:.3f} ({precise.low:.3f} to {precise.high:.3f})"
        rest = " | ".join(f"{value:.3f}" for value in np.mean(numbers, axis=0)[1:])
        print(f"| {name} | {first} | {rest} | {len(numbers)} |")


# ------------------------------------------------------------------ searching


def measured(
    scenes: Scenes, model: Path, folder: Path, seed: int
) -> tuple[dict[str, list[tuple[float, ...]]], list[str]]:
    """Numbers of every query by search, and the queries' authors."""
    made = [scenes[number] for number in range(len(scenes))]
    paths = []
    for number, scene in enumerate(made):
        paths.append(str((folder / f"{number}.flac").resolve()))
        soundfile.write(paths[-1], scene.samples, RATE)
    settings = IndexSettings(segment_s=SEGMENT, hop_s=SEGMENT / 2, regions=True)
    trained = Embedder.from_pretrained(model, "cpu")
    random = untrained_embedder(paths, model, seed)
    indices = [
        Index.create(folder / name, embedder, settings)
        for name, embedder in (("trained", trained), ("random", random))
    ]
    found: dict[str, list[tuple[float, ...]]] = {}
    owners = []
    for index in indices:
        index.update(paths)
    for query in queries(made):
        owners.append(";".join(sorted(query.authors)))
        path = paths[query.scene]
        middle = (query.box.start + query.box.end) / 2
        begin = min(max(0.0, middle - SEGMENT / 2), scenes.settings.seconds - SEGMENT)
        by_region, by_random = (index.search_region(path, query.box, ALL) for index in indices)
        by_clip = indices[0].search(path, ALL, start=begin, end=begin + SEGMENT)
        places = {path: number for number, path in enumerate(paths)}
        for name, matches, band in (
            ("region | time and band", by_region, True),
            ("region, random weights | time and band", by_random, True),
            ("region | time", by_region, False),
            ("region, random weights | time", by_random, False),
            ("clip of 5 s | time", by_clip, False),
        ):
            numbers = judged(query, matches, places, made, band)
            found.setdefault(name, []).append(numbers)
    for index in indices:
        index.close()
    return found, owners


def queries(scenes: list[Scene]) -> Iterator[Query]:
    """Every event that has one of its kind by another author in another scene."""
    for number, scene in enumerate(scenes):
        for event in scene.events:
            authors = owners_of(scene, event)
            start, end = event.onset, min(event.offset, event.onset + LONGEST)
            box = Box(start, end, event.low_hz, max(event.high_hz, event.low_hz + 1))
            query = Query(number, event, authors, box)
            if any(has(scenes[one], event.label) for one in allowed(query, scenes)):
                yield query


def owners_of(scene: Scene, event: Event) -> frozenset[str]:
    """Whose sound an event of a scene is."""
    return frozenset(
        owner
        for source in scene.cast.events
        if source.name == event.source
        for owner in source.owners
    )


def allowed(query: Query, scenes: list[Scene]) -> list[int]:
    """The scenes without any sound by the query's author, (S,)."""
    return [n for n, scene in enumerate(scenes) if not query.authors & set(scene.cast.owners)]


def has(scene: Scene, label: str) -> bool:
    return any(event.label == label for event in scene.events)


def judged(
    query: Query, matches: list[Match], places: dict[str, int], scenes: list[Scene], band: bool
) -> tuple[float, float, float, float]:
    """AP@10, precision@1, precision@10, and the precision@10 of chance.

    Average precision counts the precision at each right match among the first 10, over as many as
    there can be.
    """
    free = allowed(query, scenes)
    best: dict[int, Match] = {}
    for match in matches:
        number = places[match.path]
        if number in free:
            best.setdefault(number, match)
    ranked = list(best.items())[:RANKS]
    label = query.event.label
    hits = np.array([inside(match, scenes[n], label, band) for n, match in ranked], float)
    blind = [inside(match, scenes[n], label, band) for _, match in ranked for n in free]
    possible = min(RANKS, sum(has(scenes[n], label) for n in free))
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    average = float((precision * hits).sum() / possible)
    return average, float(hits[0]), float(hits.sum() / RANKS), float(np.mean(blind))


def inside(match: Match, scene: Scene, label: str, band: bool) -> bool:
    """Whether a match's middle lies in an event of the label."""
    middle = (match.start + match.end) / 2
    for event in scene.events:
        if event.label != label or not event.onset <= middle <= event.offset:
            continue
        if not band or match.low_hz is None or match.high_hz is None:
            return True
        if event.low_hz <= (match.low_hz + match.high_hz) / 2 <= event.high_hz:
            return True
    return False


if __name__ == "__main__":
    main()
