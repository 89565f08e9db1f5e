"""The table of a comparison as a page, as files and as a picture."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atgnn.comparison.table import Row, Spread, Standings
from atgnn.errors import MissingExtraError, counted
from atgnn.evaluate.pages import Page, Picture, Table
from atgnn.files import replacing, write_rows, write_text
from atgnn.grids import NARROWEST, figures_grid

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["page_of", "render", "write_standings"]

NAMES = {"mean_ap": "mAP", "accuracy": "accuracy"}
COLUMNS = (
    "model", "preset", "settings", "runs", "clips", "problems", "parameters", "gmacs", "epochs",
    "mean_ap", "mean_ap_low", "mean_ap_high", "accuracy", "accuracy_low", "accuracy_high",
    "interval_from", "train_seconds", "cpu_seconds", "inference_ms", "peak_mb",
)  # fmt: skip
DISPENSABLE = ("GMAC", "MB", "training", "ms", "M par.", "95 %")  # of a narrow terminal, in turn


def write_standings(found: Standings, out: Path) -> Path:
    """Write report.html, report.md, report.json, table.csv and cost.png; returns the first."""
    page = page_of(found, pictures=True)
    for picture in page.pictures:
        with replacing(out / picture.name) as scratch:
            scratch.write_bytes(picture.png)
    write_rows(out / "table.csv", [COLUMNS, *map(_csv_row, found.rows)])
    numbers = json.dumps(found.to_dict(), indent=1, allow_nan=False)
    write_text(out / "report.json", numbers + "\n")
    write_text(out / "report.md", page.markdown())
    write_text(out / "report.html", page.html())
    return out / "report.html"


def render(found: Standings, width: int | None = None) -> RenderableType:
    """A table with the notes below it; what does not fit into `width` columns is left out."""
    from rich.console import Group
    from rich.text import Text

    columns = _columns(found)
    left_out = _too_wide(columns, width)
    columns = [one for one in columns if one[0] not in left_out]
    names, cells = zip(*columns, strict=True)
    grid = figures_grid(names, list(zip(*cells, strict=True)))
    notes = [Text(f"- {note}") for note in _notes(found)]
    if left_out:
        notes.append(Text(f"- no room here for {', '.join(left_out)}: the report has them"))
    return Group(grid, *notes)


def _columns(found: Standings) -> list[tuple[str, tuple[str, ...]]]:
    """Columns of the table in a terminal, each with its cells."""
    figures = _figures(found)
    names = ["model", *(name for figure in figures for name in (NAMES[figure], "95 %"))]
    names += ["M par.", "GMAC", "", "training", "", "ms", "MB"]
    cells = zip(*(_cells(row, figures) for row in found.rows), strict=True)
    return [(name, column) for name, column in zip(names, cells, strict=True) if name]


def _too_wide(columns: list[tuple[str, tuple[str, ...]]], width: int | None) -> list[str]:
    """Names of the columns to leave out, so that no figure is cut; models' names may fold."""
    left_out: list[str] = []
    for name in DISPENSABLE if width is not None else ():
        kept = [one for one in columns[1:] if one[0] not in left_out]
        model = min(NARROWEST, max(map(len, columns[0][1]), default=0))
        needed = 3 + model + sum(2 + max(map(len, (name, *cells))) for name, cells in kept)
        if needed <= (width or 0):
            break
        left_out += [name] * any(name == one for one, _ in kept)
    return left_out


def _figures(found: Standings) -> list[str]:
    return [name for name in NAMES if any(name in row.metrics for row in found.rows)]


def page_of(found: Standings, pictures: bool) -> Page:
    """The table of models and what has to be known of it, with or without the picture."""
    figures = _figures(found)
    columns = ("model", *(name for figure in figures for name in (NAMES[figure], "95 %")))
    columns += ("M parameters", "GMAC", "epochs", "training", "processor", "inference", "peak MB")
    table = Table(
        "Models", columns, tuple(_cells(row, figures) for row in found.rows), _units(found)
    )
    drawn = [row for row in found.rows if row.metrics]
    picture = [cost_picture(found, figures[0])] if pictures and drawn else []
    runs = sum(row.runs for row in found.rows)
    return Page(
        f"{counted(len(found.rows), 'model')} compared",
        f"{found.subject}. {counted(runs, 'run')}, {counted(found.seeds, 'seed')} of each model.",
        (),
        tuple(_notes(found)),
        (table, *picture),
    )


def _cells(row: Row, figures: list[str]) -> tuple[str, ...]:
    spreads = [row.metrics.get(name, Spread(math.nan)) for name in figures]
    return (
        row.model,
        *(cell for one in spreads for cell in (_number(one.mean, 3), _between(one))),
        f"{row.parameters / 1e6:.2f}" if row.parameters else "–",
        _number(row.gmacs, 2),
        _number(row.epochs, 0),
        _duration(row.train_seconds),
        _duration(row.cpu_seconds),
        f"{_number(row.inference_ms, 1)}",
        _number(row.peak_mb, 0),
    )


def _units(found: Standings) -> str:
    work = f"GMAC: 1e9 multiply-accumulates for {found.frames} frames. " if found.frames else ""
    timing = found.timing
    if timing.get("milliseconds"):
        work += (
            f"Inference: ms for {timing['seconds']:g} s of sound, from samples to scores, batch 1, "
            f"median of {timing['rounds']} turns, {timing['machine']}, "
            f"{counted(timing['threads'], 'thread')}. "
        )
    return (
        work + "Training: time on the clock; processor: of all threads. Peak: resident memory of "
        "the run's own process in training, libraries included; on a GPU what PyTorch took."
    )


def _notes(found: Standings) -> Iterator[str]:
    own = "each model's own" if found.front_ends == "own" else "the recipe's for all"
    more = f"; the waveform for {', '.join(found.waveforms)}" if found.waveforms else ""
    if found.waveforms and found.left_out:
        more += f", without the recipe's {', '.join(found.left_out)}"
    yield f"front end: {own}{more}"
    if found.minutes is not None:
        yield (
            f"budget: {found.minutes:g} min a run (of processor time; on a GPU, on the clock); "
            "epochs were chosen to fit by timing a few steps, one at least"
        )
    if found.clips:
        count = _range(found.clips)
        yield f"judged on {count} clip{'' if count == '1' else 's'}"
    sources = {one.source for row in found.rows for one in row.metrics.values()}
    if "seeds" in sources:
        clips = "the same clips" if found.fixed else "other clips held out"
        yield f"95 %: Student's t over seeds: other random draws, {clips}"
    if "authors" in sources:
        yield "95 %: where there is one run, from resampling authors and their recordings"
    if any(row.runs == 1 for row in found.rows):  # its interval is from authors, if it has one
        yield from found.cautions
    if len(found.devices) > 1:
        yield f"times do not compare: runs were on {', '.join(found.devices)}"
    for row in found.rows:
        if row.settings:
            yield f"{row.model}: {' '.join(row.settings)}"
        for problem in row.problems:
            yield f"{row.model}: {problem}"
    for name, problem in found.timing.get("problems", {}).items():
        yield f"{name}: inference was not timed: {problem}"


def _csv_row(row: Row) -> list[object]:
    precision, accuracy = (row.metrics.get(name, Spread(math.nan)) for name in NAMES)
    values: list[object] = [
        row.model,
        row.preset,
        " ".join(row.settings),
        row.runs,
        _range(row.clips),
        "; ".join(row.problems),
        row.parameters or "",
        row.gmacs,
        row.epochs,
        *(precision.mean, precision.low, precision.high),
        *(accuracy.mean, accuracy.low, accuracy.high),
        precision.source,
        row.train_seconds,
        row.cpu_seconds,
        row.inference_ms,
        row.peak_mb,
    ]
    return [_plain(value) for value in values]


def _range(counts: tuple[int, ...]) -> str:
    """``24``, or ``22 to 26`` where they differ."""
    low, high = min(counts, default=""), max(counts, default="")
    return str(high) if low == high else f"{low} to {high}"


def _plain(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _between(one: Spread) -> str:
    return "" if math.isnan(one.low) else f"{one.low:.2f}-{one.high:.2f}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------------------- picture


def cost_picture(found: Standings, figure: str) -> Picture:
    """A figure against multiply-accumulates and against parameters, both axes logarithmic."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
    except ImportError:
        raise MissingExtraError.of("matplotlib", "train", "the picture of a comparison") from None
    drawn = Figure(figsize=(10, 4.2), layout="constrained")
    panels = drawn.subplots(1, 2, sharey=True)
    rows = [row for row in found.rows if figure in row.metrics]
    for panel, name, take in (
        (panels[0], "GMAC for a clip", lambda row: row.gmacs),
        (panels[1], "million parameters", lambda row: row.parameters / 1e6),
    ):
        places = [take(row) for row in rows]
        middle = math.sqrt(min(places) * max(places))
        for row, place in zip(rows, places, strict=True):
            _point(panel, place, row.metrics[figure], row.model, place > middle)
        panel.set(xscale="log", xlabel=name)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.margins(x=0.18, y=0.12)
        panel.grid(alpha=0.25, which="both", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    low, high = panels[0].get_ylim()
    room = 0.03 * (high - low)  # for half a marker
    panels[0].set_ylim(max(low, -room), min(high, 1 + room))
    panels[0].set_ylabel(NAMES[figure])
    png = io.BytesIO()
    drawn.savefig(png, format="png", dpi=110)
    title = f"{NAMES[figure]} against cost"
    alt = f"{NAMES[figure]} of each model against its multiply-accumulates and its parameters"
    return Picture(title, "cost.png", png.getvalue(), alt)


def _point(panel: Any, x: float, value: Spread, name: str, before: bool) -> None:
    """A model and its interval, its name behind it, or `before` it."""
    if not math.isnan(value.low):
        panel.plot([x, x], [value.low, value.high], color="#9dbcf0", linewidth=2, zorder=1)
    panel.plot(x, value.mean, "o", color="#2463c6", markersize=6, zorder=2)
    place: dict[str, Any] = {"xytext": (-6, 4), "ha": "right"} if before else {"xytext": (6, 4)}
    panel.annotate(name, (x, value.mean), textcoords="offset points", fontsize=8, **place)
