"""Targets and scores in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from atgnn.evaluate.owners import Ownership
from atgnn.metrics import (
    Interval,
    Metrics,
    Reliability,
    Resampled,
    d_prime,
    evaluate_scores,
    one_label,
    reliability,
    resample,
)
from atgnn.metrics.resampling import jsonable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from atgnn.evaluate.alarms import FalseAlarms

__all__ = ["Intervals", "Report", "class_data", "measure"]

RESAMPLES = 1000


@dataclass(frozen=True)
class Intervals:
    """95 % intervals of the figures of the same names in `Metrics`; None where there is none.

    `per_class` is of the average precision, None for labels with too few independent positives.
    """

    mean_ap: Interval | None
    mean_ap_enough: Interval | None
    auc: Interval | None
    d_prime: Interval | None
    lwlrap: Interval | None
    accuracy: Interval | None
    per_class: tuple[Interval | None, ...]

    @classmethod
    def of(cls, metrics: Metrics, drawn: Resampled) -> Intervals:
        """From the metrics of all clips and those of resamples."""
        enough = np.array([one.enough for one in metrics.per_class])
        auc = _interval(drawn, metrics.auc, drawn.mean_auc())
        return cls(
            mean_ap=_interval(drawn, metrics.mean_ap, drawn.mean_ap()),
            mean_ap_enough=_interval(drawn, metrics.mean_ap_enough, drawn.mean_ap(enough)),
            auc=auc,
            d_prime=None if auc is None else _as_d_prime(auc),
            lwlrap=_interval(drawn, metrics.lwlrap, drawn.lwlrap),
            accuracy=_interval(drawn, metrics.accuracy, drawn.accuracy),
            per_class=tuple(
                _interval(drawn, one.average_precision, drawn.average_precision[:, label])
                if one.enough
                else None
                for label, one in enumerate(metrics.per_class)
            ),
        )


@dataclass(frozen=True)
class Report:
    """How well a model does on a set of clips.

    Attributes:
        metrics: mAP, AUC, d', lwlrap, accuracy and the same per label.
        intervals: from resampling authors, then their recordings; None where all clips are one's.
        noun: what was resampled: authors, recordings, groups or clips.
        ignored_labels: labels of the clips that the model does not know.
        negatives: "all", or "collection" where a label's negatives are of its collections only.
        left_out_clips: clips without scores, and why.
        notes: what a reader has to know, a sentence each.
        name, subject: what was measured on what, for people.
        background: false alarms, where they were counted.
        targets, scores: (N, L), as they were compared.
    """

    metrics: Metrics
    intervals: Intervals | None = None
    noun: str = "authors"
    ignored_labels: tuple[str, ...] = ()
    negatives: Literal["all", "collection"] = "all"
    left_out_clips: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = "the model"
    subject: str = "the clips"
    background: FalseAlarms | None = None
    targets: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False, compare=False)
    scores: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False, compare=False)

    @property
    def accuracy_interval(self) -> Interval | None:
        """The interval of the accuracy; None without accuracy or authors."""
        return None if self.intervals is None else self.intervals.accuracy

    @property
    def reliability(self) -> Reliability | None:
        """Scores against shares of positives; None where no cell is known."""
        if not self.targets.size or np.isnan(self.targets).all():
            return None
        return reliability(self.targets, self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; no average precision where too few positives are independent."""
        found = self.reliability
        data: dict[str, Any] = jsonable(
            {
                **self.metrics.to_dict(),
                "model": self.name,
                "evaluated_on": self.subject,
                "intervals": _intervals_data(self.intervals),
                "accuracy_interval": None
                if self.accuracy_interval is None
                else self.accuracy_interval.to_dict(),
                "calibration_error": None if found is None else found.error,
                "ignored_labels": list(self.ignored_labels),
                "negatives": self.negatives,
                "left_out_clips": list(self.left_out_clips),
                "notes": list(self.notes),
                "per_class": class_data(self.metrics, self.intervals),
                "background": None if self.background is None else self.background.to_dict(),
            }
        )
        return data

    def render(self, per_class: bool = False) -> RenderableType:
        """A table for people, with `per_class` one of the labels below it."""
        from atgnn.evaluate.tables import terminal_page
        from atgnn.evaluate.written import report_page

        return terminal_page(report_page(self, pictures=False), per_class)

    def __rich__(self) -> RenderableType:
        return self.render()


def measure(
    targets: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
    owned: Ownership,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Callable[[int], None] | None = None,
    **about: Any,
) -> Report:
    """The report of `scores` (N, L) against `targets` (N, L); `about` are further fields of it.

    `seed` decides the draws; `progress` is told the number of resamples done.
    """
    single = bool(one_label(targets).all())
    metrics = evaluate_scores(targets, scores, names, single, owned.owners)
    intervals = None
    if not owned.owners.single:
        (drawn,) = resample(
            targets,
            [scores],
            owned.owners,
            generator=np.random.default_rng(seed),
            resamples=resamples,
            single_label=single,
            progress=progress,
        )
        intervals = Intervals.of(metrics, drawn)
    notes = (*about.pop("notes", ()), *owned.notes)
    return Report(
        metrics,
        intervals,
        owned.noun,
        notes=notes,
        targets=targets,
        scores=scores,
        **about,
    )


def class_data(metrics: Metrics, intervals: Intervals | None) -> list[dict[str, Any]]:
    """Plain data of every label."""
    rows = []
    for label, one in enumerate(metrics.per_class):
        interval = None if intervals is None else intervals.per_class[label]
        row = {name.name: getattr(one, name.name) for name in fields(one)}
        row["average_precision"] = one.average_precision if one.enough else None
        row["interval"] = None if interval is None else [interval.low, interval.high]
        rows.append(row)
    return rows


def _interval(
    drawn: Resampled, estimate: float | None, values: np.ndarray | None
) -> Interval | None:
    if estimate is None or values is None or np.isnan(estimate):
        return None
    found = drawn.interval(estimate, values)
    return None if np.isnan(found.low) else found


def _as_d_prime(auc: Interval) -> Interval:
    mean, low, high = (d_prime(value) for value in (auc.mean, auc.low, auc.high))
    return Interval(mean, low, high, auc.confidence, auc.groups)


def _intervals_data(intervals: Intervals | None) -> dict[str, Any] | None:
    if intervals is None:
        return None
    names = (one.name for one in fields(intervals) if one.name != "per_class")
    values = {name: getattr(intervals, name) for name in names}
    return {name: None if value is None else value.to_dict() for name, value in values.items()}
