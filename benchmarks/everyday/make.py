"""Make the model that ships, first edition, and measure it.

    python benchmarks/everyday/make.py validate --data SHARED_DATA --out RUNS
    python benchmarks/everyday/make.py final    --data SHARED_DATA --out RUNS
    python benchmarks/everyday/make.py readings --data SHARED_DATA --out RUNS
    python benchmarks/everyday/make.py check    --data SHARED_DATA --out RUNS

Folds are divided by author over all collections (see clips.py). `validate` trains on folds 3 to 5
and validates on fold 2: there, settings are chosen and the thresholds are set. `final` trains on
folds 2 to 5 for the recipe's fixed number of epochs, scores fold 1 once, writes the look down in
benchmarks/test_fold_looks.csv and puts the model into the package. `readings` asks of the same fold
how much of that is the sound: with negatives of the label's own collection, on trimmed and on
re-encoded copies (variants.py), and how often sounds without any label raise an alarm; the answers
go into the card. `check` scores the packaged
model on fold 1 again, which is no new look, and must find the figures of its card.
"""

import argparse
import csv
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from clips import Edition, build
from variants import make as make_variants

from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.data import Clips
from atgnn.evaluate import Report, evaluate, false_alarms
from atgnn.labels import Ontology
from atgnn.tagger import Tagger
from atgnn.training.recipe import load_recipe
from atgnn.training.run import train

HERE = Path(__file__).parent
LOOKS = HERE.parent / "test_fold_looks.csv"
PACKAGED = HERE.parents[1] / "src" / "atgnn" / "pretrained" / "everyday-mini"
TEST, VALIDATION = 1, 2

SUMMARY = """\
A small audio tagging graph neural network for everyday sounds, trained from scratch on about a
thousand short, freely licensed recordings. **A first edition.** It can tell sounds like rain,
waves, a crackling fire, barking, a crying baby, a rooster, footsteps, a ticking clock, a chainsaw,
a helicopter, sneezes and single drum hits from one another. It knows nothing else: a sound outside
its labels gets low scores or a wrong name. "Music" here is mostly single drum hits. Several labels
occur in one collection only, so that it may have learned a collection's codec or editing as well
as the sound. **Sounds from elsewhere are often misnamed**: in a first try by hand on a few from
other packages, most names were wrong. It was never tested on speech, on far-field recordings or on
mixtures of many sources; do not use it where a mistake does harm."""

LICENCE = """\
The weights are released under CC BY 4.0. Each recording's author, licence (CC0, CC BY or public
domain) and source is a row of ATTRIBUTION.csv beside this card. Recordings under other licences
were left out."""


def division(data: Path, out: Path) -> tuple[Edition, Path]:
    """The table of clips, written where a recipe can read it."""
    edition = build(data)
    out.mkdir(parents=True, exist_ok=True)
    return edition, edition.clips.write(out / "clips.csv")


def run(table: Path, out: Path, settings: list[str]) -> Path:
    """One run of the everyday recipe; an interrupted one goes on."""
    overrides = [f"data.clips={table}", f"data.test={{fold: {TEST}}}", *settings]
    return train(load_recipe("everyday", overrides), out, resume=(out / "recipe.yaml").is_file())


def choose_thresholds(model: Path, clips: Clips) -> dict[str, float]:
    """A threshold per label, from validation clips.

    The score that gives a label the highest F1 is drawn toward the one that gives all labels
    together the highest: it counts by the label's positive clips, the common one by 20.
    """
    tagger = Tagger.from_pretrained(model)
    vocabulary = tagger.checkpoint.vocabulary
    truth = clips.targets(vocabulary, Ontology.audioset())
    scores = np.stack([tagger.scores(path) for path in clips.paths])
    common = best_threshold(scores, truth)
    chosen = {}
    for label, name in enumerate(vocabulary.names):
        positives = int((truth[:, label] == 1).sum())
        own = best_threshold(scores[:, label], truth[:, label])
        chosen[name] = round((positives * own + 20 * common) / (positives + 20), 2)
    return chosen


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The score with the highest F1 over all known cells."""
    known, positives = ~np.isnan(truth), (truth == 1).sum()
    grid = np.arange(0.05, 0.96, 0.01)
    f1 = []
    for threshold in grid:
        said = (scores >= threshold) & known
        f1.append(2 * (said & (truth == 1)).sum() / (said.sum() + positives))
    return float(grid[int(np.argmax(f1))])


def numbers(report: Report) -> dict[str, float]:
    """The figures of the card."""
    metrics = report.metrics
    return {"mAP": metrics.mean_ap, "AUC": metrics.auc, "d_prime": metrics.d_prime}


def validate(args: argparse.Namespace) -> None:
    """Train on three folds, choose the thresholds on the fourth."""
    edition, table = division(args.data, args.out)
    settings = [f"data.validation={{fold: {VALIDATION}}}", *args.set]
    model = run(table, args.out / "validate", settings)
    clips = edition.clips.where(fold=VALIDATION)
    found = {
        **numbers(evaluate(Checkpoint.from_pretrained(model), clips)),
        "thresholds": choose_thresholds(model, clips),
    }
    (args.out / "validation.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def final(args: argparse.Namespace) -> None:
    """Train on four folds, score the fifth once, package the model."""
    edition, table = division(args.data, args.out)
    validation = json.loads((args.out / "validation.json").read_text())
    model = Checkpoint.from_pretrained(run(table, args.out / "final", args.set))
    report = evaluate(model, edition.clips.where(fold=TEST))
    note_look(report, args.set)
    package(model, edition, report, validation)
    print(json.dumps(numbers(report), indent=1))


def note_look(report: Report, settings: list[str]) -> None:
    """A row for the look at the test fold."""
    what = "mAP: everyday recipe, trained on the other four folds"
    what += "".join(f" --set {s!r}" for s in settings)
    with open(LOOKS, "a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(
            [
                datetime.date.today().isoformat(),
                "first edition",
                TEST,
                what,
                f"{report.metrics.mean_ap:.4f}",
                "python benchmarks/everyday/make.py final",
            ]
        )


def package(
    model: Checkpoint, edition: Edition, report: Report, validation: dict[str, Any]
) -> None:
    """Write the checkpoint into the package, with its card."""
    trained = edition.clips.where(fold=[f for f in range(1, 6) if f != TEST])
    per_class = ["| label | AP | positive clips |", "|---|---|---|"]
    for one in report.metrics.per_class:
        per_class.append(f"| {one.label} | {one.average_precision:.3f} | {one.positives} |")
    joint = "; ".join(
        f"{name} (with {', '.join(n for n in names if n != name)})"
        for name, names in edition.merged.items()
        if len(names) > 1
    )
    provenance = Provenance(
        summary=SUMMARY,
        training_data=(
            f"{len(trained)} clips of ESC-10 and of free sounds published with games, sound "
            "players and music software (cc_sounds, ambient, sonicpi), "
            f"from {len(set(trained.groups.tolist()))} authors or recordings. "
            f"Labels that always occur together count as one: {joint}."
        ),
        licence=LICENCE,
        licence_id="cc-by-4.0",
        metrics=numbers(report),
        evaluated_on=(
            f"{report.metrics.clips} clips of authors that the model never heard (fold {TEST}), "
            "scored once. What nobody has marked or ruled out is left out of the count. "
            f"On the validation fold the same recipe, trained on one fold less, had mAP "
            f"{validation['mAP']:.4f}; the thresholds were set there."
        ),
        command="python benchmarks/everyday/make.py final --data SHARED_DATA --out RUNS",
        notes=("## Average precision per label, unheard authors", "\n".join(per_class)),
    )
    Checkpoint(
        model.model,
        model.front_end,
        model.vocabulary,
        thresholds=tuple(validation["thresholds"][name] for name in model.vocabulary.names),
        provenance=provenance,
        attribution=attribution(trained),
    ).save_pretrained(PACKAGED, half=True)


READINGS = "## How much of it is the sound"  # the note of the card that `readings` writes


def readings(args: argparse.Namespace) -> None:
    """Read the score of the unheard fold in the ways in which it could flatter; into the card."""
    edition, _ = division(args.data, args.out)
    table = args.out / "variants" / "clips.csv"
    if not table.is_file():
        make_variants(edition.clips, table.parent, copies=1)
    published, variants = edition.clips.where(fold=TEST), Clips.read(table).where(fold=TEST)
    checkpoint = Checkpoint.from_pretrained(PACKAGED)
    rows = ["| clips | all negatives | negatives of the same collection |", "|---|---|---|"]
    for name, clips in (
        ("as published", published),
        ("trimmed", variants.where(copy="0")),
        ("trimmed and re-encoded", variants.where(copy="1")),
    ):
        cells = []
        for negatives in ("all", "collection"):
            report = evaluate(checkpoint, clips, negatives=negatives)
            assert report.intervals is not None
            between = report.intervals.mean_ap
            cells.append(f"{between.mean:.3f} ({between.low:.3f} to {between.high:.3f})")
        rows.append(f"| {name} | {cells[0]} | {cells[1]} |")
    alarms = false_alarms(Tagger(checkpoint), published)
    note = "\n\n".join(
        [
            READINGS,
            "Macro mAP on the unheard authors, with 95 % intervals from resampling them. Most "
            "labels occur in one collection only; with negatives of the same collection a model "
            "gains nothing from knowing the collection. A random forest that knows only "
            "durations, silence and bandwidth is the measure to beat (probe.py).",
            "\n".join(rows),
            f"**None of these**: on {alarms.minutes:.1f} minutes of unheard sound without any "
            f"of the labels, {alarms.alarmed} of {alarms.windows} windows reach some label's "
            f"threshold, {alarms.per_hour.mean:.0f} an hour of such short sounds. It does not "
            "know what it does not know.",
        ]
    )
    print(note)
    kept = tuple(n for n in checkpoint.provenance.notes if not n.startswith(READINGS))
    provenance = checkpoint.provenance.model_copy(update={"notes": (note, *kept)})
    checkpoint.changed(provenance=provenance).save_pretrained(PACKAGED, half=True)


def attribution(clips: Clips) -> str:
    """A row for every recording that the weights were trained on."""
    columns = ["collection", "filename", "author", "license", "source_title", "source_url"]
    text: str = clips.table[columns].fillna("").to_csv(index=False, lineterminator="\n")
    return text


def check(args: argparse.Namespace) -> None:
    """The packaged model must have the figures of its card."""
    edition, _ = division(args.data, args.out)
    checkpoint = Checkpoint.from_pretrained(PACKAGED)
    now = numbers(evaluate(checkpoint, edition.clips.where(fold=TEST)))
    card = checkpoint.provenance.metrics
    print(json.dumps({"now": now, "card": card}, indent=1))
    if any(abs(now[name] - card[name]) > 0.002 for name in card):
        sys.exit("the figures differ from the card")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for function in (validate, final, readings, check):
        command = commands.add_parser(function.__name__, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        command.add_argument("--data", type=Path, required=True, help="the development sounds")
        command.add_argument("--out", type=Path, required=True, help="folder for the runs")
        command.add_argument("--set", action="append", default=[], help="override the recipe")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
