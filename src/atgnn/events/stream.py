"""Events of a signal as it comes.

L labels, S samples.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from atgnn import audio
from atgnn.errors import AudioError
from atgnn.events.listening import Listening
from atgnn.events.settings import EventSettings
from atgnn.tagger import Tagger, not_finite
from atgnn.tags import Event

__all__ = ["Stream"]


class Stream:
    """Events of a signal that comes in chunks of any size: a microphone, a socket, a simulation.

    >>> stream = Stream(tagger, rate=48_000)  # doctest: +SKIP
    >>> for chunk in microphone:  # doctest: +SKIP
    ...     for event in stream.feed(chunk):
    ...         print(event)
    >>> print(*stream.finish())  # doctest: +SKIP

    They are exactly those that `detect` finds in the same samples with the same `batch_size`.
    Windows go through the network when `batch_size` of them have come: with 1 an event is given at
    once when it is over, with more the network works less for the same sound.
    """

    def __init__(
        self,
        tagger: Tagger,
        rate: int,
        settings: EventSettings | None = None,
        *,
        channels: int = 1,
        batch_size: int | None = None,
    ) -> None:
        """Chunks are (T,) of one channel or (T, channels), at `rate` Hz.

        Raises `AudioError` for a rate or a number of channels out of range, `ConfigError` and
        `LabelError` for settings that do not fit the model.
        """
        self._listening = Listening(tagger, settings)
        self.tagger, self.settings = tagger, self._listening.settings
        self._size = tagger.checked_batch_size(batch_size)
        size, hop = tagger.framing(*self.settings.framing)
        self._rate = tagger.front_end.config.sample_rate
        self._mixer = audio.Mixer(rate, channels)
        self._resampler = audio.Resampler(self._mixer.rate, self._rate)
        self._framer = audio.Framer(size, hop)
        self._detector = self._listening.detector()
        self._windows: list[np.ndarray] = []
        self._scored = 0  # windows
        self._over = False

    @property
    def seconds(self) -> float:
        """How much has been fed."""
        return self._mixer.position / self._mixer.rate

    def feed(self, samples: np.ndarray) -> list[Event]:
        """The next samples, (T,) or (T, channels), floats or integers; the events that are over.

        AudioError for another shape, or NaN and infinite samples; nothing of the chunk is used.
        """
        if self._over:
            raise AudioError("this stream has ended: make a new one")
        events: list[Event] = []
        for mono in self._mixer.push(samples):
            for block in self._resampler.push(mono):
                events += self._heard(self._framer.push(block))
        return events

    def finish(self) -> list[Event]:
        """The signal has ended, in the middle of a window perhaps: all events that are left.

        AudioError if nothing was ever fed.
        """
        if self._over:
            return []
        self._over = True
        if not self._mixer.position:
            raise AudioError("the stream holds no samples")
        events: list[Event] = []
        for block in self._resampler.finish():
            events += self._heard(self._framer.push(block))
        events += self._heard(self._framer.finish())
        return events + self._score() + self._detector.finish()

    def _heard(self, windows: Iterable[np.ndarray]) -> list[Event]:
        events: list[Event] = []
        for window in windows:
            self._windows.append(window)
            if len(self._windows) == self._size:
                events += self._score()
        return events

    def _score(self) -> list[Event]:
        """Put the windows that wait through the network, as one batch."""
        windows, self._windows = self._windows, []
        if not windows:
            return []
        scores = self.tagger.score_windows(windows, self._listening.reading)
        if not np.isfinite(scores).all():
            raise not_finite(None)
        events: list[Event] = []
        for window, row in zip(windows, scores, strict=True):
            start = self._scored * self._framer.hop / self._rate
            events += self._detector.add(start, len(window) / self._rate, row)
            self._scored += 1
        return events
