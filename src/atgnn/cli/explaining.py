"""``atgnn explain``."""

from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import DeviceOption, ForceOption, ModelOption, PackOption, app
from atgnn.errors import printable


@app.command()
def explain(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sound file.")],
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", "-l", help="Explain this label; may be repeated.", show_default="the tags"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A page (.html), a figure (.png, .svg) or data (.json).", show_default="FILE.html"
        ),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Look at the window from this second.",
            show_default="for each label where it is loudest",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not look for the smallest set that is enough.")
    ] = False,
    model: ModelOption = None,
    pack: PackOption = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Show why a recording has its tags: regions of time and frequency, other labels, sound.

    The page is one file: click a label, see and hear its regions.
    """
    from atgnn.startup import quick_start

    with quick_start():
        from atgnn.checkpoint import DEFAULT_MODEL
        from atgnn.explain import explain as reasons
        from atgnn.explain import form_of, write
        from atgnn.files import check_new
        from atgnn.tagger import Tagger
        from atgnn.terminal import looking, show_warnings

    show_warnings()
    # "." has no name; reading it will say what is wrong.
    place = Path(Path(file).name or "recording").with_suffix(".html") if out is None else out
    form_of(place)
    check_new(place, force)
    name = DEFAULT_MODEL if model is None else model
    tagger = Tagger.from_pretrained(name, device, packs=pack or ())
    with looking() as progress:
        found = reasons(
            tagger, file, label or None, start=start, search=not quick, progress=progress
        )
    write(found, place, force=force)
    typer.echo(f"{found}\n{printable(place)}")
