"""The command line's frame: the application, options of many commands, errors as one line."""

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer.core import TyperGroup

from atgnn import __version__
from atgnn.cli.overview import place
from atgnn.errors import AtgnnError, AudioError, ConfigError

__all__ = [
    "Activation",
    "BatchOption",
    "DeviceOption",
    "FillOption",
    "FoldOption",
    "ForceOption",
    "ModelOption",
    "PackOption",
    "PrecisionOption",
    "SplitOption",
    "ToOption",
    "TrimOption",
    "app",
    "grouped",
    "refuse_idle",
]


#: What click raises for unknown options, missing arguments and values out of range.
UsageError: Any = typer.BadParameter.__mro__[1]


def _refuse_usage(error: Any) -> None:
    """One line and exit code 2; a command without arguments shows its help as always."""
    from atgnn.terminal import say

    if type(error).__name__ == "NoArgsIsHelpError":
        raise error
    path = error.ctx.command_path if error.ctx is not None else "atgnn"
    message = error.format_message().rstrip(".").replace(": Value error, ", ": ")
    say(f"{message}: see {path} --help")
    raise typer.Exit(2) from None


class Commands(TyperGroup):
    """Turns our errors into one line and an exit code, and lists commands as `overview` has it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=place)

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
        except OSError as error:  # a place that cannot be read or written, found late
            if ctx.params.get("debug"):
                raise
            where = "" if error.filename is None else f"{error.filename}: "
            say(f"{where}{error.strerror or error}: check the place, and whether it may be used")
            raise typer.Exit(2) from None


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
PackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--pack", metavar="PACK", help="Labels of `atgnn learn` for this model; may be repeated."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
ToOption = Annotated[
    str | None,
    typer.Option(
        help="Keep the labels of this vocabulary, matched by AudioSet identifier: audioset, "
        "fsd50k, a list of labels, or a model."
    ),
]
FillOption = Annotated[
    bool,
    typer.Option("--fill", help="With --to: a label without scores is made of those below it."),
]
FoldOption = Annotated[int | None, typer.Option(help="Only this fold.")]
SplitOption = Annotated[str | None, typer.Option(help="Only this split.")]
TrimOption = Annotated[
    float | None,
    typer.Option(
        "--trim-silence",
        metavar="DB",
        min=1,
        help="Leave out silence at both ends of a recording, what is so many dB below its loudest "
        "10 ms; 60 suits clips padded with zeros.",
    ),
]


class Activation(str, Enum):
    """How a model's scores come from its logits."""

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"

    @property
    def kind(self) -> Literal["sigmoid", "softmax"]:
        """As the package calls it."""
        return "sigmoid" if self is Activation.SIGMOID else "softmax"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command take options that it shares with others as one argument: a dataclass.

    Each field of it, an ``Annotated`` option, becomes an option of the command.
    """
    hints = get_type_hints(command, include_extras=True)
    flat: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if dataclasses.is_dataclass(hint):
            groups[parameter.name] = hint
            flat += _fields_as_parameters(hint)
        else:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint))

    @functools.wraps(command)
    def flattened(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(
                **{one.name: given.pop(one.name) for one in dataclasses.fields(kind)}
            )
        command(**given)

    seen: Any = flattened  # typer is to see the options one by one
    del seen.__wrapped__
    seen.__annotations__, seen.__signature__ = {}, inspect.Signature(flat)
    return flattened


def _fields_as_parameters(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(kind)
    ]


def refuse_idle(context: typer.Context, why: str, *names: str) -> None:
    """Refuse options that were given, but do nothing with the others.

    `names` are the command's parameters. Raises `ConfigError`: ``--device does nothing WHY``.
    """
    options = {one.name: one.opts[0] for one in context.command.params}
    idle = [options[name] for name in names if _was_given(context, name)]
    if idle:
        verb = "does" if len(idle) == 1 else "do"
        raise ConfigError(f"{' and '.join(idle)} {verb} nothing {why}: leave it out")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


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
