"""Make a model that ships from the runs of fit.py, and measure it.

    python -m benchmarks.everyday.make limits --data SOUNDS --out RUNS [--model MODEL]
    python -m benchmarks.everyday.make final  --data SOUNDS --out RUNS [--model MODEL]
    python -m benchmarks.everyday.make away   --data SOUNDS --out RUNS [--model MODEL]
    python -m benchmarks.everyday.make check  --data SOUNDS --out RUNS [--model MODEL]

Folds are divided by author over all collections (clips.py); fit.py has trained on folds 2 to 5.
Calibration and thresholds are fitted to the scores that each of these folds gets from the model of
the others, and the clips of none of the labels serve as background: thresholds rise until there are
few false alarms in it. `limits` shows, for several limits, what is lost; there, `MOST_ALARMS` was
chosen. `final` scores fold 1 once, writes the look down in benchmarks/test_fold_looks.csv and puts
the model into the package, with a card that reads the score in every way in which it could flatter:
on clips as published, trimmed and re-encoded (variants.py), with all negatives and with those of
the label's own collection, and false alarms. `away` adds how models do on collections that they
have not heard. `check` scores the packaged model on fold 1 again, which is no new look, and must
find the card's figures.
"""

import argparse
import csv
import datetime
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atgnn.calibrate import Background, Fit, calibrate
from atgnn.checkpoint import Checkpoint, Provenance
from atgnn.data import Clips
from atgnn.evaluate import FalseAlarms, Report, evaluate, false_alarms
from atgnn.scoring import ScoreTable
from atgnn.tagger import Tagger
from atgnn.trained_on import Heard
from benchmarks.everyday.clips import build
from benchmarks.everyday.fit import COPIES, MODELS, OTHERS, TEST, Shop, elsewhere, folds

HERE = Path(__file__).parent
LOOKS = HERE.parent / "test_fold_looks.csv"
PACKAGED = HERE.parents[1] / "src" / "atgnn" / "pretrained"  # a folder for each model
MOST_ALARMS = 300.0  # an hour of the background clips: as many as 0.5 for all labels gives
LIMITS = (None, 600.0, 300.0, 200.0, 150.0, 120.0, 60.0, 30.0)

SUMMARY = """\
{opening}

It can tell sounds like rain, waves, a crackling fire, barking, a crying baby, a rooster,
footsteps, a ticking clock, a chainsaw, a helicopter, sneezes and single drum hits from one another.
It knows nothing else: a sound outside its labels should get low scores, and may get a wrong name,
as do a fifth or more of single letters that one voice spoke (`benchmarks/everyday/stamps.py`).
"Music" here is mostly single drum hits. It was never tested on far-field recordings or on mixtures
of many sources; do not use it where a mistake does harm."""


@dataclass(frozen=True)
class About:
    """What the card of one model says of it alone."""

    opening: str
    before: str  # what its encoder knew before it was taught
    foreign: str  # what it knew of a collection that it had not been taught


ABOUT = {
    "everyday-lite0": About(
        """\
An audio tagging graph neural network for everyday sounds, trained on some 850 short, freely
licensed recordings. Its convolutions are those of EfficientNet-Lite0.""",
        "The convolutions started from EfficientNet-Lite0's weights of ImageNet (Google, "
        "Apache-2.0), which have heard nothing.",
        "had heard nothing of it",
    ),
    "everyday-mini": About(
        """\
A small audio tagging graph neural network for everyday sounds, trained on some 850 short, freely
licensed recordings.""",
        "The encoder had been pre-trained on the same sounds without labels.",
        "had heard all, without labels",
    ),
}

LICENCE = """\
The weights are released under CC BY 4.0. Each recording's author, licence (CC0, CC BY or public
domain) and source is a row of ATTRIBUTION.csv beside this card. Recordings under other licences
were left out."""


# ---------------------------------------------------------------------- thresholds


def apart(shop: Shop, name: str) -> tuple[Clips, ScoreTable]:
    """The clips of folds 2 to 5, and their scores by the model that has not heard their authors.

    Trimmed clips and their first re-encoded copies: what length and codec give away has no part.
    """
    variants = shop.variants()
    copies = variants.column("copy").astype(str)
    parts, tables = [], []
    for fold in OTHERS:
        clips = variants.subset((folds(variants) == fold) & np.isin(copies, ("0", "1")))
        model = Checkpoint.from_pretrained(shop.out / name / f"apart-{fold}" / "model")
        parts.append(clips)
        tables.append(ScoreTable.of(model, clips))
    return Clips.concat(parts), ScoreTable.concat(tables)


def fitted(model: Checkpoint, clips: Clips, scores: ScoreTable, most_alarms: float | None) -> Fit:
    """The model with calibration and thresholds."""
    background = Background.of(model, clips, scores)
    return calibrate(model, scores, clips, background=background, most_alarms=most_alarms)


def limits(args: argparse.Namespace) -> None:
    """What each limit of false alarms costs, on authors left out of folds 2 to 5."""
    shop = Shop(args.data, args.out.resolve())
    model = Checkpoint.from_pretrained(shop.out / args.model / "final" / "model")
    clips, scores = apart(shop, args.model)
    for limit in LIMITS:
        print(f"at most {limit} alarms an hour: {fitted(model, clips, scores, limit).summary()}")


# ---------------------------------------------------------------------- figures


def numbers(report: Report) -> dict[str, float]:
    """The figures of the card."""
    metrics = report.metrics
    return {"mAP": metrics.mean_ap, "AUC": metrics.auc, "d_prime": metrics.d_prime}


def between(report: Report) -> str:
    """Macro mAP with its interval."""
    assert report.intervals is not None
    interval = report.intervals.mean_ap
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def readings(checkpoint: Checkpoint, shop: Shop) -> Iterator[str]:
    """Rows of a table: unheard authors, heard in three ways, with either kind of negatives."""
    variants = shop.variants().where(fold=TEST)
    yield "| clips | all negatives | negatives of the same collection |\n|---|---|---|"
    for name, clips in (
        ("as published", shop.published().where(fold=TEST)),
        ("trimmed", variants.where(copy="0")),
        ("trimmed and re-encoded", variants.where(copy="1")),
    ):
        cells = [
            between(evaluate(checkpoint, clips, negatives=way)) for way in ("all", "collection")
        ]
        yield f"| {name} | {cells[0]} | {cells[1]} |"


def foreign(shop: Shop, name: str) -> Iterator[str]:
    """Rows of a table: each collection, trimmed, by a model that learned from the others."""
    variants = shop.variants()
    yield "| collection left out | labels | mAP by the others' | chance |\n|---|---:|---|---:|"
    for one, _ in elsewhere(shop):
        folder = shop.out / name / f"elsewhere-{one.collection}" / "model"
        model = Checkpoint.from_pretrained(folder)
        clips = variants.where(collection=one.collection, copy="0")
        known = set(model.vocabulary.names)
        report = evaluate(model, clips.subset([bool(known & set(own)) for own in clips.labels]),
                          ignore_unknown_labels=True)  # fmt: skip
        shared = [c for c in report.metrics.per_class if c.label in one.labels and c.positives]
        mean = np.mean([c.average_precision for c in shared])
        chance = np.mean([c.positives / c.known for c in shared])
        yield f"| {one.collection} | {len(shared)} | {mean:.3f} | {chance:.3f} |"


ELSEWHERE = "## Collections that a model has not heard"  # the note that `away` writes


def away(args: argparse.Namespace) -> None:
    """Measure models on the collection that each has not heard; into the card."""
    note = "\n\n".join(
        [
            ELSEWHERE,
            "Labels that occur in several collections, on the trimmed clips of one of them, by "
            "models of the same recipe that learned from the others "
            f"({MODELS[args.model].epochs_elsewhere} epochs, fewer copies); their encoder "
            f"{ABOUT[args.model].foreign}.",
            "\n".join(foreign(Shop(args.data, args.out.resolve()), args.model)),
        ]
    )
    print(note)
    packaged = Checkpoint.from_pretrained(PACKAGED / args.model)
    kept = tuple(n for n in packaged.provenance.notes if not n.startswith(ELSEWHERE))
    provenance = packaged.provenance.model_copy(update={"notes": (*kept, note)})
    packaged.changed(provenance=provenance).save_pretrained(PACKAGED / args.model, half=True)


def alarm_line(alarms: FalseAlarms) -> str:
    """Of sound without any label."""
    rate = alarms.per_hour
    return (
        f"**None of these**: on {alarms.minutes:.1f} minutes of unheard sound without any of the "
        f"labels, {alarms.alarmed} of {alarms.windows} windows reach some label's threshold, "
        f"{rate.mean:.0f} an hour of such short sounds ({rate.low:.0f} to {rate.high:.0f})."
    )


# ---------------------------------------------------------------------- the model


def final(args: argparse.Namespace) -> None:
    """Fit thresholds, score fold 1 once, package the model."""
    shop = Shop(args.data, args.out.resolve())
    clips, scores = apart(shop, args.model)
    model = Checkpoint.from_pretrained(shop.out / args.model / "final" / "model")
    fit = fitted(model, clips, scores, MOST_ALARMS)
    published = shop.published()
    report = evaluate(fit.checkpoint, published.where(fold=TEST))
    alarms = false_alarms(Tagger(fit.checkpoint), published.where(fold=TEST))
    package(shop, args.model, fit, report, alarms)
    note_look(args.model, report)
    print((PACKAGED / args.model / "README.md").read_text())


def note_look(name: str, report: Report) -> None:
    """A row for the look at the test fold."""
    what = f"mAP: {name}, row {MODELS[name].row} of fit.py, at most {MOST_ALARMS:g} alarms an hour"
    with open(LOOKS, "a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(
            [
                datetime.date.today().isoformat(),
                "everyday",
                TEST,
                what,
                f"{report.metrics.mean_ap:.4f}",
                f"python -m benchmarks.everyday.make final --model {name}",
            ]
        )


def package(shop: Shop, name: str, fit: Fit, report: Report, alarms: FalseAlarms) -> None:
    """Write the checkpoint into the package, with its card."""
    trained = shop.published().where(fold=OTHERS)
    per_class = ["| label | AP | positive clips |", "|---|---|---|"]
    for one in report.metrics.per_class:
        per_class.append(f"| {one.label} | {one.average_precision:.3f} | {one.positives} |")
    joint = "; ".join(
        f"{kept} (with {', '.join(n for n in names if n != kept)})"
        for kept, names in build(shop.data).merged.items()
        if len(names) > 1
    )
    notes = (
        "## How much of it is the sound",
        "Macro mAP on the unheard authors, with 95 % intervals from resampling them. Most labels "
        "occur in one collection only; with negatives of the same collection a model gains nothing "
        "from knowing the collection. A random forest that knows only durations, silence and "
        "bandwidth is the measure to beat (`benchmarks/everyday/probe.py`).",
        "\n".join(readings(fit.checkpoint, shop)),
        alarm_line(alarms),
        f"Calibration and thresholds, on folds 2 to 5, each scored by the model of the others:\n\n"
        f"```\n{fit.summary()}\n```",
        "## Average precision per label, unheard authors",
        "\n".join(per_class),
    )
    provenance = Provenance(
        summary=SUMMARY.format(opening=ABOUT[name].opening),
        training_data=(
            f"{len(trained)} clips of ESC-10 and of free sounds published with games, sound "
            "players and music software (cc_sounds, ambient, sonicpi), from "
            f"{len(set(trained.groups.tolist()))} authors or recordings; each freed of digital "
            f"silence, with {COPIES} copies that went through lossy codecs or lower rates. "
            f"{ABOUT[name].before} "
            f"Labels that always occur together count as one: {joint}."
        ),
        licence=LICENCE,
        licence_id="cc-by-4.0",
        metrics=numbers(report),
        evaluated_on=(
            f"{report.metrics.clips} clips of authors that the model never heard (fold {TEST}), "
            "as published, scored once. What nobody has marked or ruled out is left out of the "
            "count. Settings were chosen on fold 2."
        ),
        command=f"python -m benchmarks.everyday.make final --model {name} --data SOUNDS --out RUNS",
        notes=notes,
    )
    fit.checkpoint.changed(
        provenance=provenance,
        attribution=attribution(trained),
        heard=Heard.of(trained).joined(Heard.of(shop.variants().where(fold=OTHERS))),
    ).save_pretrained(PACKAGED / name, half=True)


def attribution(clips: Clips) -> str:
    """A row for every recording that the weights were trained on."""
    columns = ["collection", "filename", "author", "license", "source_title", "source_url"]
    text: str = clips.table[columns].fillna("").to_csv(index=False, lineterminator="\n")
    return text


def check(args: argparse.Namespace) -> None:
    """The packaged model must have the figures of its card."""
    shop = Shop(args.data, args.out.resolve())
    checkpoint = Checkpoint.from_pretrained(PACKAGED / args.model)
    now = numbers(evaluate(checkpoint, shop.published().where(fold=TEST)))
    card = checkpoint.provenance.metrics
    print(json.dumps({"now": now, "card": card}, indent=1))
    if any(abs(now[name] - card[name]) > 0.002 for name in card):
        sys.exit("the figures differ from the card")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for function in (limits, final, away, check):
        command = commands.add_parser(function.__name__, help=(function.__doc__ or "").strip())
        command.set_defaults(run=function)
        command.add_argument("--data", type=Path, required=True, help="the collections")
        command.add_argument("--out", type=Path, required=True, help="folder for the runs")
        command.add_argument("--model", choices=MODELS, default=next(iter(MODELS)))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
