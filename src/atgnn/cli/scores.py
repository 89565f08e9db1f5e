"""``atgnn score``: what a model says of many clips, as a file."""

from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import BatchOption, DeviceOption, ForceOption, PrecisionOption, app


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="A shipped model, a folder or a hub name.")],
    clips: Annotated[str, typer.Argument(help="A table or folder of clips, packed ones too.")],
    out: Annotated[Path, typer.Option(help="The score file, .parquet.")],
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out clips that cannot be read.")
    ] = False,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
) -> None:
    """Write the scores of all labels of clips into one Parquet file.

    The same file serves enhancement, distillation, ensembles, thresholds and evaluation.
    """
    from atgnn.data.store import open_clips
    from atgnn.files import check_new
    from atgnn.scoring import ScoreTable
    from atgnn.tagger import Tagger
    from atgnn.tags import Failure
    from atgnn.terminal import counter, say, show_warnings

    show_warnings()
    check_new(out, force)
    tagger = Tagger.from_pretrained(model, device, precision)
    chosen = open_clips(clips)
    failures: list[Failure] = []
    with counter(len(chosen)) as progress:
        table = ScoreTable.of(
            tagger,
            chosen,
            batch_size=batch_size,
            source=model,
            progress=progress,
            on_failure=failures.append if skip_bad else None,
        )
    table.write(out, force=force)
    for failure in failures:
        say(failure, "left out: ")
    typer.echo(f"{len(table)} clips x {len(table.labels)} labels in {out}")
