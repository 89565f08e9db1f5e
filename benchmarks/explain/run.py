"""How much of the evidence lies where the event is: scenes with truth, and models new to them.

    python -m benchmarks.explain.run train   --data ESC10 --out RUNS --fold 2
    python -m benchmarks.explain.run measure --data ESC10 --out RUNS --fold 2 [--model MODEL]
    python -m benchmarks.explain.run branches --data ESC10 --out RUNS --fold 2 [--model MODEL]
    python -m benchmarks.explain.run report  RUNS

`train` makes scenes of the ten sounds of ESC-10 and trains the small model for some epochs on those
of the other folds, from the weights that are kept of ESC-10 and never heard the fold either; the
fold after it watches, the last epoch is taken. `measure` explains every event that a model hears in
new scenes of the fold, by every method of `methods.py` or those named, and with untrained weights.
`report` prints the tables, with intervals from resampling authors.

Without --model the model is that of `train`. The weights kept of ESC-10 need no training: with
--model benchmarks/esc10/long-noise-slow/seed1/foldK they are measured on pairs of sounds in 7 s
(--seconds 7 --name pairs). They say one label, so that of two sounds at most one is heard. What was
measured is kept, and the same command goes on; --until sets how far.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.data.cooccurrence import CoOccurrence
from atgnn.data.scenes import Event, Ingredients, Scene, Scenes, SceneSettings, write_scenes
from atgnn.data.scenes.choosing import parse_range
from atgnn.data.waveforms import Waveforms
from atgnn.explain.examine import Examination, Examiner
from atgnn.files import write_rows
from atgnn.metrics import evaluate_scores
from atgnn.model import ATGNN
from atgnn.model.atgnn import initialise
from atgnn.model.layers import BatchNorm
from benchmarks import records, runs
from benchmarks.explain.methods import densities, node_shares
from benchmarks.explain.report import print_report
from benchmarks.explain.scores import Truth, curves, matched, share

FOLDS = (1, 2, 3, 4, 5)
KEPT = Path(__file__).parents[1] / "esc10" / "first" / "seed1"  # weights of the ESC-10 figure
RATE = 16_000
#: For training; new scenes are like these, two events in each, from another seed.
SETTINGS: dict[str, Any] = {
    "seconds": 10.0,
    "rate": RATE,
    "events": (1, 3),
    "level_db": (5.0, 25.0),
    "background_dbfs": (-60.0, -40.0),
    "unmarked": "absent",
}
RECIPE = (
    "data.ontology=false",
    "augment.crop_seconds=10",
    "augment.mixup_probability=0",
    "augment.frequency_shift=2",
    "optim.batch_size=16",
    "optim.epochs=8",
    "select=last",
)


def scenes_of(
    clips: Clips, folds: tuple[int, ...], count: int, column: str = "category", **changes: Any
) -> Scenes:
    """Scenes of some folds, `count` of each; labels independent of one another.

    `column` names the event; where it is empty a clip's most specific label does.
    """
    clips = Clips(clips.table[clips.table["fold"].isin(folds)].reset_index(drop=True))
    settings = SceneSettings.of(**{**SETTINGS, **changes})
    ingredients = Ingredients.of(
        Waveforms(clips, settings.rate, 2.0, None), None, settings, label_column=column or None
    )
    return Scenes(ingredients, CoOccurrence.independent(ingredients.labels), count)


def train(args: argparse.Namespace) -> None:
    """A model that never hears the fold, neither now nor before."""
    scenes = args.out / "scenes"
    if not scenes.exists():
        write_scenes(
            scenes_of(Clips.read(args.data), FOLDS, args.count), scenes, threads=args.threads
        )
    settings = [
        f"data.clips={scenes / 'packed'}",
        f"data.test={{fold: {args.fold}}}",
        f"data.validation={{fold: {args.fold % len(FOLDS) + 1}}}",
        f"init={KEPT / f'fold{args.fold}'}",
        *RECIPE,
    ]
    print(runs.train("folder", args.out / f"model-{args.fold}", settings, args.threads))


# ------------------------------------------------------------------ measuring


def opened(args: argparse.Namespace) -> tuple[Checkpoint, Scenes]:
    """The model, and new scenes of the fold that it never heard."""
    checkpoint = Checkpoint.from_pretrained(args.model or args.out / f"model-{args.fold}" / "model")
    checkpoint.model.to(args.device)
    scenes = scenes_of(
        Clips.read(args.data), (args.fold,), args.count, args.label_column,
        seed=1, events=(args.events, args.events), seconds=args.seconds,
        level_db=parse_range(args.level, "level"),
        background_dbfs=parse_range(args.background, "background"),
    )  # fmt: skip
    return checkpoint, scenes


def measure(args: argparse.Namespace) -> None:
    """Every method on every event that is heard; rows go to RUNS/NAME-foldK.csv.

    Scenes whose rows are there are not measured again.
    """
    checkpoint, scenes = opened(args)
    examiner = Examiner(checkpoint)
    blank = Examiner(untrained(checkpoint, scenes, args.device))
    place = args.out / f"{args.name}-fold{args.fold}-{args.first}.csv"
    rows = records.read(place)
    done = {int(row["scene"]) for row in rows}
    for number in range(args.first, min(args.until, len(scenes)), args.every):
        if number in done:
            continue
        scene = scenes[number]
        examination = examiner.examine(spectrogram(examiner, scene, args.device))
        heard = [
            (event, label)
            for event in scene.events
            if is_heard(checkpoint, examination.logits, label := label_of(event, checkpoint))
        ]
        print(f"scene {number}: {len(heard)} of {len(scene.events)} events heard", file=sys.stderr)
        if heard:
            plain = blank if number % args.untrained == 0 else None
            rows += rows_of_scene(examination, plain, scene, heard, args.method, number)
            write_rows(place, [list(rows[0]), *(list(row.values()) for row in rows)])
    events = len({(row["scene"], row["label"]) for row in rows})
    print(json.dumps({"file": str(place), "heard": events}))


def rows_of_scene(
    examination: Examination,
    blank: Examiner | None,
    scene: Scene,
    heard: Sequence[tuple[Event, int]],
    methods: Sequence[str],
    number: int,
) -> list[dict[str, str]]:
    """Rows of every event that was heard, also with the untrained weights of `blank`."""
    plain = None if blank is None else blank.examine(examination.mel)
    names = [name for name in UNTRAINED if not methods or name in methods]
    owners = {source.name: ";".join(source.owners) for source in scene.cast.events}
    fold = scene.cast.events[0].part[1]
    rows: list[dict[str, str]] = []
    for event, label in heard:
        where = {"fold": str(fold), "scene": str(number), "label": event.label}
        where["author"] = owners[event.source]
        for row in rows_of(examination, label, event, scene, methods):
            rows.append({**where, **row})
        for row in (
            () if plain is None else rows_of(plain, label, event, scene, names, curved=False)
        ):
            rows.append({**where, **row, "method": f"{row['method']}, untrained"})
    return rows


def branches(args: argparse.Namespace) -> None:
    """What patches and label nodes are worth by themselves: mAP and spread of each logit."""
    checkpoint, scenes = opened(args)
    examiner = Examiner(checkpoint)
    logits: dict[str, list[np.ndarray]] = {"patches": [], "label nodes": [], "both": []}
    truth = np.zeros((len(scenes), len(checkpoint.vocabulary)), dtype=bool)
    for number in range(len(scenes)):
        scene = scenes[number]
        for event in scene.events:
            truth[number, label_of(event, checkpoint)] = True
        examination = examiner.examine(spectrogram(examiner, scene, args.device))
        whole = examination.logits.cpu().numpy()
        logits["label nodes"].append(np.array(examination.from_labels, dtype=float))
        logits["patches"].append(whole - logits["label nodes"][-1])
        logits["both"].append(whole)
    known = truth.any(0)
    names = [name for name, there in zip(checkpoint.vocabulary.names, known, strict=True) if there]
    for part, rows in logits.items():
        values = np.stack(rows)[:, known]
        found = evaluate_scores(truth[:, known].astype(float), values, names)
        print(f"{part}: mAP {found.mean_ap:.3f}, deviation of a logit {values.std(0).mean():.2f}")


def is_heard(checkpoint: Checkpoint, logits: torch.Tensor, label: int) -> bool:
    """Whether a label scores 0.5 or, where exactly one is true, more than all others."""
    if checkpoint.activation == "softmax":
        return int(logits.argmax()) == label
    return float(checkpoint.scores(logits)[label]) >= 0.5


UNTRAINED = ("ours", "edges", "Grad-CAM, stage 3", "occlusion")


def rows_of(
    examination: Examination,
    label: int,
    event: Event,
    scene: Scene,
    methods: Sequence[str],
    curved: bool = True,
) -> Iterator[dict[str, str]]:
    """A row for each method, with curves or without."""
    mel = examination.mel
    masks = regions(examination, label, event, scene)
    loudness = mel[0].double().cpu().numpy()
    stride = examination.examiner.model.config.time_stride
    score = float(examination.examiner.checkpoint.scores(examination.logits)[label])
    for name, density in densities(examination, label, methods):
        row = {"method": name, "score": f"{score:.4f}"}
        for kind, mask in masks.items():
            there = mask.any()
            row[kind] = f"{share(density, mask) if there else math.nan:.4f}"
            row[f"{kind}_chance"] = f"{matched(density, mask, loudness) if there else math.nan:.4f}"
        order = np.argsort(-node_shares(density, stride).ravel(), kind="stable")
        lines = curves(examination, label, order.tolist()) if curved else ([], [])
        for kind, line in zip(("deletion", "insertion"), lines, strict=True):
            row[kind] = " ".join(f"{value:.4f}" for value in line)
        yield row


def regions(
    examination: Examination, label: int, event: Event, scene: Scene
) -> dict[str, np.ndarray]:
    """Where the label's sound is, by time and by time and band, and where others' are, (T, F) each.

    All events that have the label are its sound (a hi-hat is a cymbal). The others' region is
    theirs less its own.
    """
    checkpoint = examination.examiner.checkpoint
    frames, name = examination.mel.shape[1], checkpoint.vocabulary.names[label]
    nothing = np.zeros(tuple(examination.mel.shape[1:]), bool)
    time, box, other = nothing.copy(), nothing.copy(), nothing.copy()
    for one in scene.events:
        truth = Truth.of(one, frames, checkpoint.front_end)
        if one is event or name in one.labels:
            time |= truth.time
            box |= truth.box
        else:
            other |= truth.box
    return {"time": time, "box": box, "other": other & ~box}


def label_of(event: Event, checkpoint: Checkpoint) -> int:
    """The model's label for an event: its category, or what its clip is marked with first."""
    names = checkpoint.vocabulary.names
    return names.index(next(name for name in (event.label, *event.labels) if name in names))


def spectrogram(examiner: Examiner, scene: Scene, device: str) -> torch.Tensor:
    """A scene as the model takes it, ``(1, T, n_mels)``."""
    front_end = examiner.checkpoint.make_front_end().to(device)
    wave = torch.from_numpy(scene.samples).to(device).float()[None] / 32768
    with torch.no_grad():
        mel, _ = front_end(wave)
    return mel


def untrained(checkpoint: Checkpoint, scenes: Scenes, device: str) -> Checkpoint:
    """The same layout with random weights, and batch statistics of some scenes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ATGNN(checkpoint.model.config).to(device)
        initialise(model)
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.momentum = None  # the plain mean over all batches
        front_end = checkpoint.make_front_end().to(device)
        waves = np.stack([scenes[number].samples for number in range(min(8, len(scenes)))])
        with torch.no_grad():
            mel, _ = front_end(torch.from_numpy(waves).to(device).float() / 32768)
            for _ in range(3):
                model.train()(mel)
    return Checkpoint(model.eval(), checkpoint.front_end, checkpoint.vocabulary)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in (("train", train), ("measure", measure), ("branches", branches)):
        command = commands.add_parser(name, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        command.add_argument(
            "--data", type=Path, required=True, help="the ESC-10 folder, or a table"
        )
        command.add_argument("--out", type=Path, required=True, help="folder for the runs")
        command.add_argument("--fold", type=int, choices=FOLDS, required=True)
        command.add_argument("--count", type=int, default=250 if name == "train" else 30)
        if name == "train":
            command.add_argument("--threads", type=int, default=1)
            continue
        command.add_argument("--model", default=None, help="another model than that of `train`")
        command.add_argument(
            "--label-column", default="category",
            help="names the event; where it is '', a clip's most specific label does",
        )  # fmt: skip
        command.add_argument("--events", type=int, default=2, help="events of a scene")
        command.add_argument("--seconds", type=float, default=10.0, help="length of a scene")
        command.add_argument("--level", default="5:25", help="dB of events over the background")
        command.add_argument("--background", default="-60:-40", help="dBFS of the background")
        command.add_argument("--device", default="cpu")
    two = commands.choices["measure"]
    two.add_argument("--name", default="scenes", help="what to call the rows")
    two.add_argument("--method", action="append", default=[], help="this one alone; repeatable")
    two.add_argument("--first", type=int, default=0, help="scene to begin with")
    two.add_argument("--every", type=int, default=1, help="take every so many scenes")
    two.add_argument("--until", type=int, default=10**9, help="stop before this scene")
    two.add_argument(
        "--untrained", type=int, default=1, help="ask untrained weights at every so many scenes"
    )
    three = commands.add_parser("report", help="tables of what was measured")
    three.add_argument("folder", type=Path, help="the folder of the runs, or of results kept")
    three.set_defaults(run=lambda args: print_report(args.folder))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
