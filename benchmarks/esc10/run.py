"""The official ESC-10 protocol, honestly: five folds, each scored once for each row and seed.

    python -m benchmarks.esc10.run tune  --data SOUNDS --out RUNS --rows ROW ... [--tests 1 3]
    python -m benchmarks.esc10.run final --data SOUNDS --out RUNS --row ROW [--seeds 1 2 3]
    python -m benchmarks.esc10.run together --data SOUNDS --out RUNS --row ROW --seeds 1 2 3
    python -m benchmarks.esc10.run check --data SOUNDS [--row ROW]
    python -m benchmarks.esc10.run report

SOUNDS holds the collections, ESC-10 among them as `esc10`. A row is a way to train; `ROWS` lists
them. Rows that learn from a teacher train it first, on the same clips; rows that start from an
encoder pre-train it first, on all collections without their labels, and without any sound by an
author of the test fold.

`tune` trains on three folds and validates on the one after the test fold, which stays unseen; the
results are on record in benchmarks/esc10/tuning.csv. `final` trains on all four other folds for a
fixed number of epochs, scores the test fold once, keeps the predictions under
benchmarks/esc10/ROW/ and, of the first seed, weights in half precision, and writes the look
down in benchmarks/test_fold_looks.csv. What is on record is not run again. `together` takes the
mean of the scores of several seeds, and is a look of its own, at ROW-together. `check` repeats the
scoring of the kept weights through `atgnn tag`, which is no new look, and must find the predictions
on record. `report` prints every row on record: folds, seeds, their mean, and the interval from
resampling authors.
"""

import argparse
import csv
import datetime
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from atgnn.data.clips import Clip, Clips
from atgnn.metrics import cluster_interval, evaluate_scores
from atgnn.scoring import ScoreTable
from atgnn.tagger import Tagger
from benchmarks import records, runs
from benchmarks.pretrain.clips import unlabelled

HERE = Path(__file__).parent

LOOKS = HERE.parent / "test_fold_looks.csv"
TUNING = HERE / "tuning.csv"
FOLDS = (1, 2, 3, 4, 5)
KEPT_SEED = 1  # whose weights are kept
WRITING = Lock()  # of the tables
TIES = 3  # of a fold's 80 clips that a processor may name otherwise than the GPU of the record


@dataclass(frozen=True)
class Row:
    """A way to train: what it changes in the recipe, and what it begins with.

    `teacher` names the row whose model of the same clips and seed is learned from; `pretrained`
    rows start from an encoder that has heard all collections without their labels. With `trim_db`
    clips are scored without what is so much below their loudest 10 ms at both ends.
    """

    settings: tuple[str, ...] = ()
    teacher: str | None = None
    pretrained: bool = False
    keep: tuple[int, ...] = FOLDS  # of one seed, the folds whose weights are kept
    trim_db: float | None = None


def augment(**settings: object) -> tuple[str, ...]:
    """Settings of the augmentation."""
    return tuple(f"augment.{name}={value}" for name, value in settings.items())


def longer(epochs: int, rate: float) -> tuple[str, ...]:
    """Another length and rate."""
    return f"optim.epochs={epochs}", f"optim.learning_rate={rate}"


RECIPE_MODEL = "model={preset: mini, pooling: mean_std}"
EARLIER_MODEL = "model={preset: mini}"  # of rows that say nothing else
LITE = ("model={preset: lite0}", "init=imagenet", "residual_scale=1", *augment(masks=1))
LISTEN = ("distill.weight=0.5", "distill.temperature=2")
SMALL = ("optim.batch_size=12", "optim.learning_rate=1e-3", "optim.weight_decay=0.05")
HEAVY = augment(trim_silence="true", fill=0.7, stretch=0.2, equalise_db=4, mixup_probability=0.5)
AVERAGED = ("ema.decay=0.99", "select=ema")
HIGH = longer(250, 1.6e-3)
POOLED = (RECIPE_MODEL, "precision=bf16-mixed")
PICTURES = ("model={preset: mini-lite0}", "init=imagenet", "precision=bf16-mixed")
ROWS = {
    # The recipe as it was at first, then with every change to the sounds at once.
    "first": Row((*SMALL, "optim.epochs=60", *augment(noise=0)), keep=()),
    "scratch": Row((*SMALL, "optim.epochs=120", *HEAVY), keep=()),
    "long-noise-slow": Row(),  # the recipe as it is, but for the head
    "averaged": Row(AVERAGED, keep=()),
    "averaged-half": Row((*AVERAGED, "precision=bf16-mixed"), keep=()),
    # The recipe as it is, in half precision: the head reads the patches' spread too. Clips are
    # scored without silence at their ends, or whole.
    "pooled-whole": Row(POOLED, keep=()),
    "pooled": Row(POOLED, trim_db=60),
    # Convolutions that have seen ImageNet, between patch blocks; and without these.
    "pictures": Row((*PICTURES, *longer(40, 8e-4)), trim_db=60, keep=(1,)),  # 12 MB each
    "pictures-alone": Row(
        ("model={preset: lite0}", *PICTURES[1:], *longer(40, 8e-4)), trim_db=60, keep=()
    ),
    "long-noise": Row((*HIGH, "optim.weight_decay=0.05")),
    "long-noise-mix": Row((*HIGH, "optim.weight_decay=0.05", *augment(mixup_probability=0.6))),
    "lite": Row((*LITE, *HEAVY, *longer(60, 5e-4), "optim.weight_decay=0.05"), keep=()),
    "lite-slow": Row((*LITE, *HEAVY, *longer(100, 2e-4), "optim.weight_decay=0.05"), keep=()),
    "distilled-noise": Row(
        (*longer(150, 1e-3), "optim.weight_decay=0.05", *LISTEN), teacher="lite-slow", keep=()
    ),
    "pretrained": Row((*longer(100, 1e-3), "optim.weight_decay=0.05", *HEAVY), pretrained=True),
    "pretrained-slow": Row(
        (*longer(100, 4e-4), "optim.weight_decay=0.05", *HEAVY), pretrained=True
    ),
    "pretrained-distilled": Row(
        (*longer(150, 1e-3), "optim.weight_decay=0.05", *HEAVY, *LISTEN),
        teacher="lite",
        pretrained=True,
    ),
}
PRETRAIN = ("optim.steps=1500", "optim.warmup_steps=150", "optim.report_every=250")


def after(fold: int) -> int:
    """The fold that validates when `fold` is the test fold."""
    return fold % len(FOLDS) + 1


# ---------------------------------------------------------------------- training


@dataclass(frozen=True)
class Where:
    """Sounds, runs, and threads of each run."""

    data: Path
    out: Path
    threads: int = 1

    @property
    def clips(self) -> Path:
        """ESC-10."""
        return self.data / "esc10"


def model_of(where: Where, name: str, fold: int, seed: int, validation: int | None = None) -> Path:
    """The model of a row, trained if it is not there, without the test fold and what validates."""
    row = ROWS[name]
    settings = [EARLIER_MODEL, *row.settings, f"seed={seed}"]
    if validation is not None:
        settings.append(f"data.validation={{fold: {validation}}}")
    if row.pretrained:
        settings.append(f"init={encoder_of(where, fold)}")
    if row.teacher:
        teacher = model_of(where, row.teacher, fold, seed, validation)
        settings.append(f"distill.teacher={teacher}")
    out = where.out / run_name(name, fold, seed, validation)
    with busy(out):
        return train(where.clips, fold, out, settings, where.threads)


def run_name(name: str, fold: int, seed: int, validation: int | None) -> str:
    """Of a run's folder."""
    return f"{name}-seed{seed}-fold{fold}" + ("" if validation is None else "-tune")


def encoder_of(where: Where, fold: int) -> Path:
    """An encoder that has heard no author of a fold, pre-trained if it is not there."""
    out = where.out / f"encoder-fold{fold}"
    with busy(out):
        return runs.pretrain(unlabelled(where.data, fold), out, [*PRETRAIN], where.threads)


_busy: dict[Path, Lock] = defaultdict(Lock)


def busy(out: Path) -> Lock:
    """Held while a run is at work: two rows may need the same one."""
    return _busy[out]


def train(data: Path, fold: int, out: Path, settings: list[str], threads: int) -> Path:
    """One run of the esc10 recipe; an interrupted one goes on."""
    where = [f"data.clips={data}", f"data.test={{fold: {fold}}}"]
    return runs.train("esc10", out, [*where, *settings], threads)


def predict(name: str, model: Path, data: Path, fold: int) -> list[dict[str, str]]:
    """What `atgnn tag` names first for each clip of a fold, as a row has it."""
    clips = list(Clips.read(data).where(fold=fold))
    command = [sys.executable, "-m", "atgnn", "tag", "--json", "--top", "1", "--threshold", "0"]
    if ROWS[name].trim_db is not None:
        command += ["--trim-silence", str(ROWS[name].trim_db)]
    command += ["--model", str(model), *(str(clip.path) for clip in clips)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    named = {}
    for line in printed.splitlines():
        record = json.loads(line)
        named[Path(record["path"]).name] = record["tags"][0]
    tags = [named[clip.path.name] for clip in clips]
    return predictions(clips, fold, [(tag["label"], tag["score"]) for tag in tags])


def predictions(clips: list[Clip], fold: int, named: list[tuple[str, float]]) -> list[dict]:
    """Rows of a record: for each clip of a fold what it is, and what was named with which score."""
    return [
        {
            "fold": str(fold),
            "filename": clip.path.name,
            "author": clip.extra["author"],
            "category": clip.extra["category"],
            "predicted": label,
            "score": f"{score:.4f}",
        }
        for clip, (label, score) in zip(clips, named, strict=True)
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


def tune(args: argparse.Namespace) -> None:
    """Train on three folds, validate on the fourth; every result is kept."""
    todo = [(name, seed, test) for name in args.rows for seed in args.seeds for test in args.tests]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda one: tune_one(args, *one), todo))
    tuned()


def tune_one(args: argparse.Namespace, name: str, seed: int, test: int) -> None:
    """One run and its row in the table, unless it is there."""
    key = {"row": name, "seed": str(seed), "test": str(test), "validation": str(after(test))}
    if records.has(TUNING, key):
        return
    model = model_of(where(args), name, test, seed, after(test))
    found = judged(name, model, args.data / "esc10", after(test))
    with WRITING, open(TUNING, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*key, "accuracy", "mAP"), lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerow({**key, **{name: f"{found[name]:.4f}" for name in ("accuracy", "mAP")}})
    print(f"{name}, seed {seed}, fold {after(test)}: {found['accuracy']:.4f}", flush=True)


def judged(name: str, model: Path, data: Path, fold: int) -> dict[str, float]:
    """Accuracy and mAP of a model on a fold that validates, scored as its row is."""
    clips = Clips.read(data).where(fold=fold).labelled_by("category")
    scores = scored(name, model, clips)
    truth = clips.targets(scores.labels) == 1
    found = evaluate_scores(truth.astype(float), scores.values, scores.labels, single_label=True)
    return {"accuracy": found.accuracy, "mAP": found.mean_ap}


def scored(name: str, model: Path, clips: Clips) -> ScoreTable:
    """The scores of clips, heard as a row has it."""
    return ScoreTable.of(Tagger.from_pretrained(model), clips, trim_db=ROWS[name].trim_db)


def tuning() -> list[dict[str, str]]:
    """All validation results on record."""
    return records.read(TUNING)


def tuned(_: argparse.Namespace | None = None) -> None:
    """The mean of each row on validation folds."""
    for name in dict.fromkeys(row["row"] for row in tuning()):
        rows = [row for row in tuning() if row["row"] == name]
        mean, precision = (np.mean([float(r[key]) for r in rows]) for key in ("accuracy", "mAP"))
        each = " ".join(f"{row['test']}>{row['validation']}:{row['accuracy']}" for row in rows)
        print(f"{name}: accuracy {mean:.4f}, mAP {precision:.4f}  ({each})")


def finish(args: argparse.Namespace, seed: int, fold: int) -> None:
    """Train on four folds, score the fifth once, write the look down."""
    path = record_path(args.row, seed, fold)
    if path.is_file():
        return
    model = model_of(where(args), args.row, fold, seed)
    rows = predict(args.row, model, args.data / "esc10", fold)
    if seed == KEPT_SEED and fold in ROWS[args.row].keep:
        shutil.copytree(model, kept_weights(args.row, fold), dirs_exist_ok=True)
    keep(path, rows, f"row {args.row}, seed {seed}", f"final --row {args.row}")


def keep(path: Path, rows: list[dict[str, str]], what: str, command: str) -> None:
    """Write a look at a test fold down, and its predictions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fold, share = rows[0]["fold"], f"{accuracy(rows):.4f}"
    with WRITING, open(LOOKS, "a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(
            [
                datetime.date.today().isoformat(),
                "ESC-10",
                fold,
                f"accuracy: {what}, trained on the other four folds",
                share,
                f"python -m benchmarks.esc10.run {command}",
            ]
        )
    records.write(path, list(rows[0]), rows)
    print(f"{what}, fold {fold}: {share}", flush=True)


def together(args: argparse.Namespace) -> None:
    """Mean scores of several seeds' models, as one row more."""
    seeds = " ".join(map(str, args.seeds))
    for fold in args.folds:
        path = record_path(f"{args.row}-together", KEPT_SEED, fold)
        if path.is_file():
            continue
        clips = Clips.read(args.data / "esc10").where(fold=fold).labelled_by("category")
        models = [model_of(where(args), args.row, fold, seed) for seed in args.seeds]
        tables = [scored(args.row, model, clips) for model in models]
        mean = np.mean([table.aligned(clips, tables[0].labels) for table in tables], axis=0)
        best = [tables[0].labels[column] for column in mean.argmax(axis=1)]
        rows = predictions(list(clips), fold, list(zip(best, mean.max(axis=1), strict=True)))
        what = f"row {args.row}, mean scores of seeds {seeds}"
        keep(path, rows, what, f"together --row {args.row} --seeds {seeds}")
    report(args)


def where(args: argparse.Namespace) -> Where:
    """From the command line."""
    return Where(args.data, args.out.resolve(), args.threads)


def final(args: argparse.Namespace) -> None:
    """All seeds and folds, a few at a time."""
    args.out.mkdir(parents=True, exist_ok=True)
    todo = [(seed, fold) for seed in args.seeds for fold in args.folds]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda one: finish(args, *one), todo))
    report(args)


def check(args: argparse.Namespace) -> None:
    """The kept weights must give the predictions on record, near-ties on another device apart."""
    folds = [fold for fold in FOLDS if kept_weights(args.row, fold).is_dir()]
    if not folds:
        kept = [name for name in ROWS if kept_weights(name, FOLDS[0]).is_dir()]
        sys.exit(f"no weights of row {args.row} are kept: choose from {', '.join(kept)}")
    for fold in folds:
        then = records.read(record_path(args.row, KEPT_SEED, fold))
        now = predict(args.row, kept_weights(args.row, fold), args.data / "esc10", fold)
        differ = sum(a["predicted"] != b["predicted"] for a, b in zip(now, then, strict=True))
        print(f"fold {fold}: {accuracy(now):.4f}, {differ} predictions differ from the record")
        if differ > TIES:
            sys.exit(1)


def report(args: argparse.Namespace) -> None:
    """Every row on record: folds and seeds, mean, and interval from resampling authors."""
    for row in sorted({path.parents[1].name for path in HERE.glob("*/seed*/fold*.csv")}):
        rows = []
        for seed in sorted(HERE.glob(f"{row}/seed*"), key=lambda path: int(path.name[4:])):
            parts = [records.read(path) for path in sorted(seed.glob("fold*.csv"))]
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
    for name, function in {
        "tune": tune, "tuned": tuned, "final": final, "together": together, "check": check,
        "report": report,
    }.items():  # fmt: skip
        command = commands.add_parser(name, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        if name in ("tune", "final", "together", "check"):
            command.add_argument("--data", type=Path, required=True, help="the collections")
        if name in ("tune", "final", "together"):
            command.add_argument("--out", type=Path, required=True, help="folder for the runs")
            command.add_argument("--threads", type=int, default=1, help="threads of each run")
            command.add_argument("--jobs", type=int, default=1, help="runs at a time")
            command.add_argument("--seeds", type=int, nargs="+", default=[1])
        if name in ("final", "together", "check"):
            command.add_argument("--row", choices=ROWS, default="pooled", help="which row")
    tune_options = commands.choices["tune"]
    tune_options.add_argument("--rows", nargs="+", choices=ROWS, required=True)
    tune_options.add_argument("--tests", type=int, nargs="+", default=[1, 3], help="test folds")
    for name in ("final", "together"):
        commands.choices[name].add_argument("--folds", type=int, nargs="+", default=FOLDS)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
