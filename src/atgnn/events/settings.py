"""What counts as an event, and how a recording is heard for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atgnn.checkpoint import Checkpoint
from atgnn.errors import ConfigError, LabelError, describe_error, did_you_mean
from atgnn.model import ATGNN
from atgnn.model.geometry import NodePlaces
from atgnn.model.moments import moment_places

__all__ = ["EventSettings", "Threshold", "places_of"]

#: A score for all labels, or for each of those named.
Threshold: TypeAlias = float | dict[str, float]

DEFAULT_ON = 0.5  # where a model has no thresholds
WINDOW, HOP = 2.0, 0.5  # s, by windows
SMOOTH = 1.6  # s, by moments; chosen on validation scenes
SHARE = 0.8  # of a window, from one to the next, by moments: each end has a neighbour's context


class EventSettings(BaseModel):
    """What counts as an event."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    reading: Literal["auto", "windows", "moments"] = Field(
        "auto",
        description="a score for each window, or one for each moment of it, which a model must "
        "have been trained for; auto: moments where it was",
    )
    window_s: float | None = Field(
        None, gt=0, description="s heard at a time; by default 2 by windows, else the model's own"
    )
    hop_s: float | None = Field(
        None,
        gt=0,
        description="s from one window to the next; by default a quarter of a window, by moments "
        "four fifths",
    )
    on: Threshold | None = Field(
        None,
        description="an event reaches this score; of all labels, or of each of those named; "
        "without it, and for the others, the model's threshold, or 0.5",
    )
    off: Threshold | None = Field(
        None, description="an event lasts from this score on; for the others off_share of on"
    )
    off_share: float = Field(0.5, ge=0, le=1, description="of on, where off does not say")
    smooth_s: float | None = Field(
        None,
        ge=0,
        description="the score of a stretch is the median over so many seconds around it; 0: its "
        "own; by default 0 by windows, which are smooth, and 1.6 by moments",
    )
    shortest_s: float = Field(0.0, ge=0, description="shorter events are left out")
    gap_s: float = Field(0.0, ge=0, description="events of a label this near are one")
    bands: bool = Field(False, description="also the band of frequency that each event lies in")
    ancestors: bool = Field(
        False, description="also a label that others imply (Dog) where they are heard (Bark)"
    )

    @classmethod
    def of(cls, **values: Any) -> EventSettings:
        """Checked; `ConfigError` in one line where something does not fit."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"events: {describe_error(error, cls.model_fields)}") from None

    def for_model(self, checkpoint: Checkpoint) -> EventSettings:
        """The same with reading, window, hop and smoothing as this model is heard.

        ConfigError for moments of a model that cannot tell them.
        """
        reading = self.reading
        if reading == "auto":
            reading = "moments" if _tells_moments(checkpoint) else "windows"
        elif reading == "moments" and not _tells_moments(checkpoint):
            raise ConfigError(
                "this model was not trained to tell moments: leave the reading out, or train one "
                "on scenes (`atgnn train scenes`); labels of packs are heard by windows too"
            )
        by_moments = reading == "moments"
        window = self.window_s or (checkpoint.window_seconds if by_moments else WINDOW)
        hop = self.hop_s or (_hop(checkpoint, window) if by_moments else window * HOP / WINDOW)
        smooth = self.smooth_s if self.smooth_s is not None else SMOOTH * by_moments
        changes = {"reading": reading, "window_s": window, "hop_s": hop, "smooth_s": smooth}
        return self.model_copy(update=changes)

    @property
    def framing(self) -> tuple[float, float]:
        """Window and hop in seconds, of settings that `for_model` gave."""
        assert self.window_s is not None
        assert self.hop_s is not None
        return self.window_s, self.hop_s

    def thresholds(self, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
        """float64 (L,) each: from which score on every label begins, and lasts.

        LabelError for a label that the model does not know, ConfigError for an `off` above `on`.
        """
        names = checkpoint.vocabulary.names
        own = checkpoint.thresholds
        on = _each(self.on, names, np.full(len(names), DEFAULT_ON) if own is None else own)
        off = _each(self.off, names, self.off_share * on)
        for name, begins, lasts in zip(names, on, off, strict=True):
            if not 0 <= lasts <= begins <= 1:
                raise ConfigError(
                    f"events of {name} begin at {begins:g} and last from {lasts:g} on: "
                    "give 0 <= off <= on <= 1"
                )
        return on, off


def places_of(checkpoint: Checkpoint) -> NodePlaces:
    """Where a model's moments lie in a window."""
    assert isinstance(checkpoint.model, ATGNN)
    return moment_places(checkpoint.model.config, checkpoint.front_end)


def _tells_moments(checkpoint: Checkpoint) -> bool:
    return checkpoint.moments and isinstance(checkpoint.model, ATGNN)


def _hop(checkpoint: Checkpoint, window: float) -> float:
    """About `SHARE` of a window, and a whole number of moments: windows agree on their borders."""
    step = places_of(checkpoint).seconds
    return min(window, max(1, round(SHARE * window / step)) * step)


def _each(given: Threshold | None, names: Sequence[str], default: Any) -> np.ndarray:
    """float64 (L,): what is given for all labels or for some, the default for the others."""
    values = np.array(default, np.float64)
    if isinstance(given, Mapping):
        for name, value in given.items():
            if name not in names:
                raise LabelError(f"no label {name!r} in this model{did_you_mean(name, names)}")
            values[names.index(name)] = value
    elif given is not None:
        values[:] = given
    return values
