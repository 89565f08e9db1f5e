"""How well events are found in scenes of authors that the model never heard.

    python -m benchmarks.events.quality run --data ESC10 --out RUNS [--folds 1 3 4 5]
    python -m benchmarks.events.quality report

For each fold of ESC-10, scenes of 10 s with 1 to 5 events over noise, as `atgnn prepare scenes`
makes them by default, are mixed from clips of that fold whose authors are in no other. The model is
the kept one of that test fold (`benchmarks/esc10/first`). Thresholds for a fold are chosen on the
scenes of the next fold with that fold's model, for collar-based F1; so no test scene has a say.
What a score of a stretch is (the weighted mean over windows), the window and the step were chosen
on the scenes of fold 2, which therefore has no part in the mean.

PSDS 1 and 2 (intersection-based, all thresholds) and collar-based F1 (0.2 s, or 20 % of the length
for ends) are those of DCASE, by sed_scores_eval. `run` writes each new figure to results.csv and
to benchmarks/test_fold_looks.csv.
"""

import argparse
import datetime
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from atgnn.data.clips import Clips
from atgnn.data.scenes.making import Wishes, make_scenes
from atgnn.data.scenes.settings import SceneSettings
from atgnn.events import EventSettings
from atgnn.tagger import Tagger
from benchmarks import records
from benchmarks.events import measures
from benchmarks.events.measures import Fold, append, chosen, read_truth

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
LOOKS = HERE.parent / "test_fold_looks.csv"
FOLDS = (1, 2, 3, 4, 5)
DEV = 2  # on whose scenes the settings were chosen
COUNT = 60  # scenes of a fold
SETTINGS = {
    "events": {"window_s": 2.0, "hop_s": 0.5},
    "fine": {"window_s": 2.0, "hop_s": 0.25},
    "windows": {"window_s": 2.0, "hop_s": 2.0},  # no overlap
    "whole": {"window_s": 10.0, "hop_s": 10.0},  # a tag is an event as long as the scene
}
COLUMNS = ("settings", "fold", "psds1", "psds2", "f1", "f1_half_second", "off_share")


def plan(name: str) -> EventSettings:
    """The settings called so, before thresholds are chosen."""
    return EventSettings(ancestors=True, **SETTINGS[name])


def after(fold: int) -> int:
    """The fold on whose scenes the thresholds for another are chosen."""
    return fold % len(FOLDS) + 1


def author_disjoint(data: Path, fold: int) -> pandas.DataFrame:
    """Rows of a fold whose authors have clips in no other."""
    clips = Clips.read(data)
    table = clips.table
    author = table["author"].str.strip().str.lower()
    alone = table.groupby(author)["fold"].transform("nunique") == 1
    return table[(table["fold"] == fold) & alone]


@contextmanager
def _quiet(_: int) -> Iterator[Any]:
    yield lambda done: None


def scenes(data: Path, fold: int, out: Path) -> Path:
    """Scenes of a fold, made once."""
    folder = out / f"scenes{fold}"
    if not folder.exists():
        rows = author_disjoint(data, fold)
        own = rows[["path", "category", "author"]].assign(
            path=[str(Path(path).resolve()) for path in rows["path"]],
            labels=[";".join(labels) for labels in rows["labels"]],
        )
        out.mkdir(parents=True, exist_ok=True)
        own.to_csv(out / f"clips{fold}.csv", index=False)
        wishes = Wishes(
            str(out / f"clips{fold}.csv"), count=COUNT, label_column="category", form="flac"
        )
        make_scenes(wishes, SceneSettings.of(seed=fold), folder, 1, _quiet)
    return folder


@functools.cache
def heard(data: Path, fold: int, out: Path, name: str) -> Fold:
    """Score a fold's scenes; they serve as test scenes of one fold and to choose for another."""
    settings = plan(name)
    folder = scenes(data, fold, out)
    paths = sorted((folder / "audio").glob("*.flac"))
    model = HERE.parent / "esc10" / "first" / "seed1" / f"fold{fold}"
    tagger = Tagger.from_pretrained(model, "cpu")
    scored = tagger.score_many(paths, window=settings.window_s, hop=settings.hop_s)
    scores = {path.name: one for path, one in zip(paths, scored, strict=True)}
    truth = read_truth(folder, {name: one.duration for name, one in scores.items()})
    return Fold(tagger, truth, scores, tagger.labels)


def measured(data: Path, fold: int, out: Path, name: str) -> dict[str, Any]:
    """All figures of one fold."""
    settings = plan(name)
    tuned = chosen(heard(data, after(fold), out, name), settings)
    own = heard(data, fold, out, name)
    figures = {**measures.figures(own, settings, tuned), "off_share": tuned.off_share}
    return {"settings": name, "fold": fold, **{k: f"{v:.3f}" for k, v in figures.items()}}


def on_record() -> list[dict[str, str]]:
    """Rows of results.csv."""
    return records.read(RESULTS)


def run(args: argparse.Namespace) -> None:
    """Measure what is not on record."""
    known = {(row["settings"], int(row["fold"])) for row in on_record()}
    for name in args.settings:
        for fold in args.folds:
            if (name, fold) in known:
                continue
            row = measured(args.data, fold, args.out, name)
            append(RESULTS, row.values(), COLUMNS)
            what = f"events: PSDS1 on scenes of authors unheard, settings {name}"
            command = f"python -m benchmarks.events.quality run --settings {name}"
            today = datetime.date.today().isoformat()
            append(LOOKS, (today, "ESC-10 scenes", fold, what, row["psds1"], command))
            print(*row.values(), flush=True)
    report(args)


def report(_: argparse.Namespace | None = None) -> None:
    """Means over the folds that had no part in choosing the settings, and every fold."""
    rows = on_record()
    figures = COLUMNS[2:6]
    print(f"{'settings':<10} {'folds':<8} " + " ".join(f"{name:>15}" for name in figures))
    for name in dict.fromkeys(row["settings"] for row in rows):
        own = [row for row in rows if row["settings"] == name]
        for row in own:
            shown = " ".join(f"{row[key]:>15}" for key in figures)
            print(f"{name:<10} {row['fold']:<8} {shown}")
        judged = [row for row in own if int(row["fold"]) != DEV]
        means = [np.mean([float(row[key]) for row in judged]) for key in figures]
        print(f"{name:<10} {'mean':<8} " + " ".join(f"{mean:>15.3f}" for mean in means))


def main(argv: list[str] | None = None) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("run", help="measure what is not on record")
    measure.add_argument("--data", type=Path, required=True, help="the ESC-10 folder")
    measure.add_argument("--out", type=Path, required=True, help="folder for the scenes")
    measure.add_argument("--folds", type=int, nargs="+", default=[f for f in FOLDS if f != DEV])
    measure.add_argument("--settings", nargs="+", choices=SETTINGS, default=["events", "whole"])
    measure.set_defaults(run=run)
    commands.add_parser("report", help="print what is on record").set_defaults(run=report)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
