"""Where an event is in its clip: when it can be heard, and in which band its energy lies.

S samples of one channel.
"""

from dataclasses import dataclass

import numpy as np

from atgnn.audio import occupied_band, powers
from atgnn.errors import AudioError

__all__ = ["Activity", "SilenceError", "find_activity", "level"]

FRAME = 0.01  # s
SILENCE_DBFS = -70.0  # a clip whose loudest frame is below is silent


class SilenceError(AudioError):
    """There is nothing to be heard in a clip."""


@dataclass(frozen=True)
class Activity:
    """The part of a clip in which its event can be heard.

    Attributes:
        start, stop: its samples, from the first to behind the last that is loud enough.
        seconds: how long it is loud enough, pauses left out.
        rms: root mean square of the samples that are loud enough.
        low, high: Hz; 90 % of the energy of the part lies between them, 5 % on either side.
    """

    start: int
    stop: int
    seconds: float
    rms: float
    low: float
    high: float


def find_activity(samples: np.ndarray, rate: int, range_db: float = 30.0) -> Activity:
    """Measure an event: float samples (S,) in [-1, 1].

    Frames of 10 ms are loud enough that lie at most `range_db` below the loudest.

    Raises `SilenceError` for no samples or a silent clip (no frame above `SILENCE_DBFS`).
    """
    if not len(samples):
        raise SilenceError("no samples")
    size = max(1, round(FRAME * rate))
    power = powers(samples, size)
    loudest = float(power.max())
    if loudest < 10 ** (SILENCE_DBFS / 10):
        raise SilenceError(f"silent: nothing louder than {SILENCE_DBFS:g} dBFS")
    loud = np.flatnonzero(power >= loudest * 10 ** (-range_db / 10))
    start, stop = int(loud[0]) * size, min(len(samples), int(loud[-1] + 1) * size)
    low, high = occupied_band(samples[start:stop], rate)
    return Activity(
        start, stop, len(loud) * size / rate, float(np.sqrt(power[loud].mean())), low, high
    )


def level(samples: np.ndarray) -> float:
    """Root mean square of float samples (S,); 0 for none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
