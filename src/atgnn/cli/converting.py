"""``atgnn convert``."""

from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import Activation, ForceOption, app


@app.command()
def convert(
    weights: Annotated[
        Path,
        typer.Argument(
            help="A published file, e.g. Cnn14_mAP=0.431.pth; for ast a folder of the Hub too."
        ),
    ],
    preset: Annotated[str, typer.Option(help="Its system: cnn14, psla, ast ...")],
    out: Annotated[Path, typer.Option(help="The checkpoint's folder.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="What it scores, in order: audioset, fsd50k, or a label file.",
            show_default="what the folder says, else audioset",
        ),
    ] = None,
    activation: Annotated[
        Activation | None,
        typer.Option(
            help="Of labels that are independent, or exclude one another.",
            show_default="what the folder says, else sigmoid",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Make a checkpoint of another system's published weights, to tag and compare with."""
    from atgnn.convert import convert as converted
    from atgnn.files import check_new
    from atgnn.labels import Vocabulary

    check_new(out, force)
    checkpoint, report = converted(
        weights,
        preset,
        None if labels is None else Vocabulary.named(labels),
        activation=None if activation is None else activation.kind,
    )
    checkpoint.save_pretrained(out)
    typer.echo(report)
    typer.echo(f"{out}: {len(checkpoint.vocabulary)} labels, {checkpoint.front_end.summary}")
