"""A model, or a file of its scores, and clips with known labels: how well they agree.

Clips are scored by `Tagger`, so the numbers are those of `atgnn tag`: the same windows, the same
mean over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms
from atgnn.errors import ClipsError, counted, some_of
from atgnn.evaluate.collections import collection_negatives
from atgnn.evaluate.owners import owners_of
from atgnn.evaluate.report import RESAMPLES, Report, measure
from atgnn.labels import Ontology, Vocabulary
from atgnn.scoring import ScoreTable, trimmed_note
from atgnn.tagger import Tagger
from atgnn.tags import Failure

__all__ = [
    "Aligned",
    "Negatives",
    "align",
    "choose_clips",
    "evaluate",
    "evaluate_table",
]

#: What else helps where clips have no scores.
ADVICE = ", or choose those that have: --fold or --split as they were scored, else --skip-bad"

Negatives = Literal["all", "collection"]


def evaluate(
    model: Checkpoint | Tagger,
    clips: Clips,
    *,
    device: str | None = None,
    batch_size: int | None = None,
    ignore_unknown_labels: bool = False,
    opened: Clips | PackedWaveforms | None = None,
    skip_bad: bool = False,
    trim_db: float | None = None,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> Report:
    """Score every clip (or the excerpt that its row names) and compare with its labels.

    `opened` is what the clips were chosen from, if that is packed: their files need not be there.
    With `trim_db` clips are scored without the silence at their ends, as of `atgnn.tagger.Excerpt`,
    which the report notes. With `skip_bad`, clips that cannot be read are left out and named in the
    report. `progress` is called with the number of clips done. `settings` are those of
    `evaluate_table`. Clips that the model has learned from, as far as its checkpoint knows, are the
    first note of the report.

    Raises:
        ClipsError: no clips, or labels that the model does not know (unless ignored).
        AudioError: a clip cannot be read (unless bad ones are skipped).
    """
    _check_some(clips)
    tagger = model if isinstance(model, Tagger) else Tagger(model, device)
    _check_labels(clips, tagger.checkpoint.vocabulary, ignore_unknown_labels)
    failures: list[Failure] = []
    scores = ScoreTable.of(
        tagger,
        clips if opened is None else opened,
        only=clips,
        batch_size=batch_size,
        trim_db=trim_db,
        progress=progress,
        on_failure=failures.append if skip_bad else None,
    )
    heard = tagger.checkpoint.heard
    lines = "" if heard is None else heard.overlap(clips).line(), trimmed_note(trim_db)
    settings["notes"] = (*filter(None, lines), *settings.get("notes", ()))
    return evaluate_table(
        scores,
        clips,
        vocabulary=tagger.checkpoint.vocabulary,
        ignore_unknown_labels=ignore_unknown_labels,
        skip_bad=skip_bad,
        reasons=tuple(str(failure) for failure in failures),
        **settings,
    )


def evaluate_table(
    scores: ScoreTable,
    clips: Clips,
    *,
    vocabulary: Vocabulary | None = None,
    ignore_unknown_labels: bool = False,
    skip_bad: bool = False,
    reasons: tuple[str, ...] = (),
    negatives: Negatives = "all",
    as_marked: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
    resampling: Callable[[int], None] | None = None,
    **about: Any,
) -> Report:
    """Compare a table of scores with the labels of clips.

    A label makes its ontology ancestors true, inside the model's vocabulary; `as_marked` takes the
    labels as they are, and so does a model that chooses one of its labels (softmax). Accuracy is
    given where every clip has exactly one label. With `negatives` "collection", a clip is a
    negative of a label only where its collection has positives of it. `seed` decides the
    `resamples` behind the intervals, `resampling` is told how many are done. `reasons` say why
    clips that are skipped have no scores. `about` are fields of the `Report`.

    Raises:
        ClipsError: no clips, or labels that the scores lack (unless ignored).
        ScoresError: clips without scores (unless bad ones are skipped).
    """
    found = align([scores], clips, vocabulary, ignore_unknown_labels, skip_bad)
    targets = found.targets(negatives, as_marked or scores.activation == "softmax")
    notes = list(about.pop("notes", ()))
    if negatives == "collection":
        notes.append(
            "for each label, only clips of collections that have positives of it count as "
            "negatives; a label without such negatives is left out"
        )
    left_out = reasons or tuple(f"{path}: no scores" for path in found.missing)
    return measure(
        targets,
        found.scores[0],
        found.vocabulary.names,
        owners_of(found.clips),
        seed=seed,
        resamples=resamples,
        progress=resampling,
        ignored_labels=found.ignored,
        negatives=negatives,
        left_out_clips=left_out,
        notes=tuple(notes),
        **about,
    )


@dataclass(frozen=True, eq=False)
class Aligned:
    """Clips that have scores, and the scores of one or several models in their order.

    `scores` are (N, L) each, of the labels that all models share. `ignored` are labels of the
    clips that are not among those, `dropped` labels that not all models know, `missing` the paths
    of clips without scores.
    """

    clips: Clips
    vocabulary: Vocabulary
    scores: tuple[np.ndarray, ...]
    ignored: tuple[str, ...]
    dropped: tuple[str, ...]
    missing: tuple[str, ...]

    def targets(self, negatives: Negatives, as_marked: bool) -> np.ndarray:
        """What is in the clips, (N, L); see `evaluate_table`."""
        ontology = None if as_marked else Ontology.audioset()
        targets = self.clips.targets(self.vocabulary, ontology, outside="drop")
        if negatives == "all":
            return targets
        return collection_negatives(targets, self.clips.column("collection"))


def align(
    tables: list[ScoreTable],
    clips: Clips,
    vocabulary: Vocabulary | None = None,
    ignore_unknown_labels: bool = False,
    skip_bad: bool = False,
) -> Aligned:
    """Bring scores into the order of the clips; errors as `evaluate_table`."""
    _check_some(clips)
    first = tables[0].labels
    shared = tuple(name for name in first if all(name in table.labels for table in tables))
    dropped = tuple(dict.fromkeys(n for t in tables for n in t.labels if n not in set(shared)))
    if not shared:
        raise ClipsError("the score files share no label: they cannot be compared")
    if vocabulary is None:
        vocabulary = Vocabulary.from_names(shared)
    ignored = _check_labels(clips, vocabulary, ignore_unknown_labels)
    missing: tuple[str, ...] = ()
    if skip_bad:
        kept = np.all([table.scored(clips) for table in tables], axis=0)
        missing = tuple(str(clips.paths[row]) for row in np.flatnonzero(~kept))
        clips = clips.subset(kept)
        _check_some(clips)
    scores = tuple(table.aligned(clips, vocabulary.names, advice=ADVICE) for table in tables)
    return Aligned(clips, vocabulary, scores, ignored, dropped, missing)


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
        there = "; ".join(f"{name}s: {clips.distinct(name)}" for name in wanted)
        raise ClipsError(f"no clip of {asked} among {len(clips)}; there are {there}")
    return chosen if label_column is None else chosen.labelled_by(label_column)


def _check_some(clips: Clips) -> None:
    if not len(clips):
        raise ClipsError("no clips to evaluate on: the table is empty, or none has scores")


def _check_labels(clips: Clips, vocabulary: Vocabulary, ignore: bool) -> tuple[str, ...]:
    """The labels of the clips that are not in the vocabulary, if those may be ignored."""
    names = dict.fromkeys(name for labels in clips.labels for name in labels)
    foreign = tuple(name for name in names if name not in vocabulary)
    if foreign and not ignore:
        shown = some_of(foreign)
        raise ClipsError(
            f"{counted(len(foreign), 'label')} of the clips foreign to the model's "
            f"{len(vocabulary)}: {shown}; evaluate without them (--ignore-unknown-labels) or take "
            "the labels from another column (--label-column)"
        )
    return foreign
