"""The paper's tables beside ours: what is measured, and what it takes to measure the rest.

Parameters and multiply-accumulates are measured each time. mAP is measured where the data set and
trained models are; nowhere else is there a number.

DIR/fsd50k, DIR/audioset20k   packed data sets (DIR/fsd50k-32k for systems that hear 32 kHz)
RUNS/pyr-s                    a run of `atgnn train`, or RUNS/pyr-s-42, RUNS/pyr-s-43 ... of
                              `atgnn compare`; RUNS is DIR/runs unless it is said
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from atgnn.checkpoint import Checkpoint
from atgnn.comparison.paper import SETS, TABLES, DataSet, Line, PaperTable
from atgnn.comparison.timing import caller, made_up, medians
from atgnn.data.store import PackedWaveforms, is_packed
from atgnn.errors import AtgnnError, ConfigError, MissingExtraError
from atgnn.evaluate import choose_clips, evaluate_table
from atgnn.evaluate.pages import Commands, Page, Table
from atgnn.files import content_digest
from atgnn.frontend import FrontEnd, FrontEndConfig
from atgnn.grids import figures_grid
from atgnn.metrics.resampling import jsonable
from atgnn.networks import build, network_preset, own_front_end, preset_cost
from atgnn.scoring import ScoreTable
from atgnn.tagger import Tagger, choose_device
from atgnn.training.recipe import load_recipe

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Reproduced", "TableHere", "render", "reproduce", "table_page"]

SECONDS = 10.24  # of the clip that is timed: 1024 frames
SCORES = "reproduced.parquet"  # beside a run's model: its scores of the split, to read again


@dataclass(frozen=True)
class Reproduced:
    """A system: the paper's figures and ours.

    Attributes:
        line: as the paper has it.
        millions, gmacs: measured here; NaN where `problem` says why not.
        milliseconds: for a clip, where it was asked for.
        mean_ap: of each run, by its folder; empty where there is none.
        needed: what mAP needs, as commands to run one after another; empty where it is measured.
        problem: what could not be built or judged here, and why.
    """

    line: Line
    millions: float = math.nan
    gmacs: float = math.nan
    milliseconds: float = math.nan
    mean_ap: dict[str, float] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class TableHere:
    """A table of the paper with ours beside it."""

    name: str
    table: PaperTable
    labels: int
    rows: tuple[Reproduced, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data


def reproduce(
    name: str,
    data: Path | None = None,
    runs: Path | None = None,
    *,
    labels: int | None = None,
    time: bool = False,
    device: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> TableHere:
    """A table of the paper, ours beside it.

    `data` and `runs` are folders as the head of this module says; `labels` other than those of the
    data set are for parameters alone. With `time`, inference is timed too, turn by turn.

    Raises:
        ConfigError: no such table, or no such folder.
    """
    if name not in TABLES:
        raise ConfigError(f"no table {name!r}: choose from {', '.join(TABLES)}")
    for folder in (data, runs):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"no folder {folder}: give one that holds data sets or runs")
    table = TABLES[name]
    dataset = SETS[table.data]
    where = _Where(name, dataset, data, runs, device)
    rows = []
    for line in table.lines:
        progress(f"{table.title.split(':')[0]}: {line.name}")
        rows.append(_row(line, where, labels or dataset.labels))
    times = _times(table.lines, dataset, device) if time else {}
    return TableHere(
        name,
        table,
        labels or dataset.labels,
        tuple(_timed(row, times.get(row.line.run, math.nan)) for row in rows),
    )


def _timed(row: Reproduced, milliseconds: float) -> Reproduced:
    return Reproduced(**{**vars(row), "milliseconds": milliseconds})


def _row(line: Line, where: _Where, labels: int) -> Reproduced:
    problem, millions, gmacs = "", math.nan, math.nan
    try:
        cost = preset_cost(
            line.preset, where.dataset.frames, num_labels=labels, **dict(line.changes)
        )
        millions, gmacs = cost.trainable_parameters / 1e6, cost.gmacs
    except MissingExtraError as error:
        problem = str(error)
    mean_ap: dict[str, float] = {}
    needed: list[str] = []
    try:
        mean_ap, needed = where.measured(line)
    except AtgnnError as error:  # a damaged model, or one with other labels: the rest goes on
        problem = str(error)
    return Reproduced(line, millions, gmacs, math.nan, mean_ap, tuple(needed), problem)


def _times(lines: tuple[Line, ...], dataset: DataSet, device: str | None) -> dict[str, float]:
    """Milliseconds of each system for one clip, with random weights."""
    chosen = choose_device(device)
    calls = {}
    for line in lines:
        settings = own_front_end(line.preset)
        try:
            config = network_preset(
                line.preset,
                num_labels=dataset.labels,
                n_mels=settings.n_mels,
                **dict(line.changes),
            )
            torch.manual_seed(0)
            network = build(config).eval().to(chosen)
        except MissingExtraError:
            continue
        wave = made_up(SECONDS, settings.sample_rate).to(chosen)
        calls[line.run] = caller(network, FrontEnd(settings), wave)
    return medians(calls, chosen.type)


# ---------------------------------------------------------------------------- measured mAP


@dataclass(frozen=True)
class _Where:
    """Where data sets and runs are looked for, and what is said where they are not."""

    name: str
    dataset: DataSet
    data: Path | None
    runs: Path | None
    device: str | None

    def measured(self, line: Line) -> tuple[dict[str, float], list[str]]:
        """mAP of each run of a system, or the commands that lead there."""
        packed, models = self.packed(line), list(self.models(line))
        if is_packed(packed) and models:
            return {run.name: self.mean_ap(run, packed, line) for run in models}, []
        return {}, list(self.commands(line, packed, bool(models)))

    @property
    def folder(self) -> Path:
        """DIR, also where none was given."""
        return Path("DIR") if self.data is None else self.data

    @property
    def run_folder(self) -> Path:
        """RUNS, also where none was given."""
        return self.folder / "runs" if self.runs is None else self.runs

    def packed(self, line: Line) -> Path:
        """The data set at the rate that a system hears; DIR may be the data set itself."""
        rate = own_front_end(line.preset).sample_rate
        if self.data is not None and is_packed(self.data):
            return self.data
        name = self.dataset.folder if rate == 16_000 else f"{self.dataset.folder}-{rate // 1000}k"
        return self.folder / name

    def models(self, line: Line) -> Iterator[Path]:
        """Runs of a system that came to a result."""
        if self.run_folder.is_dir():
            for run in sorted(self.run_folder.iterdir()):
                seed = run.name.removeprefix(f"{line.run}-")
                named = run.name == line.run or (seed != run.name and seed.isdigit())
                if named and (run / "model").is_dir():
                    yield run

    def mean_ap(self, run: Path, packed: Path, line: Line) -> float:
        """mAP on the split, from scores that are kept beside the model."""
        opened = PackedWaveforms.open(packed)
        clips = choose_clips(opened.clips, split=self.dataset.split)
        checkpoint = Checkpoint.from_pretrained(run / "model")
        files = (run / "model" / name for name in ("config.json", "model.safetensors"))
        kept, source = run / SCORES, " ".join([*map(content_digest, files), str(len(clips))])
        table = ScoreTable.read(kept) if kept.is_file() else None
        if table is None or table.source != source:
            tagger = Tagger(checkpoint, self.device)
            table = ScoreTable.of(tagger, opened, only=clips, source=source)
            table.write(kept, force=True)
        report = evaluate_table(table, clips, vocabulary=checkpoint.vocabulary, as_marked=True)
        return report.metrics.mean_ap

    def commands(self, line: Line, packed: Path, trained: bool) -> Iterator[str]:
        """What is missing, as commands that can be pasted."""
        front_end = own_front_end(line.preset)
        if not is_packed(packed):
            rate = front_end.sample_rate
            more = "" if rate == 16_000 else f" --rate {rate}"
            yield f"{self.dataset.prepare}{more} --out {shlex.quote(str(packed))}"
        if not trained:
            changes = "".join(f", {key}: {value}" for key, value in line.changes)
            out = shlex.quote(str(self.run_folder / line.run))
            own = own_front_end("pyr-s") != front_end
            yield (
                f"atgnn train {self.dataset.recipe} --clips {shlex.quote(str(packed))} "
                f"--set model='{{preset: {line.preset}{changes}}}' "
                + (f"--set init={line.init} " if line.init else "")
                + ("--set front_end='{preset: own}' " if own else "")
                + "".join(f"--set augment.{name}=0 " for name in self._left_out(front_end))
                + f"--out {out}"
            )
        runs = "" if self.runs is None else f" --runs {shlex.quote(str(self.runs))}"
        yield f"atgnn reproduce {self.name} --data {shlex.quote(str(self.folder))}{runs}"

    def _left_out(self, front_end: FrontEndConfig) -> tuple[str, ...]:
        """What of the recipe's augmentation needs mel bins, for a system without any."""
        recipe = load_recipe(self.dataset.recipe, ["data.clips=DIR"])
        return recipe.augment.spectral if front_end.kind == "waveform" else ()


# ---------------------------------------------------------------------------- shown


def table_page(found: TableHere) -> Page:
    """The table as a page; below it, by number, what the mAP of each system needs."""
    columns, rows = _grid(found)
    needed = (
        Commands(f"({number}) {row.line.name} needs", row.needed)
        for number, row in _numbered(found)
        if number
    )
    return Page(
        found.table.title,
        _subtitle(found),
        (),
        tuple(_notes(found)),
        (Table("Ours beside the paper's", tuple(columns), tuple(map(tuple, rows))), *needed),
    )


def render(found: TableHere) -> RenderableType:
    """The same for a terminal: notes below the table."""
    from rich.console import Group
    from rich.text import Text

    grid = figures_grid(*_grid(found))
    notes = [Text(f"- {note}") for note in _notes(found)]
    for number, system in _numbered(found):
        if number:
            needed = " && ".join(system.needed)
            line = f"- ({number}) {system.line.name} needs: {needed}"
            notes.append(Text(line, no_wrap=True, overflow="ignore"))  # to paste
    return Group(Text(found.table.title, style="bold"), Text(_subtitle(found)), grid, *notes)


def _subtitle(found: TableHere) -> str:
    seconds = SETS[found.table.data].frames / 100
    return (
        f"Parameters and multiply-accumulates measured here, with {found.labels} labels and "
        f"{seconds:.2f} s of sound."
    )


def _grid(found: TableHere) -> tuple[list[str], list[list[str]]]:
    timed = any(not math.isnan(row.milliseconds) for row in found.rows)
    elsewhere = any(row.line.elsewhere is not None for row in found.rows)
    columns = ["system", "M par.", "paper", "GMAC", "paper", *(["ms"] if timed else [])]
    columns += ["mAP", "paper", *(["elsewhere"] if elsewhere else [])]
    rows = [list(_cells(row, timed, elsewhere, number)) for number, row in _numbered(found)]
    return columns, rows


def _numbered(found: TableHere) -> Iterator[tuple[int, Reproduced]]:
    """Rows with the number under which their commands stand; 0 where mAP is measured."""
    number = 0
    for row in found.rows:
        number += bool(row.needed)
        yield (number if row.needed else 0), row


def _cells(row: Reproduced, timed: bool, elsewhere: bool, number: int) -> Iterator[str]:
    line = row.line
    yield line.name
    yield _shown(row.millions, 2)
    yield _shown(line.millions, 2 if (line.millions or 9) < 1 else 1)
    yield _shown(row.gmacs, 2)
    yield _shown(line.gmacs, 2)
    if timed:
        yield _shown(row.milliseconds, 0)
    yield _measured(row) if row.mean_ap else f"needs ({number})" if number else "see below"
    yield _shown(line.mean_ap, 3)
    if elsewhere:
        yield _shown(line.elsewhere, 3)


def _measured(row: Reproduced) -> str:
    values = list(row.mean_ap.values())
    mean = f"{statistics.fmean(values):.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.3f}-{max(values):.3f}, {len(values)} runs)"


def _notes(found: TableHere) -> Iterator[str]:
    yield from found.table.notes
    yield "empty cells of the paper's columns: not established, so left out"
    for row in found.rows:
        if row.line.source:
            yield f"elsewhere, {row.line.name}: {row.line.source}"
        if row.problem:
            yield f"{row.line.name}: {row.problem}"


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"
