"""What can be told of a clip without hearing it: the shortcut probe.

    python -m benchmarks.everyday.probe --clips RUNS/clips.csv
    python -m benchmarks.everyday.probe --clips RUNS/variants/clips.csv

A random forest predicts the labels from a clip's duration, its share of samples that are exactly
zero, the silence at its two ends, and its bandwidth, and from nothing else. It learns on the
authors of four folds and scores the fifth (`clips.py` divides them). Its mAP beside chance, which
is the mean share of positives, says how much of a model's mAP could come from such marks; with
negatives of the same collection only, how much of it is left when the collection tells nothing.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from atgnn.data import Clips
from atgnn.data.store import SCALE, decode
from atgnn.errors import AtgnnError, ClipsError
from atgnn.evaluate import Report, collection_negatives, measure, owners_of
from atgnn.labels import Ontology

RATE = 16_000
SILENCE = 1e-3  # of full scale: -60 dB
FEATURES = ("duration", "zeros", "silence before", "silence after", "bandwidth", "99 % below")


def marks(wave: np.ndarray) -> np.ndarray:
    """The six features of a waveform (S,) in [-1, 1] at 16 kHz, float64 (6,).

    Seconds, share, seconds, seconds, and two frequencies in Hz: the highest with a thousandth
    (in amplitude) of the strongest, and that below which 99 % of the power lies.
    """
    loud = np.flatnonzero(np.abs(wave) > SILENCE)
    first, last = (loud[0], loud[-1] + 1) if len(loud) else (len(wave), 0)
    size = 1024
    padded = np.pad(wave, (0, -len(wave) % size if len(wave) else size))
    power = (np.abs(np.fft.rfft(padded.reshape(-1, size) * np.hanning(size))) ** 2).mean(axis=0)
    step = RATE / size
    heard = np.flatnonzero(power > 1e-6 * power.max())
    below = np.searchsorted(np.cumsum(power), 0.99 * power.sum())
    return np.array(
        [
            len(wave) / RATE,
            (wave == 0).mean() if len(wave) else 1.0,
            first / RATE,
            max(0, len(wave) - last) / RATE,
            step * (heard[-1] if len(heard) else 0),
            step * below,
        ]
    )


def table_of_marks(clips: Clips) -> np.ndarray:
    """The features of all clips, float64 (N, 6)."""
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda clip: marks(decode(clip, RATE) * SCALE), clips))
    return np.stack(rows)


def probe(features: np.ndarray, targets: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """Scores (N, L) of forests that never saw the fold of the clip; unknown cells are not learnt.

    `features` (N, K), `targets` (N, L), `folds` (N,).
    """
    scores = np.zeros(targets.shape)
    for fold in np.unique(folds):
        test = folds == fold
        for label in range(targets.shape[1]):
            learnt = ~test & ~np.isnan(targets[:, label])
            truth = targets[learnt, label]
            if truth.min() == truth.max():
                scores[test, label] = truth[0]
                continue
            forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=seed)
            forest.fit(features[learnt], truth)
            scores[test, label] = forest.predict_proba(features[test])[:, 1]
    return scores


def shortcuts(clips: Clips, seed: int = 0) -> dict[str, tuple[Report, float]]:
    """The probe's report and chance, with all negatives and with those of the same collection."""
    if "fold" not in clips.table:
        raise ClipsError("the clips have no folds: make their table with clips.py")
    vocabulary = clips.vocabulary()
    targets = clips.targets(vocabulary, Ontology.audioset())
    folds = clips.table["fold"].to_numpy(dtype=int)
    scores = probe(table_of_marks(clips), targets, folds, seed)
    owned, found = owners_of(clips), {}
    own = collection_negatives(targets, clips.column("collection"))
    for name, truth in (("all negatives", targets), ("same collection", own)):
        report = measure(truth, scores, vocabulary.names, owned, seed=seed)
        shares = [one.positives / one.known for one in report.metrics.per_class if one.positives]
        found[name] = (report, float(np.mean(shares)))
    return found


def main() -> int:
    """Exit code 0, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="table with folds by author")
    parser.add_argument("--copy", type=int, help="only rows with this number in the column `copy`")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        clips = Clips.read(args.clips)
        if args.copy is not None:
            clips = clips.subset(clips.column("copy").astype(int) == args.copy)
        found = shortcuts(clips, args.seed)
    except AtgnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(clips)} clips; a forest on {', '.join(FEATURES)}")
    for name, (report, chance) in found.items():
        interval = report.intervals and report.intervals.mean_ap
        between = f" ({interval.low:.3f} to {interval.high:.3f})" if interval else ""
        labels = sum(one.positives > 0 for one in report.metrics.per_class)
        print(
            f"{name}: mAP {report.metrics.mean_ap:.3f}{between}, chance {chance:.3f}, "
            f"over {labels} labels"
        )
    report = found["all negatives"][0]
    for one in sorted(report.metrics.per_class, key=lambda one: -one.average_precision):
        if one.enough:
            share = one.positives / one.known
            print(f"  {one.label:32}{one.average_precision:6.3f}  chance {share:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
