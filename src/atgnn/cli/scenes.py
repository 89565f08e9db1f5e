"""``atgnn prepare scenes``."""

import os
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from atgnn.cli.prepare import prepare


@prepare.command()
def scenes(
    events: Annotated[str, typer.Argument(help="Clips of one event: a table, folder or packed.")],
    out: Annotated[Path, typer.Option(help="Folder to make; new or empty.")],
    background: Annotated[
        str | None, typer.Option(help="Clips without any event.", show_default="coloured noise")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Scenes of every split and fold.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of a scene.")] = 10.0,
    number: Annotated[
        str, typer.Option("--events", help="In a scene, FEWEST:MOST, or one number.")
    ] = "1:5",
    level: Annotated[str, typer.Option(help="Of an event over the background, dB.")] = "0:20",
    background_level: Annotated[str, typer.Option(help="Of the background, dBFS.")] = "-50:-30",
    cooccurrence: Annotated[
        str, typer.Option(help="independent, training, reversed, or a matrix (CSV).")
    ] = "independent",
    like: Annotated[
        str | None,
        typer.Option(help="Table of clips or matrix that training and reversed are about."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Use events of this label; may be repeated.", show_default="all"),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="Column that names the event.", show_default="most specific label"),
    ] = None,
    form: Annotated[str, typer.Option(help="packed, flac or both.")] = "packed",
    unmarked: Annotated[
        str, typer.Option(help="Labels that a collection never marks are: unknown or absent.")
    ] = "unknown",
    shared_owners: Annotated[
        str,
        typer.Option(help="An author in several folds: drop, keep or refuse."),
    ] = "drop",
    least_clips: Annotated[
        int, typer.Option(min=1, help="That every label must have in every fold.")
    ] = 2,
    rate: Annotated[int, typer.Option(min=1000, help="Samples a second.")] = 16_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same scenes.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="As a rule one a processor.")] = None,
) -> None:
    """Mix single events over a background, with known truth, times and bands.

    Never are two splits or folds mixed, and a scene belongs to all authors of its parts.
    """
    from atgnn.data.scenes.choosing import parse_range
    from atgnn.data.scenes.making import Wishes, make_scenes
    from atgnn.data.scenes.settings import SceneSettings
    from atgnn.data.scenes.writing import check_form
    from atgnn.terminal import counter

    choices: dict[str, Any] = {"unmarked": unmarked, "shared_owners": shared_owners}
    settings = SceneSettings.of(
        seconds=seconds,
        rate=rate,
        events=parse_range(number, "--events"),
        level_db=parse_range(level, "--level"),
        background_dbfs=parse_range(background_level, "--background-level"),
        least_clips=least_clips,
        seed=seed,
        **choices,
    )
    wishes = Wishes(
        events, background, count, cooccurrence, like, label, label_column, check_form(form)
    )
    report = make_scenes(wishes, settings, out, threads or os.cpu_count() or 1, counter)
    typer.echo("\n".join(report.lines()))
    place = out if form == "flac" else out / "packed"
    typer.echo(f"Scenes in {out}; train with `--clips {quote(str(place))}`")
