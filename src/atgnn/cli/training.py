"""``atgnn train``."""

import json
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from atgnn.cli.base import app


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty.")],
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe that ships, or a YAML file; with --resume the run's own."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: optim.epochs=10."),
    ] = None,
    clips: Annotated[
        list[str] | None,
        typer.Option(help="A table or folder of clips; may be repeated."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="N|all", help="Processes of each node, one a GPU.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines that train together.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a model after a recipe.

    Stopped with Ctrl-C or killed, `atgnn train --out RUN --resume` goes on.
    """
    from atgnn.training.recipe import load_recipe, recipe_of_run

    changes = [*(settings or [])]
    if clips:
        changes.append(f"data.clips={json.dumps(clips)}")
    for name, value in (("devices", devices), ("nodes", nodes)):
        changes += [] if value is None else [f"scale.{name}={value}"]
    chosen = recipe_of_run(out, resume, changes) if recipe is None else load_recipe(recipe, changes)
    from atgnn.training.run import train as run  # Lightning takes seconds: after the recipe

    try:
        model = run(chosen, out, resume=resume)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"`atgnn train --out {quote(str(out))} --resume` goes on") from None
    if model is not None:  # else this process only helped
        typer.echo(f"The model is in {model}: try `atgnn tag SOUND --model {quote(str(model))}`")
