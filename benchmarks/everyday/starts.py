"""What a start is worth for a folder of one's own sounds: the recipe `folder` on ESC-10's classes.

    python -m benchmarks.everyday.starts run --data SOUNDS --out RUNS [--counts 5 20 --folds 0]
    python -m benchmarks.everyday.starts report

Folds are by author; networks learn from 5 or 20 clips of each class of the other folds and name the
clips of one. Starts:

- `mini`: random weights;
- `mini, everyday`: RUNS/everyday-mini/elsewhere-esc10, which stands for `everyday-mini`: taught the
  other collections, but no clip of ESC-10 nor of its authors (fit.py). Its encoder had listened to
  ESC-10 without labels;
- `mini-lite0, imagenet`: ImageNet's weights in the convolutions;
- `mini-lite0, everyday`: RUNS/everyday-lite0/elsewhere-esc10, which stands for `everyday-lite0`. It
  never heard anything of ESC-10.

The recipe chooses its epoch on a tenth of the authors that teach. The record is starts.csv.
"""

import argparse
from pathlib import Path

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.data import Clips
from atgnn.evaluate import evaluate
from benchmarks import records, runs
from benchmarks.learn.heard import draw, esc10, folds_by_author

RECORD = Path(__file__).with_name("starts.csv")
FIELDS = ("start", "clips a class", "fold", "accuracy", "mAP")
LITE = "model.preset=mini-lite0"
STARTS = {
    "mini": (),
    "mini, everyday": ("init={out}/everyday-mini/elsewhere-esc10/model",),
    "mini-lite0, imagenet": (LITE, "init=imagenet"),
    "mini-lite0, everyday": (LITE, "init={out}/everyday-lite0/elsewhere-esc10/model"),
}


def run(args: argparse.Namespace) -> None:
    """Train and score what is not on record."""
    out = args.out.resolve()
    clips = esc10(args.data).labelled_by("category")  # one a clip, in words of one's own
    labels, folds = np.asarray(clips.column("category"), str), folds_by_author(clips)
    for fold in args.folds:
        known, scored = np.flatnonzero(folds != fold), clips.subset(folds == fold)
        for count in args.counts:
            taught = clips.subset(known[draw(labels[known], count, seed=fold)])
            for start in args.starts:
                key = {"start": start, "clips a class": str(count), "fold": str(fold)}
                if records.has(RECORD, key):
                    continue
                folder = out / "starts" / f"{start.replace(', ', '-')}-{count}-{fold}"
                figures = measured(start, out, folder, taught, scored, args)
                records.add(RECORD, FIELDS, key | figures)
    report(args)


def measured(
    start: str, out: Path, folder: Path, taught: Clips, scored: Clips, args: argparse.Namespace
) -> dict[str, str]:
    """One run and its figures."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings = [
        f"data.clips={taught.write(Path(f'{folder}.csv'))}",
        *("task=single_label", "data.ontology=false"),
        *(one.format(out=out) for one in STARTS[start]),
        *args.set,
    ]
    model = runs.train("folder", folder, settings, args.threads)
    metrics = evaluate(Checkpoint.from_pretrained(model), scored, resamples=1).metrics
    return {"accuracy": f"{metrics.accuracy:.4f}", "mAP": f"{metrics.mean_ap:.4f}"}


def report(_: argparse.Namespace) -> None:
    """The record as a table: means over folds."""
    found = records.read(RECORD)
    print("| start | clips a class | folds | accuracy | mAP |\n|---|---:|---:|---:|---:|")
    for start, count in dict.fromkeys((row["start"], row["clips a class"]) for row in found):
        same = [r for r in found if (r["start"], r["clips a class"]) == (start, count)]
        accuracy, mean_ap = (np.mean([float(r[f]) for r in same]) for f in FIELDS[3:])
        print(f"| {start} | {count} | {len(same)} | {100 * accuracy:.1f} | {mean_ap:.3f} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    commands.add_parser("report", help=report.__doc__).set_defaults(run=report)
    command = commands.add_parser("run", help=run.__doc__)
    command.set_defaults(run=run)
    command.add_argument("--data", type=Path, required=True, help="the collections")
    command.add_argument("--out", type=Path, required=True, help="folder for the runs")
    command.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    command.add_argument("--counts", type=int, nargs="+", default=[5, 20])
    command.add_argument("--folds", type=int, nargs="+", default=[0])
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--set", nargs="*", default=[], help="further settings of the recipe")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
