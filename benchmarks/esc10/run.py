"""The official ESC-10 protocol, honestly: five folds, each scored once for each row and seed.

    python benchmarks/esc10/run.py tune  --data ESC10 --test 1 --out RUNS [--set key=value ...]
    python benchmarks/esc10/run.py final --data ESC10 --out RUNS [--row scratch] [--seeds 1 2 3]
    python benchmarks/esc10/run.py check --data ESC10 [--row scratch]
    python benchmarks/esc10/run.py report

`tune` trains on three folds and validates on the one after the test fold, which stays unseen.
`final` trains on all four other folds for the recipe's fixed number of epochs, scores the test fold
once, keeps the predictions under benchmarks/esc10/ROW/ and, of the first seed, the weights in half
precision, and writes the look down in benchmarks/test_fold_looks.csv. What is on record is not run
again. `check` repeats the scoring of the kept weights through `atgnn tag`, which is no new look,
and must find the predictions on record. `report` prints every row on record: folds, seeds, their
mean, and the interval from resampling authors.

Rows: `first` is the recipe as it was at first: half as long, with fewer changes to the sounds;
`scratch` is the recipe as it is, of which so far fold 1 alone was scored.
"""

import argparse
import csv
import datetime
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from atgnn.data.clips import Clips
from atgnn.metrics import cluster_interval

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import runs  # noqa: E402, beside the folder of this script

LOOKS = HERE.parent / "test_fold_looks.csv"
FOLDS = (1, 2, 3, 4, 5)
#: What a row changes in the recipe.
ROWS: dict[str, list[str]] = {
    "first": [
        "optim.epochs=60",
        "augment.mixup_probability=0.3",
        "augment.trim_silence=false",
        *(f"augment.{name}=0" for name in ("fill", "stretch", "equalise_db", "noise")),
    ],
    "scratch": [],
}
KEPT_SEED = 1  # whose weights are kept


def after(fold: int) -> int:
    """The fold that validates when `fold` is the test fold."""
    return fold % len(FOLDS) + 1


def train(data: Path, fold: int, out: Path, settings: list[str], threads: int) -> Path:
    """One run of the esc10 recipe; an interrupted one goes on."""
    where = [f"data.clips={data}", f"data.test={{fold: {fold}}}"]
    return runs.train("esc10", out, [*where, *settings], threads)


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


def record_path(row: str, seed: int, fold: int) -> Path:
    """Where a fold's predictions are kept."""
    return HERE / row / f"seed{seed}" / f"fold{fold}.csv"


def kept_weights(row: str, fold: int) -> Path:
    """Where a fold's weights are kept, of one seed."""
    return HERE / row / f"seed{KEPT_SEED}" / f"fold{fold}"


def read_record(path: Path) -> list[dict[str, str]]:
    """Predictions on record."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tune(args: argparse.Namespace) -> None:
    """Train on three folds, validate on the fourth."""
    validation = f"data.validation={{fold: {after(args.test)}}}"
    train(args.data, args.test, args.out, [validation, *args.set], args.threads)
    print((args.out / "metrics.json").read_text())


def finish(args: argparse.Namespace, seed: int, fold: int) -> None:
    """Train on four folds, score the fifth once, write the look down."""
    path = record_path(args.row, seed, fold)
    if path.is_file():
        return
    settings = [*ROWS[args.row], f"seed={seed}"]
    out = args.out / f"{args.row}-seed{seed}-fold{fold}"
    model = train(args.data, fold, out, settings, args.threads)
    rows = predict(model, args.data, fold)
    path.parent.mkdir(parents=True, exist_ok=True)
    if seed == KEPT_SEED:
        shutil.copytree(model, kept_weights(args.row, fold), dirs_exist_ok=True)
    with open(LOOKS, "a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(
            [
                datetime.date.today().isoformat(),
                "ESC-10",
                fold,
                f"accuracy: row {args.row}, seed {seed}, trained on the other four folds",
                f"{accuracy(rows):.4f}",
                f"python benchmarks/esc10/run.py final --row {args.row}",
            ]
        )
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{args.row}, seed {seed}, fold {fold}: {accuracy(rows):.4f}", flush=True)


def final(args: argparse.Namespace) -> None:
    """All seeds and folds, a few at a time."""
    args.out.mkdir(parents=True, exist_ok=True)
    todo = [(seed, fold) for seed in args.seeds for fold in args.folds]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda one: finish(args, *one), todo))
    report(args)


def check(args: argparse.Namespace) -> None:
    """The kept weights must give the predictions on record."""
    for fold in FOLDS:
        then = read_record(record_path(args.row, KEPT_SEED, fold))
        now = predict(kept_weights(args.row, fold), args.data, fold)
        differ = sum(a["predicted"] != b["predicted"] for a, b in zip(now, then, strict=True))
        print(f"fold {fold}: {accuracy(now):.4f}, {differ} predictions differ from the record")
        if differ:
            sys.exit(1)


def report(args: argparse.Namespace) -> None:
    """Every row on record: folds and seeds, mean, and interval from resampling authors."""
    for row in sorted({path.parents[1].name for path in HERE.glob("*/seed*/fold*.csv")}):
        rows = []
        for seed in sorted(HERE.glob(f"{row}/seed*"), key=lambda path: int(path.name[4:])):
            parts = [read_record(path) for path in sorted(seed.glob("fold*.csv"))]
            folds = " ".join(f"{accuracy(part):.4f}" for part in parts)
            whole = [one for part in parts for one in part]
            rows += whole
            print(f"{row}, {seed.name}: {accuracy(whole):.4f}  (folds {folds})")
        right = np.array([one["category"] == one["predicted"] for one in rows], dtype=float)
        authors = np.array([one["author"].strip().lower() for one in rows])
        interval = cluster_interval(right, authors, generator=np.random.default_rng(0))
        print(
            f"{row}: mean {interval.mean:.4f}, 95 % interval from resampling {interval.groups} "
            f"authors: {interval.low:.4f} to {interval.high:.4f}"
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
            command.add_argument("--threads", type=int, default=1, help="threads of each run")
        if name in ("final", "check"):
            command.add_argument("--row", choices=ROWS, default="scratch", help="which row")
    commands.choices["tune"].add_argument("--set", action="append", default=[], help="a setting")
    commands.choices["final"].add_argument("--seeds", type=int, nargs="+", default=[1])
    commands.choices["tune"].add_argument("--test", type=int, default=1, help="fold left unseen")
    commands.choices["final"].add_argument("--folds", type=int, nargs="+", default=FOLDS)
    commands.choices["final"].add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
