"""Review on the page: one segment at a time is heard and judged, and the label learns from it.

The work is `atgnn.review`'s. Each visitor has a list of segments of their own; verdicts of all go
into one file, with who gave them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch

from atgnn import audio
from atgnn.app import parts
from atgnn.errors import AtgnnError, counted, some_of
from atgnn.explain.picture import png
from atgnn.review import ReviewSession, Segment
from atgnn.tags import Failure

__all__ = ["Review", "add_review"]

logger = logging.getLogger(__name__)


Kind: TypeAlias = Literal["accept", "reject", "skip", "back"]
NAMES: dict[Kind, str] = {"accept": "Yes", "reject": "No", "skip": "Skip", "back": "Back"}
KEYS = (
    '<p class="keys">Keys: <kbd>Y</kbd> yes, <kbd>N</kbd> no, <kbd>S</kbd> skip, <kbd>B</kbd> '
    "back, <kbd>P</kbd> play or pause</p>"
)


@dataclass(frozen=True)
class Review:
    """What is to be judged: a label's session, and the recordings to take segments from."""

    session: ReviewSession
    sounds: Sequence[str]
    order: str = "uncertain"
    count: int = 20


@dataclass(frozen=True)
class _Round:
    """A visitor's segments, and how many of them are behind."""

    segments: tuple[Segment, ...]
    done: int = 0
    judged: tuple[bool, ...] = ()  # of each segment behind: whether it was accepted or rejected


def add_review(gr: Any, page: Any, review: Review, common: dict[str, Any]) -> None:
    """Add the components of a review to the page that is being built."""
    desk = _ReviewDesk(review)
    state = gr.State()
    shown = gr.HTML(elem_id="segment")
    who = gr.Textbox(label="Who judges", max_lines=1, elem_id="who")
    gr.HTML(KEYS)
    with gr.Row(elem_id="verdicts"):
        buttons = {
            kind: gr.Button(name, min_width=90, elem_id=f"verdict-{kind}")
            for kind, name in NAMES.items()
        }
    learn = gr.Button("Learn from the answers", elem_id="learn")
    page.load(desk.begin, None, [state, shown], **common)
    for kind, button in buttons.items():
        button.click(_judging(desk, kind), [state, who], [state, shown], **common)
    learn.click(desk.learn, state, [state, shown], **common)


def _judging(desk: _ReviewDesk, kind: Kind) -> Callable[[_Round | None, str], list[Any]]:
    return lambda state, who: desk.judged(state, who, kind)


class _ReviewDesk:
    """Answers of the review: the visitor's round, and what is shown of it."""

    def __init__(self, review: Review) -> None:
        self.review = review
        self._front_end = review.session.checkpoint.make_front_end()

    def begin(self) -> list[Any]:
        """A new round."""
        return self._safely(None, self._round)

    def judged(self, state: _Round | None, who: str, kind: Kind) -> list[Any]:
        """A verdict on the segment shown, or none; `back` takes the one before it back."""

        def step() -> tuple[_Round, str]:
            round_ = self._round()[0] if state is None else state
            place = round_.done - (kind == "back")
            if not 0 <= place < len(round_.segments):
                return round_, ""
            if kind == "accept" or kind == "reject":
                self.review.session.judge(round_.segments[place], kind, who)
            elif kind == "back":
                self.review.session.judge(round_.segments[place], "withdraw", who)
            behind = round_.judged[:place]
            if kind != "back":
                behind = (*behind, kind != "skip")
            return replace(round_, done=len(behind), judged=behind), ""

        return self._safely(state, step)

    def learn(self, state: _Round | None) -> list[Any]:
        """The label's head is fitted again, and a new round begins."""

        def step() -> tuple[_Round, str]:
            about = self.review.session.refit()
            round_, unread = self._round()
            return round_, f"Learned. {about}. {unread}".strip()

        return self._safely(state, step)

    def _round(self) -> tuple[_Round, str]:
        """A new round, and what to say of recordings that cannot be heard."""
        review, failures = self.review, list[Failure]()
        found = review.session.segments(review.sounds, review.order, review.count, failures)
        if not failures:
            return _Round(tuple(found)), ""
        names = some_of([os.path.basename(one.path or "") for one in failures], 3)
        unread = f"{counted(len(failures), 'recording')} cannot be heard: {names}"
        return _Round(tuple(found)), unread

    def _safely(self, state: _Round | None, step: Callable[[], tuple[_Round, str]]) -> list[Any]:
        """The new state and what is shown; after an error the old one, and the message on top."""
        message = ""
        try:
            state, said = step()
            message = parts.remark(said) if said else ""
        except AtgnnError as error:
            message = parts.problem(str(error))
        except Exception:
            logger.exception("a review step failed")
            message = parts.problem(parts.OURS)
        return [state, message + self._segment(state)]

    def _segment(self, state: _Round | None) -> str:
        label = self.review.session.label
        if state is None or state.done >= len(state.segments):
            answers = 0 if state is None else sum(state.judged)
            learn = f" {counted(answers, 'answer')} to learn from." if answers else ""
            spoken = parts.spoken(label)
            return parts.remark(f"No segment of {spoken} is waiting to be judged.{learn}")
        one = state.segments[state.done]
        try:
            heard = audio.load(one.path, start=one.start, end=one.end)
            picture = self._picture(one)
        except AtgnnError as error:
            return parts.problem(str(error))
        place = state.done + 1, len(state.segments)
        return parts.segment(label, one, heard, picture, *place)

    def _picture(self, one: Segment) -> bytes:
        """The segment's spectrogram as the model hears it, a PNG."""
        rate = self._front_end.config.sample_rate
        samples = audio.load(one.path, rate, start=one.start, end=one.end).samples
        mel, _ = self._front_end(torch.from_numpy(samples)[None])
        return png(mel[0].T.numpy())
