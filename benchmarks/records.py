"""Tables of what was measured, as CSV beside the scripts that print them."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["add", "has", "read", "write"]


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no file yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A whole table, in place of what was there."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def add(path: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    """One row more."""
    write(path, columns, [*read(path), row])


def has(path: Path, key: Mapping[str, str]) -> bool:
    """Whether a row has all these values."""
    return any(key.items() <= row.items() for row in read(path))
