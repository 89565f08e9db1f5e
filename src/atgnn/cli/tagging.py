"""``atgnn tag``."""

from typing import Annotated

import typer

from atgnn.cli.base import BatchOption, DeviceOption, ModelOption, PrecisionOption, app
from atgnn.errors import AtgnnError


@app.command()
def tag(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Sound files, and folders of them.")
    ],
    model: ModelOption = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="The best so many labels."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="All labels from this score on."),
    ] = None,
    ancestors: Annotated[
        bool, typer.Option("--ancestors", help="Also labels that a tag implies (Dog for Bark).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
) -> None:
    """Name the sounds in recordings.

    Without --top and --threshold, the labels that reach the model's own thresholds are shown, or
    the 5 best where it has none.
    """
    from atgnn.startup import quick_start

    with quick_start():
        from atgnn.checkpoint import DEFAULT_MODEL
        from atgnn.tagger import Tagger
        from atgnn.terminal import Results, expand, say, show_warnings

        show_warnings()
        name = DEFAULT_MODEL if model is None else model
        tagger = Tagger.from_pretrained(name, device, precision)
    found = list(expand(paths))
    problems = [item for item in found if isinstance(item, AtgnnError)]
    for problem in problems:
        say(problem)
    sounds = [item for item in found if isinstance(item, str)]
    failures = Results(sounds, as_json).write_all(
        tagger.tag_many(
            sounds,
            top=top,
            threshold=threshold,
            ancestors=ancestors,
            batch_size=batch_size,
            on_error="collect",
        )
    )
    if failures or problems:
        raise typer.Exit(1)
