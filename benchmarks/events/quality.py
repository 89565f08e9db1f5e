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
import csv
import datetime
import functools
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from atgnn.data.clips import Clips
from atgnn.data.scenes.making import Wishes, make_scenes
from atgnn.data.scenes.settings import SceneSettings
from atgnn.events import EventSettings, curve, events_in
from atgnn.tagger import Scores, Tagger

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
ONS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
OFF_SHARES = (0.3, 0.5, 0.7, 1.0)
PSDS1 = {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_ct": 0.0, "alpha_st": 1.0}
PSDS2 = {
    **{"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3},
    **{"alpha_ct": 0.5, "alpha_st": 1.0},
}
COLLAR = {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.2}
COLUMNS = ("settings", "fold", "psds1", "psds2", "f1", "f1_half_second", "off_share")


class _Frame(pandas.DataFrame):
    """Gives arrays that can be written to, as sed_scores_eval expects and pandas 3 does not."""

    @property
    def _constructor(self) -> Any:
        return _Frame

    def to_numpy(self, *args: Any, **more: Any) -> np.ndarray:
        """A copy."""
        return super().to_numpy(*args, copy=True, **more)


@dataclass(frozen=True)
class Fold:
    """Scenes of one fold, their truth, and what the model that never heard it says of them."""

    tagger: Tagger
    truth: dict[str, list[tuple[float, float, str]]]
    scores: dict[str, Scores]

    @property
    def durations(self) -> dict[str, float]:
        """Seconds of every scene."""
        return {name: one.duration for name, one in self.scores.items()}


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
    events = pandas.read_csv(folder / "events.csv")
    paths = sorted((folder / "audio").glob("*.flac"))
    model = HERE.parent / "esc10" / "first" / "seed1" / f"fold{fold}"
    tagger = Tagger.from_pretrained(model, "cpu")
    scored = tagger.score_many(paths, window=settings.window_s, hop=settings.hop_s)
    scores = {path.name: one for path, one in zip(paths, scored, strict=True)}
    truth = {
        path.name: [
            (row.onset, min(row.offset, scores[path.name].duration), row.label)
            for row in events[events["scene"] == path.name].itertuples()
        ]
        for path in paths
    }
    return Fold(tagger, truth, scores)


def curves(fold: Fold, settings: EventSettings) -> dict[str, _Frame]:
    """Scores over time, as sed_scores_eval takes them."""
    return {
        name: _frame(
            fold, [(s.start, s.end, s.scores) for s in curve(one, fold.tagger.checkpoint, settings)]
        )
        for name, one in fold.scores.items()
    }


def found(fold: Fold, settings: EventSettings) -> dict[str, _Frame]:
    """Events, as scores that are 1 where they are and 0 elsewhere."""
    out = {}
    for name, scores in fold.scores.items():
        events = events_in(scores, fold.tagger.checkpoint, settings)
        borders = {0.0, scores.duration, *(t for e in events for t in (e.start, e.end))}
        edges = sorted(borders)
        rows = []
        for start, end in itertools.pairwise(edges):
            there = {e.label for e in events if e.start <= start and end <= e.end}
            rows.append((start, end, np.array([1.0 * (x in there) for x in fold.tagger.labels])))
        out[name] = _frame(fold, rows)
    return out


def _frame(fold: Fold, rows: list[tuple[float, float, np.ndarray]]) -> _Frame:
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    edges = np.array([rows[0][0], *(end for _, end, _ in rows)])
    scores = np.array([row for _, _, row in rows], dtype=np.float64)
    return _Frame(create_score_dataframe(scores, edges, list(fold.tagger.labels)))


def f1(fold: Fold, settings: EventSettings, **collar: float) -> dict[str, float]:
    """Collar-based F1 of each label, and their mean as ``macro_average``."""
    from sed_scores_eval import collar_based

    values = collar_based.fscore(
        found(fold, settings), fold.truth, 0.5, **{**COLLAR, **collar}
    )[0]  # fmt: skip
    return {name: float(np.nan_to_num(value)) for name, value in values.items()}


def chosen(fold: Fold, settings: EventSettings) -> EventSettings:
    """Thresholds with the best collar-based F1 on these scenes."""
    best, best_f1 = settings, -1.0
    for share in OFF_SHARES:
        runs = {on: f1(fold, _with(settings, on, share)) for on in ONS}
        own = {name: max(ONS, key=lambda on, n=name: runs[on][n]) for name in fold.tagger.labels}
        mean = float(np.mean([runs[own[name]][name] for name in own]))
        if mean > best_f1:
            best, best_f1 = _with(settings, own, share), mean
    return best


def _with(settings: EventSettings, on: Any, share: float) -> EventSettings:
    return settings.model_copy(update={"on": on, "off_share": share})


def measured(data: Path, fold: int, out: Path, name: str) -> dict[str, Any]:
    """All figures of one fold."""
    from sed_scores_eval import intersection_based

    settings = plan(name)
    tuned = chosen(heard(data, after(fold), out, name), settings)
    own = heard(data, fold, out, name)
    lines, where = curves(own, settings), (own.truth, own.durations)
    psds1 = intersection_based.psds(lines, *where, **PSDS1, max_efpr=100.0)[0]
    psds2 = intersection_based.psds(lines, *where, **PSDS2, max_efpr=100.0)[0]
    wide = {"onset_collar": 0.5, "offset_collar": 0.5}
    figures = {
        "psds1": psds1,
        "psds2": psds2,
        "f1": f1(own, tuned)["macro_average"],
        "f1_half_second": f1(own, tuned, **wide)["macro_average"],
        "off_share": tuned.off_share,
    }
    return {"settings": name, "fold": fold, **{k: f"{v:.3f}" for k, v in figures.items()}}


def on_record() -> list[dict[str, str]]:
    """Rows of results.csv."""
    if not RESULTS.is_file():
        return []
    with open(RESULTS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(args: argparse.Namespace) -> None:
    """Measure what is not on record."""
    known = {(row["settings"], int(row["fold"])) for row in on_record()}
    for name in args.settings:
        for fold in args.folds:
            if (name, fold) in known:
                continue
            row = measured(args.data, fold, args.out, name)
            _append(RESULTS, row.values(), COLUMNS)
            what = f"events: PSDS1 on scenes of authors unheard, settings {name}"
            command = f"python -m benchmarks.events.quality run --settings {name}"
            today = datetime.date.today().isoformat()
            _append(LOOKS, (today, "ESC-10 scenes", fold, what, row["psds1"], command))
            print(*row.values(), flush=True)
    report(args)


def _append(path: Path, row: Any, header: Any = None) -> None:
    new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(header)
        writer.writerow(list(row))


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
