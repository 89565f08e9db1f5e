"""The page's components, and what each of them calls. A step's outcome is shown, never raised."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from atgnn.app import parts
from atgnn.app.hearing import Heard, hear, reasons, write_all
from atgnn.app.reviewing import Review, add_review
from atgnn.app.script import CHOOSE
from atgnn.app.settings import AppSettings
from atgnn.errors import AtgnnError, MissingExtraError
from atgnn.explain import to_html
from atgnn.files import write_text
from atgnn.tagger import Tagger

__all__ = ["build", "gradio"]

logger = logging.getLogger(__name__)

NAMES = {
    "json": "JSON",
    "csv": "CSV",
    "parquet": "Parquet",
    "audacity": "Audacity",
    "raven": "Raven",
}


def gradio() -> Any:
    """The package, told to call nobody; `MissingExtraError` where it, or PyAV, is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import av  # noqa: F401  (browsers record WebM)
        import gradio as package
    except ImportError as error:
        raise MissingExtraError.of(error.name or "gradio", "app", "atgnn app") from None
    return package


def build(tagger: Tagger, settings: AppSettings, folder: Path, review: Review | None = None) -> Any:
    """The page, a `gradio.Blocks`; files to take away are written below `folder`."""
    gr = gradio()
    seconds = round(settings.keep_hours * 3600)
    desk = _Desk(gr, tagger, settings, folder)
    with gr.Blocks(
        title="What is in this sound?", analytics_enabled=False, delete_cache=(seconds, seconds)
    ) as page:
        gr.HTML(_intro(settings))
        common = {
            "concurrency_id": "network", "concurrency_limit": 1, "api_visibility": "private"
        }  # fmt: skip
        if review is None:
            _add_listening(gr, desk, common)
        else:
            with gr.Tab("Listen"):
                _add_listening(gr, desk, common)
            with gr.Tab("Review"):
                add_review(gr, page, review, common)
    page.queue(max_size=settings.queue, api_open=False)
    return page


def _add_listening(gr: Any, desk: _Desk, common: dict[str, Any]) -> None:
    """A recording comes in; its tags, events and reasons, and files to take away."""
    state = gr.State()
    sound = gr.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label="A recording: drop it, choose it, or record it",
        editable=False,
        buttons=[],
        elem_id="sound",
    )
    found = gr.HTML(js_on_load=CHOOSE, elem_id="found")
    with gr.Column(visible=False) as more:
        search = gr.Checkbox(
            label="also look for the smallest part that is enough (takes longer)",
            elem_id="search",
        )
        because = gr.HTML(elem_id="because")
        gr.HTML('<section class="take"><h2>Take it with you</h2></section>')
        with gr.Row(elem_id="take"):
            files = {
                form: gr.DownloadButton(name, size="sm", min_width=90, elem_id=f"take-{form}")
                for form, name in NAMES.items()
            }
            reasons_file = gr.DownloadButton(
                "The reasons", size="sm", min_width=90, visible=False, elem_id="take-reasons"
            )
    shown = [state, found, more, because, *files.values(), reasons_file]
    for event in (sound.upload, sound.stop_recording):
        event(desk.heard, sound, shown, show_progress_on=found, **common)
    sound.clear(desk.cleared, None, shown, queue=False, api_visibility="private")
    found.click(
        _asking(gr, desk),
        [state, search],
        [because, reasons_file],
        show_progress_on=because,
        **common,
    )


def _asking(gr: Any, desk: _Desk) -> Callable[..., Any]:
    """`_Desk.asked` as Gradio calls it: it looks for an argument that is an event."""

    def asked(heard: Heard | None, search: bool, event: Any) -> Any:
        return desk.asked(heard, search, str(event.label))

    asked.__annotations__["event"] = gr.EventData
    return asked


def _intro(settings: AppSettings) -> str:
    where = "It stays on this machine." if settings.private else "It goes to this server only."
    return (
        '<header class="intro"><h1>What is in this sound?</h1><p>Drop a recording or make one, '
        f"up to {settings.most_minutes:g} min and {settings.most_mb:g} MB. {where}</p></header>"
    )


class _Desk:
    """Answers of the page: each is a list of values for its components."""

    def __init__(self, gr: Any, tagger: Tagger, settings: AppSettings, folder: Path) -> None:
        self.gr, self.tagger, self.settings, self.folder = gr, tagger, settings, folder

    def heard(self, file: str | None) -> list[Any]:
        """A recording has come."""
        if file is None:
            return self.cleared()
        try:
            found = hear(self.tagger, file, self.settings.most_minutes * 60)
            top_hz = self.tagger.front_end.config.band[1]
            places = write_all(found, self._scratch(), top_hz)
        except AtgnnError as error:
            return self._nothing(parts.problem(str(error)))
        except Exception:
            logger.exception("a recording could not be tagged")
            return self._nothing(parts.problem(parts.OURS))
        update = self.gr.update
        return [
            found,
            parts.found(found),
            update(visible=True),
            '<p class="ask">Choose a sound above to see and hear where it is.</p>',
            *(update(value=str(places[form])) for form in NAMES),
            update(visible=False),
        ]

    def asked(self, heard: Heard | None, search: bool, label: str) -> list[Any]:
        """A label has been chosen."""
        hidden = self.gr.update(visible=False)
        if heard is None:
            return [parts.problem("Send a recording first."), hidden]
        try:
            found = reasons(self.tagger, heard, label, search=search)
            place = self._scratch() / f"{Path(heard.timeline.path or 'recording').stem[:80]}.html"
            write_text(place, to_html(found))
        except AtgnnError as error:
            return [parts.problem(str(error)), hidden]
        except Exception:
            logger.exception("a label could not be explained")
            return [parts.problem(parts.OURS), hidden]
        return [parts.because(found), self.gr.update(value=str(place), visible=True)]

    def cleared(self) -> list[Any]:
        """The recording has been taken away."""
        return self._nothing("")

    def _nothing(self, message: str) -> list[Any]:
        update = self.gr.update
        files = [update(value=None) for _ in NAMES]
        return [None, message, update(visible=False), "", *files, update(visible=False)]

    def _scratch(self) -> Path:
        """A new folder: files of two people, or two of one name, never meet.

        Older ones go as what was sent does: a page of reasons holds its sound.
        """
        for old in self.folder.glob("made-*"):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > self.settings.keep_hours * 3600:
                    shutil.rmtree(old)
        return Path(tempfile.mkdtemp(prefix="made-", dir=self.folder))
