"""An explanation as a figure, PNG or SVG: a row for each label."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from atgnn.errors import MissingExtraError, printable
from atgnn.explain.axes import Axes, hertz
from atgnn.explain.picture import COLOURS
from atgnn.explain.records import Evidence, Explanation, Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "figure"]

SHOWN = 6  # influences
DOTS = 150  # an inch
INK, UP, DOWN = "#1c2430", "#157a4e", "#b4332a"


def draw(explanation: Explanation, form: str) -> bytes:
    """The figure as a file; `form` is "png" or "svg"."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it draws a box in its place
        figure(explanation).savefig(file, format=form, dpi=DOTS)
    return file.getvalue()


def figure(explanation: Explanation) -> Figure:
    """Spectrograms with the regions of each label, and what the other labels did beside them."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError.of("matplotlib", "train", "a figure") from None
    rows = len(explanation.evidence)
    drawn = Figure(figsize=(9.5, 0.3 + 2.6 * rows), layout="constrained")
    panels = drawn.subplots(rows, 2, squeeze=False, width_ratios=[3, 1])
    for (left, right), one in zip(panels, explanation.evidence, strict=True):
        _spectrogram(left, one, explanation.windows[one.window])
        _influences(right, one)
    return drawn


def _spectrogram(panel: Any, one: Evidence, window: Window) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    rows, columns = window.picture.shape
    axes = Axes(window, columns, rows)
    colours = LinearSegmentedColormap.from_list("sound", np.array(COLOURS) / 255)
    low, high = np.quantile(window.picture, [0.02, 0.999])
    panel.imshow(
        window.picture[::-1], aspect="auto", cmap=colours, vmin=low, vmax=max(high, low + 1e-9),
        extent=(0, columns, rows, 0),
    )  # fmt: skip
    heaviest = max((region.weight for region in one.regions), default=1.0)
    for region in one.regions:
        left, top, width, height = axes.box(region)
        alpha = 0.15 + 0.5 * region.weight / heaviest
        panel.add_patch(Rectangle((left, top), width, height, color="#5ad7ff", alpha=alpha, lw=0))
    if one.sufficient is not None:
        for region in one.sufficient.regions:
            left, top, width, height = axes.box(region)
            panel.add_patch(
                Rectangle((left, top), width, height, fill=False, ec="white", lw=0.9, ls="--")
            )
    panel.set_xticks([axes.x(time) for time in axes.times], [f"{time:g} s" for time in axes.times])
    panel.set_yticks(
        [axes.y(value) for value in axes.frequencies], [hertz(value) for value in axes.frequencies]
    )
    panel.tick_params(labelsize=7, length=2)
    panel.set_title(f"{_plain(one.label)}  {one.score:.2f}", fontsize=9, loc="left", color=INK)


def _influences(panel: Any, one: Evidence) -> None:
    shown = one.influences[:SHOWN]
    if not shown:
        panel.set_axis_off()
        return
    effects = [other.effect for other in shown]
    places = range(len(shown))
    panel.barh(places, effects, color=[UP if effect >= 0 else DOWN for effect in effects])
    panel.set_yticks(places, [_plain(other.label) for other in shown])
    panel.invert_yaxis()
    panel.axvline(0, color=INK, lw=0.6)
    panel.tick_params(labelsize=7, length=0)
    panel.set_title("other labels, log-odds", fontsize=8, loc="left", color=INK)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _plain(text: str) -> str:
    """A name in which nothing means mathematics to matplotlib, or is forbidden in SVG."""
    return printable(text).replace("$", r"\$")
