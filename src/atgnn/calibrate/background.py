"""Background: sound in which none of a model's labels is to be heard, as the model hears it.

W windows, L labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips, seconds_of
from atgnn.data.store import PackedWaveforms, clips_of
from atgnn.errors import AtgnnWarning, ClipsError, counted
from atgnn.scoring import ScoreTable, sources
from atgnn.tagger import Scores, Tagger

__all__ = ["Background"]


@dataclass(frozen=True, eq=False)
class Background:
    """Windows of sound without any of the labels.

    Attributes:
        scores: float64 (W, L).
        absent: bool (W, L), the labels that are known to be absent there; of others nobody knows.
        hours: float64 (W,), how much sound each window stands for.
        authors: text (W,), whose each is.
    """

    scores: np.ndarray
    absent: np.ndarray
    hours: np.ndarray
    authors: np.ndarray

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        clips: Clips | PackedWaveforms,
        scores: ScoreTable | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Background:
        """The clips that carry none of the model's labels, with uncalibrated scores.

        Clips with rows in `scores` are windows by these rows, which may come from models that did
        not learn from them; without such rows, the model listens itself, window by window.
        `progress` is told the number of clips done.

        Raises:
            ClipsError: no clip without labels, or, of scored clips, one that is longer than the
                model's window: its score is a mean that hides alarms.
            ScoresError: only some of the clips have scores.
            AudioError: a clip cannot be read.
        """
        table = clips_of(clips)
        rows, absent = table.silent(checkpoint.vocabulary)
        silent = table.subset(rows)
        # By path: two collections may well have a file of the same name.
        if scores is not None and scores.scored(silent, moved=False).any():
            return cls._scored(checkpoint, clips, silent, absent, scores)
        return cls._heard(checkpoint, clips, silent, absent, progress)

    @classmethod
    def _scored(
        cls,
        checkpoint: Checkpoint,
        clips: Clips | PackedWaveforms,
        silent: Clips,
        absent: np.ndarray,
        scores: ScoreTable,
    ) -> Background:
        seconds = _lengths(clips, silent)
        long = np.flatnonzero(seconds > checkpoint.window_seconds + 0.01)
        if len(long):
            raise ClipsError(
                f"{len(long)} of {counted(len(silent), 'background clip')} are longer than the "
                f"model's window of {checkpoint.window_seconds:g} s, the first is "
                f"{silent.paths[long[0]]}: list excerpts of that length, or leave their scores out "
                "so that the model listens itself"
            )
        given = scores.aligned(silent, checkpoint.vocabulary.names).astype(np.float64)
        return cls(given, absent, seconds / 3600, silent.groups.astype(str))

    @classmethod
    def _heard(
        cls,
        checkpoint: Checkpoint,
        clips: Clips | PackedWaveforms,
        silent: Clips,
        absent: np.ndarray,
        progress: Callable[[int], None] | None,
    ) -> Background:
        heard = None if checkpoint.heard is None else checkpoint.heard.overlap(silent)
        if heard is not None and heard.heard:
            warnings.warn(f"background: {heard.line()}", AtgnnWarning, stacklevel=3)
        tagger = Tagger(checkpoint.changed(calibration=None))
        parts, hours, of = [], [], []
        for row, result in enumerate(tagger.score_many(sources(clips, silent))):
            assert isinstance(result, Scores)  # what cannot be read is an error
            parts.append(result.windows.astype(np.float64))
            count = len(result.windows)
            hours += [result.duration / 3600 / count] * count
            of += [row] * count
            if progress is not None:
                progress(row + 1)
        authors = silent.groups.astype(str)
        return cls(np.concatenate(parts), absent[of], np.array(hours), authors[of])

    @property
    def targets(self) -> np.ndarray:
        """float32 (W, L): 0 where a label is absent, NaN where nobody knows."""
        return np.where(self.absent, np.float32(0), np.float32(np.nan))

    def with_scores(self, scores: np.ndarray) -> Background:
        """The same windows with other scores (W, L), calibrated ones say."""
        return replace(self, scores=scores)

    def subset(self, chosen: np.ndarray) -> Background:
        """The windows under a mask (W,)."""
        parts = (self.scores, self.absent, self.hours, self.authors)
        return Background(*(part[chosen] for part in parts))

    def alarmed(self, thresholds: np.ndarray) -> np.ndarray:
        """bool (W,): windows in which some absent label reaches its threshold, (L,) or (W, L)."""
        over: np.ndarray = ((self.scores >= thresholds) & self.absent).any(axis=1)
        return over

    def alarms_per_hour(self, thresholds: np.ndarray) -> float:
        """Such windows an hour of sound."""
        return float(self.alarmed(thresholds).sum() / self.hours.sum())


def _lengths(clips: Clips | PackedWaveforms, silent: Clips) -> np.ndarray:
    """The length of each clip, seconds."""
    if isinstance(clips, PackedWaveforms):
        seconds: np.ndarray = clips.lengths[clips.positions(silent)] / clips.rate
        return seconds
    return np.array([seconds_of(clip) for clip in silent])
