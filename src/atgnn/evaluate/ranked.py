"""Several models on the same clips: who is best, and by how much the others fall short.

All are measured under the same draws of authors and recordings, as `compared` does with two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from atgnn.data.clips import Clips
from atgnn.evaluate.compared import difference, judged_together
from atgnn.evaluate.measured import Negatives
from atgnn.evaluate.report import RESAMPLES, Intervals
from atgnn.metrics import Interval, Metrics
from atgnn.metrics.resampling import jsonable
from atgnn.scoring import ScoreTable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Ranked", "Ranking", "rank"]


@dataclass(frozen=True)
class Ranked:
    """One model: its figures, their intervals, and its mAP less that of the best model."""

    name: str
    metrics: Metrics
    intervals: Intervals | None
    behind: Interval | None


@dataclass(frozen=True)
class Ranking:
    """Models in the order of their mAP, on the labels that all know; the rest as `Comparison`."""

    models: tuple[Ranked, ...]
    noun: str = "authors"
    ignored_labels: tuple[str, ...] = ()
    dropped_labels: tuple[str, ...] = ()
    left_out_clips: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    subject: str = "the clips"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; per-class figures of each model are in its own report."""
        data = asdict(self)
        for one in data["models"]:
            del one["metrics"]["per_class"]
            if one["intervals"] is not None:
                del one["intervals"]["per_class"]
        plain: dict[str, Any] = jsonable(data)
        return plain

    def render(self, per_class: bool = False) -> RenderableType:
        """A table for people."""
        from atgnn.evaluate.tables import terminal_page
        from atgnn.evaluate.written import ranking_page

        return terminal_page(ranking_page(self), True)

    def __rich__(self) -> RenderableType:
        return self.render()


def rank(
    tables: Sequence[ScoreTable],
    clips: Clips,
    *,
    names: Sequence[str],
    ignore_unknown_labels: bool = False,
    skip_bad: bool = False,
    negatives: Negatives = "all",
    as_marked: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Callable[[int], None] | None = None,
    subject: str = "the clips",
) -> Ranking:
    """All models on the labels that all know and the clips that all have scored.

    Settings as `atgnn.evaluate.evaluate_table`; so are the errors.
    """
    found, owned, metrics, drawn = judged_together(
        tables,
        clips,
        ignore_unknown_labels=ignore_unknown_labels,
        skip_bad=skip_bad,
        negatives=negatives,
        as_marked=as_marked,
        seed=seed,
        resamples=resamples,
        progress=progress,
    )
    order = sorted(range(len(tables)), key=lambda place: -metrics[place].mean_ap)
    best = order[0]
    ranked = []
    for place in order:
        own = Intervals.of(metrics[place], drawn[place]) if drawn else None
        behind = None
        if place != best:
            parts = [drawn[one].mean_ap() for one in (best, place)] if drawn else []
            fall = metrics[place].mean_ap - metrics[best].mean_ap
            behind = difference(fall, parts, owned.owners)
        ranked.append(Ranked(names[place], metrics[place], own, behind))
    return Ranking(
        tuple(ranked),
        owned.noun,
        found.ignored,
        found.dropped,
        found.missing,
        owned.notes,
        subject,
    )
