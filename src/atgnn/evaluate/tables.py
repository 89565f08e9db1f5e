"""A page in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atgnn.evaluate.pages import Page, Table
from atgnn.grids import figures_grid

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["terminal_page"]


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
