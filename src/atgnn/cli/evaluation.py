"""``atgnn evaluate``."""

import json
from typing import Annotated

import typer

from atgnn.cli.base import BatchOption, DeviceOption, PrecisionOption, app


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A shipped model, a folder or a hub name.")],
    clips: Annotated[str, typer.Argument(help="A table or folder of clips.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    fold: Annotated[int | None, typer.Option(help="Only this fold.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class/--summary", help="With a row per label, or without.")
    ] = True,
    label_column: Annotated[
        str | None,
        typer.Option(help="Column of the table that names the labels."),
    ] = None,
    ignore_unknown_labels: Annotated[
        bool, typer.Option("--ignore-unknown-labels", help="Pass over labels foreign to the model.")
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
) -> None:
    """Measure a model on clips with known labels: mAP, AUC, d', accuracy."""
    from rich.console import Console

    from atgnn.data.clips import Clips
    from atgnn.evaluate import choose_clips
    from atgnn.evaluate import evaluate as measure
    from atgnn.tagger import Tagger
    from atgnn.terminal import counter, show_warnings

    show_warnings()
    tagger = Tagger.from_pretrained(model, device, precision)
    chosen = choose_clips(Clips.read(clips), fold=fold, split=split, label_column=label_column)
    with counter(len(chosen)) as progress:
        report = measure(
            tagger,
            chosen,
            batch_size=batch_size,
            ignore_unknown_labels=ignore_unknown_labels,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        Console(highlight=False).print(report.render(per_class))
