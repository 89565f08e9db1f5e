"""Two models on the same clips: what differs, and how sure that is.

Both are measured under the same draws of authors and recordings, so that clips which are easy or
hard for both cancel out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from atgnn.data.clips import Clips
from atgnn.errors import ClipsError
from atgnn.evaluate.measured import Aligned, Negatives, align
from atgnn.evaluate.owners import Ownership, owners_of
from atgnn.evaluate.report import RESAMPLES
from atgnn.metrics import (
    Interval,
    Metrics,
    Owners,
    Resampled,
    evaluate_scores,
    one_label,
    pivotal,
    resample,
)
from atgnn.metrics.resampling import jsonable
from atgnn.scoring import ScoreTable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Comparison", "LabelDifference", "compare", "difference", "judged_together"]

#: The figures that are compared, as `Metrics` and as people call them.
FIGURES = {
    "mean_ap": "mAP, all labels",
    "mean_ap_enough": "mAP, labels with enough positives",
    "auc": "AUC",
    "lwlrap": "lwlrap",
    "accuracy": "accuracy",
}


@dataclass(frozen=True)
class LabelDifference:
    """One label: the average precision of both models, NaN where too few positives are independent.

    `difference` is B less A; None where there is no interval.
    """

    label: str
    first: float
    second: float
    difference: Interval | None
    positives: int
    independent: int | None


@dataclass(frozen=True)
class Comparison:
    """Model B less model A on the same clips.

    Attributes:
        names: what the models are called, A and B.
        metrics: of A and of B.
        differences: B less A of the figures of `FIGURES` that are defined; the ends of an interval
            are NaN where all clips are one author's.
        labels: those with enough independent positives, from the largest gain to the largest loss.
        noun, notes, subject: as in `Report`.
        ignored_labels: labels of the clips that the models do not share.
        dropped_labels: labels that only one of the models knows.
        left_out_clips: clips without scores.
    """

    names: tuple[str, str]
    metrics: tuple[Metrics, Metrics]
    differences: dict[str, Interval]
    labels: tuple[LabelDifference, ...]
    noun: str = "authors"
    ignored_labels: tuple[str, ...] = ()
    dropped_labels: tuple[str, ...] = ()
    left_out_clips: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    subject: str = "the clips"

    @property
    def wins(self) -> dict[str, int]:
        """Of the labels with enough positives, those that B does better, worse and as well.

        "surely" counts those whose interval leaves out zero: with many labels, one in twenty of
        these would be there by chance.
        """
        moved = [one.second - one.first for one in self.labels]
        sure = [one.difference for one in self.labels if one.difference is not None]
        return {
            "better": sum(change > 0 for change in moved),
            "worse": sum(change < 0 for change in moved),
            "equal": sum(change == 0 for change in moved),
            "surely_better": sum(one.low > 0 for one in sure),
            "surely_worse": sum(one.high < 0 for one in sure),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; per-class figures of each model are in its own report."""
        data = asdict(self)
        for metrics in data["metrics"]:
            del metrics["per_class"]
        plain: dict[str, Any] = jsonable({**data, "wins": self.wins})
        return plain

    def render(self, per_class: bool = False) -> RenderableType:
        """A table for people, with `per_class` one of the labels below it."""
        from atgnn.evaluate.tables import terminal_page
        from atgnn.evaluate.written import comparison_page

        return terminal_page(comparison_page(self), per_class)

    def __rich__(self) -> RenderableType:
        return self.render()


def compare(
    first: ScoreTable,
    second: ScoreTable,
    clips: Clips,
    *,
    names: tuple[str, str] = ("A", "B"),
    ignore_unknown_labels: bool = False,
    skip_bad: bool = False,
    negatives: Negatives = "all",
    as_marked: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Callable[[int], None] | None = None,
    subject: str = "the clips",
) -> Comparison:
    """Model B's scores less model A's, on the labels that both know and clips that both scored.

    Settings as `atgnn.evaluate.evaluate_table`; so are the errors.
    """
    found, owned, metrics, drawn = judged_together(
        [first, second],
        clips,
        ignore_unknown_labels=ignore_unknown_labels,
        skip_bad=skip_bad,
        negatives=negatives,
        as_marked=as_marked,
        seed=seed,
        resamples=resamples,
        progress=progress,
    )
    a, b = metrics
    return Comparison(
        names,
        (a, b),
        _figures(a, b, drawn, owned.owners),
        _labels(a, b, drawn, owned.owners),
        owned.noun,
        found.ignored,
        found.dropped,
        found.missing,
        owned.notes,
        subject,
    )


class Together(NamedTuple):
    """Several models on the labels that all know and the clips that all have scored.

    Attributes:
        found: labels, clips, scores, and what was passed over.
        owned: whose the clips are.
        metrics: of each model.
        drawn: the same of each under the same draws of owners; empty where there is one owner.
    """

    found: Aligned
    owned: Ownership
    metrics: tuple[Metrics, ...]
    drawn: Sequence[Resampled]


def judged_together(
    tables: Sequence[ScoreTable],
    clips: Clips,
    *,
    ignore_unknown_labels: bool,
    skip_bad: bool,
    negatives: Negatives,
    as_marked: bool,
    seed: int,
    resamples: int,
    progress: Callable[[int], None] | None,
) -> Together:
    """Measure models alike; settings and errors as of `atgnn.evaluate.evaluate_table`."""
    found = align(list(tables), clips, None, ignore_unknown_labels, skip_bad)
    exclusive = any(table.activation == "softmax" for table in tables)
    targets = found.targets(negatives, as_marked or exclusive)
    owned, single = owners_of(found.clips), bool(one_label(targets).all())
    metrics = tuple(
        evaluate_scores(targets, scores, found.vocabulary.names, single, owned.owners)
        for scores in found.scores
    )
    if math.isnan(metrics[0].mean_ap):
        raise ClipsError("no label has a positive clip: there is nothing to compare")
    drawn: Sequence[Resampled] = ()
    if not owned.owners.single:
        drawn = resample(
            targets,
            found.scores,
            owned.owners,
            generator=np.random.default_rng(seed),
            resamples=resamples,
            single_label=single,
            progress=progress,
        )
    return Together(found, owned, metrics, drawn)


def _figures(
    a: Metrics, b: Metrics, drawn: Sequence[Resampled], owners: Owners
) -> dict[str, Interval]:
    """The differences of all figures that are defined."""
    enough = np.array([one.enough for one in a.per_class])
    values: dict[str, Callable[[Resampled], np.ndarray | None]] = {
        "mean_ap": lambda one: one.mean_ap(),
        "mean_ap_enough": lambda one: one.mean_ap(enough),
        "auc": lambda one: one.mean_auc(),
        "lwlrap": lambda one: one.lwlrap,
        "accuracy": lambda one: one.accuracy,
    }
    figures = {}
    for name in FIGURES:
        before, after = getattr(a, name), getattr(b, name)
        if before is not None and not math.isnan(before):
            figures[name] = difference(after - before, list(map(values[name], drawn)), owners)
    return figures


def _labels(
    a: Metrics, b: Metrics, drawn: Sequence[Resampled], owners: Owners
) -> tuple[LabelDifference, ...]:
    rows = []
    for label, (one, other) in enumerate(zip(a.per_class, b.per_class, strict=True)):
        if one.enough:
            before, after = one.average_precision, other.average_precision
            parts: list[Any] = [part.average_precision[:, label] for part in drawn]
            interval = difference(after - before, parts, owners) if parts else None
            rows.append(
                LabelDifference(one.label, before, after, interval, one.positives, one.independent)
            )
    return tuple(sorted(rows, key=lambda row: row.first - row.second))


def difference(estimate: float, parts: list[Any], owners: Owners) -> Interval:
    """B less A, with its interval from the resamples of both."""
    if not parts:
        return Interval(float(estimate), math.nan, math.nan, 0.95, owners.count)
    first, second = parts
    moved = second.astype(np.float64) - first
    low, high = pivotal(float(estimate), moved, spread=owners.spread, scale="plain")
    return Interval(float(estimate), low, high, 0.95, owners.count)
