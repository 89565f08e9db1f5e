"""The queue of a comparison: one process for each run, one run for each device at a time."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from types import FrameType

import torch

from atgnn.comparison.plan import Job, Places, Plan, alone
from atgnn.comparison.result import Result
from atgnn.errors import ConfigError, counted
from atgnn.training.cluster import accelerator
from atgnn.training.environment import COMMAND, command_line

__all__ = ["BUSY", "STOPPED", "Slot", "Standing", "slots_of", "told", "work_off"]

BUSY, STOPPED = 3, 130  # exit codes of a run's process

ONE = "atgnn.comparison.one"  # what a run's process executes
LOOK_EVERY = 0.2  # seconds
GRACE = (10.0, 30.0)  # seconds to stop after Ctrl-C, then after SIGTERM


@dataclass(frozen=True)
class Slot:
    """A place where one run computes at a time; `gpu` is its number for CUDA, None elsewhere."""

    name: str
    gpu: str | None = None
    threads: int | None = None

    def environment(self) -> dict[str, str]:
        """Of a process that computes here."""
        environment = dict(os.environ)
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        return environment


@dataclass(frozen=True)
class Standing:
    """How far a comparison has come: runs done, of how many, and what is at work."""

    done: int
    of: int
    text: str


def slots_of(plan: Plan, jobs: int | None) -> list[Slot]:
    """Every GPU, or as many as `jobs`; without GPUs `jobs` places on the processor, one if None."""
    kind = accelerator(plan.recipe.scale)
    if kind == "cuda":
        count = torch.cuda.device_count()
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        numbers = [one for one in seen.split(",") if one] or [str(one) for one in range(count)]
        return [Slot(f"GPU {number}", number) for number in numbers[: jobs or count]]
    if kind != "cpu":
        return [Slot(kind)]
    count = jobs or 1
    threads = max(1, (os.cpu_count() or 1) // count)
    return [Slot(f"processor {number + 1}", threads=threads) for number in range(count)]


def work_off(
    plan: Plan,
    out: Path,
    jobs: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
    show: Callable[[Standing], None] = lambda standing: None,
) -> None:
    """Do every run that is not on record; afterwards each has its record.

    A run that fails has a record that says why, and the others go on. Stopped by Ctrl-C or SIGTERM,
    the runs stop too, and the same call goes on where they were. `tell` takes a line when a run
    begins, goes on or ends, `show` how things stand, several times a second.

    Raises `ConfigError` where another process is at work on the same folder.
    """
    places = Places(out)
    with alone(out):
        todo = [job for job in plan.jobs() if not settled(places, job)]
        every = len(plan.jobs())
        if len(todo) < every:
            tell(f"{every - len(todo)} of {counted(every, 'run')} are on record")
        _Queue(plan, places, slots_of(plan, jobs), todo, tell, show).run()


def settled(places: Places, job: Job) -> bool:
    """Whether a run need not be done again: it is done, or would diverge again."""
    result = Result.read(places.beside(job, "json"))
    if result is None:
        return False
    same = result.settings == job.entry.settings
    if result.done and not same:
        raise ConfigError(
            f"{places.run(job)} is done with other settings ({' '.join(result.settings) or 'none'},"
            f" now {' '.join(job.entry.settings) or 'none'}): give the model another name, "
            f"other={job.entry.preset}, or another --out"
        )
    return result.done or (result.problem == "diverged" and same)


class _Queue:
    """Runs that wait, runs at work, and what becomes of them."""

    def __init__(
        self,
        plan: Plan,
        places: Places,
        slots: Sequence[Slot],
        todo: Sequence[Job],
        tell: Callable[[str], None],
        show: Callable[[Standing], None],
    ) -> None:
        self.plan, self.places, self.tell, self.show = plan, places, tell, show
        self.free, self.todo, self.of = list(slots), list(todo), len(todo)
        self.at_work: dict[Slot, tuple[Job, Popen[bytes]]] = {}

    def run(self) -> None:
        """To the end, or until Ctrl-C or SIGTERM."""
        try:
            with self._sigterm_sent_on():
                while self.todo or self.at_work:
                    while self.free and self.todo:
                        self._start(self.free.pop(0), self.todo.pop(0))
                    self._look()
                    if self.at_work:
                        time.sleep(LOOK_EVERY)
        except BaseException:
            self._stop()
            raise

    @contextmanager
    def _sigterm_sent_on(self) -> Iterator[None]:
        """Meanwhile SIGTERM, which reaches this process alone, ends the others too, as Ctrl-C."""

        def end(number: int, frame: FrameType | None) -> None:
            for _, process in self.at_work.values():
                process.terminate()
            raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _start(self, slot: Slot, job: Job) -> None:
        before = Result.read(self.places.beside(job, "json"))
        if before is not None and before.settings != job.entry.settings:  # it had failed
            shutil.rmtree(self.places.run(job), ignore_errors=True)
            self.places.beside(job, "clock").unlink(missing_ok=True)
        self.places.beside(job, "json").unlink(missing_ok=True)
        verb = "goes on, on" if (self.places.run(job) / "recipe.yaml").is_file() else "begins on"
        command = [sys.executable, "-m", ONE, str(self.places.out), job.name]
        with self.places.beside(job, "log").open("ab") as log:
            process = Popen(
                command,
                env={**slot.environment(), COMMAND: command_line()},
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
            )
        self.at_work[slot] = job, process
        self.tell(f"{job.name} {verb} {slot.name}")

    def _look(self) -> None:
        for slot, (job, process) in list(self.at_work.items()):
            code = process.poll()
            if code is None:
                continue
            del self.at_work[slot]
            self.free.append(slot)
            result = self._result(job, code)
            self.tell(f"{job.name} {told(result)}")
        done = self.of - len(self.todo) - len(self.at_work)
        running = ", ".join(self._progress(job) for job, _ in self.at_work.values())
        self.show(Standing(done, self.of, running))

    def _progress(self, job: Job) -> str:
        history = self.places.run(job) / "history.csv"
        if not history.is_file():
            return job.name
        return f"{job.name} epoch {len(history.read_text().splitlines())}"

    def _result(self, job: Job, code: int) -> Result:
        """What is on record; where the process ended without a word, that."""
        path = self.places.beside(job, "json")
        result = Result.read(path)
        if result is not None:
            return result
        blank = Result(job.entry.name, job.seed, job.entry.settings)
        if code == BUSY:
            raise ConfigError(f"another process is at work on {self.places.run(job)}: wait for it")
        if code == STOPPED:
            raise KeyboardInterrupt
        if code in (-9, 137):
            words = "the system killed it (signal 9), most likely as memory was full"
            result = Result(blank.model, blank.seed, blank.settings, "memory", words)
        else:
            log = self.places.beside(job, "log")
            lines = log.read_text(errors="replace").strip().splitlines() or ["no word"]
            words = f"it ended with exit code {code}: {lines[-1]}; see {log}"
            result = Result(blank.model, blank.seed, blank.settings, "error", words)
        result.write(path)
        return result

    def _stop(self) -> None:
        """End what is at work, in a way that it can go on later.

        Ctrl-C has reached the processes already; who sent it to this one alone has it sent on.
        """
        processes = [process for _, process in self.at_work.values()]
        try:
            for patience, stop in zip(GRACE, ("terminate", "kill"), strict=True):
                _wait(processes, patience)
                for process in processes:
                    if process.poll() is None:
                        getattr(process, stop)()
        except KeyboardInterrupt:  # a second one
            for process in processes:
                process.kill()
        for process in processes:
            process.wait()


def _wait(processes: Sequence[Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(LOOK_EVERY / 4)


def told(result: Result) -> str:
    """How a run ended, in a few words."""
    if not result.done:
        return f"came to nothing: {result.message}"
    figures = [f"mAP {result.metrics['mean_ap']:.3f}"]
    if "accuracy" in result.metrics:
        figures.append(f"accuracy {result.metrics['accuracy']:.3f}")
    return f"is done: {', '.join(figures)}, trained in {result.train_seconds / 60:.1f} min"
