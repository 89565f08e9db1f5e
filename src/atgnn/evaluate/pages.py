"""A page of figures, tables and pictures, written as Markdown or as one self-contained HTML file.

The HTML holds its style and its pictures and fetches nothing. It follows the reader's choice of
light or dark.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

__all__ = ["Bar", "Block", "Cell", "Commands", "Fact", "Page", "Picture", "Table", "Text"]


@dataclass(frozen=True)
class Bar:
    """A value with its interval as a small drawing, on an axis from `first` to `last`.

    A line marks `zero` where it is given. Markdown leaves columns of bars out.
    """

    low: float
    value: float
    high: float
    first: float = 0.0
    last: float = 1.0
    zero: float | None = None


Cell: TypeAlias = "str | Bar"


@dataclass(frozen=True)
class Fact:
    """A figure with its name, and below it what it needs to be read."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a heading; the first column is text, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False  # HTML shows it when asked

    def written(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows without those that hold bars."""
        kept = [
            column
            for column in range(len(self.columns))
            if not any(isinstance(row[column], Bar) for row in self.rows)
        ]
        columns = [self.columns[column] for column in kept]
        return columns, [[str(row[column]) for column in kept] for row in self.rows]


@dataclass(frozen=True)
class Commands:
    """Commands under a heading, to paste."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A PNG under a heading, written beside the Markdown as `name`; at most `width` pixels wide."""

    title: str
    name: str
    png: bytes
    alt: str
    width: int = 900


Block: TypeAlias = "Text | Table | Picture | Commands"


@dataclass(frozen=True)
class Page:
    """A title, a line below it, figures, notes, and what follows."""

    title: str
    subtitle: str
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, in order."""
        return [block for block in self.blocks if isinstance(block, Picture)]

    def markdown(self) -> str:
        """The page as Markdown, which expects its pictures beside it."""
        facts = [(fact.name, fact.value, fact.detail) for fact in self.facts]
        parts = [f"# {_plain(self.title)}", _plain(self.subtitle)]
        if facts:
            parts.append(_markdown_table(("figure", "value", ""), facts))
        if self.notes:
            parts.append("\n".join(f"- {_plain(note)}" for note in self.notes))
        for block in self.blocks:
            parts += _markdown_block(block)
        return "\n\n".join(part for part in parts if part) + "\n"

    def html(self) -> str:
        """The page as one HTML file."""
        cards = "".join(
            f'<div class="card"><div class="name">{escape(fact.name)}</div>'
            f'<div class="value">{escape(fact.value)}</div>'
            f'<div class="detail">{escape(fact.detail)}</div></div>'
            for fact in self.facts
        )
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        body = "\n".join(_html_block(block) for block in self.blocks)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>\n<body><main>"
            f'<h1>{escape(self.title)}</h1><p class="subtitle">{escape(self.subtitle)}</p>\n'
            f'<div class="cards">{cards}</div>\n'
            + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
            + f"{body}\n</main></body></html>\n"
        )


# --- Markdown ------------------------------------------------------------------------------


def _markdown_block(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield _plain(block.text)
        return
    yield f"## {_plain(block.title)}"
    if isinstance(block, Picture):
        yield f"![{_plain(block.alt)}]({block.name})"
        return
    if isinstance(block, Commands):
        yield "\n".join(["```sh", *block.lines, "```"])
        return
    if block.note:
        yield _plain(block.note)
    yield _markdown_table(*block.written())


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_plain, columns)) + " |"]
    lines.append("|---|" + "---:|" * (len(columns) - 1))
    lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text in which no character means anything to Markdown's tables and emphasis."""
    line = " ".join(text.split())
    for mark in "\\|*_`<[":
        line = line.replace(mark, f"\\{mark}")
    return line


# --- HTML ----------------------------------------------------------------------------------


def _html_block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    title = escape(block.title)
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode("ascii")
        return f'<h2>{title}</h2><img alt="{escape(block.alt)}" src="data:image/png;base64,{data}">'
    if isinstance(block, Commands):
        return f"<h2>{title}</h2><pre>{escape(chr(10).join(block.lines))}</pre>"
    head = "".join(f"<th>{escape(name)}</th>" for name in block.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_html_cell(cell)}</td>" for cell in row) + "</tr>"
        for row in block.rows
    )
    note = f'<p class="note">{escape(block.note)}</p>' if block.note else ""
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    if block.folded:
        return f"<details><summary>{title}</summary>{note}{table}</div></details>"
    return f"<h2>{title}</h2>{note}{table}</div>"


WIDTH, HEIGHT = 180, 16  # of a bar, in pixels


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    spans = cell.last - cell.first

    def place(value: float) -> float:
        share = (value - cell.first) / spans
        return round(4 + (WIDTH - 8) * min(1.0, max(0.0, share)), 1)

    low, value, high = place(cell.low), place(cell.value), place(cell.high)
    middle, tone = HEIGHT / 2, ""
    mark = ""
    if cell.zero is not None:
        at = place(cell.zero)
        mark = f'<line class="zero" x1="{at}" x2="{at}" y1="0" y2="{HEIGHT}"/>'
        tone = " gain" if cell.low > cell.zero else " loss" if cell.high < cell.zero else " even"
    return (
        f'<svg class="bar{tone}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{cell.low:.3f} to {cell.high:.3f}">'
        f'<line class="axis" x1="4" x2="{WIDTH - 4}" y1="{middle}" y2="{middle}"/>{mark}'
        f'<line class="span" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{value}" cy="{middle}" r="3.6"/></svg>'
    )


STYLE = """
:root{--ink:#1c2430;--soft:#5d6878;--faint:#8b95a3;--line:#e3e7ed;--back:#fff;--card:#f6f8fb;
--main:#2463c6;--span:#9dbcf0;--gain:#157a4e;--gainspan:#94d0b3;--loss:#b4332a;--lossspan:#eaaaa4}
@media (prefers-color-scheme:dark){:root{--ink:#e7ebf1;--soft:#a9b3c1;--faint:#7c8796;
--line:#2c3440;--back:#12161c;--card:#1a2029;--main:#7fb0ff;--span:#34548a;--gain:#63d29f;
--gainspan:#235a40;--loss:#ff8f85;--lossspan:#733029}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:1.15rem;margin:2.6rem 0 .6rem}
.subtitle{color:var(--soft);margin:.4rem 0 1.6rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(11.5rem,1fr));gap:.75rem}
.card{background:var(--card);border-radius:.6rem;padding:.8rem .95rem}
.name{color:var(--soft);font-size:.8rem}
.value{font-size:1.6rem;font-weight:600;line-height:1.25;font-variant-numeric:tabular-nums}
.detail{color:var(--faint);font-size:.78rem;line-height:1.35}
.notes{color:var(--soft);font-size:.88rem;padding-left:1.1rem;margin:1.4rem 0 0}
.notes li{margin:.25rem 0}.note{color:var(--soft);font-size:.88rem;margin:.2rem 0 .7rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.88rem}
th{color:var(--soft);font-weight:500;text-align:right;padding:.35rem .6rem;
border-bottom:1px solid var(--line);white-space:nowrap}
td{text-align:right;padding:.3rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
td:first-child{font-weight:500}
details{margin-top:2.2rem}summary{cursor:pointer;font-weight:600;font-size:1.05rem}
pre{overflow-x:auto;background:var(--card);border-radius:.6rem;padding:.8rem .95rem;
font-size:.85rem}
img{width:100%;height:auto;background:#fff;border-radius:.6rem;border:1px solid var(--line)}
.bar{vertical-align:middle;overflow:visible}.bar .axis{stroke:var(--line);stroke-width:1}
.bar .zero{stroke:var(--faint);stroke-width:1;stroke-dasharray:2 2}
.bar .span{stroke:var(--span);stroke-width:6;stroke-linecap:round}.bar circle{fill:var(--main)}
.gain .span{stroke:var(--gainspan)}.gain circle{fill:var(--gain)}
.loss .span{stroke:var(--lossspan)}.loss circle{fill:var(--loss)}
.even .span{stroke:var(--line)}.even circle{fill:var(--soft)}
@media print{main{max-width:none}}
"""
