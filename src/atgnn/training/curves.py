"""The curves of a run as a picture: loss, metrics and learning rate over epochs."""

import csv
from pathlib import Path

from atgnn.errors import MissingExtraError
from atgnn.files import replacing

__all__ = ["METRICS", "draw_curves", "read_history"]

LOSSES = {"train_loss": "training", "val_loss": "validation"}
METRICS = {"val_mAP": "mean average precision", "val_accuracy": "accuracy"}


def read_history(path: Path) -> dict[str, list[float]]:
    """Columns of history.csv by name; an empty cell is NaN."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else []
    return {name: [float(row[name] or "nan") for row in rows] for name in names}


def draw_curves(history: Path, picture: Path) -> None:
    """Draw a run's history.csv to a PNG file.

    Raises `MissingExtraError` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError.of("matplotlib", "train", "drawing curves") from None
    columns = read_history(history)
    panels = [
        ("loss", {name: title for name, title in LOSSES.items() if name in columns}),
        ("validation", {name: title for name, title in METRICS.items() if name in columns}),
        ("learning rate", {"learning_rate": ""} if "learning_rate" in columns else {}),
    ]
    figure = Figure(figsize=(12, 3.6))
    figure.subplots_adjust(left=0.05, right=0.98, bottom=0.15, top=0.9)
    for axes, (title, names) in zip(figure.subplots(1, 3), panels, strict=True):
        for name, label in names.items():
            values = columns[name]
            if any(value == value for value in values):  # not all NaN
                axes.plot(columns["epoch"], values, marker=".", label=label)
        axes.set_xlabel("epoch")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if axes.lines and any(names.values()):
            axes.legend()
    with replacing(picture) as scratch:
        figure.savefig(scratch, format="png", dpi=100)
