"""``atgnn average`` and ``atgnn ensemble``: several epochs or models as one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from atgnn.cli.base import (
    BatchOption,
    DeviceOption,
    ForceOption,
    PrecisionOption,
    app,
    refuse_idle,
)
from atgnn.errors import counted


@app.command()
def average(
    run: Annotated[Path, typer.Argument(help="The folder of a run that kept epochs.")],
    epochs: Annotated[
        str | None,
        typer.Option(help="The first and the last one: 21-40.", show_default="all that are kept"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The new checkpoint.", show_default="RUN/averaged")
    ] = None,
    norms: Annotated[
        str | None,
        typer.Option(
            help="Batch norms: measured anew, or averaged as published.",
            show_default="the recipe's",
        ),
    ] = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Average the weights of a run's epochs into one checkpoint."""
    from atgnn.errors import ConfigError
    from atgnn.files import check_new
    from atgnn.tagger import choose_device
    from atgnn.training.averaging import average as mean_of
    from atgnn.training.epochs import parse_epochs

    if norms not in (None, "measured", "averaged"):
        raise ConfigError(f"norms {norms!r}: give measured or averaged")
    span = None if epochs is None else parse_epochs(epochs)
    folder = check_new(run / "averaged" if out is None else out, force)
    chosen: Any = norms
    model, report = mean_of(run, folder, span, chosen, choose_device(device))
    shown = ", ".join(f"{name} {value:.3f}" for name, value in report.items() if name != "epoch")
    typer.echo(f"The model is in {model}{': ' if shown else ''}{shown}")


@app.command()
def ensemble(
    context: typer.Context,
    parts: Annotated[
        list[Path],
        typer.Argument(metavar="PART...", help="Score files, checkpoints, runs (their epochs)."),
    ],
    out: Annotated[Path, typer.Option(help="The score file of the ensemble, .parquet.")],
    clips: Annotated[
        str | None, typer.Option(help="A table or folder of clips: checkpoints score them.")
    ] = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
) -> None:
    """Write the mean of the scores of several models, or of all epochs that a run has kept."""
    from atgnn.data.store import open_clips
    from atgnn.scoring import ScoreTable, check_new_scores
    from atgnn.tagger import Tagger
    from atgnn.terminal import counter, show_warnings
    from atgnn.training.epochs import members

    show_warnings()
    check_new_scores(out, force)
    files, models = members(parts, clips is not None)
    if not models:
        why = "with score files alone, where no model listens"
        refuse_idle(context, why, "device", "precision", "batch_size")
    tables = [ScoreTable.read(file) for file in files]
    chosen = open_clips(clips, labelled=False) if clips is not None and models else None
    for model in models:
        assert chosen is not None
        tagger = Tagger.from_pretrained(model, device, precision)
        with counter(len(chosen)) as progress:
            tables.append(
                ScoreTable.of(
                    tagger, chosen, batch_size=batch_size, source=str(model), progress=progress
                )
            )
    table = ScoreTable.mean(tables)
    table.write(out, force=force)
    typer.echo(
        f"{counted(len(tables), 'model')}, {counted(len(table), 'clip')} x "
        f"{counted(len(table.labels), 'label')} in {out}"
    )
