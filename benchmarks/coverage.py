"""How often an interval holds the truth: percentile and pivotal intervals of mAP, simulated.

    python -m benchmarks.coverage [--authors 30] [--trials 400]

Authors differ in how well a model hears each of their labels and in how it scores everything that
they record. Samples of a few authors are drawn from this population, and their intervals are held
against the truth, which is the same figure over very many authors. A 95 % interval should hold it
in 95 % of trials. Labels 1 to 6 are on every third clip, labels 7 to 10 on one author in ten.
"""

import argparse

import numpy as np

from atgnn.metrics import Owners, average_precision, pivotal, resample

COMMON, RARE = 6, 4
SHARE, RARE_AUTHORS = 0.33, 0.1
CONFIDENCE = 0.95


def sample(authors: int, rng: np.random.Generator, clips: int = 6) -> tuple[np.ndarray, ...]:
    """Targets and scores, (N, L), and the author and recording of each clip, (N,).

    Each author has `clips` clips of three recordings, two or so each.
    """
    labels, number = COMMON + RARE, authors * clips
    author = np.repeat(np.arange(authors), clips)
    recording = author * 3 + rng.integers(0, 3, number)
    has_rare = rng.random((authors, RARE)) < RARE_AUTHORS
    likely = np.hstack([np.full((authors, COMMON), SHARE), 0.6 * has_rare])
    targets = (rng.random((number, labels)) < likely[author]).astype(np.float64)
    heard = rng.normal(1.5, 0.8, (authors, labels))[author]  # how well an author's label is heard
    colour = rng.normal(0, 0.5, (authors, labels))[author]
    colour = colour + rng.normal(0, 0.4, (3 * authors, labels))[recording]
    scores = rng.normal(0, 1, targets.shape) + colour + heard * targets
    return targets, scores, author, recording


def draws(
    data: tuple[np.ndarray, ...], how: str, rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """Average precision of resamples, (R, L), that draw authors, both, or clips."""
    targets, scores, author, recording = data
    owners = {
        "clips": lambda: Owners.of(np.arange(len(author))),
        "authors": lambda: Owners.of(author),
        "authors, then recordings": lambda: Owners.of(author, recording),
    }[how]()
    (found,) = resample(targets, [scores], owners, generator=rng, resamples=resamples)
    return found.average_precision


def simulate(
    authors: int = 30, trials: int = 400, resamples: int = 300, seed: int = 0
) -> dict[tuple[str, str], dict[str, float]]:
    """For each way to draw and kind of interval: the share of trials in which it holds the truth.

    The figures: mAP over all labels, over the common ones, AP of a common and of a rare label.
    """
    rng = np.random.default_rng(seed)
    targets, scores, _, _ = sample(20_000, rng)
    truth = average_precision(targets, scores)
    held: dict[tuple[str, str], dict[str, list[bool]]] = {}
    for _ in range(trials):
        data = sample(authors, rng)
        ap = average_precision(*data[:2])
        for how in ("clips", "authors", "authors, then recordings"):
            drawn = draws(data, how, rng, resamples)
            for name, part in figures().items():
                seen = ~np.isnan(ap[part])  # a label that nobody in the sample has is in no mean
                if not seen.any():
                    continue
                right = truth[part][seen].mean()
                value, values = np.nanmean(ap[part]), np.nanmean(drawn[:, part], axis=1)
                for kind in ("percentile", "pivotal"):
                    low, high = interval(kind, value, values)
                    there = held.setdefault((how, kind), {}).setdefault(name, [])
                    there.append(bool(low <= right <= high))
    return {
        key: {name: float(np.mean(there)) for name, there in parts.items()}
        for key, parts in held.items()
    }


def figures() -> dict[str, slice]:
    """The labels that each figure is a mean over."""
    return {
        "mAP": slice(0, COMMON + RARE),
        "mAP, common": slice(0, COMMON),
        "AP, common": slice(0, 1),
        "AP, rare": slice(COMMON, COMMON + 1),
    }


def interval(kind: str, value: float, values: np.ndarray) -> tuple[float, float]:
    """Ends of one interval."""
    if kind == "pivotal":
        return pivotal(float(value), values, confidence=CONFIDENCE)
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--authors", type=int, default=30)
    parser.add_argument("--trials", type=int, default=400)
    args = parser.parse_args()
    found = simulate(args.authors, args.trials)
    print(
        f"share of {args.trials} trials with {args.authors} authors in which a 95 % interval holds"
    )
    print(f"{'drawn':28}{'interval':12}" + "".join(f"{name:>13}" for name in figures()))
    for (how, kind), shares in found.items():
        print(f"{how:28}{kind:12}" + "".join(f"{share:13.3f}" for share in shares.values()))


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore", message="Mean of empty slice")
    warnings.filterwarnings("ignore", message="All-NaN slice")
    main()
