"""A model and clips with known labels in, a report of how well they agree out.

Clips are scored by `Tagger`, so the numbers are those of `atgnn tag`: the same windows, the same
mean over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.errors import ClipsError
from atgnn.labels import Ontology, Vocabulary
from atgnn.metrics import Interval, Metrics, cluster_interval, evaluate_scores
from atgnn.scoring import ScoreTable
from atgnn.tagger import Tagger

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Report", "choose_clips", "evaluate"]


@dataclass(frozen=True)
class Report:
    """How well a model does on a set of clips.

    Attributes:
        metrics: mAP, AUC, d', accuracy and the same per label.
        accuracy_interval: 95 % interval of the accuracy from resampling whole groups of clips
            (authors, or source recordings); None without accuracy or groups.
        ignored_labels: labels of the clips that the model does not know.
    """

    metrics: Metrics
    accuracy_interval: Interval | None = None
    ignored_labels: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        interval = self.accuracy_interval
        return {
            **self.metrics.to_dict(),
            "accuracy_interval": None if interval is None else interval.to_dict(),
            "ignored_labels": list(self.ignored_labels),
        }

    def render(self, per_class: bool = False) -> RenderableType:
        """A table for people, with `per_class` one of the labels below it."""
        from rich.console import Group

        return Group(self._summary(), *([self._classes()] if per_class else []))

    def __rich__(self) -> RenderableType:
        return self.render()

    def _summary(self) -> RenderableType:
        from rich.table import Table

        metrics = self.metrics
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_row("clips", f"{metrics.clips}")
        table.add_row("mAP", _number(metrics.mean_ap))
        table.add_row("AUC", _number(metrics.auc))
        table.add_row("d'", _number(metrics.d_prime, 3))
        if metrics.accuracy is not None:
            text = f"{metrics.accuracy:.2%}"
            if self.accuracy_interval is not None:
                between = self.accuracy_interval
                text += f"  ({between.low:.2%} to {between.high:.2%} over {between.groups} groups)"
            table.add_row("accuracy", text)
        if metrics.left_out:
            table.add_row("left out", f"no positive clip: {', '.join(metrics.left_out)}")
        if metrics.without_negatives:
            table.add_row("not in AUC", f"no negative clip: {', '.join(metrics.without_negatives)}")
        if self.ignored_labels:
            table.add_row("ignored", f"unknown to the model: {', '.join(self.ignored_labels)}")
        return table

    def _classes(self) -> RenderableType:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("label")
        for name in ("AP", "AUC", "positive", "known"):
            table.add_column(name, justify="right")
        for one in sorted(self.metrics.per_class, key=lambda one: one.label.casefold()):
            ap, auc = _number(one.average_precision), _number(one.auc)
            table.add_row(one.label, ap, auc, str(one.positives), str(one.known))
        return table


def evaluate(
    model: Checkpoint | Tagger,
    clips: Clips,
    *,
    device: str | None = None,
    batch_size: int | None = None,
    ignore_unknown_labels: bool = False,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> Report:
    """Score every clip (or the excerpt that its row names) and compare with its labels.

    A label makes its ontology ancestors true, inside the model's vocabulary; a model that chooses
    one of its labels (softmax) is compared with the labels as they are. Accuracy is given where
    every clip has exactly one label. `progress` is called with the number of clips done. `seed`
    decides the resampling behind the interval.

    Raises:
        ClipsError: no clips, or labels that the model does not know (unless ignored).
        AudioError: a clip cannot be read.
    """
    if not len(clips):
        raise ClipsError("no clips to evaluate on: the table is empty")
    tagger = model if isinstance(model, Tagger) else Tagger(model, device)
    vocabulary = tagger.checkpoint.vocabulary
    ignored = _unknown_labels(clips, vocabulary)
    if ignored and not ignore_unknown_labels:
        _refuse(ignored, vocabulary)
    exclusive = tagger.checkpoint.activation == "softmax"
    targets = clips.targets(vocabulary, None if exclusive else Ontology.audioset(), outside="drop")
    scores = ScoreTable.of(tagger, clips, batch_size=batch_size, progress=progress).values
    single = bool((targets.sum(axis=1) == 1).all())  # an unknown cell makes the sum NaN
    metrics = evaluate_scores(targets, scores, vocabulary.names, single_label=single)
    interval = None
    if single and "group" in clips.table:
        hits = (targets.argmax(axis=1) == scores.argmax(axis=1)).astype(float)
        generator = np.random.default_rng(seed)
        interval = cluster_interval(hits, clips.groups, generator=generator)
    return Report(metrics, interval, ignored)


def choose_clips(
    clips: Clips,
    *,
    fold: int | None = None,
    split: str | None = None,
    label_column: str | None = None,
) -> Clips:
    """The clips of one fold or split; `label_column` takes the labels from another column.

    Raises:
        ClipsError: there is no such column, or no clip of that fold or split.
    """
    wanted = {
        name: value for name, value in (("fold", fold), ("split", split)) if value is not None
    }
    chosen = clips.where(**wanted) if wanted else clips
    if not len(chosen):
        asked = " and ".join(f"{name} {value}" for name, value in wanted.items())
        there = "; ".join(f"{name}s: {_values(clips, name)}" for name in wanted)
        raise ClipsError(f"no clip of {asked} among {len(clips)}; there are {there}")
    return chosen if label_column is None else chosen.labelled_by(label_column)


def _values(clips: Clips, column: str) -> str:
    return ", ".join(sorted({str(value) for value in clips.column(column)}))


def _unknown_labels(clips: Clips, vocabulary: Vocabulary) -> tuple[str, ...]:
    names = dict.fromkeys(name for labels in clips.labels for name in labels)
    return tuple(name for name in names if name not in vocabulary)


def _refuse(names: tuple[str, ...], vocabulary: Vocabulary) -> None:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise ClipsError(
        f"{len(names)} labels of the clips are not among the model's {len(vocabulary)}: {shown}; "
        "evaluate without them (--ignore-unknown-labels) or take the labels from another column "
        "(--label-column)"
    )


def _number(value: float, digits: int = 4) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"
