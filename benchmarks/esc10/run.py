"""The official ESC-10 protocol, honestly: five folds, each scored once, at the end.

    python benchmarks/esc10/run.py tune  --data ESC10 --test 1 --out RUNS [--set key=value ...]
    python benchmarks/esc10/run.py final --data ESC10 --out RUNS [--folds 1 2 3 4 5] [--jobs 2]
    python benchmarks/esc10/run.py check --data ESC10
    python benchmarks/esc10/run.py report

`tune` trains on three folds and validates on the one after the test fold, which stays unseen.
`final` trains on all four other folds for the recipe's fixed number of epochs, keeps the last
epoch's weights in half precision under benchmarks/esc10/, scores the test fold once and writes the
look down in benchmarks/test_fold_looks.csv. `check` repeats the scoring of the kept weights through
`atgnn tag`, which is no new look, and must find the predictions on record. `report` prints the five
folds, their mean, and the interval from resampling authors, from the predictions on record.
"""

import argparse
import csv
import datetime
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from atgnn.data.clips import Clips
from atgnn.metrics import cluster_interval

HERE = Path(__file__).parent
LOOKS = HERE.parent / "test_fold_looks.csv"
FOLDS = (1, 2, 3, 4, 5)


def after(fold: int) -> int:
    """The fold that validates when `fold` is the test fold."""
    return fold % len(FOLDS) + 1


def train(data: Path, fold: int, out: Path, settings: list[str], threads: int) -> Path:
    """One run of the esc10 recipe; an interrupted one goes on."""
    command = [sys.executable, "-m", "atgnn", "train", "esc10", "--out", str(out)]
    for setting in (f"data.clips={data}", f"data.test={{fold: {fold}}}", *settings):
        command += ["--set", setting]
    if (out / "recipe.yaml").is_file():
        command.append("--resume")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(f"{out}.log", "a") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
    return out / "model"


def predict(model: Path, data: Path, fold: int) -> list[dict[str, str]]:
    """What `atgnn tag` names first for each clip of a fold."""
    clips = list(Clips.read(data).where(fold=fold))
    command = [sys.executable, "-m", "atgnn", "tag", "--json", "--top", "1", "--threshold", "0"]
    command += ["--model", str(model), *(str(clip.path) for clip in clips)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    named = {}
    for line in printed.splitlines():
        record = json.loads(line)
        named[Path(record["path"]).name] = record["tags"][0]
    return [
        {
            "fold": str(fold),
            "filename": clip.path.name,
            "author": clip.extra["author"],
            "category": clip.extra["category"],
            "predicted": named[clip.path.name]["label"],
            "score": f"{named[clip.path.name]['score']:.4f}",
        }
        for clip in clips
    ]


def accuracy(rows: list[dict[str, str]]) -> float:
    """Share of clips named right."""
    return float(np.mean([row["category"] == row["predicted"] for row in rows]))


def record_path(fold: int) -> Path:
    """Where a fold's predictions are kept."""
    return HERE / f"fold{fold}" / "predictions.csv"


def kept_weights(fold: int) -> Path:
    """Where a fold's weights are kept."""
    return HERE / f"fold{fold}" / "model"


def read_record(fold: int) -> list[dict[str, str]]:
    """A fold's predictions on record."""
    with open(record_path(fold), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tune(args: argparse.Namespace) -> None:
    """Train on three folds, validate on the fourth."""
    validation = f"data.validation={{fold: {after(args.test)}}}"
    train(args.data, args.test, args.out, [validation, *args.set], args.threads)
    print((args.out / "metrics.json").read_text())


def finish(args: argparse.Namespace, fold: int) -> None:
    """Train on four folds, score the fifth once, write the look down."""
    model = train(args.data, fold, args.out / f"fold{fold}", args.set, args.threads)
    rows = predict(model, args.data, fold)
    kept_weights(fold).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(model, kept_weights(fold), dirs_exist_ok=True)
    with open(record_path(fold), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    settings = "".join(f" --set {s!r}" for s in args.set)
    with open(LOOKS, "a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(
            [
                datetime.date.today().isoformat(),
                "ESC-10",
                fold,
                f"accuracy: esc10 recipe, trained on the other four folds{settings}",
                f"{accuracy(rows):.4f}",
                "python benchmarks/esc10/run.py final",
            ]
        )
    print(f"fold {fold}: {accuracy(rows):.4f}", flush=True)


def final(args: argparse.Namespace) -> None:
    """All folds, a few at a time."""
    args.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda fold: finish(args, fold), args.folds))
    report(args)


def check(args: argparse.Namespace) -> None:
    """The kept weights must give the predictions on record."""
    for fold in FOLDS:
        now, then = predict(kept_weights(fold), args.data, fold), read_record(fold)
        differ = sum(a["predicted"] != b["predicted"] for a, b in zip(now, then, strict=True))
        print(f"fold {fold}: {accuracy(now):.4f}, {differ} predictions differ from the record")
        if differ:
            sys.exit(1)


def report(args: argparse.Namespace) -> None:
    """Five folds, mean, and interval from resampling authors."""
    rows = []
    for fold in FOLDS:
        if record_path(fold).is_file():
            part = read_record(fold)
            print(f"fold {fold}: {accuracy(part):.4f}  ({len(part)} clips)")
            rows += part
    right = np.array([row["category"] == row["predicted"] for row in rows], dtype=float)
    authors = np.array([row["author"].strip().lower() for row in rows])
    interval = cluster_interval(right, authors, generator=np.random.default_rng(0))
    print(
        f"mean {interval.mean:.4f}, 95 % interval from resampling {interval.groups} authors: "
        f"{interval.low:.4f} to {interval.high:.4f}"
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in (("tune", tune), ("final", final), ("check", check), ("report", report)):
        command = commands.add_parser(name, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        if name != "report":
            command.add_argument("--data", type=Path, required=True, help="the ESC-10 folder")
        if name in ("tune", "final"):
            command.add_argument("--out", type=Path, required=True, help="folder for the runs")
            command.add_argument("--set", action="append", default=[], help="override the recipe")
            command.add_argument("--threads", type=int, default=1, help="threads of each run")
    commands.choices["tune"].add_argument("--test", type=int, default=1, help="fold left unseen")
    commands.choices["final"].add_argument("--folds", type=int, nargs="+", default=FOLDS)
    commands.choices["final"].add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
