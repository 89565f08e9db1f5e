"""Options of ``atgnn tag`` for events and for the formats of other programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atgnn.errors import ConfigError

if TYPE_CHECKING:
    from atgnn.audio import Source
    from atgnn.events import EventSettings
    from atgnn.formats import Writer
    from atgnn.tagger import Tagger
    from atgnn.tags import Failure, Tagging, Timeline

__all__ = ["EVENT_OPTIONS", "EventOptions", "FormatOption", "check_format", "opened", "results"]

PANEL = "Events"

FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORM",
        help="table, json, csv, parquet, audacity or raven; on the screen, or with --out.",
    ),
]

#: Parameters that say nothing without ``--events``.
EVENT_OPTIONS = ("reading", "window", "hop", "on", "off", "smooth", "gap", "shortest", "bands")


@dataclass(frozen=True)
class EventOptions:
    """What counts as an event."""

    events: Annotated[
        bool,
        typer.Option("--events", rich_help_panel=PANEL, help="When each sound begins and ends."),
    ] = False
    reading: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="windows: a score for each; moments: of models trained for it.",
            show_default="moments where the model can",
        ),
    ] = None
    window: Annotated[
        float | None,
        typer.Option(rich_help_panel=PANEL, metavar="S", help="Seconds heard at a time."),
    ] = None
    hop: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PANEL, metavar="S", help="Seconds from one window to the next."
        ),
    ] = None
    on: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="[LABEL=]SCORE",
            help="An event reaches this score; of one label or of all; may be repeated.",
        ),
    ] = None
    off: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="[LABEL=]SCORE",
            help="It lasts from this score on; of one label or of all; may be repeated.",
        ),
    ] = None
    smooth: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="S",
            help="Scores are medians over so long.",
            show_default="0; by moments 1.6",
        ),
    ] = None
    gap: Annotated[
        float | None,
        typer.Option(rich_help_panel=PANEL, metavar="S", help="Events this near are one."),
    ] = None
    shortest: Annotated[
        float | None,
        typer.Option(rich_help_panel=PANEL, metavar="S", help="Shorter events are left out."),
    ] = None
    bands: Annotated[
        bool,
        typer.Option(
            "--bands", rich_help_panel=PANEL, help="Also the band of frequency of each event."
        ),
    ] = False

    def settings(self, threshold: float | None, ancestors: bool) -> EventSettings | None:
        """As settings; None without ``--events``. `threshold` is `on` where that is not given."""
        if not self.events:
            return None
        from atgnn.events import EventSettings

        given = {
            "window_s": self.window,
            "hop_s": self.hop,
            "on": _scores("--on", self.on or ([] if threshold is None else [str(threshold)])),
            "off": _scores("--off", self.off or []),
            "smooth_s": self.smooth,
            "gap_s": self.gap,
            "shortest_s": self.shortest,
            "reading": self.reading,
            "bands": self.bands or None,
        }
        return EventSettings.of(
            ancestors=ancestors,
            **{name: value for name, value in given.items() if value is not None},
        )


def _scores(option: str, given: Sequence[str]) -> float | dict[str, float] | None:
    """A score for all labels, or one for each of those named; ConfigError for a mixture."""
    named: dict[str, float] = {}
    everything = None
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            score = float(value)
        except ValueError:
            raise ConfigError(
                f"{option} {text}: give a score from 0 to 1, or LABEL=SCORE"
            ) from None
        if name:
            named[name] = score
        else:
            everything = score
    if named and everything is not None:
        raise ConfigError(f"{option} with and without a label: give one or the other")
    return named or everything


def check_format(form: str | None, as_json: bool, events: bool) -> str:
    """The form to write, ``table`` by default; ConfigError for those that do not fit."""
    from atgnn.formats import EVENTS_ONLY, FORMS

    if as_json:
        if form not in (None, "json"):
            raise ConfigError(f"--json and --format {form}: leave one of them out")
        return "json"
    form = form or "table"
    if form not in ("table", *FORMS):
        raise ConfigError(f"unknown format {form!r}: choose from table, {', '.join(FORMS)}")
    if form in EVENTS_ONLY and not events:
        raise ConfigError(f"--format {form} holds events: add --events")
    return form


@contextmanager
def opened(
    form: str, out: Path | None, count: int, force: bool, tagger: Tagger
) -> Iterator[Writer | None]:
    """A writer for this form and number of recordings; None for the table on the screen."""
    from atgnn.formats import writing

    if form == "table":
        if out is not None:
            raise ConfigError("--format table is for the screen: choose another for --out")
        yield None
        return
    top_hz = tagger.front_end.config.band[1]
    with writing(form, out, sys.stdout.buffer, count > 1, force, top_hz) as writer:
        yield writer
    if out is not None:
        from atgnn.terminal import say

        say(f"written to {out}")


def sources(paths: Sequence[str]) -> Iterator[Source]:
    """What to tag; ``-`` is standard input."""
    from atgnn.pipes import standard_input

    for path in paths:
        yield standard_input() if path == "-" else path


def results(
    tagger: Tagger,
    paths: Sequence[str],
    settings: EventSettings | None,
    form: str,
    batch_size: int | None,
    trim_silence: float | None = None,
    **choice: Any,
) -> Iterator[Tagging | Timeline | Failure]:
    """Tags, or with `settings` events, of all recordings.

    In forms of one row for each event, events of standard input come one by one, as they end; how
    long it is is not known then.
    """
    how: dict[str, Any] = {"batch_size": batch_size, "on_error": "collect"}
    if settings is None:
        from atgnn.tagger import Excerpt

        given = (Excerpt(source, trim_db=trim_silence) for source in sources(paths))
        yield from tagger.tag_many(given, **how, **choice)
        return
    from atgnn.events import detect, timelines
    from atgnn.tags import Timeline

    if list(paths) == ["-"] and form in ("table", "csv", "audacity"):
        (source,) = sources(paths)
        found = False
        for event in detect(tagger, source, settings, batch_size=batch_size):
            found = True
            yield Timeline("-", math.nan, (), (event,))
        if not found:
            yield Timeline("-", math.nan)
        return
    for one in timelines(tagger, sources(paths), settings, **how, **choice):
        if isinstance(one, Timeline) and form != "json":  # rows are of events alone
            one = replace(one, tags=())
        yield one
