"""A page in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atgnn.evaluate.pages import Page, Table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as Grid

__all__ = ["NARROWEST", "figures_grid", "terminal_page"]

NARROWEST = 12  # characters of a row's name before it is broken anywhere


def terminal_page(page: Page, tables: bool) -> RenderableType:
    """Figures and notes, with `tables` those too; titles and pictures are for paper."""
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    facts = Grid.grid(padding=(0, 2, 0, 0))
    for fact in page.facts:
        facts.add_row(Text(fact.name), Text(fact.value), Text(fact.detail, style="dim"))
    notes = [Text(f"- {note}") for note in page.notes]
    blocks = [block for block in page.blocks if isinstance(block, Table)] if tables else []
    return Group(facts, *notes, *map(_table, blocks))


def _table(table: Table) -> RenderableType:
    grid = figures_grid(*table.written())
    grid.title, grid.title_justify, grid.title_style = table.title, "left", "bold"
    return grid


def figures_grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    """A table whose cells are never cut: names of rows may be broken, the others between words.

    Where even that does not fit, it is wider than the terminal: print it with ``crop=False``.
    """
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, name in enumerate(columns):
        words = [word for text in (name, *(row[place] for row in rows)) for word in text.split()]
        longest = max(map(len, words), default=0)
        grid.add_column(
            name,
            justify="right" if place else "left",
            overflow="fold",
            min_width=longest if place else min(longest, NARROWEST),
        )
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid
