"""``atgnn train``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import app


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: optim.epochs=10."),
    ] = None,
    clips: Annotated[
        list[str] | None,
        typer.Option(help="A table or folder of clips; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a model after a recipe.

    Stopped with Ctrl-C or killed, the same command with --resume goes on.
    """
    from atgnn.training.recipe import load_recipe

    changes = [*(settings or [])]
    if clips:
        changes.append(f"data.clips={json.dumps(clips)}")
    chosen = load_recipe(recipe, changes)
    from atgnn.training.run import train as run  # Lightning takes seconds: after the recipe

    try:
        model = run(chosen, out, resume=resume)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command with --resume goes on in {out}") from None
    typer.echo(f"The model is in {model}: try `atgnn tag SOUND --model {model}`")
