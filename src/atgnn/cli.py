"""The command line: ``atgnn tag``, ``models``, ``recipes``, ``train``, ``evaluate``, ``doctor``.

Exit codes: 0 all went well; 1 a recording could not be read (`tag` goes on with the rest); 2 wrong
usage, a model, recipe or table that is missing or does not fit, or a kernel that cannot be built
or used; 130 stopped with Ctrl-C.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from atgnn import __version__
from atgnn.errors import AtgnnError, AudioError
from atgnn.memory import keep_freed_memory

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Turns our errors into one line and an exit code, for every command."""

    def invoke(self, ctx: Any) -> Any:
        from atgnn.terminal import say

        try:
            return super().invoke(ctx)
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
    cls=_Commands,
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
    """Options of all commands; `debug` is read by `_Commands`."""


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


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="One array of objects.")] = False,
    classes: Annotated[int, typer.Option(min=1, help="Number of labels.")] = 200,
    frames: Annotated[int, typer.Option(min=1, help="Frames of the input.")] = 1024,
) -> None:
    """List the presets with their size and work, and the models that ship."""
    from dataclasses import asdict

    from rich.console import Console

    from atgnn.checkpoint import shipped_models
    from atgnn.model import preset, preset_names
    from atgnn.model.cost import measure_cost
    from atgnn.terminal import models_table

    costs = {
        name: measure_cost(preset(name, num_labels=classes), frames) for name in preset_names()
    }
    if as_json:
        typer.echo(json.dumps([{"name": name, **asdict(cost)} for name, cost in costs.items()]))
        return
    console = Console()
    console.print(models_table(costs, classes, frames))
    console.print(f"Models that ship: {', '.join(shipped_models()) or 'none'}", highlight=False)


@app.command()
def recipes() -> None:
    """List the training recipes that ship."""
    from atgnn.training.recipe import load_recipe, recipe_names

    for name in recipe_names():
        typer.echo(f"{name:<20} {load_recipe(name).description}")


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


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A shipped model, a folder or a hub name.")],
    clips: Annotated[str, typer.Argument(help="A table or folder of clips.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    fold: Annotated[int | None, typer.Option(help="Only this fold.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class/--summary", help="With a row per label, or without.")
    ] = True,
    label_column: Annotated[
        str | None,
        typer.Option(help="Column of the table that names the labels."),
    ] = None,
    ignore_unknown_labels: Annotated[
        bool, typer.Option("--ignore-unknown-labels", help="Pass over labels foreign to the model.")
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
) -> None:
    """Measure a model on clips with known labels: mAP, AUC, d', accuracy."""
    from rich.console import Console

    from atgnn.data.clips import Clips
    from atgnn.evaluate import choose_clips
    from atgnn.evaluate import evaluate as measure
    from atgnn.tagger import Tagger
    from atgnn.terminal import counter, show_warnings

    show_warnings()
    tagger = Tagger.from_pretrained(model, device, precision)
    chosen = choose_clips(Clips.read(clips), fold=fold, split=split, label_column=label_column)
    with counter(len(chosen)) as progress:
        report = measure(
            tagger,
            chosen,
            batch_size=batch_size,
            ignore_unknown_labels=ignore_unknown_labels,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        Console(highlight=False).print(report.render(per_class))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    build: Annotated[
        bool, typer.Option("--build", help="Compile the graph kernel (needs a C++ compiler).")
    ] = False,
) -> None:
    """Show what is in use here, and what is missing.

    Graphs are built by the fastest kernel there is; the environment variable ATGNN_KERNEL chooses
    another: plain, base, avx2 or avx512.
    """
    from rich.console import Console

    from atgnn.doctor import examine
    from atgnn.graph.kernels.cpu import build as build_kernel
    from atgnn.terminal import doctor_table, say

    if build:
        say(f"the graph kernel is in {build_kernel()}")
    report = examine()
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        Console(highlight=False).print(doctor_table(report))


def main() -> None:
    """The console script."""
    keep_freed_memory()
    app()
