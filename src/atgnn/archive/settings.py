"""What is asked of an archive, and what all its rows have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from atgnn.archive.store import FORMAT, VERSION, About
from atgnn.events import EventSettings, Listening
from atgnn.tagger import Tagger

__all__ = ["ArchiveSettings", "describe"]


class ArchiveSettings(BaseModel):
    """Which tags are kept (as `Tagger.tag` chooses them), and whether events are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    top: int | None = Field(None, ge=1)
    threshold: float | None = Field(None, ge=0, le=1)
    ancestors: bool = False
    events: EventSettings | None = None

    def framing(self, tagger: Tagger) -> tuple[float, float]:
        """Length and step of the windows in seconds, each a whole number of samples.

        ConfigError and LabelError for events that do not fit the model.
        """
        asked: tuple[float | None, float | None] = None, None
        if self.events is not None:
            asked = Listening(tagger, self.events).settings.framing
        window, hop = tagger.framing(*asked)
        return window / tagger.rate, hop / tagger.rate


def describe(tagger: Tagger, settings: ArchiveSettings) -> About:
    """What must be alike for rows to belong together, whatever machine made them."""
    checkpoint = tagger.checkpoint
    window, hop = settings.framing(tagger)
    line = checkpoint.calibration
    return {
        "format": FORMAT,
        "version": VERSION,
        "labels": list(tagger.labels),
        "model": checkpoint.digest(),
        "calibration": None if line is None else line.model_dump(),
        "thresholds": None if checkpoint.thresholds is None else list(checkpoint.thresholds),
        "window_s": window,
        "hop_s": hop,
        "precision": str(tagger.dtype).removeprefix("torch."),
        "settings": settings.model_dump(mode="json"),
    }
