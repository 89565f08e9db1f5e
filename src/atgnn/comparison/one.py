"""One run of a comparison, in a process of its own: train, judge, put on record.

    python -m atgnn.comparison.one OUT NAME

A process of its own has its own device and its own peak of memory, and can fail without the
others. Exit codes: 0 on record, done or not; 3 another process is at it; 130 stopped, to go on.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from atgnn.checkpoint import Checkpoint
from atgnn.comparison.budget import fitted
from atgnn.comparison.plan import Job, Places, Plan, read_plan
from atgnn.comparison.result import Problem, Result
from atgnn.comparison.work import BUSY, STOPPED
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms, is_packed
from atgnn.doctor import processor
from atgnn.errors import AtgnnError, ConfigError, DivergedError
from atgnn.evaluate import Report, evaluate_table
from atgnn.files import appending, lock, write_text
from atgnn.memory import keep_freed_memory, peak_memory
from atgnn.networks import measure_cost
from atgnn.scoring import ScoreTable
from atgnn.tagger import Tagger
from atgnn.training.cluster import accelerator
from atgnn.training.division import rows_of
from atgnn.training.recipe import Recipe, load_recipe
from atgnn.training.run import train

__all__ = ["attempt", "judged", "main"]

WRITTEN_EVERY = 15.0  # seconds, what the clock shows
FIGURES = ("mean_ap", "mean_ap_enough", "auc", "d_prime", "lwlrap", "accuracy")
FULL = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def main(arguments: list[str]) -> int:
    """Do one run; the exit code."""
    out, name = Path(arguments[0]), arguments[1]
    plan, places = read_plan(out), Places(out)
    job = next(job for job in plan.jobs() if job.name == name)
    keep_freed_memory()
    with appending(places.beside(job, "lock")) as file:
        if not lock(file):
            print(f"{name}: another process is at it", file=sys.stderr)
            return BUSY
        try:
            attempt(plan, job, places).write(places.beside(job, "json"))
        except KeyboardInterrupt:
            return STOPPED
    return 0


def attempt(plan: Plan, job: Job, places: Places) -> Result:
    """What comes of a run, whatever that is."""
    blank = Result(job.entry.name, job.seed, job.entry.settings)
    try:
        return _done(plan, job, places, blank)
    except DivergedError as error:
        return replace(blank, problem="diverged", message=str(error))
    except AtgnnError as error:
        return replace(blank, problem="error", message=str(error))
    except (RuntimeError, MemoryError) as error:
        problem: Problem = "memory" if out_of_memory(error) else "error"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return replace(blank, problem=problem, message=lines[0])


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, in main memory or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in FULL)


def _done(plan: Plan, job: Job, places: Places, blank: Result) -> Result:
    run = places.run(job)
    begun = (run / "recipe.yaml").is_file()
    recipe = load_recipe(run / "recipe.yaml") if begun else plan.recipe_of(job.entry, job.seed)
    if plan.minutes is not None and not begun:
        recipe = fitted(recipe, plan.minutes)
    if not (run / "metrics.json").is_file():
        with stopwatch(places.beside(job, "clock")):
            train(recipe, run, resume=begun)
    spent = Spent.read(places.beside(job, "clock"))
    checkpoint = Checkpoint.from_pretrained(run / "model")
    report = judged(recipe, plan, checkpoint, places.scores(job))
    front_end, config = recipe.front_end_config(), checkpoint.model.config
    frames = front_end.pad_to_frames or front_end.seconds_to_frames(recipe.window_seconds)
    cost = measure_cost(config, frames)
    metrics, ends = _figures(report)
    return replace(
        blank,
        device=_device(recipe),
        labels=config.num_labels,
        frames=frames,
        epochs=recipe.optim.epochs,
        parameters=cost.trainable_parameters,
        gmacs=cost.gmacs,
        metrics=metrics,
        intervals=ends,
        clips=len(report.targets),
        cautions=report.notes,
        train_seconds=spent.clock,
        cpu_seconds=spent.processor,
        peak_mb=spent.peak,
    )


def _figures(report: Report) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    values = {name: getattr(report.metrics, name) for name in FIGURES}
    metrics = {name: float(value) for name, value in values.items() if value is not None}
    if report.intervals is None:
        return metrics, {}
    found = {name: getattr(report.intervals, name) for name in metrics}
    return metrics, {name: (one.low, one.high) for name, one in found.items() if one is not None}


def _device(recipe: Recipe) -> str:
    return torch.cuda.get_device_name() if _on_gpu(recipe) else processor().name


def _on_gpu(recipe: Recipe) -> bool:
    return accelerator(recipe.scale) == "cuda"


# ---------------------------------------------------------------------------- judging


def judged(recipe: Recipe, plan: Plan, checkpoint: Checkpoint, scores: Path) -> Report:
    """A model on the rows that all are judged on, in windows as `atgnn tag` has them.

    Its scores are kept in the file `scores`.
    """
    clips = rows_of(recipe, plan.rows)
    kind = accelerator(recipe.scale)
    tagger = Tagger(checkpoint, kind)
    table = ScoreTable.concat(list(_scored(recipe, tagger, clips)))
    scores.parent.mkdir(parents=True, exist_ok=True)
    table.write(scores, force=True)
    return evaluate_table(
        table,
        clips,
        vocabulary=checkpoint.vocabulary,
        ignore_unknown_labels=recipe.data.drop_other_labels,
        as_marked=not recipe.data.ontology,
    )


def _scored(recipe: Recipe, tagger: Tagger, clips: Clips) -> Iterator[ScoreTable]:
    """Scores of the clips, from each packed folder those that it holds, or from their files."""
    folders = [*filter(is_packed, recipe.data.clips), *recipe.data.packed]
    if not folders:
        yield ScoreTable.of(tagger, clips)
        return
    left = clips
    for folder in dict.fromkeys(folders):
        packed = PackedWaveforms.open(folder)
        here = packed.positions(left) >= 0
        if here.any():
            yield ScoreTable.of(tagger, packed, only=left.subset(here))
            left = left.subset(~here)
    if len(left):
        raise ConfigError(f"{left.paths[0]} is in none of the packed folders: pack it too")


# ---------------------------------------------------------------------------- time, memory


@dataclass(frozen=True)
class Spent:
    """What training has taken so far: seconds on the clock and of processors, MB at the peak."""

    clock: float = 0.0
    processor: float = 0.0
    peak: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "Spent":
        """As `write` wrote it; nothing spent where there is no such file."""
        if not path.is_file():
            return cls()
        return cls(*map(float, path.read_text().split()))

    def write(self, path: Path) -> None:
        """Three numbers on a line."""
        write_text(path, f"{self.clock:.3f} {self.processor:.3f} {self.peak:.3f}\n")


@contextmanager
def stopwatch(path: Path) -> Iterator[None]:
    """Adds what happens inside to a file, which is kept up to date for the case of a sudden end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = Spent.read(path)
    clock, processor_time, stop = time.perf_counter(), time.process_time(), threading.Event()

    def note() -> None:
        Spent(
            before.clock + time.perf_counter() - clock,
            before.processor + time.process_time() - processor_time,
            max(before.peak, _peak()),
        ).write(path)

    def keep_noting() -> None:
        while not stop.wait(WRITTEN_EVERY):
            note()

    thread = threading.Thread(target=keep_noting, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        note()


def _peak() -> float:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_memory()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
