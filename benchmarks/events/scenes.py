"""Events by a model that was trained on scenes, beside the same model before; and why.

    python -m benchmarks.events.scenes train --data SOUNDS --out RUNS --init MODEL
    python -m benchmarks.events.scenes tune  --data SOUNDS --out RUNS --init MODEL
    python -m benchmarks.events.scenes run   --data SOUNDS --out RUNS --init MODEL
    python -m benchmarks.events.scenes oracle --data SOUNDS --out RUNS
    python -m benchmarks.events.scenes report

The clips, and their folds by author over all collections, are those of `everyday-mini`
(benchmarks/everyday/clips.py). Scenes of 10 s with 1 to 5 events over noise are mixed, as `atgnn
prepare scenes` does by default, from clips with one of `LABELS`: those with two clips in each fold,
without their ancestors. MODEL is of folds 3 to 5 alone (RUNS/apart-2/model, which
benchmarks/everyday/fit.py train makes). `train` goes on with it on scenes of folds 3 to 5, by the
recipe `scenes`. `tune` compares ways to read and smooth on scenes of fold 2, `run` takes thresholds
from there and measures on scenes of fold 1, which nothing here has heard; also how well whole clips
of fold 1 are tagged. `oracle` blurs the truth: what a detector that makes no mistake would get.

Each new figure of fold 1 is a row of benchmarks/test_fold_looks.csv.
"""

import argparse
import datetime
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from atgnn.checkpoint import Checkpoint
from atgnn.data import Clips
from atgnn.data.scenes.making import Wishes, make_scenes
from atgnn.data.scenes.settings import SceneSettings
from atgnn.evaluate import evaluate
from atgnn.events import EventSettings, Listening
from atgnn.tagger import Tagger
from benchmarks import records, runs
from benchmarks.events import measures
from benchmarks.events.measures import Fold, append, chosen, read_truth
from benchmarks.everyday.clips import build

HERE = Path(__file__).parent

RESULTS, TUNING = HERE / "scenes.csv", HERE / "scenes_tuning.csv"
LOOKS = HERE.parent / "test_fold_looks.csv"
TEST, VALIDATION, TRAIN = 1, 2, (3, 4, 5)
LABELS = (
    "Baby_cry_and_infant_cry",
    "Bark",
    "Bass_drum",
    "Chainsaw",
    "Crackle",
    "Crowing_and_cock-a-doodle-doo",
    "Door",
    "Helicopter",
    "Hi-hat",
    "Rain",
    "Shatter",
    "Sneeze",
    "Thump_and_thud",
    "Tick",
    "Walk_and_footsteps",
    "Waves_and_surf",
)
JUDGED, LEARNED = 100, 800  # scenes of a fold
SETTINGS = ("precision=bf16-mixed", "optim.epochs=3", "optim.warmup_steps=30", "workers=1")
BLURS = (0.0, 0.32, 0.64, 1.0, 2.0, 3.0)  # s
READINGS: dict[str, dict[str, Any]] = {
    "windows 2 s": {"reading": "windows"},
    "windows 1 s": {"reading": "windows", "window_s": 1.0},
    "moments": {"reading": "moments"},
}
GAPS = (0.0, 0.5)  # s, of which one is chosen with the thresholds
FIGURES = ("psds1", "psds2", "f1", "f1_half_second")


@contextmanager
def _quiet(_: int) -> Iterator[Any]:
    yield lambda done: None


class Shop:
    """Clips, scenes and models, each made once."""

    def __init__(self, data: Path, out: Path, init: Path | None, threads: int = 1) -> None:
        self.data, self.out, self.init, self.threads = data, out.resolve(), init, threads
        self.out.mkdir(parents=True, exist_ok=True)

    def clips(self) -> Clips:
        """All clips, with folds by author."""
        table = self.out / "clips.csv"
        if not table.is_file():
            build(self.data).clips.write(table)
        return Clips.read(table)

    def scenes(self, folds: tuple[int, ...]) -> Path:
        """Scenes of these folds; packed to learn from, as files to be judged."""
        name = "".join(map(str, folds))
        folder = self.out / f"scenes{name}"
        if not folder.exists():
            judged = len(folds) == 1
            table = self.clips().where(fold=list(folds)).write(self.out / f"fold{name}.csv")
            wishes = Wishes(
                str(table),
                count=JUDGED if judged else LEARNED,
                labels=LABELS,
                form="flac" if judged else "packed",
            )
            settings = SceneSettings.of(seed=folds[0], unmarked="absent")
            make_scenes(wishes, settings, folder, self.threads, _quiet)
        return folder

    def model(self, name: str) -> Path:
        """The model before ("init"), after ("scenes"), or the one that ships."""
        if name == "everyday-mini":
            return Path(name)
        if self.init is None:
            raise SystemExit("add --init MODEL")
        if name == "init":
            return self.init
        scenes = self.scenes(TRAIN)
        settings = [
            f"data.clips={scenes / 'packed'}",
            f"moments.events={scenes / 'events.csv'}",
            f"init={self.init.resolve()}",
            *SETTINGS,
        ]
        return runs.train("scenes", self.out / "scenes-run", settings, self.threads)

    @functools.cache  # noqa: B019, one shop for a command
    def heard(self, name: str, fold: int, reading: str) -> Fold:
        """What a model says of the scenes of a fold."""
        folder = self.scenes((fold,))
        paths = sorted((folder / "audio").glob("*.flac"))
        checkpoint = Checkpoint.from_pretrained(self.model(name))
        if reading == "moments":  # also of a model that never learned to: what would it say?
            checkpoint = checkpoint.changed(moments=True)
        tagger = Tagger(checkpoint, "cpu")
        listening = Listening(tagger, EventSettings(**READINGS[reading]))
        scores = {
            path.name: one for path, one in zip(paths, listening.score_many(paths), strict=True)
        }
        truth = read_truth(folder, {key: one.duration for key, one in scores.items()})
        return Fold(tagger, truth, scores, LABELS)


def plan(reading: str, **more: Any) -> EventSettings:
    """Settings before thresholds are chosen; what labels imply is not left out."""
    return EventSettings(ancestors=True, **READINGS[reading], **more)


def systems() -> list[tuple[str, str]]:
    """Models and readings that belong together."""
    return [("everyday-mini", "windows 2 s"), *product(("init", "scenes"), READINGS)]


def tune(args: argparse.Namespace) -> None:
    """All ways on the scenes of the validation fold, thresholds chosen there."""
    shop = _shop(args)
    known = {(row["model"], row["reading"]) for row in on_record(TUNING)}
    for name, reading in systems()[1:]:
        if (name, reading) in known:
            continue
        fold = shop.heard(name, VALIDATION, reading)
        tuned = chosen(fold, plan(reading), GAPS)
        found = measures.figures(fold, plan(reading), tuned)
        row = [name, reading, tuned.gap_s, tuned.off_share, *(f"{found[k]:.3f}" for k in FIGURES)]
        append(TUNING, row, ("model", "reading", "gap_s", "off_share", *FIGURES))
        print(*row, flush=True)


def run(args: argparse.Namespace) -> None:
    """The test fold, each system once."""
    shop = _shop(args)
    known = {(row["model"], row["reading"]) for row in on_record()}
    for name, reading in systems():
        if (name, reading) in known:
            continue
        tuned = chosen(shop.heard(name, VALIDATION, reading), plan(reading), GAPS)
        found = measures.figures(shop.heard(name, TEST, reading), plan(reading), tuned)
        row = [name, reading, *(f"{found[key]:.3f}" for key in FIGURES), tagged(shop, name)]
        append(RESULTS, row, ("model", "reading", *FIGURES, "clip_mAP"))
        what = f"PSDS1 on scenes of authors unheard, model {name} by {reading}"
        command = "python -m benchmarks.events.scenes run"
        today = datetime.date.today().isoformat()
        append(LOOKS, (today, "everyday scenes", TEST, what, f"{found['psds1']:.3f}", command))
        print(*row, flush=True)
    report(args)


def tagged(shop: Shop, name: str) -> str:
    """Macro mAP of whole clips of the test fold, over the labels that all models know."""
    clips = shop.clips().where(fold=TEST)
    checkpoint = Checkpoint.from_pretrained(shop.model(name))
    metrics = evaluate(checkpoint, clips, ignore_unknown_labels=True, resamples=1).metrics
    own = {one.label: one.average_precision for one in metrics.per_class}
    return f"{np.mean([own[label] for label in LABELS]):.3f}"


def oracle(args: argparse.Namespace) -> None:
    """The truth of the validation fold, blurred by windows of so many seconds."""
    folder = _shop(args).scenes((VALIDATION,))
    names = sorted(path.name for path in (folder / "audio").glob("*.flac"))
    truth = read_truth(folder, dict.fromkeys(names, 10.0))
    for width in BLURS:
        lines = {name: blurred(events, width) for name, events in truth.items()}
        found = measures.psds(lines, truth, dict.fromkeys(names, 10.0))
        print(f"blurred by {width:.2f} s: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))


def blurred(events: list[tuple[float, float, str]], width: float, step: float = 0.1) -> Any:
    """What windows of this length would say of a scene of 10 s, the share of each in an event."""
    centres = np.arange(0, 10, step) + step / 2
    reach = max(width, step) / 2
    low, high = centres - reach, centres + reach
    scores = np.zeros((len(centres), len(LABELS)))
    for onset, offset, label in events:
        part = (np.minimum(high, offset) - np.maximum(low, onset)).clip(min=0) / (2 * reach)
        scores[:, LABELS.index(label)] = np.minimum(1, scores[:, LABELS.index(label)] + part)
    rows = [(c - step / 2, c + step / 2, one) for c, one in zip(centres, scores, strict=True)]
    return measures.frame(LABELS, rows)


def train(args: argparse.Namespace) -> None:
    """Go on with the model on scenes."""
    print(_shop(args).model("scenes"))


def on_record(path: Path = RESULTS) -> list[dict[str, str]]:
    """Rows of scenes.csv, or of scenes_tuning.csv."""
    return records.read(path)


def report(_: argparse.Namespace | None = None) -> None:
    """What is on record."""
    for path in (TUNING, RESULTS):
        if path.is_file():
            print(f"{path.name}:")
            print(pandas.read_csv(path, dtype=str).to_string(index=False))


def _shop(args: argparse.Namespace) -> Shop:
    return Shop(args.data, args.out, args.init, args.threads)


COMMANDS: tuple[Callable[[argparse.Namespace], None], ...] = (train, tune, run, oracle)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for function in COMMANDS:
        command = commands.add_parser(function.__name__, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        command.add_argument("--data", type=Path, required=True, help="the collections")
        command.add_argument("--out", type=Path, required=True, help="folder for scenes and runs")
        command.add_argument("--init", type=Path, help="the model to go on with")
        command.add_argument("--threads", type=int, default=1)
    commands.add_parser("report", help="print what is on record").set_defaults(run=report)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
