"""What is compared: the models, on which recipe, under which terms; and the folder it lies in.

OUT/comparison.yaml   the plan, so that a later call knows whether it is the same comparison
OUT/runs/mini-42/     a run of `atgnn train`, one for each model and seed
OUT/runs/mini-42.json what was measured of it (`result.Result`)
OUT/runs/mini-42.log  what it printed
OUT/scores/           its scores of the clips it was judged on, for `atgnn compare A B CLIPS`
OUT/report.html ...   the table, as `report.md`, `table.csv`, `report.json` and a picture too
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from atgnn.errors import ConfigError, did_you_mean
from atgnn.files import appending, lock, write_text
from atgnn.networks import network_names, own_front_end
from atgnn.training.division import rows_of
from atgnn.training.recipe import Recipe, load_recipe
from atgnn.training.settings import Settings, changed_settings, settings_from

__all__ = [
    "Entry",
    "Job",
    "Places",
    "Plan",
    "alone",
    "claim",
    "entries_of",
    "make_plan",
    "read_plan",
]

FrontEnds = Literal["recipe", "own"]
Rows = Literal["test", "validation"]


class Entry(Settings):
    """One model of a comparison: a preset under a name, and what is set for it alone."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    preset: str
    settings: tuple[str, ...] = ()


class Plan(Settings):
    """The terms of a comparison. Models and seeds can be added later; nothing else changes."""

    recipe: Recipe = Field(description="whose model is replaced by each of the models")
    front_ends: FrontEnds = "recipe"
    minutes: float | None = Field(None, gt=0, description="budget of each run")
    rows: Rows = Field(description="the recipe's rows that the models are judged on")
    seeds: int = Field(1, ge=1)
    entries: tuple[Entry, ...] = Field(min_length=1)

    def recipe_of(self, entry: Entry, seed: int) -> Recipe:
        """What a model is trained by: data, sampler, augmentation and budget are the recipe's.

        Raises `ConfigError` where the model's own settings do not fit.
        """
        changes = [
            *(["front_end={preset: own}"] if self.own_front_end(entry) else []),
            *self.left_out(entry),
            f"model={{preset: {entry.preset}}}",
            f"seed={seed}",
            "scale.devices=1",
            *entry.settings,
        ]
        return settings_from(Recipe, self.recipe.to_yaml(), entry.name, changes)

    def own_front_end(self, entry: Entry) -> bool:
        """Whether a model hears through its own front end: all do, or it wants the waveform."""
        return self.front_ends == "own" or self.hears_waveform(entry)

    def hears_waveform(self, entry: Entry) -> bool:
        """Whether a model hears the waveform, and no mel bins."""
        return own_front_end(entry.preset).kind == "waveform"

    def left_out(self, entry: Entry) -> tuple[str, ...]:
        """Settings that switch the recipe's changes of mel bins off, for a model without any."""
        names = self.recipe.augment.spectral if self.hears_waveform(entry) else ()
        return tuple(f"augment.{name}=0" for name in names)

    def jobs(self) -> list["Job"]:
        """All runs: the first seed of every model first, so that a whole row is there early."""
        first = self.recipe.seed
        seeds = range(first, first + self.seeds)
        return [Job(entry, seed) for seed in seeds for entry in self.entries]


@dataclass(frozen=True)
class Job:
    """One run: a model with a seed."""

    entry: Entry
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, and of the files beside it."""
        return f"{self.entry.name}-{self.seed}"


@dataclass(frozen=True)
class Places:
    """Where things lie in a comparison's folder."""

    out: Path

    @property
    def plan(self) -> Path:
        """The plan."""
        return self.out / "comparison.yaml"

    def run(self, job: Job) -> Path:
        """The folder of a run."""
        return self.out / "runs" / job.name

    def beside(self, job: Job, kind: str) -> Path:
        """A file beside the folder of a run: ``json``, ``log``, ``clock`` ..."""
        return self.out / "runs" / f"{job.name}.{kind}"

    def scores(self, job: Job) -> Path:
        """A run's scores of the clips it is judged on."""
        return self.out / "scores" / f"{job.name}.parquet"


# ---------------------------------------------------------------------------- made


def make_plan(
    recipe: str,
    models: Sequence[str],
    *,
    settings: Iterable[str] = (),
    clips: Sequence[str] = (),
    seeds: int = 1,
    front_ends: FrontEnds = "recipe",
    minutes: float | None = None,
    rows: Rows | None = None,
) -> Plan:
    """A plan from what a user says; see `atgnn compare --help`.

    `settings` are ``KEY=VALUE`` for all models or ``MODEL:KEY=VALUE`` for one. Without `rows`,
    models are judged on the recipe's test rows, or where it names none on its validation rows.

    Raises:
        ConfigError: no such preset, recipe or setting; a recipe without clips, or without rows to
            judge on.
        ClipsError: the clips are not there, or none are in those rows.
    """
    names = entries_of(models)
    common, own = _divided(settings, names)
    if clips:
        common = (*common, f"data.clips={json.dumps([*clips])}")
    base = load_recipe(recipe, list(common)).with_absolute_paths()
    if not base.data.clips:
        raise ConfigError(f"the recipe {base.name} names no clips to compare on: add --clips PATH")
    plan = Plan(
        recipe=base,
        front_ends=front_ends,
        minutes=minutes,
        rows=_rows(base, rows),
        seeds=seeds,
        entries=tuple(
            entry.model_copy(update={"settings": own.get(entry.name, ())}) for entry in names
        ),
    )
    for entry in plan.entries:
        plan.recipe_of(entry, base.seed)  # what cannot be is said before anything runs
    rows_of(base, plan.rows)
    return plan


def entries_of(models: Sequence[str]) -> tuple[Entry, ...]:
    """Models as they are named on a command line: ``pyr-s``, or ``wide=pyr-s`` under a name."""
    found = []
    for text in models:
        name, _, preset = text.partition("=")
        preset = preset or name
        if preset not in network_names():
            raise ConfigError(
                f"unknown preset {preset!r} (there are {', '.join(network_names())})"
                f"{did_you_mean(preset, network_names())}"
            )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ConfigError(f"{name!r} cannot name a folder: use letters, digits and - _ .")
        found.append(Entry(name=name, preset=preset))
    names = [entry.name for entry in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is named twice: give one a name, other={twice[0]}")
    if not found:
        raise ConfigError(f"no models: --models A,B with presets of {', '.join(network_names())}")
    return tuple(found)


def _divided(
    settings: Iterable[str], entries: Sequence[Entry]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Settings of all models, and those of each."""
    names = [entry.name for entry in entries]
    common: list[str] = []
    own: dict[str, tuple[str, ...]] = {}
    for setting in settings:
        owner, colon, rest = setting.partition(":")
        if not colon or "=" in owner:  # a colon within a value
            common.append(setting)
        elif owner in names:
            own[owner] = (*own.get(owner, ()), rest)
        else:
            raise ConfigError(
                f"--set {setting}: {owner!r} is none of the models {', '.join(names)}"
                f"{did_you_mean(owner, names)}"
            )
    return tuple(common), own


def _rows(recipe: Recipe, asked: Rows | None) -> Rows:
    rows: Rows = asked or ("test" if recipe.data.test else "validation")
    if rows == "test" and not recipe.data.test:
        raise ConfigError(
            f"the recipe {recipe.name} names no test rows: add --set data.test={{fold: 1}} or "
            "the like"
        )
    if rows == "validation" and not (recipe.data.validation or recipe.data.validation_share):
        raise ConfigError(
            f"the recipe {recipe.name} has nothing to judge on: add --set data.test={{fold: 1}} "
            "or --set data.validation={fold: 2}"
        )
    return rows


# ---------------------------------------------------------------------------- in a folder


def claim(plan: Plan, out: Path) -> Plan:
    """Make `out` the folder of this comparison, or join what it already holds.

    Returns the plan with the models and seeds of earlier calls.

    Raises:
        ConfigError: something else is there, or a comparison under other terms, or one at work.
    """
    places = Places(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not places.plan.is_file()):
        raise ConfigError(f"{out} holds something else than a comparison: give another --out")
    (out / "runs").mkdir(parents=True, exist_ok=True)
    with alone(out):
        if places.plan.is_file():
            plan = _joined(plan, read_plan(out), out)
        write_text(places.plan, plan.to_yaml())
    return plan


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """As the one process that works on a comparison; `ConfigError` where another does."""
    with appending(out / ".lock") as file:
        if not lock(file):
            raise ConfigError(f"another `atgnn compare` is at work in {out}: wait for it")
        yield


def read_plan(out: Path) -> Plan:
    """The plan of a folder. Raises `ConfigError` where there is none."""
    path = Places(out).plan
    if not path.is_file():
        raise ConfigError(f"{out} is no folder of `atgnn compare`: it has no comparison.yaml")
    return settings_from(Plan, path.read_text(encoding="utf-8"), str(path))


def _joined(plan: Plan, before: Plan, out: Path) -> Plan:
    changes = changed_settings(before.recipe, plan.recipe)
    for name in ("front_ends", "minutes", "rows"):
        old, new = getattr(before, name), getattr(plan, name)
        changes += [] if old == new else [f"{name}={old} (now {new})"]
    if changes:
        raise ConfigError(
            f"{out} compares under other terms: {', '.join(changes[:5])}; give another --out"
        )
    entries = {entry.name: entry for entry in before.entries}
    for entry in plan.entries:
        known = entries.get(entry.name, entry)
        if known.preset != entry.preset:
            raise ConfigError(
                f"{entry.name} is {known.preset} in {out}, now {entry.preset}: give another name"
            )
        entries[entry.name] = entry
    seeds = max(before.seeds, plan.seeds)
    return plan.model_copy(update={"entries": tuple(entries.values()), "seeds": seeds})
