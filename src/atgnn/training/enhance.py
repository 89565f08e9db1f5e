"""Label enhancement: labels that annotators missed, found by a teacher and the ontology (PSLA).

Type I: a clip is marked with a label, but not with a child that is there (Dog without Bark).
Type II: it is marked with a child, but not with a parent (Bark without Dog). A missing label is
added where the teacher, trained on the labels as they are, scores it above the threshold of that
label: a statistic of its scores over the training clips that carry it. Both types start from the
original labels, nothing is removed, and only training clips change. Source: PSLA.

N clips, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atgnn.data.clips import Clips
from atgnn.errors import ClipsError, ConfigError, counted, some_of
from atgnn.files import write_rows
from atgnn.labels import Ontology, Vocabulary
from atgnn.scoring import ScoreTable

__all__ = [
    "Enhancement",
    "Recovery",
    "Relations",
    "enhance",
    "label_thresholds",
    "recovery",
    "write_report",
]

Method = Literal["mean", "median", "p25", "p10", "p5"]

#: A label's threshold from the teacher's scores of the clips that carry it.
METHODS: Mapping[str, Callable[[np.ndarray], Any]] = {
    "mean": np.mean,
    "median": np.median,
    "p25": lambda scores: np.percentile(scores, 25),
    "p10": lambda scores: np.percentile(scores, 10),
    "p5": lambda scores: np.percentile(scores, 5),
}

#: Values of the column `split` that mean training: FSD50K's, AudioSet's.
TRAINING = ("train", "balanced", "unbalanced")

#: FSD50K's labels that AudioSet does not use; nothing is concluded from them. In order: Crash
#: cymbal, Domestic sounds, Human group actions, Human voice, Respiratory sounds.
NO_SOURCES = frozenset(("/m/0bm0k", "/t/dd00071", "/t/dd00012", "/m/09l8g", "/m/09hlz4"))


@dataclass(frozen=True)
class Relations:
    """What a label suggests: for each, by its position in a vocabulary, the positions of others.

    Attributes:
        children: labels one level below it (Type I).
        ancestors: labels above it, over all paths (Type II).
    """

    children: tuple[tuple[int, ...], ...]
    ancestors: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls,
        vocabulary: Vocabulary,
        ontology: Ontology | None = None,
        no_sources: Iterable[str] = NO_SOURCES,
    ) -> Relations:
        """The relations inside a vocabulary.

        Nodes that only hold others together (restricted to ``abstract`` and nothing else) lead
        nowhere: what is above them is out of reach. Blacklisted nodes are ordinary ones. Labels
        that the ontology does not know suggest nothing, nor do those of `no_sources`.
        """
        graph = _without_abstract(ontology or Ontology.audioset())
        mids = [graph.find(label.mid or label.name) for label in vocabulary]
        place = {mid: position for position, mid in enumerate(mids) if mid is not None}
        skipped = set(no_sources)

        def inside(mid: str | None, step: Callable[[str], tuple[str, ...]]) -> tuple[int, ...]:
            if mid is None or mid in skipped:
                return ()
            return tuple(place[other] for other in step(mid) if other in place)

        return cls(
            tuple(inside(mid, graph.children) for mid in mids),
            tuple(inside(mid, graph.ancestors) for mid in mids),
        )

    def __len__(self) -> int:
        """Pairs of labels, of both types."""
        return sum(map(len, self.children)) + sum(map(len, self.ancestors))


def _without_abstract(ontology: Ontology) -> Ontology:
    # One node, Musical concepts, is abstract and blacklisted: the published code keeps its edges.
    return Ontology(
        node.model_copy(update={"children": ()}) if node.restrictions == ("abstract",) else node
        for node in ontology
    )


@dataclass(frozen=True)
class Enhancement:
    """The table with what was added to it, and the account of it.

    Attributes:
        clips: all clips, those of training with more labels; other rows as they were.
        vocabulary: the labels, in the order of the arrays below.
        thresholds: float (L,); NaN for a label without a training clip, which is never added.
        positives: int (L,), training clips that carried each label before.
        type1, type2: int (L,), clips each was added to as a child, as an ancestor.
        added: int (L,), clips it was added to; at most the sum of both types.
        changed: training clips that got a label.
        training: training clips.
    """

    clips: Clips
    vocabulary: Vocabulary
    thresholds: np.ndarray
    positives: np.ndarray
    type1: np.ndarray
    type2: np.ndarray
    added: np.ndarray
    changed: int
    training: int

    @property
    def without_clips(self) -> tuple[str, ...]:
        """Labels that no training clip carries; they have no threshold and are never added."""
        names = self.vocabulary.names
        return tuple(names[i] for i in np.flatnonzero(self.positives == 0))

    def rows(self) -> list[dict[str, Any]]:
        """The account, a row per label."""
        return [
            {
                "label": label.name,
                "mid": label.mid or "",
                "threshold": round(float(self.thresholds[i]), 6),
                "clips_before": int(self.positives[i]),
                "added_as_child": int(self.type1[i]),
                "added_as_ancestor": int(self.type2[i]),
                "added": int(self.added[i]),
            }
            for i, label in enumerate(self.vocabulary)
        ]

    def summary(self) -> str:
        """The account in a few lines."""
        names = self.vocabulary.names
        most = [i for i in np.argsort(-self.added, kind="stable")[:10] if self.added[i]]
        lines = [
            f"{counted(int(self.added.sum()), 'label')} added to {self.changed} of {self.training} "
            "training "
            f"clips, {len(self.clips) - self.training} other clips unchanged",
            f"as children {int(self.type1.sum())}, as ancestors {int(self.type2.sum())}",
        ]
        if most:
            shown = ", ".join(f"{names[i]} {self.added[i]}" for i in most)
            lines.append(f"most often: {shown}")
        if self.without_clips:
            shown = some_of(self.without_clips)
            lines.append(
                f"{counted(len(self.without_clips), 'label')} without a training clip: {shown}"
            )
        return "\n".join(lines)


def enhance(
    clips: Clips,
    scores: ScoreTable,
    *,
    method: Method = "mean",
    splits: Iterable[str] | None = None,
    vocabulary: Vocabulary | None = None,
    ontology: Ontology | None = None,
    ignore_unknown_labels: bool = False,
) -> Enhancement:
    """Add to training clips the labels that annotators missed.

    `scores` are a teacher's, without augmentation, of at least the training clips. `splits` are
    the values of the column ``split`` that mean training (None: those of the public data sets,
    ``train``, ``balanced`` and ``unbalanced``, where there is such a column, else all clips). The
    `vocabulary` is that of the scores, with the ontology's identifiers, unless one with other
    identifiers is given.

    A label that was unknown in a clip may be added; what is not added stays as it was. With
    `ignore_unknown_labels` labels outside the vocabulary stay too, and suggest nothing.

    Raises:
        ScoresError: training clips or labels that have no scores.
        ClipsError: no training clips, or labels outside the vocabulary.
    """
    if method not in METHODS:
        raise ConfigError(f"no method {method!r}: choose from {', '.join(METHODS)}")
    words = vocabulary or Vocabulary.from_names(scores.labels)
    rows = _training_rows(clips, splits)
    chosen = clips.subset(rows)
    targets = chosen.targets(words, outside="drop" if ignore_unknown_labels else "error")
    given = scores.aligned(chosen, words.names)
    thresholds = label_thresholds(targets, given, method)
    # NaN compares false: a label without threshold is never added.
    likely = (given > thresholds) & (targets != 1)
    relations = Relations.of(words, ontology)
    type1 = _suggested(targets, relations.children) & likely
    type2 = _suggested(targets, relations.ancestors) & likely
    added = type1 | type2
    return Enhancement(
        _with_labels(clips, rows, added, words.names),
        words,
        thresholds,
        (targets == 1).sum(axis=0),
        type1.sum(axis=0),
        type2.sum(axis=0),
        added.sum(axis=0),
        int(added.any(axis=1).sum()),
        len(rows),
    )


def write_report(enhancement: Enhancement, path: Path) -> None:
    """The account as CSV, a row per label."""
    rows = enhancement.rows()
    write_rows(path, [rows[0], *(row.values() for row in rows)])


def label_thresholds(targets: np.ndarray, scores: np.ndarray, method: Method) -> np.ndarray:
    """A threshold per label, float64 (L,), from targets and scores (N, L); NaN without a clip."""
    statistic = METHODS[method]
    carried = (scores[targets[:, i] == 1, i] for i in range(targets.shape[1]))
    return np.array([float(statistic(one)) if len(one) else np.nan for one in carried])


def _training_rows(clips: Clips, splits: Iterable[str] | None) -> np.ndarray:
    if splits is None and "split" not in clips.table:
        return np.arange(len(clips))
    wanted = list(TRAINING if splits is None else splits)
    rows = np.flatnonzero(clips.matching(split=wanted))
    if not len(rows):
        raise ClipsError(
            f"no clip has the split {' or '.join(wanted)}; there are: {clips.distinct('split')}; "
            "name the training clips with --split"
        )
    return rows


def _suggested(targets: np.ndarray, related: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Mask (N, L) of the labels that those of a clip lead to."""
    found = np.zeros(targets.shape, bool)
    for label, others in enumerate(related):
        carriers = np.flatnonzero(targets[:, label] == 1)
        for other in others:
            found[carriers, other] = True
    return found


def _with_labels(clips: Clips, rows: np.ndarray, added: np.ndarray, names: Any) -> Clips:
    """The same table with more labels in some rows."""
    labels, unknown = list(clips.table["labels"]), list(clips.table["unknown"])
    for row, columns in zip(rows, added, strict=True):
        more = tuple(names[column] for column in np.flatnonzero(columns))
        if more:
            labels[row] = (*labels[row], *more)
            unknown[row] = tuple(name for name in unknown[row] if name not in more)
    return Clips(clips.table.assign(labels=labels, unknown=unknown))


@dataclass(frozen=True)
class Recovery:
    """How well labels that were hidden on purpose came back.

    `precision`: share of the labels added that are true. `recall`: share of the hidden labels that
    were added; NaN where there are none.
    """

    hidden: int
    added: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.added if self.added else float("nan")

    @property
    def recall(self) -> float:
        return self.right / self.hidden if self.hidden else float("nan")


def recovery(truth: Clips, given: Clips, enhanced: Clips) -> Recovery:
    """Compare the labels of three tables with the same rows: all, without the hidden, with more."""
    if not len(truth) == len(given) == len(enhanced):
        raise ClipsError("the three tables must have the same clips in the same order")
    hidden = added = right = 0
    for true, before, after in zip(truth.labels, given.labels, enhanced.labels, strict=True):
        missing, new = set(true) - set(before), set(after) - set(before)
        hidden, added, right = hidden + len(missing), added + len(new), right + len(missing & new)
    return Recovery(hidden, added, right)
