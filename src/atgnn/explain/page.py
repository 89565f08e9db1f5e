"""An explanation as one HTML file that needs nothing else: no request leaves it.

Style, script, pictures and sounds are inside, and a policy in its head forbids anything else. Every
name is escaped. Without the script all labels are shown below one another; with it one at a time.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from atgnn.audio import flac
from atgnn.explain.axes import Axes, hertz, seconds
from atgnn.explain.page_parts import SCRIPT, STYLE
from atgnn.explain.picture import png
from atgnn.explain.records import Evidence, Explanation, Influence, Region, Window
from atgnn.explain.sound import sound_of

__all__ = ["to_html"]

WIDTH, HEIGHT = 1000, 400  # of the picture, in its own units
LISTED = 6  # regions and influences
POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)


def to_html(explanation: Explanation, *, inside: bool = False) -> str:
    """The page; `inside` another one that has the file's name and its labels, it shows neither."""
    name = "recording" if explanation.path is None else Path(explanation.path).name
    notes = "".join(f"<li>{escape(note)}</li>" for note in explanation.notes)
    pictures = "".join(_picture(i, window) for i, window in enumerate(explanation.windows))
    tabs = "".join(_tab(number, one) for number, one in enumerate(explanation.evidence))
    sections = "\n".join(
        _section(number, one, explanation.windows[one.window])
        for number, one in enumerate(explanation.evidence)
    )
    wholes = "".join(_whole(i, window) for i, window in enumerate(explanation.windows))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(_shown(name))}: why these tags</title><style>{STYLE}</style></head>\n"
        f"<body><main{' class=inside' if inside else ''}><h1>Why these tags?</h1>"
        f"<p class=file>{escape(_shown(name))}</p>\n"
        f"{wholes}"
        f"<svg class=store aria-hidden=true width=0 height=0><defs>{pictures}</defs></svg>\n"
        f'<nav role=tablist aria-label="Labels">{tabs}</nav>\n{sections}\n'
        + (f"<ul class=notes>{notes}</ul>\n" if notes else "")
        + f"</main><script>{SCRIPT}</script></body></html>\n"
    )


def _shown(text: str) -> str:
    """Text that any encoding can write: what is no character becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _picture(number: int, window: Window) -> str:
    return (
        f'<image id="picture-{number}" width="{WIDTH}" height="{HEIGHT}" '
        f'preserveAspectRatio="none" href="{_data("image/png", png(window.picture))}"/>'
    )


def _player(name: str, window: Window, regions: Sequence[Region] | None, kind: str) -> str:
    """A sound to play: the window's, or that of regions of it."""
    samples = window.samples if regions is None else sound_of(window, regions)
    return (
        f"<figure class=sound><figcaption>{escape(name)}</figcaption>"
        f'<audio controls preload=metadata class="{kind}" data-start="{window.start:.4f}" '
        f'data-end="{window.end:.4f}" src="{_data("audio/flac", flac(samples, window.rate))}">'
        "</audio></figure>"
    )


def _whole(number: int, window: Window) -> str:
    span = f"{seconds(window.start)} to {seconds(window.end)}"
    player = _player(f"The sound, {span}", window, None, "all")
    return f'<div class=whole data-window="{number}">{player}</div>'


def _tab(number: int, one: Evidence) -> str:
    width = max(2, round(100 * one.score))
    return (
        f'<button role=tab id="tab-{number}" aria-controls="label-{number}">'
        f"<span>{escape(one.label)}</span><b>{one.score:.2f}</b>"
        f'<i style="width:{width}%"></i></button>'
    )


def _section(number: int, one: Evidence, window: Window) -> str:
    parts = [
        f'<section role=tabpanel id="label-{number}" aria-labelledby="tab-{number}" '
        f'data-window="{one.window}" tabindex=-1><h2>{escape(one.label)}</h2>',
        _drawing(one, window),
        "<div class=sounds>",
    ]
    if one.regions:
        parts.append(_player("The regions alone", window, one.regions, "regions"))
    if one.sufficient is not None:
        parts.append(_player("What is enough", window, one.sufficient.regions, "enough"))
    parts.append(f"</div><div class=columns>{''.join(_columns(one))}</div></section>")
    return "".join(parts)


def _columns(one: Evidence) -> Iterator[str]:
    if one.regions:
        items = "".join(_region_button(region) for region in one.regions[:LISTED])
        yield (
            f"<div><h3>Where the evidence is</h3><p>{len(one.regions)} regions hold "
            f"{one.covered:.0%} of it; the largest, to be heard:</p>"
            f"<ol class=list>{items}</ol></div>"
        )
    if one.sufficient is not None:
        found = one.sufficient
        yield (
            f"<div><h3>What is enough</h3><p><b>{found.nodes}</b> of {found.of} patch nodes, with "
            f"all others removed from the graph, still score <b>{found.score:.2f}</b> (the whole: "
            f"{one.score:.2f}; needed: {found.limit:.2f}). Without these, the others score "
            f"{found.without:.2f}.</p></div>"
        )
    if one.influences:
        items = "".join(_influence(other, one.influences) for other in one.influences[:LISTED])
        yield (
            "<div><h3>What other labels do</h3><p>How much the log-odds change because the label "
            f"is in the graph:</p><ul class=bars>{items}</ul></div>"
        )


def _said(region: Region) -> str:
    return (
        f"{seconds(region.start)} to {seconds(region.end)}, "
        f"{hertz(region.low_hz)} to {hertz(region.high_hz)}"
    )


def _region_button(region: Region) -> str:
    return (
        f'<li><button class=hear data-start="{region.start:.4f}" data-end="{region.end:.4f}">'
        f"▶ {_said(region)} <b>{region.weight:.0%}</b></button></li>"
    )


def _influence(other: Influence, all_of_them: Sequence[Influence]) -> str:
    largest = max(abs(one.effect) for one in all_of_them) or 1.0
    side = "up" if other.effect >= 0 else "down"
    return (
        f"<li><span>{escape(other.label)}</span>"
        f'<i class={side} style="width:{abs(other.effect) / largest * 5:.2f}rem"></i>'
        f"<b>{other.effect:+.2f}</b></li>"
    )


def _drawing(one: Evidence, window: Window) -> str:
    """The spectrogram with the regions on it, and names along its axes."""
    axes = Axes(window, WIDTH, HEIGHT)
    heaviest = max((_density(axes, region) for region in one.regions), default=1.0)
    shapes = [
        _rectangle(axes, region, "region", 0.15 + 0.5 * _density(axes, region) / heaviest)
        for region in reversed(one.regions)
    ]
    if one.sufficient is not None:
        shapes += [_rectangle(axes, region, "needed") for region in one.sufficient.regions]
    count = f"{len(one.regions)} regions" if one.regions else "no regions"
    bands = "".join(
        f'<span style="top:{axes.y(value) / HEIGHT:.2%}">{hertz(value)}</span>'
        for value in axes.frequencies
    )
    ticks = "".join(
        f'<span style="left:{axes.x(value) / WIDTH:.2%}">{value:g} s</span>' for value in axes.times
    )
    return (
        f'<div class=frame><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role=img '
        f'aria-label="Spectrogram with {count} for {escape(one.label)}">'
        f'<use href="#picture-{one.window}"/>{"".join(shapes)}'
        f'<line class=head x1="-9" x2="-9" y1="0" y2="{HEIGHT}"/></svg>'
        f"<div class=bands aria-hidden=true>{bands}</div>"
        f"<div class=times aria-hidden=true>{ticks}</div></div>"
    )


def _density(axes: Axes, region: Region) -> float:
    """Evidence for each bit of the picture."""
    _, _, width, height = axes.box(region)
    return region.weight / max(width * height, 1e-9)


def _rectangle(axes: Axes, region: Region, kind: str, opacity: float | None = None) -> str:
    left, top, width, height = axes.box(region)
    shade = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
    return (
        f'<rect class={kind} x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"{shade} data-start="{region.start:.4f}" '
        f'data-end="{region.end:.4f}"><title>{_said(region)}</title></rect>'
    )
