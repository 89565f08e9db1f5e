"""An explanation as a file; the ending of its name says which kind."""

from __future__ import annotations

import os
from pathlib import Path

from atgnn.errors import ConfigError
from atgnn.explain.figure import draw
from atgnn.explain.page import to_html
from atgnn.explain.records import Explanation
from atgnn.files import new_file

__all__ = ["FORMS", "form_of", "write"]

FORMS = ("html", "png", "svg", "json")


def form_of(path: str | os.PathLike[str]) -> str:
    """One of `FORMS`, by the ending of a file's name; ConfigError for another."""
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in FORMS:
        endings = ", ".join(f".{form}" for form in FORMS)
        raise ConfigError(f"{path}: an explanation's file ends in {endings}")
    return form


def write(explanation: Explanation, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a page, a figure or data, whole or not at all.

    Raises `AtgnnError` where something is there already, `MissingExtraError` for a figure without
    matplotlib.
    """
    form = form_of(path)
    with new_file(path, force) as scratch:
        if form == "html":
            scratch.write_text(to_html(explanation), encoding="utf-8")
        elif form == "json":
            scratch.write_text(explanation.to_json() + "\n", encoding="utf-8")
        else:
            scratch.write_bytes(draw(explanation, form))
