"""What the command line shows: results, one-line messages, warnings and progress."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console

from atgnn.errors import AtgnnError, AudioError, counted, install_command, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from atgnn.archive import Done
    from atgnn.comparison.work import Standing
    from atgnn.costs import Cost
    from atgnn.doctor import Graphics, GraphKernel, Report
    from atgnn.formats import Record, Writer
    from atgnn.search import Match
    from atgnn.tags import Failure
    from atgnn.training.knobs import Knob

__all__ = [
    "Results",
    "counter",
    "doctor_table",
    "expand",
    "knobs_table",
    "looking",
    "matches_table",
    "models_table",
    "pace",
    "say",
    "show",
    "show_warnings",
    "sounds_in",
    "standing",
    "tracked",
    "transfers",
]

#: Takes a file's name, the bytes of it that are here, and how many there are (None: not known).
Received: TypeAlias = Callable[[str, int, "int | None"], None]

#: Takes the number of files unpacked and of all.
Unpacked: TypeAlias = Callable[[int, int], None]

#: More recordings than this get one line each.
COMPACT_FROM = 9

#: From one line to the next about long work, where there is no terminal for a bar.
LINE_SECONDS = 60.0

#: More recordings than this get a progress bar.
PROGRESS_FROM = 5

#: Columns of a line that goes into a file or a pipe.
UNLIMITED = 10_000


def say(message: object, kind: str = "") -> None:
    """One line on stderr."""
    text = " ".join(str(message).split())
    print(f"atgnn: {kind}{text}", file=sys.stderr, flush=True)


def show_warnings() -> None:
    """From now on, our warnings are one line each on stderr, and others as Python has them."""
    from atgnn.audio import AudioWarning
    from atgnn.errors import AtgnnWarning
    from atgnn.graph.operator import KernelWarning
    from atgnn.tagger import BandWarning

    ours = (AudioWarning, BandWarning, KernelWarning, AtgnnWarning)
    plain = warnings.showwarning

    def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, ours):
            say(message, "warning: ")
        else:
            plain(message, category, *rest, **more)

    warnings.showwarning = show
    for category in ours:
        warnings.simplefilter("always", category)


def expand(paths: Iterable[str]) -> Iterator[str | AtgnnError]:
    """Files as they are, folders as the sounds inside, each below the folder as it was given."""
    from atgnn.audio import find_sounds

    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        try:
            for sound in find_sounds(path):
                yield os.path.join(path, os.path.relpath(sound, path))
        except AtgnnError as error:
            yield error


def sounds_in(paths: Iterable[str]) -> list[str]:
    """As `expand`, all at once; AudioError where a folder holds no sound."""
    found = []
    for item in expand(paths):
        if isinstance(item, AtgnnError):
            raise AudioError(str(item))
        found.append(item)
    return found


class _Output(Console):
    """A console that lets a closed pipe end the command quietly, see `atgnn.cli`."""

    def on_broken_pipe(self) -> None:
        """Instead of rich's exit code 1, which means bad recordings here."""
        raise BrokenPipeError


def show(content: RenderableType | Callable[[int], RenderableType]) -> None:
    """Write a table or page to stdout, or what a function makes of the number of columns there.

    It is as wide as the terminal, in a file or a pipe as wide as it is; nothing is cut.
    """
    console = _Output(highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED
    console.print(content(console.width) if callable(content) else content, crop=False)


class Results:
    """Shows recordings as they come: blocks, or lines in long lists; or hands them to a writer."""

    def __init__(self, paths: Sequence[str], writer: Writer | None = None) -> None:
        self.console = _Output(soft_wrap=True, highlight=False, markup=False)
        self.total, self._writer = len(paths), writer
        self.compact = self.total >= COMPACT_FROM
        self._width = min(48, max((len(printable(path)) for path in paths), default=0))
        self._before: str | None = None  # the recording shown last
        self._begun = False

    def write_all(self, results: Iterable[Record | Failure]) -> int:
        """Write every result, failures to stderr; returns the number of failures."""
        from atgnn.tags import Failure

        failures = 0
        for result in tracked(results, self.total, self.console):
            if isinstance(result, Failure):
                failures += 1
                say(result)
            else:
                self._write(result)
        return failures

    def _write(self, record: Record) -> None:
        from atgnn.tags import Tagging, Timeline

        if self._writer is not None:
            self._writer.write(record)
            return
        if self.compact and isinstance(record, Tagging):
            self.console.print(record.line(self._width))
        elif self._begun and record.path == self._before == "-":  # a pipe that goes on
            for event in record.events if isinstance(record, Timeline) else ():
                self.console.print(event.line())
        else:
            if self._begun:
                self.console.print()
            self.console.print(record)
        self._begun, self._before = True, record.path
        self.console.file.flush()


def tracked(items: Iterable[Any], total: int, output: Console | None = None) -> Iterator[Any]:
    """The items, with a progress bar on long lists where stderr is a terminal."""
    with counter(total, output) as progress:
        for done, item in enumerate(items):
            progress(done)
            yield item


@contextmanager
def counter(total: int, output: Console | None = None) -> Iterator[Callable[[int], None]]:
    """A function that takes the number done and moves a bar, on long lists in a terminal.

    `output` is the console that results go to meanwhile: where it is the same terminal, bar and
    results have to share it.
    """
    if total <= PROGRESS_FROM or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    shared = output is not None and output.is_terminal
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=output if shared else Console(stderr=True),
        redirect_stdout=shared,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def _bar(*columns: Any) -> Iterator[tuple[Callable[..., None], Callable[[], None]]]:
    """Two functions that move and stop a bar on stderr; it is there from the first move on.

    So nothing is shown where there is nothing to do, and bars can follow one another.
    """
    from rich.progress import Progress

    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("")
    begun = stopped = False

    def move(**how: Any) -> None:
        nonlocal begun
        bar.update(task, **how)
        if not begun:
            begun = True
            bar.start()

    def stop() -> None:
        nonlocal stopped
        if begun and not stopped:
            stopped = True
            bar.stop()

    try:
        yield move, stop
    finally:
        stop()


@contextmanager
def looking() -> Iterator[Callable[[int, int], None]]:
    """A function that takes the numbers done and to do, for what is counted only on the way.

    It moves a bar, in a terminal, until all is done.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn

    with _bar(BarColumn(), MofNCompleteColumn()) as (move, stop):

        def moved(done: int, total: int) -> None:
            move(completed=done, total=total)
            if done == total:
                stop()

        yield moved


@contextmanager
def pace() -> Iterator[Callable[[Done], None]]:
    """A function that takes how far a run has come and shows the time left, from bytes per second.

    A bar in a terminal; elsewhere, in the log of a job say, a line a minute.
    """
    begun = spoken = time.monotonic()

    def left(done: Done) -> str:
        from atgnn.tags import clock

        rest = (time.monotonic() - begun) * (done.of_bytes - done.bytes) / max(1, done.bytes)
        return f"{done.files} of {done.of_files} recordings, {clock(rest)} left"

    if not sys.stderr.isatty():

        def line(done: Done) -> None:
            nonlocal spoken
            if time.monotonic() - spoken >= LINE_SECONDS:
                spoken = time.monotonic()
                say(left(done))

        yield line
        return
    from rich.progress import BarColumn, TextColumn

    with _bar(BarColumn(), TextColumn("{task.description}")) as (move, _):
        yield lambda done: move(
            completed=done.bytes, total=max(1, done.of_bytes), description=left(done)
        )


@contextmanager
def standing() -> Iterator[Callable[[Standing], None]]:
    """A function that takes how several runs stand: a bar in a terminal, else a line a minute."""
    if not sys.stderr.isatty():
        spoken = time.monotonic()

        def line(now: Standing) -> None:
            nonlocal spoken
            if now.text and time.monotonic() - spoken >= LINE_SECONDS:
                spoken = time.monotonic()
                say(f"{now.done} of {now.of} runs; {now.text}")

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    with _bar(*columns) as (move, _):
        yield lambda now: move(completed=now.done, total=max(1, now.of), description=now.text)


@contextmanager
def transfers() -> Iterator[tuple[Received, Unpacked]]:
    """Two functions that move bars in a terminal; elsewhere each file is a line as it begins."""
    if not sys.stderr.isatty():
        begun: set[str] = set()

        def line(name: str, done: int, total: int | None) -> None:
            if name not in begun:
                begun.add(name)
                say(f"fetching {name}" + (f" ({total / 1e6:.1f} MB)" if total else ""))

        yield line, lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}")]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def move(name: str, done: int, total: int | None, shown: str) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, shown="")
            bars.update(tasks[name], completed=done, total=total, shown=shown)

        def received(name: str, done: int, total: int | None) -> None:
            of_all = f" of {total / 1e6:.0f}" if total else ""
            move(name, done, total, f"{done / 1e6:.0f}{of_all} MB")

        def unpacked(done: int, total: int) -> None:
            move(f"unpacking {total} files", done, total, f"{done} of {total}")

        yield received, unpacked


def matches_table(matches: Sequence[Match]) -> None:
    """Write what a search found to stdout, best first, a line each."""
    from rich.text import Text

    console = _Output(soft_wrap=True, highlight=False, markup=False)
    for match in matches:
        line = Text(f"{match.similarity:6.3f}  ")
        line.append(f"{match.start:9.2f} {match.end:9.2f} s  ", "cyan")
        if match.low_hz is not None and match.high_hz is not None:
            line.append(f"{match.low_hz:6.0f} {match.high_hz:6.0f} Hz  ", "cyan")
        console.print(line.append(printable(match.path), "bold"))


def models_table(costs: dict[str, Cost], classes: int, frames: int) -> Any:
    """Presets with their size and work, the paper's figures beside ours."""
    from atgnn.costs import PAPER
    from atgnn.grids import figures_grid

    rows = []
    for name, cost in costs.items():
        millions, work = PAPER.get(name, (None, None))
        rows.append(
            (
                name,
                f"{cost.trainable_parameters / 1e6:.2f} M",
                "" if millions is None else f"{millions:.1f} M",
                f"{cost.stored_parameters / 1e6:.2f} M",
                f"{cost.gmacs:.2f}",
                "" if work is None else f"{work:.2f}",
            )
        )
    table = figures_grid(("preset", "trainable", "paper", "stored", "GMAC", "paper"), rows)
    table.columns[2].style = table.columns[5].style = "dim"
    table.title = f"Presets with {classes} classes; work for {frames} frames of 10 ms"
    table.caption = (
        "trainable: parameters that learn; stored: with frozen relative tables; GMAC: 1e9 "
        "multiply-accumulates; paper: its Tables I and II, at 200 classes"
    )
    table.title_justify = table.caption_justify = "left"
    return table


def knobs_table(settings: Sequence[Knob]) -> Any:
    """All settings of a recipe, a row each."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("setting", style="bold", no_wrap=True)
    table.add_column("value", overflow="fold", max_width=36)
    table.add_column("what it does", overflow="fold")
    for knob in settings:
        table.add_row(knob.key, Text(knob.text), Text(knob.meaning))
    return table


def doctor_table(report: Report) -> Any:
    """What is in use here, a row for each subject."""
    from rich.table import Table
    from rich.text import Text

    processor, audio = report.processor, report.audio
    units = "in hardware" if processor.bfloat16 else "not in hardware"
    installed = [extra for extra, missing in report.extras.items() if not missing]
    wanted = [install_command(extra) for extra in report.extras if extra not in installed]
    video = f"PyAV {audio.av}" if audio.av else "no PyAV (mp4, m4a, webm: extra video)"
    rows = {
        "atgnn": f"{report.atgnn}, Python {report.python}, PyTorch {report.torch}, {report.system}",
        "processor": f"{processor.name} ({' '.join(processor.instructions) or 'flags unknown'}); "
        f"bfloat16 {units}; {counted(processor.threads, 'thread')}",
        "graphs": _graphs(report.graph_kernel),
        "GPU": _graphics(report.graphics),
        "audio": f"libsndfile {audio.libsndfile} ({' '.join(audio.formats)}), soundfile "
        f"{audio.soundfile}, soxr {audio.soxr}, {video}",
        "extras": "; ".join([f"installed: {', '.join(installed) or 'none'}", *wanted]),
        "models": ", ".join(report.models) or "none",
        "caches": f"{report.model_cache} (models), {report.kernel_cache} (kernel)",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _graphs(kernel: GraphKernel) -> str:
    if kernel.in_use is None:
        return f"none: {kernel.problem}"
    if kernel.in_use == "plain":
        return f"plain PyTorch, several times slower than the kernel: {kernel.problem}"
    level = f"{kernel.in_use}, AMX" if kernel.matrix_units else kernel.in_use
    threads = "with PyTorch's threads" if kernel.problem is None else kernel.problem
    return (
        f"compiled kernel ({level}), {kernel.speed_up:g} x as fast as plain PyTorch, {threads}: "
        f"{kernel.path}"
    )


def _graphics(graphics: Graphics | None) -> str:
    if graphics is None:
        return "none"
    triton = f"Triton {graphics.triton}" if graphics.triton else "no Triton: pip install triton"
    return (
        f"{graphics.name}; graphs: {graphics.graphs} ({triton}); "
        f"bfloat16 {'in hardware' if graphics.bfloat16 else 'emulated'}"
    )
