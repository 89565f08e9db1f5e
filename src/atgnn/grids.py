"""Tables of figures in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as Grid

__all__ = ["NARROWEST", "figures_grid"]

NARROWEST = 12  # characters of a row's name before it is broken anywhere


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
