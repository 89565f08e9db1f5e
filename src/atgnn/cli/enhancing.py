"""``atgnn enhance``: labels that annotators missed."""

from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import ForceOption, app


@app.command()
def enhance(
    clips: Annotated[str, typer.Option(help="The table of clips, or a packed folder.")],
    scores: Annotated[Path, typer.Option(help="A teacher's scores of them: `atgnn score`.")],
    out: Annotated[Path, typer.Option(help="The new table; a report is written beside it.")],
    method: Annotated[
        str, typer.Option(help="A label's threshold: mean, median, p25, p10 or p5 of its clips.")
    ] = "mean",
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Value of `split` that means training; may be repeated.",
            show_default="train, balanced and unbalanced",
        ),
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="audioset, fsd50k or a label file: where names are not ours.")
    ] = None,
    ignore_unknown_labels: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown-labels",
            help="Leave labels that the teacher does not know as they are.",
        ),
    ] = False,
    force: ForceOption = False,
) -> None:
    """Add the labels that annotators missed, where a teacher hears them and the ontology allows.

    Only training clips change. Train the teacher with the same recipe on the labels as they are.
    """
    from typing import Any, cast

    from atgnn.data.store import clips_of, open_clips
    from atgnn.files import check_new
    from atgnn.labels import Vocabulary
    from atgnn.scoring import ScoreTable
    from atgnn.terminal import show_warnings
    from atgnn.training.enhance import enhance as add_labels
    from atgnn.training.enhance import write_report

    show_warnings()
    report = out.with_name(f"{out.stem}.report.csv")
    for path in (out, report):
        check_new(path, force)
    result = add_labels(
        clips_of(open_clips(clips)),
        ScoreTable.read(scores),
        method=cast(Any, method),
        splits=split or None,
        vocabulary=None if vocabulary is None else Vocabulary.named(vocabulary),
        ignore_unknown_labels=ignore_unknown_labels,
    )
    result.clips.write(out)
    write_report(result, report)
    typer.echo(f"{result.summary()}\nThe table is {out}, what was added {report}")
