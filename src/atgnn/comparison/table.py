"""What came of a comparison: a row for each model, with means over seeds and their intervals."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from atgnn.comparison.plan import Places, Plan
from atgnn.comparison.result import Result
from atgnn.comparison.timing import FILE as INFERENCE
from atgnn.metrics.resampling import jsonable

__all__ = ["Row", "Spread", "Standings", "read_standings", "spread_of", "student"]

# Student's t at 97.5 %, for 1 to 10 degrees of freedom; beyond, Cornish and Fisher's expansion.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL = 1.959964


@dataclass(frozen=True)
class Spread:
    """A mean and where it may lie, at 95 %.

    `source` says where the interval comes from: ``seeds``, Student's t over the runs, that is what
    other random draws would have given on the same clips; ``authors``, of a single run, what other
    clips might have given; or "" where there is none.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    source: Literal["", "seeds", "authors"] = ""


@dataclass(frozen=True)
class Row:
    """One model. Figures are means over its runs, `peak_mb` the largest; NaN is not known.

    `clips` says how many each run was judged on, where that is on record.
    """

    model: str
    preset: str
    settings: tuple[str, ...]
    runs: int
    problems: tuple[str, ...] = ()
    epochs: float = math.nan
    parameters: int = 0
    gmacs: float = math.nan
    metrics: dict[str, Spread] = field(default_factory=dict)
    train_seconds: float = math.nan
    cpu_seconds: float = math.nan
    inference_ms: float = math.nan
    peak_mb: float = math.nan
    clips: tuple[int, ...] = ()

    @property
    def headline(self) -> float:
        """By which rows are put in order."""
        found = self.metrics.get("accuracy") or self.metrics.get("mean_ap")
        return found.mean if found else -math.inf


@dataclass(frozen=True)
class Standings:
    """All rows, the best first, and what a reader has to know.

    Attributes:
        subject: recipe and rows.
        fixed: whether all seeds are judged on the same rows.
        front_ends, minutes, seeds: the terms, as in `Plan`; `waveforms` are models that want the
            waveform, which they get whatever the recipe's front end; `left_out` what of its
            augmentation they do without.
        cautions: what has to be known of intervals from authors.
        devices: what computed the runs; several mean that times do not compare.
        timing: machine, threads and seconds of the inference times; empty where there are none.
    """

    subject: str
    fixed: bool
    front_ends: str
    minutes: float | None
    seeds: int
    rows: tuple[Row, ...]
    labels: int = 0
    frames: int = 0
    devices: tuple[str, ...] = ()
    timing: dict[str, Any] = field(default_factory=dict)
    waveforms: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def clips(self) -> tuple[int, ...]:
        """How many clips the runs were judged on, where that is on record."""
        return tuple(count for row in self.rows for count in row.clips)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data


def read_standings(plan: Plan, out: Path) -> Standings:
    """From what is on record in the folder of a comparison."""
    places = Places(out)
    found: dict[str, list[Result]] = {entry.name: [] for entry in plan.entries}
    for job in plan.jobs():
        result = Result.read(places.beside(job, "json"))
        if result is not None:
            found[job.entry.name].append(result)
    timing = _timing(out)
    times = timing.get("milliseconds", {})
    begun = {job.entry.name for job in plan.jobs() if places.run(job).is_dir()}
    rows = [
        _row(entry.name, entry.preset, found[entry.name], times.get(entry.name, math.nan))
        if found[entry.name]
        else Row(entry.name, entry.preset, entry.settings, 0, (_not_yet(entry.name in begun),))
        for entry in plan.entries
    ]
    done = [one for results in found.values() for one in results if one.done]
    recipe = plan.recipe
    clips = ", ".join(Path(path).name for path in recipe.data.clips)
    rule = getattr(recipe.data, plan.rows)
    where = ", ".join(f"{key}: {value}" for key, value in rule.items()) or "held out by author"
    return Standings(
        f"recipe {recipe.name} on {clips}, judged on its {plan.rows} rows ({where})",
        bool(rule),
        plan.front_ends,
        plan.minutes,
        plan.seeds,
        tuple(sorted(rows, key=lambda row: -row.headline)),
        max((one.labels for one in done), default=0),
        max((one.frames for one in done), default=0),
        tuple(sorted({one.device for one in done})),
        timing,
        tuple(entry.name for entry in plan.entries if plan.hears_waveform(entry)),
        recipe.augment.spectral,
        tuple(dict.fromkeys(note for one in done for note in one.cautions)),
    )


def _timing(out: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((out / INFERENCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _row(name: str, preset: str, results: Sequence[Result], inference_ms: float) -> Row:
    done = [one for one in results if one.done]
    problems = tuple(f"seed {one.seed}: {_named(one)}" for one in results if not one.done)
    settings = results[0].settings
    if not done:
        return Row(name, preset, settings, 0, problems)

    def mean(take: Callable[[Result], float]) -> float:
        return statistics.fmean(map(take, done))

    return Row(
        name,
        preset,
        settings,
        len(done),
        problems,
        mean(lambda one: one.epochs),
        done[0].parameters,
        done[0].gmacs,
        {figure: spread_of(figure, done) for figure in done[0].metrics},
        mean(lambda one: one.train_seconds),
        mean(lambda one: one.cpu_seconds),
        inference_ms,
        max(one.peak_mb for one in done),
        tuple(one.clips for one in done if one.clips),
    )


def _not_yet(begun: bool) -> str:
    return "begun, the same command goes on" if begun else "not run"


def _named(result: Result) -> str:
    words = {"memory": "out of memory", "diverged": "diverged", "error": "failed"}
    return f"{words[result.problem]}: {result.message}"


def spread_of(figure: str, results: Sequence[Result]) -> Spread:
    """The mean of a figure over runs; its interval from them, or of a single run from authors."""
    values = [one.metrics.get(figure, math.nan) for one in results]
    mean = statistics.fmean(values)
    if len(values) > 1 and not math.isnan(mean):
        half = student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        most = math.inf if figure == "d_prime" else 1.0
        return Spread(mean, max(0.0, mean - half), min(most, mean + half), "seeds")
    if figure in results[0].intervals:
        low, high = results[0].intervals[figure]
        return Spread(mean, round(low, 6), round(high, 6), "authors")
    return Spread(mean)


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t with so many degrees of freedom, to three digits."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z, f = NORMAL, freedom
    return z + (z**3 + z) / (4 * f) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2)
