"""What the runs say: means, paired differences with intervals, and what removing a label does.

python -m benchmarks.label_graph.report RUNS          # of runs; also writes results.csv here
python -m benchmarks.label_graph.report               # of results.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .run import TEST_KINDS
from .variants import VARIANTS

RESULTS = Path(__file__).with_name("results.csv")
NAMES = {
    "full": "full model",
    "encoder": "encoder alone",
    "wide": "encoder, widened to the same parameters",
    "zero": "A = 0",
    "frozen": "A frozen at random",
    "mean": "PLG: mean of all patches",
}
# Student's t at 97.5 %, by degrees of freedom
T = (math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20)
COLUMNS = ("variant", "seed", "fold", "parameters", "train_loss",
           *(f"{what}_{kind}" for what in ("map", "loss") for kind in TEST_KINDS),
           "removal_mean", "removal_told", "removal_size")  # fmt: skip


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """One row for each run, removal summed up."""
    rows = []
    for path in sorted(folder.glob("run-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        row = {name: run.get(name, "") for name in COLUMNS}
        if "removal" in run:
            row.update(removal_numbers(run["removal"]))
        rows.append(row)
    return rows


def removal_numbers(removal: dict[str, Any]) -> dict[str, float]:
    """How the effect of node j on logit i goes with the lift of i and j, over ordered pairs.

    ``removal_mean``: Spearman correlation of the mean effect with the log lift in training;
    ``removal_told``: of the effect where j is there less where it is not; ``removal_size``: the
    mean absolute effect over the standard deviation of the logit.
    """
    mean, told = np.array(removal["mean"]), np.array(removal["told"])
    lift = np.array(removal["lift"])
    others = ~np.eye(len(mean), dtype=bool)
    size = np.abs(mean) / np.array(removal["spread"])[:, None]
    return {
        "removal_mean": spearman(mean[others], lift[others]),
        "removal_told": spearman(told[others], lift[others]),
        "removal_size": float(size[others].mean()),
    }


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, ties sharing their mean rank; NaN where one side is constant."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences, and its 95 % interval by Student's t over seeds."""
    numbers = np.asarray(values, float)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return mean, math.nan, math.nan
    freedom = min(len(numbers) - 1, len(T) - 1)
    half = T[freedom] * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return mean, mean - half, mean + half


def paired(rows: list[dict[str, Any]], column: str, variant: str) -> list[float]:
    """The full model less a variant, for each seed that both have."""
    of = {(row["variant"], str(row["seed"])): row for row in rows}
    return [
        float(row[column]) - float(of[variant, seed][column])
        for (name, seed), row in of.items()
        if name == "full" and (variant, seed) in of
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Tables for the README."""
    head = " | ".join(f"mAP, {kind}" for kind in TEST_KINDS)
    lines = [f"| model | parameters | seeds | {head} |", "|---|---:|---:|" + "---:|" * 3]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if own:
            means = [np.mean([float(row[f"map_{kind}"]) for row in own]) for kind in TEST_KINDS]
            cells = " | ".join(f"{value:.3f}" for value in means)
            lines.append(
                f"| {NAMES[variant]} | {int(own[0]['parameters']):,} | {len(own)} | {cells} |"
            )
    head = " | ".join(TEST_KINDS)
    lines += ["", f"| full model less | {head} |", "|---|" + "---:|" * 3]
    for variant in VARIANTS[1:]:
        cells = []
        for kind in TEST_KINDS:
            differences = paired(rows, f"map_{kind}", variant)
            if differences:
                mean, low, high = interval(differences)
                cells.append(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})")
        if cells:
            lines.append(f"| {NAMES[variant]} | {' | '.join(cells)} |")
    lines += ["", *_removal_lines(rows)]
    return "\n".join(lines)


def _removal_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| removing label node j | mean effect on logit i against log lift, Spearman "
        "| effect where j is there less where it is not, against log lift "
        "| size, in standard deviations of i |",
        "|---|---:|---:|---:|",
    ]
    for variant in ("full", "frozen", "mean"):
        own = [row for row in rows if row["variant"] == variant and row["removal_mean"] != ""]
        if own:
            cells = []
            for name in ("removal_mean", "removal_told", "removal_size"):
                mean, low, high = interval([float(row[name]) for row in own])
                cells.append(f"{mean:.3f} ({low:.3f} to {high:.3f})")
            lines.append(f"| {NAMES[variant]} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Exit code 0, or 2 where there are no results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="?", help="folder of the runs")
    options = parser.parse_args()
    if options.runs is not None:
        rows = read_runs(options.runs)
        if rows:
            with RESULTS.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                for row in rows:
                    writer.writerow(
                        {k: f"{v:.5f}" if isinstance(v, float) else v for k, v in row.items()}
                    )
    elif RESULTS.is_file():
        with RESULTS.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = []
    if not rows:
        print("error: no results: run benchmarks.label_graph.run first", file=sys.stderr)
        return 2
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
