"""Scores of clips in one file: for enhancement, distillation, ensembles, thresholds, evaluation.

A score file is a Parquet table with a row per clip, in the order of the clips that were scored:

    path     text, as the table of clips has it
    start    seconds; 0 where the row is a whole file
    end      seconds; NaN is the end of the file
    ...      a float32 column for each label, named after it: its probability

The schema's metadata hold, under the key ``atgnn_scores``, JSON with the labels in order, the
activation, what made the scores and whether they are calibrated. So every tool that reads Parquet
reads it.

N clips, L labels.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.data.store import SCALE, PackedWaveforms, clips_of
from atgnn.errors import (
    AtgnnError,
    AtgnnWarning,
    ClipsError,
    MissingExtraError,
    counted,
    did_you_mean,
)
from atgnn.files import check_new, new_file
from atgnn.tagger import Excerpt, Scores, Taggable, Tagger, WindowScorer
from atgnn.tags import Failure

__all__ = [
    "ScoreTable",
    "ScoresError",
    "check_new_scores",
    "is_score_file",
    "sources",
    "trimmed_note",
]

FORMAT, VERSION, KEY = "atgnn scores", 1, b"atgnn_scores"
PLACE = ("path", "start", "end")  # columns that say which clip


class ScoresError(AtgnnError):
    """A score file is damaged, or lacks rows or labels that are asked for."""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The probability of every label in every clip.

    Attributes:
        paths: text, N of them.
        starts, ends: float64 (N,), seconds; an end of NaN is the file's.
        labels: L names.
        values: float32 (N, L), from 0 to 1.
        activation: "sigmoid" for independent labels, "softmax" where they add up to 1.
        source: what made the scores, for people.
        calibrated: whether a model's calibration is in them already; fitting one to them, to put
            it in the place of that, would be wrong.
    """

    paths: tuple[str, ...]
    starts: np.ndarray
    ends: np.ndarray
    labels: tuple[str, ...]
    values: np.ndarray
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    source: str = ""
    calibrated: bool = False

    def __post_init__(self) -> None:
        """Raises `ScoresError` for parts that do not fit and for what is no probability."""
        for name, kind in (("starts", np.float64), ("ends", np.float64), ("values", np.float32)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), kind))
        for name in ("paths", "labels"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        clips, labels = len(self.paths), len(self.labels)
        if self.values.shape != (clips, labels) or not len(self.starts) == len(self.ends) == clips:
            raise ScoresError(
                f"scores of shape {self.values.shape} with {len(self.starts)} starts and "
                f"{len(self.ends)} ends do not fit {counted(clips, 'clip')} and "
                f"{counted(labels, 'label')}"
            )
        if not labels or len(set(self.labels)) < labels or set(self.labels) & set(PLACE):
            raise ScoresError(
                f"labels of scores must be there, distinct, and not {', '.join(PLACE)}"
            )
        if self.activation not in ("sigmoid", "softmax"):
            raise ScoresError(f"activation {self.activation!r}: expected sigmoid or softmax")
        with np.errstate(invalid="ignore"):
            bad = ~((self.values >= 0) & (self.values <= 1))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ScoresError(
                f"{int(bad.sum())} of {bad.size} scores are not between 0 and 1, the first is "
                f"{self.values[row, column]:g} for {self.labels[column]} in {self.paths[row]}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    # ------------------------------------------------------------------ made

    @classmethod
    def of(
        cls,
        model: WindowScorer | Checkpoint,
        clips: Clips | PackedWaveforms,
        *,
        only: Clips | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        source: str = "",
        trim_db: float | None = None,
        progress: Callable[[int], None] | None = None,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> ScoreTable:
        """What a model says of every clip: the scores of `atgnn tag`, without augmentation.

        `only` are rows of `clips`, to score no others; `trim_db` as of `Excerpt`. A clip that
        cannot be read is an error, or, with `on_failure`, reported there and left out. `progress`
        is told the number of clips done.

        Raises:
            AudioError: a clip cannot be read.
            ScoresError: there are no clips, or none can be read.
        """
        scorer = model if isinstance(model, WindowScorer) else Tagger(model, device)
        table = clips_of(clips) if only is None else only
        good, values = [], []
        results = scorer.score_many(
            sources(clips, table, trim_db),
            batch_size=batch_size,
            on_error="raise" if on_failure is None else "collect",
        )
        for row, result in enumerate(results):
            if isinstance(result, Scores):
                good.append(row)
                values.append(result.mean)
            elif on_failure is not None:
                on_failure(Failure(str(table.paths[row]), result.error))
            if progress is not None:
                progress(row + 1)
        if not good:
            raise ScoresError(f"none of {counted(len(table), 'clip')} could be scored")
        paths, starts, ends = _places(table)
        return cls(
            tuple(paths[row] for row in good),
            starts[good],
            ends[good],
            scorer.labels,
            np.stack(values),
            scorer.activation,
            source,
            scorer.calibrated,
        )

    @classmethod
    def mean(cls, tables: Sequence[ScoreTable]) -> ScoreTable:
        """The ensemble of models that scored the same clips: the mean of their probabilities.

        Rows and labels are in the order of the first table; others may have them in another one,
        and more of them.

        Raises:
            ScoresError: no tables, rows or labels that one lacks, or unlike activations.
        """
        if not tables:
            raise ScoresError("an ensemble needs scores of at least one model")
        first = tables[0]
        if any(one.activation != first.activation for one in tables):
            raise ScoresError("scores of sigmoid and of softmax models do not mix: ensemble alike")
        where = first.paths, first.starts, first.ends
        total = np.zeros(first.values.shape)
        for one in tables:
            total += one._aligned(*where, first.labels)
        sources = ", ".join(one.source or "a model" for one in tables)
        values = np.clip(total / len(tables), 0, 1)
        return cls(
            *where,
            first.labels,
            values,
            first.activation,
            f"mean of {sources}",
            any(one.calibrated for one in tables),
        )

    @classmethod
    def concat(cls, tables: Sequence[ScoreTable]) -> ScoreTable:
        """Scores of different clips in one table, such as those of folds.

        Labels are in the order of the first table.

        Raises:
            ScoresError: no tables, a label that one lacks, a clip that is in two, or unlike
                activations.
        """
        if not tables:
            raise ScoresError("nothing to join: give at least one table of scores")
        first = tables[0]
        if any(one.activation != first.activation for one in tables):
            raise ScoresError("scores of sigmoid and of softmax models do not mix: join alike")
        joined = cls(
            tuple(path for one in tables for path in one.paths),
            np.concatenate([one.starts for one in tables]),
            np.concatenate([one.ends for one in tables]),
            first.labels,
            np.concatenate([one.values[:, one._columns(first.labels)] for one in tables]),
            first.activation,
            ", ".join(dict.fromkeys(one.source for one in tables)),
            any(one.calibrated for one in tables),
        )
        keys = list(_keys(joined.paths, joined.starts, joined.ends, resolve=True))
        twice = next((row for row, times in enumerate(_times(keys)) if times > 1), None)
        if twice is not None and len(tables) > 1:
            raise ScoresError(
                f"{joined.paths[twice]} is in more than one file of scores: each clip must have "
                "been scored once, by the model that did not learn from it"
            )
        return joined

    # ------------------------------------------------------------------ in and out

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Read what `write` wrote. Raises `ScoresError` for a file that is anything else."""
        path, parquet = Path(path), _parquet()
        if not path.is_file():
            raise ScoresError(f"no score file {path}: `atgnn score MODEL CLIPS --out {path}`")
        try:
            table = parquet.read_table(path)
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            detail = (str(error).splitlines() or ["damaged"])[0]
            raise ScoresError(f"{path} is not a readable Parquet file: {detail}") from None
        about = _about(path, table.schema.metadata or {})
        labels = tuple(about["labels"])
        missing = [name for name in (*PLACE, *labels) if name not in table.column_names]
        if missing:
            raise ScoresError(f"{path} lacks the column {missing[0]}: score the clips again")
        try:
            return cls(
                tuple(table["path"].to_pylist()),
                table["start"].to_numpy(),
                table["end"].to_numpy(),
                labels,
                np.stack([table[name].to_numpy() for name in labels], axis=1),
                about.get("activation", "sigmoid"),
                about.get("source", ""),
                bool(about.get("calibrated", False)),
            )
        except (ValueError, TypeError) as error:  # ours, and numpy's for what is no number
            raise ScoresError(f"{path}: {error}") from None

    def write(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the file, whole or not at all.

        Raises `AtgnnError` where something is there (and not `force`), nothing can be written, or
        the name does not end in ``.parquet``.
        """
        path = check_new_scores(path, force)
        parquet = _parquet()
        import pyarrow

        columns = {"path": list(self.paths), "start": self.starts, "end": self.ends}
        columns |= {name: self.values[:, i] for i, name in enumerate(self.labels)}
        about = {
            "format": FORMAT,
            "version": VERSION,
            "labels": self.labels,
            "activation": self.activation,
            "source": self.source,
            "calibrated": self.calibrated,
        }
        table = pyarrow.table(columns).replace_schema_metadata({KEY: json.dumps(about)})
        with new_file(path, force) as scratch:
            parquet.write_table(table, scratch)
        return path

    # ------------------------------------------------------------------ used

    def aligned(
        self, clips: Clips, names: Sequence[str], *, partial: bool = False, advice: str = ""
    ) -> np.ndarray:
        """The scores of these clips for these labels, float32 (len(clips), len(names)).

        A row is found by its path, start and end; where the sounds have moved since, by the file's
        name in place of its path, if all clips and all rows are distinct by it (`AtgnnWarning`).
        Labels that the scores lack are an error, or, `partial`, NaN, if any is there.
        `advice` ends the error about clips without scores.

        Raises:
            ScoresError: clips or labels that have no scores.
        """
        if not partial:
            return self._aligned(*_places(clips), names, advice)
        known = set(names) & set(self.labels)
        there = [at for at, name in enumerate(names) if name in known]
        values = np.full((len(clips), len(names)), np.nan, np.float32)
        # Without any, the error is that of the first label.
        values[:, there] = self._aligned(*_places(clips), [names[at] for at in there] or names)
        return values

    def _aligned(
        self,
        paths: Sequence[str],
        starts: np.ndarray,
        ends: np.ndarray,
        names: Sequence[str],
        advice: str = "",
    ) -> np.ndarray:
        columns = self._columns(names)
        return self.values[np.ix_(self._rows(paths, starts, ends, advice), columns)]

    def _columns(self, names: Sequence[str]) -> list[int]:
        place = {name: column for column, name in enumerate(self.labels)}
        missing = [name for name in names if name not in place]
        if missing:
            raise ScoresError(
                f"the scores lack {len(missing)} of {counted(len(names), 'label')}, the first is "
                f"{missing[0]!r}{did_you_mean(missing[0], self.labels)}; they are of "
                f"{self.source or 'a model'} with {counted(len(place), 'label')}: score with a "
                "model that knows them, or, where they are spelt otherwise, `atgnn import --to`"
            )
        return [place[name] for name in names]

    def _rows(
        self, paths: Sequence[str], starts: np.ndarray, ends: np.ndarray, advice: str
    ) -> list[int]:
        found = self._find(paths, starts, ends)
        missing = [row for row, place in enumerate(found) if place < 0]
        if missing:
            raise ScoresError(
                f"{len(missing)} of {counted(len(paths), 'clip')} have no scores, the first is "
                f"{paths[missing[0]]}: score this table of clips{advice}"
            )
        return found

    def scored(self, clips: Clips, *, moved: bool = True) -> np.ndarray:
        """Which of the clips have scores, found as `aligned` says: bool (len(clips),).

        Without `moved`, by their paths alone.
        """
        return np.array(self._find(*_places(clips), moved)) >= 0

    def _find(
        self, paths: Sequence[str], starts: np.ndarray, ends: np.ndarray, moved: bool = True
    ) -> list[int]:
        """The row of each clip's scores, or -1."""
        wanted = list(_keys(paths, starts, ends, resolve=True))
        place = self._index(_keys(self.paths, self.starts, self.ends, resolve=True))
        found = [place.get(key, -1) for key in wanted]
        if -1 not in found or not moved:
            return found
        by_name = list(_keys(paths, starts, ends, resolve=False))
        names = list(_keys(self.paths, self.starts, self.ends, resolve=False))
        if len(set(names)) < len(names) or len(set(by_name)) != len(set(wanted)):
            return found
        named = {name: row for row, name in enumerate(names)}
        if all(name in named for name in by_name):
            first = found.index(-1)
            warnings.warn(
                f"scores are matched by file name: {paths[first]} was scored as "
                f"{self.paths[named[by_name[first]]]}",
                AtgnnWarning,
                stacklevel=5,
            )
            found = [named[name] for name in by_name]
        return found

    def _index(self, keys: Iterable[Any]) -> dict[Any, int]:
        place: dict[Any, int] = {}
        for row, key in enumerate(keys):
            first = place.setdefault(key, row)
            if first != row and not np.array_equal(self.values[first], self.values[row]):
                raise ScoresError(f"{self.paths[row]} is listed twice, with different scores")
        return place


def check_new_scores(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The path, if scores may be written there; commands ask before they compute.

    Raises `AtgnnError` where something is there, or for a name without ``.parquet`` at its end.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        raise ScoresError(
            f"scores are a Parquet file, {path.name} is not its name: give a name that ends in "
            ".parquet"
        )
    return check_new(path, force)


def is_score_file(path: str | os.PathLike[str]) -> bool:
    """Whether a Parquet file says that it is one of scores; False for what is no Parquet file."""
    try:
        return KEY in (_parquet().read_schema(path).metadata or {})
    except (OSError, ValueError):
        return False


def _times(keys: Sequence[Any]) -> list[int]:
    """How often each key is there."""
    counts = Counter(keys)
    return [counts[key] for key in keys]


def sources(
    clips: Clips | PackedWaveforms, table: Clips, trim_db: float | None = None
) -> Iterable[Taggable]:
    """What to hand to a tagger for each row; packed samples are taken from their file."""
    if isinstance(clips, PackedWaveforms):
        places = clips.positions(table).tolist()
        if -1 in places:
            missing = table.paths[places.index(-1)]
            raise ClipsError(f"{clips.folder} does not hold {missing}: pack it too")
        packed = ((clips[place] * np.float32(SCALE), clips.rate) for place in places)
        return packed if trim_db is None else (Excerpt(one, trim_db=trim_db) for one in packed)
    return (Excerpt(clip.path, clip.start, clip.end, trim_db) for clip in table)


def trimmed_note(trim_db: float | None) -> str:
    """How clips were heard, in words; "" where they were heard whole."""
    return "" if trim_db is None else f"clips without silence at their ends ({trim_db:g} dB)"


def _places(clips: Clips) -> tuple[list[str], np.ndarray, np.ndarray]:
    table = clips.table
    starts, ends = (table[name].to_numpy(float) for name in ("start", "end"))
    return [str(path) for path in table["path"]], starts, ends


def _keys(
    paths: Sequence[str], starts: np.ndarray, ends: np.ndarray, *, resolve: bool
) -> Iterable[tuple[str, float, float]]:
    """Path (resolved, else the file's name), start and end of every row, to the millisecond."""
    places = map(os.path.realpath if resolve else os.path.basename, paths)
    rounded = np.round(starts, 3), np.round(np.nan_to_num(ends, nan=-1.0), 3)
    return zip(places, *(part.tolist() for part in rounded), strict=True)


def _about(path: Path, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What the schema says of the scores."""
    try:
        about = json.loads(metadata.get(KEY, b"null"))
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.get("format") != FORMAT or "labels" not in about:
        raise ScoresError(f"{path} is a Parquet file, but not one of scores (`atgnn score`)")
    if about.get("version") != VERSION:
        raise ScoresError(
            f"{path} has version {about.get('version')} of score files, this atgnn reads "
            f"{VERSION}: score the clips again, or install a matching version"
        )
    return about


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.of("pyarrow", "train", "a score file") from None
    return pyarrow.parquet
