"""A page in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atgnn.evaluate.pages import Page, Table

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
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, title=table.title, title_justify="left", title_style="bold")
    columns, rows = table.written()
    for place, name in enumerate(columns):
        grid.add_column(name, justify="right" if place else "left")
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid
