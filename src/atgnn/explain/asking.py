"""From a recording to the reasons for its tags.

F x T nodes of the first stage, L labels, W windows of the recording.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from atgnn import audio
from atgnn.checkpoint import Checkpoint
from atgnn.errors import AudioError
from atgnn.explain.contributions import by_removal, edge_weights, evidence
from atgnn.explain.examine import Examination, Examiner
from atgnn.explain.grid import Grid
from atgnn.explain.records import (
    Edge,
    Evidence,
    Explanation,
    Influence,
    Sufficient,
    Window,
)
from atgnn.explain.regions import regions_of, strongest
from atgnn.explain.sufficient import Search, smallest_set
from atgnn.frontend import FrontEndConfig
from atgnn.model.geometry import NodePlaces
from atgnn.tagger import Excerpt, Scores, Tagger

__all__ = ["decision_limit", "explain"]

COVERED = 0.8  # share of the evidence that regions hold


def explain(
    tagger: Tagger,
    source: audio.Source,
    labels: Sequence[str] | None = None,
    *,
    start: float | None = None,
    search: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Why a recording's tags are what they are.

    Args:
        tagger: whose tags; its model must be an ATGNN.
        source: what `Tagger.tag` takes, but no `Excerpt`.
        labels: to be explained; by default the tags that the tagger reports or, where it reports
            none, its best label.
        start: s; look at the window that begins here. By default each label is explained in the
            window of the recording that scores highest for it.
        search: whether to look for the smallest set of nodes that carries each decision, which
            takes most of the time.
        progress: told how many labels are done, and of how many.

    Raises:
        AudioError: the recording cannot be read, or `start` lies outside it.
        LabelError: the model has no such label.
        ConfigError: the model has no patch nodes.
    """
    checkpoint = tagger.checkpoint
    examiner = Examiner(checkpoint)
    indices = None if labels is None else [checkpoint.vocabulary.index(name) for name in labels]
    spans, scores, notes = _windows(tagger, source, start)
    if indices is None:
        indices, more = _reported(tagger, spans, scores)
        notes += more
    if examiner.label_branch is None:
        notes.append(
            "The model has no label nodes, so there are no edges and no influences of other "
            "labels: regions alone say where the evidence is."
        )
    chosen = [int(scores[:, label].argmax()) for label in indices]
    looked = sorted(set(chosen))
    opened = [_Opened(tagger, examiner, source, *spans[number]) for number in looked]
    found = []
    for done, (label, number) in enumerate(zip(indices, chosen, strict=True), 1):
        place = looked.index(number)
        found.append(opened[place].explain(label, place, search))
        if progress is not None:
            progress(done, len(indices))
    silent = [one.label for one in found if not one.regions]
    if silent:
        notes.append(f"Nothing in the sound speaks for {', '.join(silent)}: no regions are shown.")
    path = os.fsdecode(source) if isinstance(source, str | os.PathLike) else None
    return Explanation(path, tuple(one.window for one in opened), tuple(found), tuple(notes))


# ------------------------------------------------------------------ windows


def _windows(
    tagger: Tagger, source: audio.Source, start: float | None
) -> tuple[list[tuple[float, float]], np.ndarray, list[str]]:
    """Start and end of the windows to choose from, their scores (W, L), and what to note."""
    length = tagger.checkpoint.window_seconds
    if start is None:
        scores = _scores(tagger, source)
        ends = np.cumsum(scores.seconds)
        spans = [
            (float(end - size), float(end)) for end, size in zip(ends, scores.seconds, strict=True)
        ]
        notes = []
        if len(spans) > 1:
            notes.append(
                f"The recording was heard in {len(spans)} windows of {length:g} s; each label is "
                "explained in the one that scores highest for it, and has the score of that window."
            )
        return spans, scores.windows, notes
    if not (math.isfinite(start) and start >= 0):
        raise AudioError(f"start {start:g}: give a time in seconds, 0 or more")
    scores = _scores(tagger, Excerpt(source, start, None))
    return [(start, start + float(scores.seconds[0]))], scores.windows[:1], []


def _scores(tagger: Tagger, source: audio.Source | Excerpt) -> Scores:
    (scores,) = tagger.score_many([source])
    assert isinstance(scores, Scores)  # an error is raised
    return scores


def _reported(
    tagger: Tagger, spans: list[tuple[float, float]], scores: np.ndarray
) -> tuple[list[int], list[str]]:
    """The labels that the tagger reports for the whole, or else its best one."""
    seconds = [end - start for start, end in spans]
    mean = np.average(scores, axis=0, weights=seconds).astype(np.float32)
    tagging = tagger.selector.tagging(None, sum(seconds), mean)
    names = [tag.label for tag in tagging.tags]
    if names:
        return [tagger.checkpoint.vocabulary.index(name) for name in names], []
    best = tagging.best
    note = f"No label reached its threshold; {best.label} came nearest."
    return [tagger.checkpoint.vocabulary.index(best.label)], [note]


class _Opened:
    """A window of the recording, to be seen, heard and examined."""

    def __init__(
        self,
        tagger: Tagger,
        examiner: Examiner,
        source: audio.Source,
        start: float,
        end: float,
    ) -> None:
        config = tagger.front_end.config
        heard = audio.load(source, start=start, end=end)
        samples = audio.load((heard.samples, heard.rate), config.sample_rate).samples
        with torch.no_grad():
            mel, _ = tagger.front_end(torch.from_numpy(samples)[None].to(tagger.device))
        frames = config.samples_to_frames(len(samples))  # what follows is padding
        end = start + heard.duration
        picture = mel[0, :frames].T.cpu().numpy()
        self.silent = samples.min() == samples.max()  # the tagger's scores are 0 then
        self.window = Window(start, end, heard.samples, heard.rate, picture, _bands(config))
        self.examination = examiner.examine(mel)
        places = NodePlaces(examiner.model.config, config, 0)
        self.grid = Grid(places, self.examination.shape[1], start, end)

    @cached_property
    def removed(self) -> np.ndarray:
        """`by_removal`, for all labels at once."""
        return by_removal(self.examination)

    def explain(self, label: int, place: int, search: bool) -> Evidence:
        """Why label number `label` scores what it scores in this window, number `place`."""
        examination, grid = self.examination, self.grid
        checkpoint = examination.examiner.checkpoint
        weights = evidence(examination, label, self.removed)
        regions = regions_of(grid, weights, strongest(weights, COVERED))
        return Evidence(
            label=checkpoint.vocabulary.names[label],
            score=0.0 if self.silent else float(checkpoint.scores(examination.logits)[label]),
            window=place,
            from_labels=examination.from_labels[label],
            regions=regions,
            covered=sum(region.weight for region in regions),
            edges=_edges(examination, grid, label),
            influences=_influences(examination, label),
            sufficient=self._sufficient(label, weights) if search else None,
        )

    def _sufficient(self, label: int, weights: np.ndarray) -> Sufficient | None:
        """The smallest set found for a label whose evidence is `weights` (F, T)."""
        if not weights.any():
            return None
        examination = self.examination
        limit = decision_limit(examination.examiner.checkpoint, examination.logits, label)
        search = Search.of(examination, label, math.log(limit / (1 - limit)))
        # Where there is no evidence, go by what is lost without the node.
        order = np.lexsort((-self.removed[..., label].ravel(), -weights.ravel()))
        kept = smallest_set(search, order)
        alone, rest = torch.from_numpy(np.stack([kept, ~kept]))
        score = _score(examination.log_odds(alone[None])[0, label])
        without = _score(examination.log_odds(rest[None])[0, label]) if rest.any() else 0.0
        regions = regions_of(self.grid, kept.astype(float), kept)
        return Sufficient(int(kept.sum()), kept.size, limit, score, without, regions)


def _bands(config: FrontEndConfig) -> np.ndarray:
    """Edges of the spectrogram's rows in Hz, (F + 1,)."""
    edges = config.bins_to_hertz(np.arange(config.n_mels + 1) - 0.5)
    edges[0], edges[-1] = config.band
    return edges


# ------------------------------------------------------------------ edges, labels, nodes


def _edges(examination: Examination, grid: Grid, label: int) -> tuple[Edge, ...]:
    found = []
    for block in edge_weights(examination, label):
        drawn = block.drawn
        cells = grid.of_stage(drawn.stage, drawn.grid[1])
        for patch, channels, effect in zip(
            block.patches.tolist(), block.channels.tolist(), block.effects.tolist(), strict=True
        ):
            row, column = divmod(patch, drawn.grid[1])
            cell = cells.box(row, row + 1, column, column + 1, 0.0)
            found.append(
                Edge(
                    stage=drawn.stage + 1,
                    block=drawn.block + 1,
                    start=cell.start,
                    end=cell.end,
                    low_hz=cell.low_hz,
                    high_hz=cell.high_hz,
                    channels=channels,
                    effect=effect,
                )
            )
    return tuple(sorted(found, key=lambda edge: -abs(edge.effect)))


def _influences(examination: Examination, label: int) -> tuple[Influence, ...]:
    names = examination.examiner.checkpoint.vocabulary.names
    effects = examination.influences[:, label]
    found = [
        Influence(names[other], float(effect))
        for other, effect in enumerate(effects)
        if other != label
    ]
    return tuple(sorted(found, key=lambda one: -abs(one.effect)))


def _score(log_odds: torch.Tensor) -> float:
    return float(log_odds.sigmoid())


def decision_limit(checkpoint: Checkpoint, logits: torch.Tensor, label: int) -> float:
    """The score from which on a decision stands: the label's threshold, if it reaches that.

    Half of the score where it does not, or the model has no thresholds.
    """
    score = float(checkpoint.scores(logits)[label])
    thresholds: Any = checkpoint.thresholds
    limit = thresholds[label] if thresholds and 0 < thresholds[label] <= score else score / 2
    return min(max(float(limit), 1e-9), 1 - 1e-9)
