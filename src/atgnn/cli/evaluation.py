"""``atgnn evaluate``, and options that ``atgnn compare`` shares with it."""

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atgnn.cli.base import (
    BatchOption,
    DeviceOption,
    FoldOption,
    ForceOption,
    PrecisionOption,
    SplitOption,
    TrimOption,
    app,
    grouped,
    refuse_idle,
)
from atgnn.errors import ConfigError

if TYPE_CHECKING:
    from atgnn.data.clips import Clips


class Negatives(str, Enum):
    """Which clips count as negatives of a label."""

    ALL = "all"
    COLLECTION = "collection"


@dataclass(frozen=True)
class Judging:
    """Options of both commands: which clips, how they are judged, how that is shown."""

    report: Annotated[
        Path | None,
        typer.Option(help="Folder for a report: HTML, Markdown, JSON and curves as pictures."),
    ] = None
    force: ForceOption = False
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False
    fold: FoldOption = None
    split: SplitOption = None
    per_class: Annotated[
        bool, typer.Option("--per-class/--summary", help="With a row per label, or without.")
    ] = True
    label_column: Annotated[
        str | None, typer.Option(help="Column of the table that names the labels.")
    ] = None
    ignore_unknown_labels: Annotated[
        bool, typer.Option("--ignore-unknown-labels", help="Pass over labels foreign to the model.")
    ] = False
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over clips without scores and count them.")
    ] = False
    negatives: Annotated[
        Negatives,
        typer.Option(help="Negatives of a label: all clips, or those of collections that have it."),
    ] = Negatives.ALL
    as_marked: Annotated[
        bool, typer.Option("--as-marked", help="Labels as marked, not completed by the ontology.")
    ] = False
    resamples: Annotated[int, typer.Option(min=100, help="Resamples behind the intervals.")] = 1000
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0

    def check(self, context: typer.Context) -> None:
        """What can be known to be wrong before anything is computed."""
        from atgnn.evaluate.written import check_report_folder

        if self.report is None:
            refuse_idle(context, "without --report", "force")
        else:
            check_report_folder(self.report, self.force)
        if self.as_json:
            refuse_idle(context, "with --json, which has everything", "per_class")

    def open(self, path: str) -> "tuple[Any, Clips]":
        """What lies at `path`, and the clips of it that are asked for."""
        from atgnn.data.store import clips_of, open_clips
        from atgnn.evaluate import choose_clips

        opened = open_clips(path, labelled=self.label_column in (None, "labels"))
        return opened, choose_clips(
            clips_of(opened), fold=self.fold, split=self.split, label_column=self.label_column
        )

    def settings(self, path: str) -> dict[str, Any]:
        """What the measuring functions are told, of clips at `path`."""
        fold = [] if self.fold is None else [f"fold {self.fold}"]
        return {
            "ignore_unknown_labels": self.ignore_unknown_labels,
            "skip_bad": self.skip_bad,
            "negatives": self.negatives.value,
            "as_marked": self.as_marked,
            "resamples": self.resamples,
            "seed": self.seed,
            "subject": ", ".join([path, *fold, *filter(None, [self.split])]),
        }

    def show(self, found: Any) -> None:
        """Print a report or comparison and write its folder."""
        from atgnn.evaluate import write_report
        from atgnn.terminal import say, show

        if self.as_json:
            typer.echo(json.dumps(found.to_dict()))
        else:
            show(found.render(self.per_class))
        if self.report is not None:
            say(f"the report is in {write_report(found, self.report, self.force)}")


@app.command()
@grouped
def evaluate(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL CLIPS",
            help="A model and a table, folder or packed folder of clips; with --scores the clips "
            "alone.",
        ),
    ],
    judging: Judging,
    scores: Annotated[
        Path | None, typer.Option(help="A score file (`atgnn score`) in place of the model.")
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(help="Sounds without any label of the model: count false alarms there."),
    ] = None,
    trim_silence: TrimOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
) -> None:
    """Measure a model on clips with known labels: mAP, AUC, d', lwlrap, accuracy, intervals."""
    from dataclasses import replace

    from atgnn.data.store import open_clips
    from atgnn.evaluate import evaluate as measure
    from atgnn.evaluate import evaluate_table, false_alarms
    from atgnn.scoring import ScoreTable
    from atgnn.tagger import Tagger
    from atgnn.terminal import counter, show_warnings

    show_warnings()
    _check_inputs(context, inputs, scores)
    judging.check(context)
    clips, settings = inputs[-1], judging.settings(inputs[-1])
    if scores is not None:
        table = ScoreTable.read(scores)
        name = table.source or str(scores)
        _, chosen = judging.open(clips)
        with counter(judging.resamples) as progress:
            found = evaluate_table(table, chosen, resampling=progress, name=name, **settings)
        judging.show(found)
        return
    tagger = Tagger.from_pretrained(inputs[0], device, precision)
    opened, chosen = judging.open(clips)
    heard: dict[str, Any] = {"batch_size": batch_size, "trim_db": trim_silence}
    with counter(len(chosen)) as progress:
        found = measure(
            tagger, chosen, opened=opened, progress=progress, name=inputs[0], **heard, **settings
        )
    if background is not None:
        silent = open_clips(background, labelled=False)
        with counter(len(silent)) as progress:
            alarms = false_alarms(
                tagger, silent, skip_bad=judging.skip_bad, progress=progress, **heard
            )
        found = replace(found, background=alarms)
    judging.show(found)


def _check_inputs(context: typer.Context, inputs: list[str], scores: Path | None) -> None:
    """A model and clips, or scores and clips, and no option of the other."""
    if len(inputs) != (2 if scores is None else 1):
        raise ConfigError(
            f"got {' '.join(inputs)!r}{'' if scores is None else ' and --scores'}: expected "
            "MODEL CLIPS, or --scores FILE CLIPS"
        )
    if scores is not None:
        why = "with --scores, where no model listens"
        idle = "background", "trim_silence", "device", "precision", "batch_size"
        refuse_idle(context, why, *idle)
