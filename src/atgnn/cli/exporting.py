"""``atgnn export``."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import ForceOption, app


class Format(str, Enum):
    """What a model is written as."""

    onnx = "onnx"


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A shipped model, a checkpoint folder, a hub name.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.onnx,
    front_end: Annotated[
        bool,
        typer.Option("--front-end/--no-front-end", help="Take sound, or features made elsewhere."),
    ] = True,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights of linear maps in 8 bits: smaller, less exact.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Write a model for other runtimes; a file that is not the same model is not left there."""
    from atgnn.startup import quick_start

    with quick_start():
        from atgnn.checkpoint import Checkpoint
        from atgnn.errors import ConfigError
        from atgnn.export import export_onnx
        from atgnn.files import check_new
        from atgnn.terminal import say

        if out.suffix.lower() != ".onnx":
            raise ConfigError(f"{out}: a model for ONNX is a file that ends in .onnx")
        check_new(out, force)
        checkpoint = Checkpoint.from_pretrained(model)
    difference = export_onnx(checkpoint, out, front_end=front_end, int8=int8, force=force)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB; scores differ by {difference}")
