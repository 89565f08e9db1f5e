"""``atgnn pretrain``."""

import json
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from atgnn.cli.base import app


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty.")],
    sounds: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOUNDS...", help="Folders, tables, packed folders, sound files."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: optim.steps=5000."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file of settings, such as a run's recipe.yaml.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Learn an encoder from sounds that nobody labelled.

    The result, OUT/encoder, is what `atgnn train` starts from: --set init=OUT/encoder. Stopped with
    Ctrl-C or killed, `atgnn pretrain --out RUN --resume` goes on: the run knows its sounds.
    """
    from atgnn.errors import ConfigError
    from atgnn.terminal import looking, say, show_warnings
    from atgnn.training.pretrain.settings import load_settings
    from atgnn.training.settings import saved_settings

    show_warnings()
    changes = [*(settings or [])]
    if sounds:
        changes.append(f"sounds.paths={json.dumps(sounds)}")
    chosen = load_settings(saved_settings(out) if resume and recipe is None else recipe, changes)
    if not chosen.sounds.paths:
        raise ConfigError("no sounds to learn from: name a folder of them")
    from atgnn.training.pretrain.run import pretrain as run  # Lightning takes seconds

    try:
        with looking() as progress:
            encoder = run(chosen, out, resume=resume, say=say, progress=progress)
    except KeyboardInterrupt:
        begun = (out / "recipe.yaml").is_file()
        how = (
            f"`atgnn pretrain --out {quote(str(out))} --resume` goes on"
            if begun
            else "nothing was begun"
        )
        raise KeyboardInterrupt(how) from None
    typer.echo(
        f"The encoder is in {encoder}: try `atgnn train folder --clips SOUNDS --out NEW "
        f"--set {quote(f'init={encoder}')}`"
    )
