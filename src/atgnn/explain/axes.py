"""Where times and frequencies are in a picture of a window, and which of them to name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atgnn.explain.records import Region, Window

__all__ = ["Axes"]

HERTZ = (50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000)
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)  # s


@dataclass(frozen=True)
class Axes:
    """A window drawn `width` wide and `height` high, time to the right, low sounds at the bottom.

    Rows of the spectrogram are equally high, so that the frequency axis is the front end's.
    """

    window: Window
    width: float
    height: float

    def x(self, seconds: float) -> float:
        """Place of a time."""
        span = max(self.window.end - self.window.start, 1e-9)
        return (seconds - self.window.start) / span * self.width

    def y(self, hertz: float) -> float:
        """Place of a frequency, from the top."""
        rows = np.arange(len(self.window.bands))
        row = float(np.interp(hertz, self.window.bands, rows))
        return self.height * (1 - row / (len(rows) - 1))

    def box(self, region: Region) -> tuple[float, float, float, float]:
        """Left, top, width and height of a region."""
        left, top = self.x(region.start), self.y(region.high_hz)
        return left, top, self.x(region.end) - left, self.y(region.low_hz) - top

    @property
    def times(self) -> list[float]:
        """Times to name, seven at most."""
        start, end = self.window.start, self.window.end
        step = next((step for step in STEPS if end - start <= 7 * step), STEPS[-1])
        first = np.ceil(start / step - 1e-9) * step
        return [round(float(time), 6) + 0.0 for time in np.arange(first, end + 1e-9, step)]

    @property
    def frequencies(self) -> list[int]:
        """Frequencies to name, from the top, each well below the one before."""
        low, high = self.window.bands[0], self.window.bands[-1]
        named: list[int] = []
        for hertz in reversed(HERTZ):
            room = not named or self.y(hertz) - self.y(named[-1]) > self.height / 20
            if low <= hertz <= high and room:
                named.append(hertz)
        return named


def seconds(value: float) -> str:
    """``1.25 s``, or ``2:05.0`` from a minute on."""
    if value < 60:
        return f"{value:.2f} s"
    minutes, rest = divmod(value, 60)
    return f"{int(minutes)}:{rest:04.1f}"


def hertz(value: float) -> str:
    """``350 Hz`` or ``2.1 kHz``."""
    return f"{value:.0f} Hz" if value < 1000 else f"{value / 1000:.1f} kHz"
