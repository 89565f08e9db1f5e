"""What the page says of one recording: tags as `atgnn tag`, events, reasons, files of each form."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from atgnn import audio, formats
from atgnn.errors import AudioError, printable
from atgnn.events import EventSettings, timelines
from atgnn.explain import Explanation, explain
from atgnn.tagger import Tagger
from atgnn.tags import Tag, Timeline, clock

__all__ = ["ENDINGS", "Heard", "hear", "name_of", "reasons", "write_all"]

#: The forms to take away, and how their files end.
ENDINGS = {
    "json": ".json",
    "csv": ".csv",
    "parquet": ".parquet",
    "audacity": ".audacity.txt",
    "raven": ".raven.txt",
}


@dataclass(frozen=True)
class Heard:
    """What is known of a recording.

    Attributes:
        file: where its sound is.
        timeline: its tags, best first, and its events, under the name that it came with.
        best: the label with the highest score, also where no tag is reported.
        notes: what the listener has to know, such as damage in the file.
    """

    file: str
    timeline: Timeline
    best: Tag
    notes: tuple[str, ...] = ()


def hear(tagger: Tagger, file: str, most_seconds: float) -> Heard:
    """Tags and events of a recording that is at most so long.

    Tags and scores are those of `atgnn tag`, from the model's own windows; events those of
    `atgnn tag --events`, from shorter, overlapping ones.

    Raises:
        AudioError: it is no sound, or too long; the message names it as its sender does.
    """
    with _named(file), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _check_length(file, most_seconds)
        tagging = tagger.tag(file)
        (found,) = timelines(tagger, [file], EventSettings())
    assert isinstance(found, Timeline)  # an error is raised
    timeline = Timeline(name_of(file), found.duration, tagging.tags, found.events)
    notes = dict.fromkeys(_plain(str(one.message), file) for one in caught)
    return Heard(file, timeline, tagging.best, tuple(notes))


def reasons(tagger: Tagger, heard: Heard, label: str, *, search: bool = False) -> Explanation:
    """Why a label has its score, under the recording's own name; see `atgnn.explain.explain`.

    AudioError where the recording has been deleted since.
    """
    if not os.path.isfile(heard.file):
        name = printable(heard.timeline.path or "the recording")
        raise AudioError(f"{name}: it was deleted here meanwhile: send it again")
    with _named(heard.file):
        found = explain(tagger, heard.file, [label], search=search)
    return replace(found, path=heard.timeline.path)


def write_all(heard: Heard, folder: Path, top_hz: float) -> dict[str, Path]:
    """A file of each form in a folder, named after the recording; `top_hz` as in `formats`."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w.() -]", "_", Path(heard.timeline.path or "recording").stem) or "recording"
    places = {}
    for form, ending in ENDINGS.items():
        places[form] = folder / f"{stem[:80]}{ending}"
        with open(places[form], "wb") as file:
            writer = formats.writer(form, file, top_hz)
            writer.write(heard.timeline)
            writer.close()
    return places


def name_of(file: str) -> str:
    """What a recording is called by the one who sent it: the last part of its path."""
    return os.path.basename(file)


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Errors name the recording as its sender does, and no folder of this machine."""
    try:
        yield
    except AudioError as error:
        raise AudioError(_plain(str(error), file)) from None


def _plain(message: str, file: str) -> str:
    return message.replace(printable(file), printable(name_of(file)))


def _check_length(file: str, most_seconds: float) -> None:
    """AudioError for what is longer. Where the header does not say, it is decoded to find out."""
    info = audio.probe(file)
    seconds = info.duration if info.frames is not None else None
    if seconds is None:
        seconds = 0.0
        for block in audio.stream(file, info.rate):
            seconds += len(block) / info.rate
            if seconds > most_seconds:
                break
    if seconds > most_seconds:
        raise AudioError(
            f"{printable(file)}: longer than the {clock(most_seconds)} that this page takes: "
            "send a part of it, or use `atgnn tag` in a terminal, which takes any length"
        )
