"""Which labels are heard together: a matrix of pairs, and sets of labels drawn after it.

L labels, K sets. A matrix says how the pairs of labels in a collection of sets are shared out:
entry (i, j) is proportional to the number of sets that hold both i and j. Only the proportions
count. The diagonal says nothing; how often a label occurs follows from its row.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atgnn.errors import ClipsError, LabelError, MissingExtraError, counted, did_you_mean

__all__ = ["CoOccurrence", "Sampler"]

# Pairs may be at most this many times as frequent, or as rare, as by chance in `reversed`.
LARGEST_LIFT = 20.0
# A fit: sets simulated in a round, rounds, and the distance from the matrix that is accepted.
POPULATION, ROUNDS, TOLERANCE = 10_000, 20, 0.1
ATTEMPTS = 200  # to find labels that may all be together, before giving up


@dataclass(frozen=True)
class CoOccurrence:
    """How pairs of labels are shared out.

    Attributes:
        labels: names, (L,).
        pairs: symmetric (L, L) float64 with a diagonal of zeros; the pairs sum to 1.
    """

    labels: tuple[str, ...]
    pairs: np.ndarray

    # ------------------------------------------------------------------ where one comes from

    @classmethod
    def of(cls, labels: Sequence[str], matrix: np.ndarray) -> CoOccurrence:
        """Check a matrix (L, L) and scale it.

        Raises `ClipsError` for one that is not square, not symmetric, negative, not finite or
        empty, or a label that occurs with no other.
        """
        names, given = tuple(labels), np.asarray(matrix, np.float64)
        if len(names) < 2 or len(set(names)) != len(names):
            raise ClipsError(f"a co-occurrence needs two or more different labels, got {names}")
        if given.shape != (len(names), len(names)):
            raise ClipsError(
                f"the co-occurrence of {counted(len(names), 'label')} has shape {given.shape}, "
                "expected "
                f"({len(names)}, {len(names)}): one row and one column for each"
            )
        given = np.where(np.eye(len(names)) > 0, 0.0, given)
        bad = np.argwhere(~np.isfinite(given) | (given < 0))
        if len(bad):
            i, j = bad[0]
            raise ClipsError(
                f"co-occurrence of {names[i]} and {names[j]} is {given[i, j]:g}: expected 0 or more"
            )
        if not np.allclose(given, given.T, rtol=1e-6):
            i, j = np.unravel_index(np.argmax(np.abs(given - given.T)), given.shape)
            raise ClipsError(
                f"the co-occurrence is not symmetric: {names[i]} with {names[j]} is "
                f"{given[i, j]:g}, {names[j]} with {names[i]} is {given[j, i]:g}"
            )
        alone = [name for name, row in zip(names, given, strict=True) if not row.any()]
        if alone:
            raise ClipsError(
                f"{counted(len(alone), 'label')} of the co-occurrence never with another one, the "
                f"first is {alone[0]}: leave them out, or give them pairs"
            )
        return cls(names, (given + given.T) / given.sum())

    @classmethod
    def independent(
        cls, labels: Sequence[str], frequencies: np.ndarray | None = None
    ) -> CoOccurrence:
        """Labels that know nothing of one another.

        `frequencies` (L,) are how often each occurs, in any unit; by default equally often.
        """
        count = len(labels)
        if frequencies is None:
            return cls.of(labels, np.ones((count, count)))
        wanted = np.asarray(frequencies, np.float64)
        return cls.of(labels, _with_rows(1 - np.eye(count), wanted, labels))

    @classmethod
    def counted(
        cls, labels: Sequence[str], sets: Iterable[Iterable[str]], smoothing: float = 0.1
    ) -> CoOccurrence:
        """The pairs of labels in the sets of a table; other labels are passed over.

        A share `smoothing` of the result is pairs as they would be by chance, so that a pair that
        was never counted is rare instead of forbidden. `ClipsError` where no set holds two.
        """
        place = {name: i for i, name in enumerate(labels)}
        rows = [[place[name] for name in names if name in place] for names in sets]
        present = np.zeros((len(rows), len(labels)))
        for row, columns in enumerate(rows):
            present[row, columns] = 1
        together = present.T @ present * (1 - np.eye(len(labels)))
        if not together.any():
            raise ClipsError(
                f"none of {counted(len(rows), 'clip')} is marked with two of the "
                f"{counted(len(labels), 'label')}: there "
                "is no co-occurrence to take from this table"
            )
        if not smoothing:
            return cls.of(labels, together)
        # Marks, not row sums: a label that is always alone still occurs.
        chance = cls.independent(labels, np.maximum(present.sum(0), 1)).pairs
        return cls.of(labels, (1 - smoothing) * 2 * together / together.sum() + smoothing * chance)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> CoOccurrence:
        """A CSV table: a header ``label,A,B,...`` and a row for each label, in any order."""
        path = Path(path)
        try:
            import pandas
        except ImportError:
            raise MissingExtraError.of("pandas", "train", "a co-occurrence table") from None
        try:
            table = pandas.read_csv(path, index_col=0, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["it cannot be parsed"])[0]
            raise ClipsError(f"{path} is not a readable co-occurrence table: {reason}") from None
        rows, columns = [str(n).strip() for n in table.index], [str(n).strip() for n in table]
        if sorted(rows) != sorted(columns) or len(set(rows)) != len(rows):
            odd = sorted(set(rows) ^ set(columns)) or ["a label twice"]
            raise ClipsError(
                f"{path}: rows and columns must name the same labels, once each; they differ in "
                f"{', '.join(odd[:5])}"
            )
        table.index, table.columns = pandas.Index(rows), pandas.Index(columns)
        try:
            values = table.loc[columns].to_numpy(np.float64)
        except (ValueError, TypeError):
            raise ClipsError(f"{path}: a cell is not a number") from None
        try:
            return cls.of(columns, values)
        except ClipsError as error:
            raise ClipsError(f"{path}: {error}") from None

    def to_csv(self) -> str:
        """As `read` takes it; the entries are shares of all pairs."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["label", *self.labels])
        for name, row in zip(self.labels, self.pairs, strict=True):
            writer.writerow([name, *(f"{value:.8g}" for value in row)])
        return text.getvalue()

    # ------------------------------------------------------------------ others made from it

    @property
    def frequencies(self) -> np.ndarray:
        """How often each label occurs, (L,), summing to 1."""
        return self.pairs.sum(0) / self.pairs.sum()

    @property
    def lift(self) -> np.ndarray:
        """How many times as often as by chance each pair occurs, (L, L); the diagonal is 1."""
        chance = CoOccurrence.independent(self.labels, self.frequencies).pairs
        return np.where(np.eye(len(self.labels)) > 0, 1.0, self.pairs / np.maximum(chance, 1e-300))

    def reversed(self) -> CoOccurrence:
        """What is often together becomes rare and the other way round; frequencies stay.

        Lifts are turned into their inverses, none beyond `LARGEST_LIFT`.
        """
        inverse = 1 / np.clip(self.lift, 1 / LARGEST_LIFT, LARGEST_LIFT)
        chance = CoOccurrence.independent(self.labels, self.frequencies).pairs
        pairs = _with_rows(inverse * chance, self.frequencies, self.labels)
        return CoOccurrence.of(self.labels, pairs)

    def of_labels(self, labels: Sequence[str]) -> CoOccurrence:
        """For these labels alone, in this order; `LabelError` for one it does not know."""
        for name in labels:
            if name not in self.labels:
                raise LabelError(
                    f"the co-occurrence has no label {name!r}{did_you_mean(name, self.labels)}"
                )
        rows = [self.labels.index(name) for name in labels]
        return CoOccurrence.of(labels, self.pairs[np.ix_(rows, rows)])


class Sampler:
    """Draws sets of labels whose pairs are shared out as a matrix says.

    A set grows label by label: the first in proportion to its frequency, each further label j
    in proportion to the product of weights (i, j) over the labels i that are there. The weights
    are fitted so that the pairs of what is drawn have the proportions of the matrix. Labels whose
    entry is 0 are never together.

    Large sets cannot have every co-occurrence: five of six labels are nearly all of them.
    `distance` is the share of pairs that would have to be others, at most `TOLERANCE`.
    """

    distance: float = 0.0

    def __init__(
        self, matrix: CoOccurrence, events: tuple[int, int], generator: np.random.Generator
    ) -> None:
        """Fit to `matrix` for sets of `events` (fewest, most) labels, each size equally often.

        Raises `ClipsError` where no such sets can be drawn: the matrix is impossible.
        """
        self.matrix, self.events = matrix, events
        low, high = events
        if not 1 <= low <= high:
            raise ClipsError(
                f"{low} to {counted(high, 'event')}: expected 1 or more, the smaller first"
            )
        if high > len(matrix.labels):
            raise ClipsError(
                f"{high} events of different labels in one scene, but there are "
                f"{counted(len(matrix.labels), 'label')}: lower the number of events "
                f"(--events 1:{len(matrix.labels)})"
            )
        with np.errstate(divide="ignore"):
            self._log_weights = np.log(matrix.pairs / np.mean(matrix.pairs))
        if high > 1:
            self._fit(generator)

    def draw(self, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Sets of `sizes` (K,) labels: bool (K, L)."""
        return self._grow(np.asarray(sizes), generator)[0]

    def sizes(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Sizes of `count` sets, (K,): each from fewest to most equally often, but for the draw."""
        return generator.integers(self.events[0], self.events[1] + 1, count)

    # ------------------------------------------------------------------ how

    def _fit(self, generator: np.random.Generator) -> None:
        """Multiply each weight by what its pair lacks, again and again, in ever smaller steps."""
        target = self.matrix.pairs
        allowed = target > 0
        sizes = self.sizes(POPULATION, generator)
        for number in range(ROUNDS):
            found = self._grow(sizes, generator)[1]
            rate = 0.7 * min(1.0, 8 / (number + 1))
            with np.errstate(divide="ignore"):
                change = np.log(target[allowed]) - np.log(np.maximum(found[allowed], 1e-9))
            self._log_weights[allowed] += rate * np.clip(change, -2, 2)
        found = self._grow(sizes, generator)[1]
        self.distance = float(np.abs(found - target).sum() / 4)  # each pair stands there twice
        if self.distance > TOLERANCE:
            self._refuse(found)

    def _refuse(self, found: np.ndarray) -> None:
        target, names = self.matrix.pairs, self.matrix.labels
        i, j = np.unravel_index(np.argmax(np.abs(found - target)), target.shape)
        low, high = self.events
        raise ClipsError(
            f"no scenes of {low} to {counted(high, 'event')} have this co-occurrence: {names[i]} "
            "with "
            f"{names[j]} should be {target[i, j]:.1%} of all pairs, {found[i, j]:.1%} is the "
            "nearest found; ask for fewer events a scene, or allow more pairs"
        )

    def _grow(
        self, sizes: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sets, bool (K, L), and the share of every pair that is to be expected, (L, L).

        Expectations are sums of probabilities, which vary less than what is drawn with them.
        """
        count = len(self.matrix.labels)
        present = np.zeros((len(sizes), count), bool)
        expected = np.zeros((count, count))
        waiting = np.arange(len(sizes))
        for _ in range(ATTEMPTS):
            sets, pairs, stuck = self._attempt(sizes[waiting], generator)
            present[waiting[~stuck]] = sets[~stuck]
            expected += pairs
            waiting = waiting[stuck]
            if not len(waiting):
                expected += expected.T
                total = expected.sum()
                return present, expected / total * 2 if total else expected
        raise ClipsError(
            f"no {sizes[waiting].min()} labels of the co-occurrence may all be together: ask for "
            "fewer events a scene, or allow more pairs"
        )

    def _attempt(
        self, sizes: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sets (K, L), expected pairs of those that were completed, and which were not (K,)."""
        first = self.matrix.frequencies
        count = len(first)
        sets = np.zeros((len(sizes), count), bool)
        sets[np.arange(len(sizes)), generator.choice(count, len(sizes), p=first)] = True
        stuck = np.zeros(len(sizes), bool)
        steps = []
        for size in range(2, int(sizes.max(initial=1)) + 1):
            rows = np.flatnonzero((sizes >= size) & ~stuck)
            scores = _log_products(sets[rows], self._log_weights)
            best = scores.max(1)
            stuck[rows[best == -np.inf]] = True
            rows, scores = rows[best > -np.inf], scores[best > -np.inf]
            chances = np.exp(scores - scores.max(1, keepdims=True))
            chances /= chances.sum(1, keepdims=True)
            steps.append((rows, sets[rows], chances))
            sets[rows, _choose(chances, generator)] = True
        pairs = np.zeros((count, count))
        for rows, before, chances in steps:
            done = ~stuck[rows]
            pairs += before[done].T.astype(float) @ chances[done]
        return sets, pairs, stuck


def _log_products(sets: np.ndarray, log_weights: np.ndarray) -> np.ndarray:
    """Sum over members of each set (K, L) of log weights to every label, (K, L); members: -inf."""
    finite = np.where(np.isfinite(log_weights), log_weights, 0.0)
    forbidden = sets.astype(float) @ np.isinf(log_weights).astype(float) > 0
    return np.where(forbidden | sets, -np.inf, sets.astype(float) @ finite)


def _choose(chances: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A column for each row of probabilities (K, L), (K,)."""
    limits = chances.cumsum(1)
    marks = generator.random(len(chances)) * limits[:, -1]
    return np.minimum((limits <= marks[:, None]).sum(1), chances.shape[1] - 1)


def _with_rows(matrix: np.ndarray, wanted: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """A symmetric matrix scaled by rows and columns so that rows sum to `wanted` (L,)."""
    wanted = wanted / wanted.sum()
    if len(wanted) > 2 and wanted.max() > 0.5:
        name = labels[int(wanted.argmax())]
        raise ClipsError(
            f"{name} is {wanted.max():.0%} of all labels: no pairs of different labels have that "
            "share; give the matrix itself instead"
        )
    scale = np.sqrt(wanted)
    for _ in range(500):
        sums = scale * (matrix @ scale)
        scale = scale * np.sqrt(wanted / np.maximum(sums, 1e-300))
    return matrix * np.outer(scale, scale)
