"""What each switch beyond the paper's recipe does on ESC-10: runs in pairs, one switch apart.

    python -m benchmarks.switches.run train --data ESC10 --out RUNS [--only NAME ...] [--seeds 1 2]
    python -m benchmarks.switches.run report

The protocol of `benchmarks/esc10/run.py tune`: three folds train, one validates, the test fold
stays unseen. Short runs of the esc10 recipe: what helps in twenty epochs need not help in 250. Of
every run the mean over its last five epochs counts, and processor time of its threads. A run on
record (`results.csv`) is not repeated. `teacher` is EfficientNet-Lite0 from ImageNet weights,
trained on the same three folds; `scores` learns from its score file, `listens` from what it hears
in each augmented mixture.
"""

import argparse
import resource
from pathlib import Path

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.files import write_text
from atgnn.scoring import ScoreTable
from benchmarks import records
from benchmarks.esc10.run import after, train

RESULTS = Path(__file__).parent / "results.csv"
TEST, EPOCHS, LAST = 3, 20, 5
COLUMNS = ("run", "seed", "accuracy", "mAP", "ema_accuracy", "ema_mAP", "epochs", "cpu_seconds")
MODEL = "model={preset: mini}"  # what the record was made with
LITE = ["model={preset: lite0}", "init=imagenet", "optim.learning_rate=5.0e-4"]
LITE += ["augment.masks=1", "residual_scale=1"]
DISTILL = ["distill.weight=0.5", "distill.temperature=2"]

#: What each run changes. `plain` validates a moving average beside its weights, which does not
#: touch the run: it is its own pair.
RUNS: dict[str, list[str]] = {
    "plain": ["ema.decay=0.98"],
    "teacher": [*LITE, "optim.epochs=12"],
    "scores": [*DISTILL, "distill.scores={teacher}.parquet"],
    "no mixup": ["augment.mixup_probability=0"],
    "bf16": ["precision=bf16-mixed"],
    "compiled": ["compile=true"],
    "2 x 16 clips": ["optim.batch_size=16", "optim.accumulate=2"],
    "listens": [*DISTILL, "distill.teacher={teacher}/model"],
}


def train_all(args: argparse.Namespace) -> None:
    """Every run that is not on record, all of a seed before the next."""
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.only or RUNS:
            if not records.has(RESULTS, {"run": name, "seed": str(seed)}):
                record(name, seed, args)
                report()


def record(name: str, seed: int, args: argparse.Namespace) -> None:
    """One run and its row."""
    teacher = args.out / f"teacher-{seed}"
    settings = [setting.replace("{teacher}", str(teacher)) for setting in (MODEL, *RUNS[name])]
    if not any(setting.startswith("optim.epochs") for setting in settings):
        settings.append(f"optim.epochs={EPOCHS}")
    settings += [f"data.validation={{fold: {after(TEST)}}}", f"seed={seed}", "workers=0"]
    out = args.out / f"{name.replace(' ', '_')}-{seed}"
    before = processor_seconds()
    train(args.data, TEST, out, settings, threads=1)
    spent = processor_seconds() - before
    if name == "teacher":
        scores = ScoreTable.of(Checkpoint.from_pretrained(out / "model"), Clips.read(args.data))
        scores.write(f"{teacher}.parquet", force=True)
    history = records.read(out / "history.csv")
    row = {"run": name, "seed": seed, "epochs": len(history), "cpu_seconds": round(spent)}
    for column, metric in (("accuracy", "val_accuracy"), ("mAP", "val_mAP")):
        row[column] = last_mean(history, metric)
        row[f"ema_{column}"] = last_mean(history, f"ema_{column}")
    write_results([*records.read(RESULTS), row])


def processor_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def last_mean(history: list[dict[str, str]], column: str) -> str:
    """Mean over the last epochs; nothing where there is no such column."""
    values = [float(row[column]) for row in history[-LAST:] if row.get(column)]
    return f"{np.mean(values):.4f}" if values else ""


def write_results(rows: list[dict[str, object]]) -> None:
    """All rows, in place of those before."""
    lines = [",".join(COLUMNS), *(",".join(str(row[c]) for c in COLUMNS) for row in rows)]
    write_text(RESULTS, "\n".join(lines) + "\n")


def report(_: argparse.Namespace | None = None) -> None:
    """Each run beside `plain` of the same seed: mean accuracy, mAP, differences by seed, time."""
    rows = {(row["run"], row["seed"]): row for row in records.read(RESULTS)}
    print(f"{'run':<14}{'seeds':>6}{'accuracy':>10}{'mAP':>8}{'CPU s':>7}   accuracy less plain")
    for name in RUNS:
        of = [row for (run, _), row in rows.items() if run == name]
        pairs = [(row, rows.get(("plain", row["seed"]))) for row in of]
        show(name, of, [(row["accuracy"], plain["accuracy"]) for row, plain in pairs if plain])
        if name == "plain":
            averaged = [
                {**row, "accuracy": row["ema_accuracy"], "mAP": row["ema_mAP"]} for row in of
            ]
            show("its average", averaged, [(row["ema_accuracy"], row["accuracy"]) for row in of])


def show(name: str, rows: list[dict[str, str]], pairs: list[tuple[str, str]]) -> None:
    """One line; nothing for a run that is not on record."""
    if not rows:
        return
    accuracy, mean_ap, seconds = (
        np.mean([float(row[column]) for row in rows])
        for column in ("accuracy", "mAP", "cpu_seconds")
    )
    differences = ", ".join(f"{100 * (float(a) - float(b)):+.1f}" for a, b in pairs)
    print(
        f"{name:<14}{len(rows):>6}{accuracy:>10.1%}{mean_ap:>8.3f}{seconds:>7.0f}   {differences}"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What each switch does on ESC-10.")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("train")
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--only", nargs="*", choices=list(RUNS))
    one.add_argument("--seeds", nargs="*", type=int, default=[1, 2])
    one.set_defaults(call=train_all)
    commands.add_parser("report").set_defaults(call=report)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
