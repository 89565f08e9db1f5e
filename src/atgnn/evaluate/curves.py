"""Precision-recall and reliability curves as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from atgnn.errors import MissingExtraError
from atgnn.evaluate.pages import Picture
from atgnn.metrics import ClassMetrics, Reliability, precision_recall

__all__ = ["curve_pictures", "reliability_picture"]

COLUMNS, ROWS = 4, 5  # panels of a picture
INK, SOFT, GRID, BLUE, GREY = "#1c2430", "#6b7686", "#e3e7ed", "#2463c6", "#9aa4b2"
DOTS = 150  # an inch


def curve_pictures(
    classes: Sequence[ClassMetrics], targets: np.ndarray, scores: np.ndarray
) -> list[Picture]:
    """A precision-recall curve of every label with enough independent positives, 20 a picture.

    `targets` and `scores` are (N, L), a column for each of `classes`. Panels are in the order of
    average precision; the dotted line is what chance would reach.
    """
    shown = [label for label, one in enumerate(classes) if one.enough]
    shown.sort(key=lambda label: -classes[label].average_precision)
    pictures = []
    pages = [shown[at : at + COLUMNS * ROWS] for at in range(0, len(shown), COLUMNS * ROWS)]
    for number, page in enumerate(pages, 1):
        columns = min(COLUMNS, len(page))
        figure, panels = _figure(-(-len(page) // columns), columns, 2.15, 2.05)
        for panel, label in zip(panels, page, strict=False):
            _curve(panel, classes[label], targets[:, label], scores[:, label])
        for panel in panels[len(page) :]:
            panel.set_visible(False)
        for panel in panels[::columns]:
            panel.set_ylabel("precision", color=SOFT, fontsize=8)
        for panel in panels[max(0, len(page) - columns) : len(page)]:
            panel.set_xlabel("recall", color=SOFT, fontsize=8)
        part = f" ({number} of {len(pages)})" if len(pages) > 1 else ""
        pictures.append(
            Picture(
                f"Precision and recall{part}",
                f"precision-recall-{number}.png",
                _png(figure),
                "Precision against recall of " + ", ".join(classes[label].label for label in page),
                width=round(columns * 225),
            )
        )
    return pictures


def reliability_picture(found: Reliability) -> Picture:
    """The share of positives against the score, on logarithmic axes: most scores are small."""
    figure, (panel,) = _figure(1, 1, 4.6, 4.2)
    least = 1e-4
    panel.plot([least, 1], [least, 1], color=GREY, linestyle=":", linewidth=1.2)
    some = found.shares > 0
    score = np.clip(found.scores, least, 1)
    panel.plot(
        score[some], found.shares[some], color=BLUE, linewidth=1.8, marker="o", markersize=4.5
    )
    panel.plot(score[~some], [least] * (~some).sum(), "o", color=BLUE, mfc="none", markersize=4.5)
    panel.set(xscale="log", yscale="log", xlim=(least, 1.2), ylim=(least, 1.2))
    panel.set_xlabel("mean score of a bin", color=SOFT, fontsize=9)
    panel.set_ylabel("share that is there", color=SOFT, fontsize=9)
    return Picture(
        f"Scores as probabilities (expected calibration error {found.error:.3f})",
        "reliability.png",
        _png(figure),
        "Share of positives against score; on the dotted line a score is a probability, and hollow "
        "points are bins without any positive",
        width=430,
    )


def _curve(panel: Any, one: ClassMetrics, target: np.ndarray, score: np.ndarray) -> None:
    precision, recall, _ = precision_recall(target, score)
    steps = np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])
    panel.fill_between(*steps, step="pre", color=BLUE, alpha=0.12, linewidth=0)
    panel.step(*steps, where="pre", color=BLUE, linewidth=1.5)
    panel.axhline(one.positives / one.known, color=GREY, linestyle=":", linewidth=1)
    panel.set(xlim=(0, 1), ylim=(0, 1.04), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    name = one.label.replace("_", " ")
    panel.set_title(
        f"{name if len(name) < 25 else name[:23] + '…'}\nAP {one.average_precision:.3f}",
        fontsize=8.5,
        color=INK,
        loc="left",
    )


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of panels in the house's look; no global state of matplotlib is touched."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError.of("matplotlib", "train", "a report's pictures") from None
    figure = Figure(figsize=(width * columns, height * rows), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for panel in panels:
        panel.grid(color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=7.5, colors=SOFT, length=0)
        for side, line in panel.spines.items():
            line.set_visible(side in ("left", "bottom"))
            line.set_color(GREY)
    return figure, panels


def _png(figure: Any) -> bytes:
    """Without date and version, so that the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
