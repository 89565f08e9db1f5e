"""What scenes are made after: tables of sounds and the matrix of co-occurrence, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atgnn.data.clips import Clips
from atgnn.data.cooccurrence import CoOccurrence
from atgnn.data.store import PackedWaveforms, is_packed
from atgnn.data.waveforms import Waveforms
from atgnn.errors import ClipsError, ConfigError, did_you_mean
from atgnn.labels import most_specific

__all__ = ["MATRICES", "choose_matrix", "open_sounds", "parse_range"]

#: Matrices that need no file of their own.
MATRICES = ("independent", "training", "reversed")
ROOM = 2.0  # GiB of decoded sound that are kept


def open_sounds(path: str, rate: int, *, labelled: bool = True) -> Waveforms:
    """The sounds of a packed folder, or of whatever `Clips.read` takes.

    Backgrounds need not be `labelled`. `ClipsError` where a packed folder has another rate.
    """
    if is_packed(path):
        packed = PackedWaveforms.open(path)
        return Waveforms(packed.clips, rate, ROOM, None, [packed])
    return Waveforms(Clips.read(path, labelled=labelled), rate, ROOM, None)


def choose_matrix(name: str, labels: Sequence[str], like: str | None) -> CoOccurrence:
    """A matrix for `labels`.

    `name` is ``independent`` (labels know nothing of one another), ``training`` (as in the table
    or matrix `like`), ``reversed`` (what is often together there becomes rare), or a CSV file.
    With `like`, independent labels are as frequent as there, without equally frequent.

    Raises `ClipsError` where `like` is missing, not needed, or holds no two of the labels.
    """
    if name not in MATRICES:
        if not Path(name).is_file():
            raise ClipsError(
                f"no co-occurrence {name!r}: give a matrix (CSV) or one of "
                f"{', '.join(MATRICES)}{did_you_mean(name, MATRICES)}"
            )
        if like is not None:
            raise ClipsError(
                f"the matrix {name} stands for itself: leave out --like, which goes with "
                f"{', '.join(MATRICES)}"
            )
        return CoOccurrence.read(name).of_labels(labels)
    if like is None:
        if name == "independent":
            return CoOccurrence.independent(labels)
        raise ClipsError(f"the co-occurrence {name!r} needs --like: a table of clips or a matrix")
    known = _like(like, labels)
    if name == "independent":
        return CoOccurrence.independent(labels, known.frequencies)
    return known if name == "training" else known.reversed()


def _like(path: str, labels: Sequence[str]) -> CoOccurrence:
    """From a matrix, or counted in a table, where a label counts with what implies it."""
    if is_packed(path):
        sets = PackedWaveforms.open(path).clips.labels
    elif Path(path).is_dir():
        sets = Clips.read(path).labels
    elif _is_matrix(Path(path)):
        return CoOccurrence.read(path).of_labels(labels)
    else:
        sets = Clips.label_sets(path)
    return CoOccurrence.counted(labels, [most_specific(names) for names in sets])


def _is_matrix(path: Path) -> bool:
    """Whether a CSV file begins as `CoOccurrence.to_csv` writes it."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline().startswith("label,")


def parse_range(text: str, what: str) -> tuple[float, float]:
    """``-10:20`` or ``-10 20`` as two numbers, one number as both; `ConfigError` for others."""
    parts = text.replace(":", " ").split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ConfigError(f"{what} {text!r}: give FROM:TO or one number")
    return numbers[0], numbers[-1]
