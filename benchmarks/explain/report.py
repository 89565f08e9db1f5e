"""Tables of what `run.py measure` wrote down."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from atgnn.metrics import cluster_interval
from benchmarks.explain.scores import FRACTIONS

__all__ = ["print_report"]


def print_report(folder: Path) -> None:
    """For every subject: shares against chance, then curves."""
    files = sorted(folder.glob("*-fold*.csv"))
    for name in sorted({path.name.rsplit("-fold", 1)[0] for path in files}):
        rows = [
            row
            for path in files
            if path.name.rsplit("-fold", 1)[0] == name
            for row in csv.DictReader(path.open(encoding="utf-8"))
        ]
        _subject(name, rows)


def _subject(name: str, rows: list[dict[str, str]]) -> None:
    folds = sorted({row["fold"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    first = [row for row in rows if row["method"] == methods[0]]
    print(f"\n## {name}: {len(first)} events heard, folds {', '.join(folds)}\n")
    print("| method | in time | chance | in time and band | chance | other's region | chance |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        print(f"| {method} | " + " | ".join(_shares(own)) + " |")
    print("\n| method | " + " | ".join(f"{fraction:.0%}" for fraction in FRACTIONS) + " | mean |")
    print("|---|" + "---:|" * (len(FRACTIONS) + 1))
    for kind in ("deletion", "insertion"):
        for method in methods:
            own = [row for row in rows if row["method"] == method and row[kind]]
            if own:
                print(f"| {kind}, {method} | " + " | ".join(_curve(own, kind)) + " |")


def _shares(rows: list[dict[str, str]]) -> list[str]:
    """Shares, each with the chance it is to be compared with, and the interval of the gain."""
    scenes = np.array([f"{row['fold']}-{row['scene']}" for row in rows])
    cells = []
    for kind in ("time", "box", "other"):
        found = np.array([float(row[kind]) for row in rows])
        chance = np.array([float(row[f"{kind}_chance"]) for row in rows])
        known = np.isfinite(found) & np.isfinite(chance)
        if not known.any():
            cells += ["", ""]
            continue
        gain = cluster_interval(
            (found - chance)[known], scenes[known], generator=np.random.default_rng(0)
        )
        cells.append(f"{found[known].mean():.3f}")
        cells.append(f"{chance[known].mean():.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
    return cells


def _curve(rows: list[dict[str, str]], kind: str) -> list[str]:
    """Scores along the curve as shares of the whole sound's, and their mean."""
    shares = [
        np.array([float(value) for value in row[kind].split()]) / float(row["score"])
        for row in rows
    ]
    mean = np.mean(shares, axis=0)
    return [f"{value:.2f}" for value in mean] + [f"{mean.mean():.3f}"]
