"""``atgnn reproduce``."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import DeviceOption, app


class PaperTables(str, Enum):
    """Tables of the paper."""

    TABLE1 = "table1"
    TABLE2 = "table2"
    TABLE3 = "table3"


@app.command()
def reproduce(
    table: Annotated[PaperTables, typer.Argument(help="Which table of the paper.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with packed data sets (fsd50k, audioset20k) and runs."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of runs, one a preset, or the runs of a comparison.",
            show_default="DATA/runs",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Count parameters with so many labels."),
    ] = None,
    time: Annotated[
        bool, typer.Option("--time", help="Time inference too, turn by turn, random weights.")
    ] = False,
    device: DeviceOption = "auto",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show a table of the paper with our figures beside it.

    Parameters and multiply-accumulates are measured each time. mAP is measured where the data set
    and trained models are; elsewhere the command that leads to it is shown, never a number.
    """
    from atgnn.comparison.reproduce import render, table_page
    from atgnn.comparison.reproduce import reproduce as repeat
    from atgnn.errors import ConfigError
    from atgnn.terminal import say, show, show_warnings

    show_warnings()
    if as_json and as_markdown:
        raise ConfigError("--json and --markdown: leave one of them out")
    found = repeat(
        table.value, data, runs, labels=classes, time=time, device=device,
        progress=say if time or data is not None else lambda line: None,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    elif as_markdown:
        typer.echo(table_page(found).markdown(), nl=False)
    else:
        show(render(found))
