"""The command line's frame: the application, options of many commands, errors as one line."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from atgnn import __version__
from atgnn.errors import AtgnnError, AudioError

__all__ = [
    "BatchOption",
    "DeviceOption",
    "ForceOption",
    "ModelOption",
    "PrecisionOption",
    "app",
]


#: What click raises for unknown options, missing arguments and values out of range.
UsageError: Any = typer.BadParameter.__mro__[1]


def _refuse_usage(error: Any) -> None:
    """One line and exit code 2; a command without arguments shows its help as always."""
    from atgnn.terminal import say

    if type(error).__name__ == "NoArgsIsHelpError":
        raise error
    path = error.ctx.command_path if error.ctx is not None else "atgnn"
    say(f"{error.format_message().rstrip('.')}: see {path} --help")
    raise typer.Exit(2) from None


class Commands(TyperGroup):
    """Turns our errors into one line and an exit code, for every command."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().make_context(*args, **extra)
        except UsageError as error:
            _refuse_usage(error)

    def invoke(self, ctx: Any) -> Any:
        from atgnn.terminal import say

        try:
            return super().invoke(ctx)
        except UsageError as error:
            _refuse_usage(error)
        except AtgnnError as error:
            if ctx.params.get("debug"):
                raise
            say(error)
            raise typer.Exit(1 if isinstance(error, AudioError) else 2) from None
        except KeyboardInterrupt as stop:
            say(f"stopped{': ' if stop.args else ''}{stop}")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


app = typer.Typer(
    cls=Commands,
    help="Audio tagging with graph neural networks: any sound in, its tags out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelOption = Annotated[
    str | None,
    typer.Option(help="A shipped model, a checkpoint folder or a hub name (owner/name)."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16, float16, or auto: the fastest that the device is made for."
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(min=1, help="Windows that go through the network together."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"atgnn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options of all commands; `debug` is read by `Commands`."""
