"""The small-data comparison: every system tuned alike, then judged on folds it has not seen.

    python -m benchmarks.comparison run --data ESC10 --out RUNS [--scenario esc10]
        [--systems mini small-cnn ...] [--trials 2] [--tune 1] [--tests 1 3] [--minutes 3]
        [--seeds 1] [--jobs N]
    python -m benchmarks.comparison report [--scenario esc10]

On a GPU, all of it: ``run --data ESC10 --out RUNS --trials 4 --tune 1 3 --tests 1 2 3 4 5
--minutes 20 --seeds 3``, for each scenario.

`--data` is a folder with ESC-10. A system has `--trials` trials: networks another learning rate
each, from the same list for all; the forest and the support vector machine other settings. A trial
of test fold F learns from three folds and is judged on the one after F; the best on the mean over
the folds of `--tune` is chosen. With it, each test fold of `--tests` is scored once by a model of
the other four; that is a row of benchmarks/test_fold_looks.csv. Every run of a network gets
`--minutes` of training (`atgnn compare --minutes`): large ones see the clips less often.

What is on record in benchmarks/comparison/results.csv is not run again; what was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atgnn.comparison.plan import Job, Places, claim, make_plan
from atgnn.comparison.result import Result
from atgnn.comparison.run import compare_models
from atgnn.comparison.table import read_standings
from atgnn.comparison.work import work_off
from atgnn.data import Clips
from atgnn.doctor import processor
from atgnn.errors import AtgnnError
from atgnn.memory import peak_memory
from atgnn.metrics import evaluate_scores

from .. import records
from . import classical
from .scenarios import FOLDS, SCENARIOS, SYSTEMS, Scenario, after, trials

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
LOOKS = HERE.parent / "test_fold_looks.csv"
COLUMNS = (
    "scenario", "system", "stage", "test", "trial", "trials", "seed", "minutes", "accuracy",
    "mean_ap", "epochs", "train_seconds", "cpu_seconds", "inference_ms", "peak_mb", "parameters",
    "gmacs", "device", "settings", "problem",
)  # fmt: skip
KEY = ("scenario", "system", "stage", "test", "trial", "seed", "minutes")


@dataclass(frozen=True)
class Terms:
    """What is asked for, from the command line."""

    scenario: Scenario
    data: Path
    out: Path
    systems: tuple[str, ...]
    trials: int
    tune: tuple[int, ...]
    tests: tuple[int, ...]
    minutes: float
    seeds: int
    jobs: int | None

    @property
    def clips(self) -> Path:
        """The clips of the scenario."""
        return self.scenario.clips(self.data.resolve(), self.out)

    def folder(self, stage: str, test: int) -> Path:
        """Of the runs of a stage."""
        return self.out / f"{self.scenario.name}-{self.minutes:g}min" / f"{stage}-{test}"


# ---------------------------------------------------------------------------- on record


def on_record() -> list[dict[str, str]]:
    """Rows of results.csv."""
    return records.read(RESULTS)


def known(row: dict[str, Any]) -> bool:
    """Whether there is a row of the same run."""
    return records.has(RESULTS, {name: str(row[name]) for name in KEY})


def record(row: dict[str, Any]) -> None:
    """Add a row, and where a test fold was looked at, that."""
    if known(row):
        return
    new = not RESULTS.is_file()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({name: shown(row.get(name, "")) for name in COLUMNS})
    if row["stage"] == "test" and not row.get("problem"):
        figure = SCENARIOS[row["scenario"]].figure
        what = f"{figure}: small-data comparison, {row['system']}, seed {row['seed']}"
        data = "ESC-10" if row["scenario"] == "esc10" else "ESC-10 scenes"
        command = f"python -m benchmarks.comparison run --scenario {row['scenario']}"
        with LOOKS.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(
                [datetime.date.today().isoformat(), data, row["test"], what,
                 f"{row[figure]:.4f}", command]
            )  # fmt: skip
    print(" ".join(f"{name}={shown(row.get(name, ''))}" for name in (*KEY, "accuracy", "mean_ap",
          "epochs", "train_seconds", "problem")), flush=True)  # fmt: skip


def shown(value: Any) -> Any:
    """For a cell."""
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:.5g}"


def chosen(terms: Terms, system: str) -> int:
    """The trial with the best mean over the folds that validate; the first where it is alone."""
    if terms.trials == 1:
        return 0
    figure, found = terms.scenario.figure, {}
    for row in on_record():
        same = (row["scenario"], row["system"], row["stage"]) == (
            terms.scenario.name, system, "tune",
        ) and float(row["minutes"]) == terms.minutes  # fmt: skip
        if same and int(row["test"]) in terms.tune and int(row["trial"]) < terms.trials:
            found.setdefault(int(row["trial"]), []).append(float(row[figure] or 0))
    return max(sorted(found), key=lambda trial: np.mean(found[trial]))


# ---------------------------------------------------------------------------- networks


def networks(terms: Terms) -> tuple[str, ...]:
    """The systems that are networks."""
    return tuple(name for name in terms.systems if name in SYSTEMS)


def tune_networks(terms: Terms, test: int) -> None:
    """Every trial of every network, judged on the fold after `test`."""
    models, settings = [], []
    for name in networks(terms):
        for number, own in enumerate(trials(SYSTEMS[name], terms.trials)):
            models.append(f"{name}.{number}={SYSTEMS[name].preset}")
            settings += [f"{name}.{number}:{setting}" for setting in own]
    validation = f"data.validation={{fold: {after(test)}}}"
    plan = planned(terms, models, [validation, *settings], test, "validation")
    out = terms.folder("tune", test)
    work_off(claim(plan, out), out, terms.jobs, tell=say)
    for job, result in results(plan.jobs(), out):
        system, _, number = job.entry.name.rpartition(".")
        record(row_of(terms, system, "tune", test, int(number), result))


def test_networks(terms: Terms, test: int) -> None:
    """Every network with what was chosen for it, judged on the test fold."""
    models, settings, number = [], [], {}
    for name in networks(terms):
        number[name] = chosen(terms, name)
        models.append(f"{name}={SYSTEMS[name].preset}")
        own = trials(SYSTEMS[name], terms.trials)[number[name]]
        settings += [f"{name}:{setting}" for setting in own]
    plan = planned(terms, models, settings, test, "test")
    out = terms.folder("test", test)
    compare_models(plan, out, terms.jobs, tell=say)
    times = read_standings(plan, out).timing.get("milliseconds", {})
    for job, result in results(plan.jobs(), out):
        name = job.entry.name
        row = row_of(terms, name, "test", test, number[name], result)
        record({**row, "inference_ms": float(times.get(name, np.nan))})


def planned(terms: Terms, models: list[str], settings: list[str], test: int, rows: Any) -> Any:
    """A comparison by the scenario's recipe without the test fold."""
    return make_plan(
        terms.scenario.recipe,
        models,
        settings=[*terms.scenario.settings, f"data.test={{fold: {test}}}", *settings],
        clips=[str(terms.clips)],
        seeds=terms.seeds,
        minutes=terms.minutes,
        rows=rows,
    )


def results(jobs: Iterable[Job], out: Path) -> Iterator[tuple[Job, Result]]:
    """What is on record of each run."""
    for job in jobs:
        result = Result.read(Places(out).beside(job, "json"))
        if result is not None:
            yield job, result


def row_of(
    terms: Terms, system: str, stage: str, test: int, trial: int, result: Result
) -> dict[str, Any]:
    """A row of results.csv."""
    return {
        **common(terms, system, stage, test, trial),
        "seed": result.seed,
        "accuracy": result.metrics.get("accuracy", np.nan),
        "mean_ap": result.metrics.get("mean_ap", np.nan),
        "epochs": result.epochs,
        "train_seconds": result.train_seconds,
        "cpu_seconds": result.cpu_seconds,
        "peak_mb": result.peak_mb,
        "parameters": result.parameters,
        "gmacs": result.gmacs,
        "device": result.device,
        "settings": " ".join(result.settings),
        "problem": f"{result.problem}: {result.message}" if result.problem else "",
    }


def common(terms: Terms, system: str, stage: str, test: int, trial: int) -> dict[str, Any]:
    """What every row has."""
    return {
        "scenario": terms.scenario.name,
        "system": system,
        "stage": stage,
        "test": test,
        "trial": trial,
        "trials": terms.trials,
        "minutes": f"{terms.minutes:g}",
    }


def say(line: str) -> None:
    """For the log."""
    print(line, flush=True)


# ---------------------------------------------------------------------------- classical


def classical_systems(terms: Terms) -> None:
    """The forest and the support vector machine: the same folds, as many trials."""
    names = [name for name in terms.systems if name in classical.SPACES]
    if not names:
        return
    clips = Clips.read(terms.clips)
    begun = time.process_time()
    mels, folds = classical.log_mels(clips), clips.column("fold").astype(int)
    hearing = (time.process_time() - begun) / len(clips)
    targets = terms.scenario.targets(clips)
    for name in names:
        drawn = classical.draw(name, terms.trials, 0)
        for test in terms.tune if terms.trials > 1 else ():
            for number, settings in enumerate(drawn):
                row = common(terms, name, "tune", test, number) | {"seed": 1}
                if not known(row):
                    scored, hidden = folds == after(test), folds == test
                    own = classical_run(name, settings, mels, targets, scored, hidden, 1, hearing)
                    record({**row, **own})
        number = chosen(terms, name)
        for test in terms.tests:
            for seed in range(1, terms.seeds + 1):
                row = common(terms, name, "test", test, number) | {"seed": seed}
                if not known(row):
                    own = classical_run(
                        name, drawn[number], mels, targets, folds == test, folds == test, seed,
                        hearing,
                    )  # fmt: skip
                    record({**row, **own})


def classical_run(
    name: str,
    settings: dict[str, Any],
    mels: list[np.ndarray],
    targets: np.ndarray,
    scored: np.ndarray,
    hidden: np.ndarray,
    seed: int,
    hearing: float,
) -> dict[str, Any]:
    """Learn from what is neither scored nor hidden, and judge; `hearing` are seconds a clip."""
    learned = ~scored & ~hidden
    clock, used = time.perf_counter(), time.process_time()
    some = [mel for mel, here in zip(mels, learned, strict=True) if here]
    model = classical.train(name, settings, some, targets[learned], seed)
    spent = time.perf_counter() - clock, time.process_time() - used
    unseen = [mel for mel, here in zip(mels, scored, strict=True) if here]
    model.scores(unseen[:1])
    clock = time.perf_counter()
    for mel in unseen[:7]:
        model.scores([mel])
    each = (time.perf_counter() - clock) / len(unseen[:7]) + hearing
    scores = model.scores(unseen)
    single = bool((targets.sum(1) == 1).all())
    names = [str(number) for number in range(targets.shape[1])]
    metrics = evaluate_scores(targets[scored].astype(float), scores, names, single)
    return {
        "accuracy": np.nan if metrics.accuracy is None else metrics.accuracy,
        "mean_ap": metrics.mean_ap,
        "train_seconds": spent[0] + hearing * learned.sum(),
        "cpu_seconds": spent[1] + hearing * learned.sum(),
        "inference_ms": 1e3 * each,
        "peak_mb": peak_memory(),
        "device": processor().name,
        "settings": " ".join(f"{key}={value}" for key, value in settings.items()),
    }


# ---------------------------------------------------------------------------- commands


def run(args: argparse.Namespace) -> None:
    """Tune, choose, judge: what is not on record."""
    systems = args.systems or [*classical.SPACES, *SYSTEMS]
    for name in args.scenario:
        terms = Terms(
            SCENARIOS[name], args.data, args.out.resolve(), tuple(systems), args.trials,
            tuple(args.tune), tuple(args.tests), args.minutes, args.seeds, args.jobs,
        )  # fmt: skip
        classical_systems(terms)
        if networks(terms):
            for test in terms.tune if terms.trials > 1 else ():
                tune_networks(terms, test)
            for test in terms.tests:
                test_networks(terms, test)


def report(args: argparse.Namespace) -> None:
    """Print the tables of what is on record."""
    from .report import tables

    for name in args.scenario:
        print(tables(SCENARIOS[name], on_record()))


def main(argv: list[str] | None = None) -> int:
    """Parse the command line; exit code 2 and one line for bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("run", help="measure what is not on record")
    measure.add_argument("--data", type=Path, required=True, help="a folder with ESC-10")
    measure.add_argument("--out", type=Path, required=True, help="folder for the runs")
    measure.add_argument("--systems", nargs="+", choices=[*classical.SPACES, *SYSTEMS])
    measure.add_argument("--trials", type=int, default=2, help="of each system")
    measure.add_argument("--tune", type=int, nargs="+", default=[1], help="test folds of trials")
    measure.add_argument(
        "--tests", type=int, nargs="*", default=list(FOLDS), help="test folds; none: trials alone"
    )
    measure.add_argument("--minutes", type=float, default=3.0, help="of training, each run")
    measure.add_argument("--seeds", type=int, default=1)
    measure.add_argument("--jobs", type=int, help="runs at a time; default one, or one a GPU")
    measure.set_defaults(run=run)
    printing = commands.add_parser("report", help="print what is on record")
    printing.set_defaults(run=report)
    for command in (measure, printing):
        command.add_argument(
            "--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="default both"
        )
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except AtgnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
