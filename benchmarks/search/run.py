"""How well does search find sounds of the same kind, and how fast?

    python -m benchmarks.search.run quality --data SOUNDS
    python -m benchmarks.search.run latency

`quality`: every clip is a query among the others of its test set; right are those of its category.
Recordings by the query's own author are left out, so that nothing is found by its microphone. The
model has heard none of them: on ESC-10 each fold is searched with the weights that were trained on
the other four (mean over folds), and on cc_sounds with those of ESC-10's fold 1. Beside it, in the
same search: MFCC (mean and deviation of 20 coefficients, their first and their second differences)
and the same network with random weights (batch norms adjusted to the clips). `latency`: an index of
100,000 segments with random vectors, searched through the same files and classes as `atgnn search`.

N clips, D width of a vector.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from atgnn.audio import Source, load
from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clip, Clips
from atgnn.embeddings import Embedder
from atgnn.frontend import FrontEnd
from atgnn.networks import build
from atgnn.search.index import Index, IndexSettings, _Scale
from atgnn.search.store import Entry
from benchmarks.comparison.classical import SPACES, features_of, log_mels

KEPT = Path(__file__).parents[1] / "esc10" / "first" / "seed1"
RANKS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    quality_ = commands.add_parser("quality")
    quality_.add_argument("--data", type=Path, required=True)
    quality_.add_argument("--seed", type=int, default=1, help="of the random weights")
    quality_.add_argument("--vectors", nargs="+", choices=list(KINDS), default=list(KINDS))
    latency_ = commands.add_parser("latency")
    latency_.add_argument("--segments", type=int, default=100_000)
    latency_.add_argument("--model", default="everyday-mini")
    args = parser.parse_args()
    if args.command == "quality":
        quality(args.data, args.seed, args.vectors)
    else:
        latency(args.segments, args.model)


# ------------------------------------------------------------------ quality


def quality(data: Path, seed: int, kinds: Sequence[str]) -> None:
    """Print a table: a row for each set and kind of vector."""
    print("| set | vectors | mAP@10 | precision@1 | precision@10 | queries |")
    print("|---|---|---:|---:|---:|---:|")
    esc10 = Clips.read(data / "esc10")
    folds = [(list(esc10.where(fold=fold)), KEPT / f"fold{fold}") for fold in range(1, 6)]
    others = [(list(Clips.read(data / "cc_sounds")), KEPT / "fold1")]
    for name, parts in (("ESC-10, five folds", folds), ("cc_sounds", others)):
        for kind in kinds:
            found = [measure(KINDS[kind](clips, model, seed), clips) for clips, model in parts]
            queries = sum(count for *_, count in found)
            mean = np.mean([numbers for *numbers, _ in found], axis=0)
            print(f"| {name} | {kind} | {' | '.join(f'{x:.3f}' for x in mean)} | {queries} |")


def measure(vectors: np.ndarray, clips: list[Clip]) -> tuple[float, float, float, int]:
    """mAP@10, precision at 1 and 10, and the number of queries, of vectors (N, D).

    A query's average precision counts the precision at each hit among the first 10, over as many
    hits as there can be; queries without any other clip of their category are left out.
    """
    scaled = _Scale.of([vectors], vectors.shape[1])(vectors)
    likeness = scaled @ scaled.T
    kind = np.array([clip.extra["category"] for clip in clips])
    author = np.array([clip.extra["author"] for clip in clips])
    rows = []
    for query in range(len(clips)):
        allowed = author != author[query]
        right = allowed & (kind == kind[query])
        if not right.any():
            continue
        ranks = min(RANKS, int(allowed.sum()))
        order = np.argsort(-np.where(allowed, likeness[query], -np.inf), kind="stable")[:ranks]
        hits = right[order]
        precision = np.cumsum(hits) / np.arange(1, ranks + 1)
        possible = min(ranks, int(right.sum()))
        rows.append(((precision * hits).sum() / possible, hits[0], hits.mean()))
    mean = np.mean(rows, axis=0)
    return float(mean[0]), float(mean[1]), float(mean[2]), len(rows)


def ours(clips: list[Clip], model: Path, seed: int) -> np.ndarray:
    """The embedding of every clip."""
    embedder = Embedder.from_pretrained(model, "cpu")
    return np.stack([found.mean for found in embedder.windows(clip.path for clip in clips)])


def untrained(clips: list[Clip], model: Path, seed: int) -> np.ndarray:
    """The same network with random weights, its batch norms adjusted to these clips."""
    embedder = untrained_embedder([clip.path for clip in clips], model, seed)
    return np.stack([found.mean for found in embedder.windows(clip.path for clip in clips)])


def untrained_embedder(paths: Sequence[Source], model: Path, seed: int) -> Embedder:
    """A model's network with random weights, its batch norms adjusted to recordings."""
    kept = Checkpoint.from_pretrained(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(kept.model.config)
    front_end = kept.make_front_end()
    network.train()
    with torch.no_grad():
        for first in range(0, len(paths), 8):
            waves = [_wave(path, front_end) for path in paths[first : first + 8]]
            lengths = torch.tensor([len(wave) for wave in waves])
            batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
            network(*front_end(batch, lengths))
    return Embedder(kept.changed(model=network.eval()), "cpu")


def mfcc(clips: list[Clip], model: Path, seed: int) -> np.ndarray:
    """What benchmarks/comparison tells a support vector machine of a clip."""
    settings = {name: values[0] for name, values in SPACES["mfcc-svm"].items()}
    return features_of("mfcc-svm", settings, log_mels(clips)).astype(np.float32)


KINDS: dict[str, Callable[[list[Clip], Path, int], np.ndarray]] = {
    "ours": ours,
    "random weights": untrained,
    "MFCC": mfcc,
}


def _wave(path: Source, front_end: FrontEnd) -> torch.Tensor:
    return torch.from_numpy(load(path, front_end.config.sample_rate).samples)


# ------------------------------------------------------------------ latency


def latency(segments: int, model: str) -> None:
    """Print how long a query takes, and its parts."""
    embedder, random = Embedder.from_pretrained(model, "cpu"), np.random.default_rng(0)
    each = 100
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(Path(folder) / "index", embedder, IndexSettings())
        for number in range(segments // each):
            entry = Entry(0, f"/{number}.wav", str(number), 1, 1, each * 2.5, each)
            vectors = random.standard_normal((each, embedder.size), np.float32)
            index._store.put(entry, vectors.tobytes(), None)
        index._store.commit(True)
        begun = time.perf_counter()
        index._segments()
        print(f"made the FAISS file of {segments} segments: {time.perf_counter() - begun:.1f} s")
        index._nearest = None
        begun = time.perf_counter()
        nearest = index._segments()
        print(f"opened it: {1000 * (time.perf_counter() - begun):.0f} ms")
        query = random.standard_normal(embedder.size, np.float32)
        scaled = nearest.scale(query[None])[0]
        print(f"nearest of a vector: {_median(lambda: list(nearest.near(scaled, 300))):.1f} ms")
        wave = (random.standard_normal(5 * embedder.rate).astype(np.float32) * 0.1, embedder.rate)
        print(f"a clip of 5 s, its vector: {_median(lambda: embedder.clip(wave)):.0f} ms")
        print(f"a clip of 5 s, the search: {_median(lambda: index.search(wave)):.0f} ms")
        index.close()


def _median(call: Callable[[], object], times: int = 15) -> float:
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begun)
    return 1000 * float(np.median(spent))


if __name__ == "__main__":
    main()
