"""False alarms: what a model says of sound in which none of its labels is to be heard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms, clips_of
from atgnn.errors import ClipsError
from atgnn.evaluate.owners import owners_of
from atgnn.metrics import Interval, pivotal
from atgnn.metrics.resampling import jsonable, ratio
from atgnn.scoring import sources
from atgnn.tagger import Scores, Tagger
from atgnn.tags import Failure

__all__ = ["FalseAlarms", "LabelAlarms", "false_alarms"]

#: Where a model has no thresholds of its own.
THRESHOLD = 0.5
RESAMPLES = 1000


@dataclass(frozen=True)
class LabelAlarms:
    """One label: windows that reach its threshold, of those in which it is known to be absent."""

    label: str
    threshold: float
    alarms: int
    per_hour: float


@dataclass(frozen=True)
class FalseAlarms:
    """Alarms on sound without any known label.

    Attributes:
        clips, windows, minutes: how much sound it was.
        excluded: clips that were passed over, because they are marked with a label of the model.
        alarmed: windows in which at least one label reached its threshold.
        per_hour: such windows an hour of sound; its interval is from resampling authors, or, with
            no alarm at all, the rate that would have stayed silent in 5 % of cases.
        own_thresholds: whether the thresholds are the model's; else they are all `THRESHOLD`.
        labels: every label, most alarms first.
        failures: clips that could not be read.
    """

    clips: int
    windows: int
    minutes: float
    excluded: int
    alarmed: int
    per_hour: Interval
    own_thresholds: bool
    labels: tuple[LabelAlarms, ...]
    failures: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data


def false_alarms(
    tagger: Tagger,
    clips: Clips | PackedWaveforms,
    *,
    batch_size: int | None = None,
    skip_bad: bool = False,
    trim_db: float | None = None,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> FalseAlarms:
    """Count the windows of `clips` in which a label reaches its threshold.

    Clips that are marked with a label of the model, or with one that implies such, are passed
    over; a label that a clip leaves unknown is not counted there. `trim_db` as of `evaluate`.

    Raises:
        ClipsError: no clip is left.
        AudioError: a clip cannot be read (unless bad ones are skipped).
    """
    table = clips_of(clips)
    checkpoint = tagger.checkpoint
    silent, absent = table.silent(checkpoint.vocabulary)
    given = checkpoint.thresholds
    limits = np.full(len(tagger.labels), THRESHOLD) if given is None else np.array(given)
    count = _Count(limits, absent)
    results = tagger.score_many(
        sources(clips, table.subset(silent), trim_db),
        batch_size=batch_size,
        on_error="collect" if skip_bad else "raise",
    )
    for number, result in enumerate(results):
        count.add(number, result)
        if progress is not None:
            progress(number + 1)
    if not count.rows:
        raise ClipsError(f"none of {len(silent)} background clips can be read")
    chosen = table.subset(silent[count.rows])
    return FalseAlarms(
        clips=len(count.rows),
        windows=count.windows,
        minutes=sum(count.seconds) / 60,
        excluded=len(table) - len(silent),
        alarmed=sum(count.alarmed),
        per_hour=_rate(count, chosen, np.random.default_rng(seed)),
        own_thresholds=given is not None,
        labels=tuple(count.labels(tagger.labels)),
        failures=tuple(count.failures),
    )


class _Count:
    """Alarms, clip by clip."""

    def __init__(self, limits: np.ndarray, absent: np.ndarray) -> None:
        self.limits, self.absent = limits, absent
        self.rows: list[int] = []
        self.seconds: list[float] = []  # of each clip
        self.alarmed: list[int] = []  # windows of each clip
        self.windows = 0
        self.alarms = np.zeros(len(limits), np.int64)
        self.heard = np.zeros(len(limits))  # seconds in which each label is known to be absent
        self.failures: list[str] = []

    def add(self, row: int, result: Scores | Failure) -> None:
        """Count one clip."""
        if isinstance(result, Failure):
            self.failures.append(str(result))
            return
        over = (result.windows >= self.limits) & self.absent[row]
        self.rows.append(row)
        self.seconds.append(result.duration)
        self.alarmed.append(int(over.any(axis=1).sum()))
        self.windows += len(over)
        self.alarms += over.sum(axis=0)
        self.heard += result.duration * self.absent[row]

    def labels(self, names: tuple[str, ...]) -> Iterator[LabelAlarms]:
        """Every label, most alarms first."""
        for label in np.argsort(-self.alarms, kind="stable"):
            hours = self.heard[label] / 3600
            rate = self.alarms[label] / hours if hours else math.nan
            limit, alarms = float(self.limits[label]), int(self.alarms[label])
            yield LabelAlarms(names[label], limit, alarms, float(rate))


def _rate(count: _Count, clips: Clips, generator: np.random.Generator) -> Interval:
    """Windows with an alarm, an hour, with its interval."""
    hours, alarmed = np.array(count.seconds) / 3600, np.array(count.alarmed, float)
    rate, owners = alarmed.sum() / hours.sum(), owners_of(clips).owners
    if not rate:  # the largest rate that stays silent so long in 5 % of cases
        return Interval(0.0, 0.0, -math.log(0.05) / hours.sum(), 0.95, owners.count)
    if owners.single:
        return Interval(float(rate), math.nan, math.nan, 0.95, owners.count)
    drawn = np.concatenate(
        [
            ratio(owners.unit_of, alarmed, hours, weights)
            for weights in owners.draws(generator, RESAMPLES, np.float64)
        ]
    )
    low, high = pivotal(float(rate), drawn, spread=owners.spread, scale="root")
    return Interval(float(rate), low, high, 0.95, owners.count)
