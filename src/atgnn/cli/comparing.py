"""``atgnn compare``: presets that are trained for it, or score files of any models."""

import json
from dataclasses import dataclass, fields
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from atgnn.cli.base import app, grouped, refuse_idle
from atgnn.cli.evaluation import Judging
from atgnn.errors import ConfigError

USAGE = "expected RECIPE --models A,B --out OUT, or score files of two or more models and CLIPS"


class FrontEnds(str, Enum):
    """Whose front end models hear through."""

    RECIPE = "recipe"
    OWN = "own"


class Rows(str, Enum):
    """Which rows of a recipe models are judged on."""

    TEST = "test"
    VALIDATION = "validation"


@dataclass(frozen=True)
class Terms:
    """What presets are trained by, with `--models`."""

    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Train these presets by RECIPE and compare them; NAME=PRESET gives one a name.",
        ),
    ] = None
    out: Annotated[
        Path | None, typer.Option(help="With --models: folder of the comparison; it goes on there.")
    ] = None
    seeds: Annotated[
        int, typer.Option(min=1, help="With --models: runs of each, the recipe's seed and on.")
    ] = 1
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[MODEL:]KEY=VALUE",
            help="With --models: change a setting of the recipe, for all or for one of them.",
        ),
    ] = None
    clips: Annotated[
        list[str] | None,
        typer.Option(help="With --models: a table or folder of clips; may be repeated."),
    ] = None
    front_ends: Annotated[
        FrontEnds,
        typer.Option(help="With --models: the recipe's front end for all, or each model's own."),
    ] = FrontEnds.RECIPE
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="With --models: epochs of each run fit into so many minutes."),
    ] = None
    rows: Annotated[
        Rows | None,
        typer.Option(help="With --models: judge on these rows; test where the recipe has some."),
    ] = None
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="With --models: runs at a time; default one, or one a GPU."),
    ] = None


@app.command()
@grouped
def compare(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE | SCORES ... CLIPS",
            help="With --models the recipe that they are trained by; else score files of two or "
            "more models, and the clips that they scored.",
        ),
    ],
    terms: Terms,
    judging: Judging,
) -> None:
    """Compare models on equal terms.

    `atgnn compare RECIPE --models A,B --out OUT` trains presets on the same data with the same
    sampler, augmentation and budget, judges them alike and writes a table; the same call goes on
    where it was stopped. `atgnn compare A.parquet B.parquet CLIPS` takes score files, of whatever
    models: two give what B gains on A, more give an order, with intervals.
    """
    from atgnn.terminal import show_warnings

    show_warnings()
    if terms.models is None:
        refuse_idle(context, "without --models", *(one.name for one in fields(Terms)))
        if len(inputs) < 3:
            raise ConfigError(f"got {' '.join(inputs)!r}: {USAGE}")
        judging.check(context)
        _compare_scores(inputs[:-1], inputs[-1], judging)
        return
    given = [one.name for one in fields(Judging) if one.name != "as_json"]
    refuse_idle(context, "with --models, where the recipe says how", *given)
    if len(inputs) != 1:
        raise ConfigError(f"got {' '.join(inputs)!r} and --models: {USAGE}")
    if terms.out is None:
        raise ConfigError("--models needs --out, a folder for the runs and the table")
    _compare_models(inputs[0], terms.models, terms.out, terms, judging.as_json)


def _compare_models(recipe: str, models: str, out: Path, terms: Terms, as_json: bool) -> None:
    from atgnn.comparison import compare_models, make_plan
    from atgnn.comparison.written import render
    from atgnn.terminal import say, show, standing

    plan = make_plan(
        recipe,
        [name.strip() for name in models.split(",") if name.strip()],
        settings=terms.settings or (),
        clips=terms.clips or (),
        seeds=terms.seeds,
        front_ends=terms.front_ends.value,
        minutes=terms.minutes,
        rows=None if terms.rows is None else terms.rows.value,
    )
    try:
        with standing() as progress:
            found = compare_models(plan, out, terms.jobs, say, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what is done is kept, the same command goes on") from None
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        show(partial(render, found))
    say(f"the table is in {out / 'report.html'}")


def _compare_scores(files: list[str], clips: str, judging: Judging) -> None:
    from atgnn.evaluate import compare as differ
    from atgnn.evaluate import rank
    from atgnn.scoring import ScoreTable
    from atgnn.terminal import counter

    tables = [ScoreTable.read(path) for path in files]
    _, chosen = judging.open(clips)
    settings = judging.settings(clips)
    with counter(judging.resamples) as progress:
        settings["progress"] = progress
        found: Any
        if len(tables) == 2:
            found = differ(tables[0], tables[1], chosen, names=(files[0], files[1]), **settings)
        else:
            found = rank(tables, chosen, names=files, **settings)
    judging.show(found)
