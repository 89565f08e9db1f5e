"""Tables of what `run.py measure` wrote down."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from atgnn.metrics import Interval, cluster_interval
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
    one = "ours" if "ours" in methods else methods[0]
    first = [row for row in rows if row["method"] == one]
    authors = len({_author(row) for row in first})
    print(f"\n## {name}: {len(first)} events heard, folds {', '.join(folds)}, {authors} authors\n")
    print("| method | events | in time | chance | in time and band | chance | other's | chance |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        print(f"| {method} | {len(own)} | " + " | ".join(_shares(own)) + " |")
    print(f"\n{one}: its gain over chance less that of another, on the same events\n")
    print("| less | in time | in time and band |")
    print("|---|---:|---:|")
    for method in methods:
        if method == one:
            continue
        own = [row for row in rows if row["method"] == method]
        print(f"| {method} | " + " | ".join(_differences(first, own)) + " |")
    print("\n| method | " + " | ".join(f"{fraction:.0%}" for fraction in FRACTIONS) + " | mean |")
    print("|---|" + "---:|" * (len(FRACTIONS) + 1))
    for kind in ("deletion", "insertion"):
        for method in methods:
            own = [row for row in rows if row["method"] == method and row[kind]]
            if own:
                print(f"| {kind}, {method} | " + " | ".join(_curve(own, kind)) + " |")


def _author(row: dict[str, str]) -> str:
    """Whose sound the event is; the scene where that is not on record."""
    return row.get("author") or f"{row['fold']}-{row['scene']}"


def _gains(rows: list[dict[str, str]], kind: str) -> np.ndarray:
    """Share less chance of every event, NaN where there is none."""
    return np.array([float(row[kind]) - float(row[f"{kind}_chance"]) for row in rows])


def _interval(values: np.ndarray, rows: list[dict[str, str]]) -> Interval:
    """Of the mean of the finite ones, from resampling authors."""
    known = np.isfinite(values)
    authors = np.array([_author(row) for row in rows])[known]
    return cluster_interval(values[known], authors, generator=np.random.default_rng(0))


def _shares(rows: list[dict[str, str]]) -> list[str]:
    """Shares, each with the chance it is to be compared with, and the interval of the gain."""
    cells = []
    for kind in ("time", "box", "other"):
        gains = _gains(rows, kind)
        known = np.isfinite(gains)
        if not known.any():
            cells += ["", ""]
            continue
        gain = _interval(gains, rows)
        found, chance = (
            np.array([float(row[key]) for row in rows])[known].mean()
            for key in (kind, f"{kind}_chance")
        )
        cells += [f"{found:.3f}", f"{chance:.3f} ({gain.low:+.3f} to {gain.high:+.3f})"]
    return cells


def _differences(rows: list[dict[str, str]], others: list[dict[str, str]]) -> list[str]:
    """Gains of a method less those of another on events that both have, with the interval."""

    def event(row: dict[str, str]) -> tuple[str, str, str]:
        return row["fold"], row["scene"], row["label"]

    theirs = {event(row): row for row in others}
    ours = [row for row in rows if event(row) in theirs]
    same = [theirs[event(row)] for row in ours]
    cells = []
    for kind in ("time", "box"):
        change = _interval(_gains(ours, kind) - _gains(same, kind), ours)
        cells.append(f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})")
    return cells


def _curve(rows: list[dict[str, str]], kind: str) -> list[str]:
    """Mean scores along the curve as shares of the whole sounds' mean score, and their mean."""
    scores = np.array([[float(value) for value in row[kind].split()] for row in rows])
    mean = scores.mean(0) / np.mean([float(row["score"]) for row in rows])
    return [f"{value:.2f}" for value in mean] + [f"{mean.mean():.3f}"]
