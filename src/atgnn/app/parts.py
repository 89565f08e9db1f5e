"""What is shown of a recording, as HTML. Every name is escaped."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Sequence
from html import escape

from atgnn.app.hearing import Heard
from atgnn.audio import Recording, flac
from atgnn.explain import Explanation, to_html
from atgnn.review import Segment
from atgnn.tags import Event, Tag, clock, moment

__all__ = ["OURS", "because", "found", "problem", "remark", "segment", "spoken"]

#: What is said of a mistake of ours; its details are in the server's log.
OURS = "Something went wrong here that is not your sound's fault. Please tell who runs this page."

TICKS = 6  # at most, along the time axis
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # s


def spoken(label: str) -> str:
    """A label for people: spaces for underscores."""
    return label.replace("_", " ")


def problem(message: str) -> str:
    """What went wrong, in one line."""
    return f'<p class="problem" role="alert">{escape(_shown(message))}</p>'


def remark(message: str) -> str:
    """Something to know, in one line."""
    return f'<p class="note" role="status">{escape(_shown(message))}</p>'


def segment(
    label: str, one: Segment, heard: Recording, picture: bytes, number: int, of: int
) -> str:
    """A segment to judge: the question, its spectrogram and sound, and where it is from."""
    sound, image = (
        base64.b64encode(data).decode("ascii")
        for data in (flac(heard.samples, heard.rate), picture)
    )
    name = escape(_shown(os.path.basename(one.path)))
    return (
        f'<section class="found judge"><h2>Do you hear {escape(spoken(label))}?</h2>'
        f'<div class="bar" role="progressbar" aria-label="Judged" aria-valuemin="0" '
        f'aria-valuenow="{number - 1}" aria-valuemax="{of}">'
        f'<u style="width:{(number - 1) / of:.0%}"></u></div>'
        f'<img alt="Spectrogram of the segment" src="data:image/png;base64,{image}">'
        f'<audio controls autoplay src="data:audio/flac;base64,{sound}"></audio>'
        f'<p class="note">{number} of {of}: {name}, {moment(one.start)} to {moment(one.end)} s; '
        f"the label's score is {one.score:.2f}</p></section>"
    )


def found(heard: Heard, chosen: str | None = None) -> str:
    """The recording's name, its tags as buttons, and its events along time."""
    timeline = heard.timeline
    name = escape(_shown(timeline.path or "recording"))
    notes = "".join(f'<p class="note">{escape(_shown(note))}</p>' for note in heard.notes)
    return (
        f'<section class="found" aria-label="What was heard">'
        f'<p class="file"><b>{name}</b> <span>{timeline.length}</span></p>{notes}'
        f"<h2>Sounds</h2>{_tags(heard, chosen)}"
        f"<h2>When</h2>{_lanes(timeline.events, timeline.duration, chosen)}</section>"
    )


def because(explanation: Explanation) -> str:
    """The reasons: the page that `atgnn explain` writes, inside this one."""
    label = spoken(explanation.evidence[0].label)
    grow = (
        "const d=this.contentDocument,f=this,fit=()=>{f.style.height="
        "d.documentElement.getBoundingClientRect().height+'px'};"
        "new ResizeObserver(fit).observe(d.documentElement);fit()"
    )
    return (
        f'<iframe class="because" title="Why {escape(label)}" onload="{escape(grow)}" '
        f'srcdoc="{escape(to_html(explanation, inside=True))}"></iframe>'
    )


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _tags(heard: Heard, chosen: str | None) -> str:
    tags: Sequence[Tag] = heard.timeline.tags
    nothing = ""
    if not tags:
        nothing = '<p class="note">Nothing reached its threshold. The nearest:</p>'
        tags = (heard.best,)
    items = "".join(f"<li>{_tag(tag, tag.label == chosen)}</li>" for tag in tags)
    return f'{nothing}<ul class="tags">{items}</ul>'


def _tag(tag: Tag, pressed: bool) -> str:
    return (
        f'<button type="button" data-label="{escape(tag.label)}" '
        f'aria-pressed="{str(pressed).lower()}"><span>{escape(spoken(tag.label))}</span>'
        f'<i aria-hidden="true"><u style="width:{tag.score:.1%}"></u></i>'
        f"<b>{tag.score:.2f}</b></button>"
    )


def _lanes(events: Iterable[Event], duration: float, chosen: str | None) -> str:
    """A row for each label with a bar for each of its events, and a time axis."""
    rows: dict[str, list[Event]] = {}
    for event in events:
        rows.setdefault(event.label, []).append(event)
    if not rows:
        return '<p class="note">No event stands out.</p>'
    lanes = "".join(
        f'<li><button type="button" data-label="{escape(label)}" '
        f'aria-pressed="{str(label == chosen).lower()}" '
        f'aria-label="{escape(spoken(label))}: {_said(own)}"><span>{escape(spoken(label))}</span>'
        f'<i aria-hidden="true">{"".join(_bar(one, duration) for one in own)}</i></button></li>'
        for label, own in sorted(rows.items(), key=lambda row: row[1][0].start)
    )
    ticks = "".join(
        f'<span style="left:{place / duration:.2%}">{_axis(place)}</span>'
        for place in _places(duration)
    )
    return f'<ul class="lanes">{lanes}</ul><div class="axis" aria-hidden="true">{ticks}</div>'


def _said(events: Sequence[Event]) -> str:
    return ", ".join(f"{moment(one.start)} to {moment(one.end)} s" for one in events)


def _bar(event: Event, duration: float) -> str:
    left, width = event.start / duration, (event.end - event.start) / duration
    title = f"{moment(event.start)} to {moment(event.end)}, {event.score:.2f}"
    return (
        f'<u title="{title}" style="left:{left:.2%};width:{width:.2%};'
        f'opacity:{0.35 + 0.65 * event.score:.2f}"></u>'
    )


def _places(duration: float) -> list[float]:
    step = next((step for step in STEPS if duration / step < TICKS), STEPS[-1])
    return [step * number for number in range(int(duration / step) + 1)]


def _axis(place: float) -> str:
    return f"{place:g} s" if place < 60 else clock(place)
