"""``atgnn evaluate`` and ``atgnn compare``."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from atgnn.cli.base import BatchOption, DeviceOption, ForceOption, PrecisionOption, app
from atgnn.errors import ConfigError


class Negatives(str, Enum):
    """Which clips count as negatives of a label."""

    ALL = "all"
    COLLECTION = "collection"


ReportOption = Annotated[
    Path | None,
    typer.Option(help="Folder for a report: HTML, Markdown, JSON and curves as pictures."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object.")]
FoldOption = Annotated[int | None, typer.Option(help="Only this fold.")]
SplitOption = Annotated[str | None, typer.Option(help="Only this split.")]
PerClassOption = Annotated[
    bool, typer.Option("--per-class/--summary", help="With a row per label, or without.")
]
LabelColumnOption = Annotated[
    str | None, typer.Option(help="Column of the table that names the labels.")
]
IgnoreOption = Annotated[
    bool, typer.Option("--ignore-unknown-labels", help="Pass over labels foreign to the model.")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad", help="Pass over clips without scores and count them.")
]
NegativesOption = Annotated[
    Negatives,
    typer.Option(help="Negatives of a label: all clips, or those of collections that have it."),
]
AsMarkedOption = Annotated[
    bool, typer.Option("--as-marked", help="Labels as marked, not completed by the ontology.")
]
ResamplesOption = Annotated[int, typer.Option(min=100, help="Resamples behind the intervals.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the resamples.")]


@app.command()
def evaluate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL CLIPS",
            help="A model and a table, folder or packed folder of clips; with --scores the clips "
            "alone.",
        ),
    ],
    scores: Annotated[
        Path | None, typer.Option(help="A score file (`atgnn score`) in place of the model.")
    ] = None,
    report: ReportOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    fold: FoldOption = None,
    split: SplitOption = None,
    per_class: PerClassOption = True,
    label_column: LabelColumnOption = None,
    ignore_unknown_labels: IgnoreOption = False,
    skip_bad: SkipOption = False,
    negatives: NegativesOption = Negatives.ALL,
    background: Annotated[
        str | None,
        typer.Option(help="Sounds without any label of the model: count false alarms there."),
    ] = None,
    as_marked: AsMarkedOption = False,
    resamples: ResamplesOption = 1000,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
) -> None:
    """Measure a model on clips with known labels: mAP, AUC, d', lwlrap, accuracy, intervals."""
    from dataclasses import replace

    from atgnn.data.store import clips_of, open_clips
    from atgnn.evaluate import background_clips, choose_clips, evaluate_table, false_alarms
    from atgnn.evaluate import evaluate as measure
    from atgnn.scoring import ScoreTable
    from atgnn.tagger import Tagger
    from atgnn.terminal import counter, show_warnings

    show_warnings()
    _check(inputs, scores, background, report, force)
    judged: ScoreTable | Tagger
    if scores is not None:
        judged = ScoreTable.read(scores)
    else:
        judged = Tagger.from_pretrained(inputs[0], device, precision)
    opened = open_clips(inputs[-1])
    chosen = choose_clips(clips_of(opened), fold=fold, split=split, label_column=label_column)
    settings: dict[str, Any] = {
        "ignore_unknown_labels": ignore_unknown_labels,
        "skip_bad": skip_bad,
        "negatives": negatives.value,
        "as_marked": as_marked,
        "resamples": resamples,
        "seed": seed,
        "subject": _clips_name(inputs[-1], fold, split),
    }
    if isinstance(judged, ScoreTable):
        name = judged.source or str(scores)
        with counter(resamples) as progress:
            found = evaluate_table(judged, chosen, resampling=progress, name=name, **settings)
    else:
        with counter(len(chosen)) as progress:
            found = measure(
                judged,
                chosen,
                opened=opened,
                batch_size=batch_size,
                progress=progress,
                name=inputs[0],
                **settings,
            )
        if background is not None:
            silent = background_clips(background)
            with counter(len(silent)) as progress:
                alarms = false_alarms(
                    judged, silent, batch_size=batch_size, skip_bad=skip_bad, progress=progress
                )
            found = replace(found, background=alarms)
    _show(found, as_json, per_class, report, force)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="SCORES_A", help="Score file of model A.")],
    second: Annotated[Path, typer.Argument(metavar="SCORES_B", help="Score file of model B.")],
    clips: Annotated[str, typer.Argument(help="A table, folder or packed folder of clips.")],
    report: ReportOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    fold: FoldOption = None,
    split: SplitOption = None,
    per_class: PerClassOption = True,
    label_column: LabelColumnOption = None,
    ignore_unknown_labels: IgnoreOption = False,
    skip_bad: SkipOption = False,
    negatives: NegativesOption = Negatives.ALL,
    as_marked: AsMarkedOption = False,
    resamples: ResamplesOption = 1000,
    seed: SeedOption = 0,
) -> None:
    """Compare two models by their scores of the same clips: what B gains on A, with intervals."""
    from atgnn.data.store import clips_of, open_clips
    from atgnn.evaluate import choose_clips
    from atgnn.evaluate import compare as differ
    from atgnn.evaluate.written import check_report_folder
    from atgnn.scoring import ScoreTable
    from atgnn.terminal import counter, show_warnings

    show_warnings()
    if report is not None:
        check_report_folder(report, force)
    tables = ScoreTable.read(first), ScoreTable.read(second)
    table = clips_of(open_clips(clips))
    chosen = choose_clips(table, fold=fold, split=split, label_column=label_column)
    with counter(resamples) as progress:
        found = differ(
            *tables,
            chosen,
            names=(str(first), str(second)),
            ignore_unknown_labels=ignore_unknown_labels,
            skip_bad=skip_bad,
            negatives=negatives.value,
            as_marked=as_marked,
            resamples=resamples,
            seed=seed,
            progress=progress,
            subject=_clips_name(clips, fold, split),
        )
    _show(found, as_json, per_class, report, force)


def _check(
    inputs: list[str],
    scores: Path | None,
    background: str | None,
    report: Path | None,
    force: bool,
) -> None:
    """What can be known to be wrong before anything is computed."""
    from atgnn.evaluate.written import check_report_folder

    if len(inputs) != (2 if scores is None else 1):
        raise ConfigError(
            f"got {' '.join(inputs)!r}{'' if scores is None else ' and --scores'}: expected "
            "MODEL CLIPS, or --scores FILE CLIPS"
        )
    if background is not None and scores is not None:
        raise ConfigError("--background needs a model: false alarms are counted window by window")
    if report is not None:
        check_report_folder(report, force)


def _clips_name(path: str, fold: int | None, split: str | None) -> str:
    """The clips as a report's title calls them."""
    parts = [path, *([f"fold {fold}"] if fold is not None else []), *([split] if split else [])]
    return ", ".join(parts)


def _show(found: Any, as_json: bool, per_class: bool, report: Path | None, force: bool) -> None:
    """Print a report or comparison and write its folder."""
    from rich.console import Console

    from atgnn.evaluate import write_report
    from atgnn.terminal import say

    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        Console(highlight=False).print(found.render(per_class))
    if report is not None:
        say(f"the report is in {write_report(found, report, force)}")
