"""``atgnn import``: scores of other people's models."""

from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import Activation, FillOption, ForceOption, ToOption, app, refuse_idle
from atgnn.errors import counted


@app.command("import")
def import_(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="SCORES", help=".npy, .npz, .pt, .h5, .csv, .tsv or .parquet."),
    ],
    out: Annotated[Path, typer.Option(help="The score file, .parquet.")],
    names: Annotated[
        Path | None,
        typer.Option(
            help="The clips of the rows, in order, where the file does not say: .txt, .csv, .json, "
            ".pkl or .h5."
        ),
    ] = None,
    clips: Annotated[
        str | None,
        typer.Option(help="The table or folder of the clips: names are found there by file name."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="The labels of the columns, where the file does not say: audioset, fsd50k, or a "
            "list of names, AudioSet identifiers or indices."
        ),
    ] = None,
    to: ToOption = None,
    fill: FillOption = False,
    logits: Annotated[
        bool, typer.Option("--logits", help="The file holds logits, not probabilities.")
    ] = False,
    activation: Annotated[
        Activation, typer.Option(help="Of labels that are independent, or exclude one another.")
    ] = Activation.SIGMOID,
    array: Annotated[
        str | None, typer.Option(help="Which array the scores are, where a file has several.")
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Rows of one clip are windows of it: take their mean.")
    ] = False,
    source: Annotated[
        str, typer.Option(help="What made the scores, for people.", show_default="the file's name")
    ] = "",
    force: ForceOption = False,
) -> None:
    """Take over the scores of another tool: one score file, as `atgnn score` writes it."""
    from atgnn.data.store import clips_of, open_clips
    from atgnn.others import import_scores, target_labels
    from atgnn.scoring import check_new_scores
    from atgnn.terminal import say, show_warnings

    show_warnings()
    check_new_scores(out, force)
    if to is None:
        refuse_idle(context, "without --to", "fill")
    found = import_scores(
        files,
        names=names,
        labels=labels,
        clips=None if clips is None else clips_of(open_clips(clips, labelled=False)),
        to=None if to is None else target_labels(to),
        fill=fill,
        logits=logits,
        activation=activation.kind,
        array=array,
        join=join,
        source=source,
    )
    found.table.write(out, force=force)
    for note in found.notes:
        say(note)
    clips_, labels_ = counted(len(found.table), "clip"), counted(len(found.table.labels), "label")
    typer.echo(f"{clips_} x {labels_} in {out}")
