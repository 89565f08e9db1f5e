"""A miniature FSD50K the whole way: from the official layout to a table of results.

    python -m benchmarks.miniature.run --data ../shared/data --out RUNS [--set optim.epochs=20 ...]

1. make: FSD50K's folders and lists from the development sounds (`make.py`)
2. prepare: read the lists, decode once, pack
3. hide: leave out a quarter of the training labels, on purpose
4. teacher: the recipe fsd50k, with the small model, on what is left
5. enhance: the teacher's scores and the ontology bring labels back; precision and recall
6. train again on the enhanced labels; average the last epochs
7. evaluate teacher, student, average and the ensemble of epochs on eval, whose labels are whole

With --linear the teacher is a logistic regression on mean and spread of the log-mel bins and the
rest is left out: seconds instead of minutes, for steps 1 to 3 and 5.

Every step leaves its files in RUNS and is not repeated where they are there. results.json and a
table on the screen say what came of it. Training for a few epochs from scratch on some 500 clips
cannot be good: the point is that every step works and what enhancement finds.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.data.fsd50k import read_fsd50k
from atgnn.data.store import SCALE, PackedWaveforms
from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.metrics import evaluate_scores
from atgnn.prepare.run import prepare
from atgnn.scoring import ScoreTable
from atgnn.training.enhance import METHODS, Relations, enhance, recovery, write_report
from atgnn.training.epochs import kept_epochs
from atgnn.training.recipe import load_recipe
from atgnn.training.run import train
from benchmarks.miniature.make import make

HIDDEN = 0.25  # share of the training labels that is left out
METHOD = "p25"  # the student's labels; all methods are reported
SECONDS = 5.0  # of each clip that are packed

#: What the miniature changes in the recipe: the small model, and steps enough in few epochs.
SETTINGS = [
    "model={preset: mini}",
    "front_end={preset: paper, hop_ms: 20}",
    "residual_scale=0",
    f"window_seconds={SECONDS}",
    "augment={crop_seconds: 3.0, frequency_mask: 24, time_mask: 24, mixup_alpha: 1.0,"
    " mixup_probability: 0.3, gain_db: 6, roll: 0.5}",
    "optim={optimizer: adamw, learning_rate: 1.0e-3, betas: [0.9, 0.999], weight_decay: 0.05,"
    " batch_size: 16, epochs: 10, warmup_steps: 60, schedule: cosine}",
    "keep_epochs=4",
    "select=best",
    "workers=1",
]


def hide(clips: Clips, share: float, seed: int) -> Clips:
    """The same clips with so many of the training labels left out, never all of a clip."""
    rng = np.random.default_rng(seed)
    labels = list(clips.labels)
    for row in np.flatnonzero(clips.matching(split="train")):
        kept = tuple(name for name in labels[row] if rng.random() >= share)
        labels[row] = kept or (labels[row][int(rng.integers(len(labels[row])))],)
    return Clips(clips.table.assign(labels=labels))


def reachable(truth: Clips, given: Clips) -> int:
    """Hidden labels that a label left in the clip leads to: what enhancement could find at best."""
    words = Vocabulary.fsd50k()
    relations, count = Relations.of(words), 0
    for true, left in zip(truth.labels, given.labels, strict=True):
        places = [words.index(name) for name in left]
        near = {c for p in places for c in (*relations.children[p], *relations.ancestors[p])}
        count += sum(words.index(name) in near for name in set(true) - set(left))
    return count


def trained(name: str, table: Path, packed: Path, out: Path, settings: Sequence[str]) -> Path:
    """Train the recipe on a table's labels, unless that has been done; goes on where it stopped."""
    changes = [*SETTINGS, *settings, f"data.clips={table}", f"data.packed={packed}"]
    run = out / name
    if not (run / "model" / "config.json").is_file():
        train(load_recipe("fsd50k", changes), run, resume=(run / "recipe.yaml").is_file())
    return run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the development sounds")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--clips", type=int, help="at most so many clips")
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", help="change a setting"
    )
    parser.add_argument("--linear", action="store_true", help="a linear teacher, no training")
    parser.add_argument("--seed", type=int, default=0)
    results = run(**vars(parser.parse_args()))
    print(json.dumps(results, indent=1))


def run(
    data: Path, out: Path, clips: int | None, settings: Sequence[str], linear: bool, seed: int
) -> dict[str, object]:
    """All steps; returns what is in results.json."""
    begun = time.process_time()
    truth, packed = _prepared(data, out, clips, seed)
    given = hide(truth, HIDDEN, seed)
    given.write(out / "given.csv")
    settings = [*settings, f"seed={seed}"]
    if linear:
        scores = linear_scores(given, packed)
    else:
        teacher = trained("teacher", out / "given.csv", out / "packed", out, settings)
        scores = _scores(teacher / "model", packed, "train", out / "teacher-train.parquet")
    results: dict[str, object] = {
        "clips": {split: int(truth.matching(split=split).sum()) for split in _splits(truth)},
        "reachable": reachable(truth, given),
        "restored": _restored(truth, given, scores, out),
    }
    if not linear:
        settings += ["select=averaged"]
        student = trained("student", out / "enhanced.csv", out / "packed", out, settings)
        results["eval"] = _evaluated(teacher, student, packed, out)
    results["processor_minutes"] = round((time.process_time() - begun) / 60, 1)
    place = out / ("linear.json" if linear else "results.json")
    place.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def linear_scores(given: Clips, packed: PackedWaveforms) -> ScoreTable:
    """What a linear teacher that learned from the training clips says of them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    words, front_end = Vocabulary.fsd50k(), FrontEnd(FrontEndConfig())
    train = given.where(split="train")
    inputs = []
    for place in packed.positions(train).tolist():
        wave = torch.from_numpy(packed[place] * np.float32(SCALE))
        features = front_end(wave[None], None)[0][0]
        inputs.append(torch.cat([features.mean(0), features.std(0)]).numpy())
    columns = []
    for target in train.targets(words).T:
        if target.any():
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
            columns.append(model.fit(inputs, target).predict_proba(inputs)[:, 1])
        else:
            columns.append(np.zeros(len(train)))
    starts, ends = (train.table[name].to_numpy(float) for name in ("start", "end"))
    paths = [str(path) for path in train.paths]
    return ScoreTable(paths, starts, ends, words.names, np.stack(columns, 1), source="linear")


def _restored(truth: Clips, given: Clips, scores: ScoreTable, out: Path) -> dict[str, object]:
    """How well hidden labels come back, by every method; the student's table is written."""
    back: dict[str, object] = {}
    for method in METHODS:
        result = enhance(given, scores, method=method)
        found = recovery(truth, given, result.clips)
        back["hidden"] = found.hidden
        back[method] = {
            "added": found.added,
            "precision": round(found.precision, 3),
            "recall": round(found.recall, 3),
        }
        if method == METHOD:
            result.clips.write(out / "enhanced.csv")
            write_report(result, out / "enhanced.report.csv")
            print(result.summary(), flush=True)
    return back


def _splits(clips: Clips) -> list[str]:
    return sorted(set(clips.column("split")))


def _prepared(data: Path, out: Path, clips: int | None, seed: int) -> tuple[Clips, PackedWaveforms]:
    """The table with all labels, and the packed sounds."""
    if not (out / "official").is_dir():
        make(data, out / "official", clips=clips, seconds=SECONDS, seed=seed)
    report = prepare(read_fsd50k(out / "official"), out / "packed")
    print(report.markdown().split("\n## ")[0], flush=True)
    packed = PackedWaveforms.open(out / "packed")
    return packed.clips, packed


def _scores(model: Path, packed: PackedWaveforms, split: str, file: Path) -> ScoreTable:
    """A model's scores of a split, unless they are there."""
    if not file.is_file():
        only = packed.clips.where(split=split)
        checkpoint = Checkpoint.from_pretrained(model)
        ScoreTable.of(checkpoint, packed, only=only, device="cpu", source=str(model)).write(file)
    return ScoreTable.read(file)


def _evaluated(
    teacher: Path, student: Path, packed: PackedWaveforms, out: Path
) -> dict[str, dict[str, float]]:
    """Metrics on eval, by labels as FSD50K has them."""
    models = {
        "teacher": [teacher / "model"],
        "student, best epoch": [student / "best"],
        "student, mean weights": [student / "model"],
        "student, mean scores": list(kept_epochs(student).values()),
    }
    held, words = packed.clips.where(split="eval"), Vocabulary.fsd50k()
    truth, numbers = held.targets(words), {}
    for name, folders in models.items():
        tables = []
        for folder in folders:
            file = out / "eval" / f"{folder.parent.name}-{folder.name}.parquet"
            tables.append(_scores(folder, packed, "eval", file))
        scores = ScoreTable.mean(tables).aligned(held, words.names)
        metrics = evaluate_scores(truth, scores, words.names)
        numbers[name] = {"mAP": round(metrics.mean_ap, 4), "AUC": round(metrics.auc, 4)}
    numbers["labels"] = {"with a clip": int((truth == 1).any(axis=0).sum())}
    return numbers


if __name__ == "__main__":
    main()
