"""``atgnn models``, ``recipes`` and ``doctor``: what there is."""

import json
from typing import Annotated

import typer

from atgnn.cli.base import app, refuse_idle
from atgnn.costs import CLASSES, FRAMES, kept_costs


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="One array of objects.")] = False,
    classes: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of labels.")] = CLASSES,
    frames: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Length of the clip, in frames of 10 ms.")
    ] = FRAMES,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure what is kept with the package once more.")
    ] = False,
) -> None:
    """List the presets with their size and work, and the models that ship.

    Figures for the default length and number of labels were measured before, and a test measures
    them again; others are measured now, which takes some seconds.
    """
    from dataclasses import asdict

    from atgnn.shipped import shipped_models
    from atgnn.terminal import models_table, say, show

    if measure or (classes, frames) != (CLASSES, FRAMES):
        from atgnn.networks import preset_costs

        costs, notes = preset_costs(frames, num_labels=classes)
        for note in notes:
            say(note)
    else:
        costs = kept_costs()
    if as_json:
        typer.echo(json.dumps([{"name": name, **asdict(cost)} for name, cost in costs.items()]))
        return
    show(models_table(costs, classes, frames))
    typer.echo(f"Models that ship: {', '.join(shipped_models()) or 'none'}")


@app.command()
def recipes(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A recipe that ships, or a YAML file: show its settings.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for `train`.")
    ] = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="As a file to copy and change.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """List the training recipes that ship, or all settings of one with what they do."""
    from atgnn.terminal import knobs_table, show
    from atgnn.training.knobs import knobs, markdown
    from atgnn.training.recipe import load_recipe, recipe_names

    if name is None:
        refuse_idle(context, "without a recipe", "settings", "as_yaml", "as_markdown")
        for one in recipe_names():
            typer.echo(f"{one:<20} {load_recipe(one).description}")
        return
    if as_yaml:
        refuse_idle(context, "with --yaml", "as_markdown")
    recipe = load_recipe(name, settings)
    if as_yaml:
        typer.echo(recipe.to_yaml(), nl=False)
    elif as_markdown:
        typer.echo(markdown(knobs(recipe)))
    else:
        show(knobs_table(knobs(recipe)))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    build: Annotated[
        bool, typer.Option("--build", help="Compile the graph kernel (needs a C++ compiler).")
    ] = False,
) -> None:
    """Show what is in use here, and what is missing.

    Graphs are built by the fastest kernel there is; the environment variable ATGNN_KERNEL chooses
    another: plain, base, avx2, avx512 or avx512_bf16.
    """
    from atgnn.doctor import examine
    from atgnn.graph.kernels.cpu import build as build_kernel
    from atgnn.terminal import doctor_table, say, show

    if build:
        say(f"the graph kernel is in {build_kernel()}")
    report = examine()
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        show(doctor_table(report))
