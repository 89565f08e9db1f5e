"""What is measured of events on scenes with known truth: PSDS 1 and 2, collar-based F1.

PSDS 1 and 2 (intersection-based, all thresholds) and collar-based F1 (0.2 s, or 20 % of the length
for ends) are those of DCASE, by sed_scores_eval.
"""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from atgnn.events import EventSettings, curve, events_in
from atgnn.tagger import Scores, Tagger

Truth = dict[str, list[tuple[float, float, str]]]  # onset, offset and label of events, by scene

ONS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
OFF_SHARES = (0.3, 0.5, 0.7, 1.0)
PSDS1 = {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_ct": 0.0, "alpha_st": 1.0}
PSDS2 = {
    **{"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3},
    **{"alpha_ct": 0.5, "alpha_st": 1.0},
}
COLLAR = {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.2}
WIDE = {"onset_collar": 0.5, "offset_collar": 0.5}


class _Frame(pandas.DataFrame):
    """Gives arrays that can be written to, as sed_scores_eval expects and pandas 3 does not."""

    @property
    def _constructor(self) -> Any:
        return _Frame

    def to_numpy(self, *args: Any, **more: Any) -> np.ndarray:
        """A copy."""
        return super().to_numpy(*args, copy=True, **more)


@dataclass(frozen=True)
class Fold:
    """Scenes, their truth, what a model says of them, and the labels that are judged."""

    tagger: Tagger
    truth: Truth
    scores: dict[str, Scores]
    labels: tuple[str, ...]

    @property
    def durations(self) -> dict[str, float]:
        """Seconds of every scene."""
        return {name: one.duration for name, one in self.scores.items()}

    @property
    def places(self) -> list[int]:
        """Where the labels are in a row of scores."""
        return [list(self.tagger.labels).index(name) for name in self.labels]


def read_truth(folder: Path, durations: Mapping[str, float]) -> Truth:
    """The events of scenes made by `atgnn prepare scenes`."""
    truth: Truth = {name: [] for name in durations}
    for row in pandas.read_csv(folder / "events.csv").itertuples():
        end = min(row.offset, durations[row.scene])
        truth[row.scene].append((row.onset, end, row.label))
    return truth


def curves(fold: Fold, settings: EventSettings) -> dict[str, Any]:
    """Scores over time, as sed_scores_eval takes them."""
    checkpoint, places = fold.tagger.checkpoint, fold.places
    return {
        name: frame(
            fold.labels,
            [(s.start, s.end, s.scores[places]) for s in curve(one, checkpoint, settings)],
        )
        for name, one in fold.scores.items()
    }


def found(fold: Fold, settings: EventSettings) -> dict[str, Any]:
    """Events, as scores that are 1 where they are and 0 elsewhere."""
    out = {}
    for name, scores in fold.scores.items():
        events = events_in(scores, fold.tagger.checkpoint, settings)
        borders = {0.0, scores.duration, *(t for e in events for t in (e.start, e.end))}
        rows = []
        for start, end in itertools.pairwise(sorted(borders)):
            there = {e.label for e in events if e.start <= start and end <= e.end}
            rows.append((start, end, np.array([1.0 * (x in there) for x in fold.labels])))
        out[name] = frame(fold.labels, rows)
    return out


def frame(labels: Sequence[str], rows: list[tuple[float, float, np.ndarray]]) -> Any:
    """Rows of start, end and scores (L,), one after the other, as sed_scores_eval takes them."""
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    edges = np.array([rows[0][0], *(end for _, end, _ in rows)])
    scores = np.array([row for _, _, row in rows], dtype=np.float64)
    return _Frame(create_score_dataframe(scores, edges, list(labels)))


def psds(
    lines: Mapping[str, Any], truth: Truth, durations: Mapping[str, float]
) -> dict[str, float]:
    """PSDS 1 and 2 of scores over time."""
    from sed_scores_eval import intersection_based

    return {
        name: float(intersection_based.psds(lines, truth, durations, **kind, max_efpr=100.0)[0])
        for name, kind in (("psds1", PSDS1), ("psds2", PSDS2))
    }


def f1(fold: Fold, settings: EventSettings, **collar: float) -> dict[str, float]:
    """Collar-based F1 of each label, and their mean as ``macro_average``."""
    from sed_scores_eval import collar_based

    values = collar_based.fscore(
        found(fold, settings), fold.truth, 0.5, **{**COLLAR, **collar}
    )[0]  # fmt: skip
    return {name: float(np.nan_to_num(value)) for name, value in values.items()}


def figures(fold: Fold, settings: EventSettings, tuned: EventSettings) -> dict[str, float]:
    """All of them; `tuned` are the settings with thresholds, which only F1 depends on."""
    return {
        **psds(curves(fold, settings), fold.truth, fold.durations),
        "f1": f1(fold, tuned)["macro_average"],
        "f1_half_second": f1(fold, tuned, **WIDE)["macro_average"],
    }


def chosen(fold: Fold, settings: EventSettings, gaps: Iterable[float] = (0.0,)) -> EventSettings:
    """Thresholds, and of `gaps` the one, with the best collar-based F1 on these scenes."""
    best, best_f1 = settings, -1.0
    for share, gap in itertools.product(OFF_SHARES, gaps):
        tried = settings.model_copy(update={"gap_s": gap})
        runs = {on: f1(fold, _with(tried, on, share)) for on in ONS}
        own = {name: max(ONS, key=lambda on, n=name: runs[on][n]) for name in fold.labels}
        mean = float(np.mean([runs[own[name]][name] for name in own]))
        if mean > best_f1:
            best, best_f1 = _with(tried, own, share), mean
    return best


def _with(settings: EventSettings, on: Any, share: float) -> EventSettings:
    return settings.model_copy(update={"on": on, "off_share": share})


def append(path: Path, row: Any, header: Any = None) -> None:
    """One more row of a CSV file."""
    new = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(header)
        writer.writerow(list(row))
