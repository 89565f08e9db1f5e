"""Intervals by resampling who made the recordings.

Clips of one author, and still more those cut from one recording, resemble each other: an interval
from resampling clips is too narrow. Here authors are drawn with replacement, and of each drawn
author the recordings, with replacement too; a clip comes with its recording.

**Mixtures** belong to several authors. Joining authors that share a mixture would soon join all
of them, so a mixture has all of them: with n_a the times that author a was drawn, its weight is
1 + sum_a (n_a - 1) / s, where s is the largest number of authors of any clip (the *spread*). How
far a metric then moves is s times too little, since each author moves a mixture by one part in s,
so the movement is multiplied by s. For clips of one author s is 1 and this is the bootstrap. The
part of a mixture's luck that belongs to no author is counted for each of its authors: intervals
of mixtures are a little too wide rather than too narrow.

**Pivotal, on an arcsine scale.** A drawn recording comes twice and is then found twice, so a
resampled average precision is higher than it should be, and the percentiles of resampled values
lie beside the truth. What resampling tells is how far a value moves from its own centre: the
interval is the estimate less those movements, measured on arcsin(sqrt(x)), where a share moves as
far near 0 and 1 as elsewhere. `benchmarks/coverage.py` shows what the two are worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from atgnn.errors import AtgnnError

__all__ = ["Interval", "Owners", "Scale", "cluster_interval", "jsonable", "pivotal"]

# Resamples at a time: the weights of a block of them stay in the processor's cache.
BLOCK = 250
SEPARATOR = ";"
Scale: TypeAlias = Literal["arcsine", "root", "plain"]


@dataclass(frozen=True)
class Interval:
    """A value and the interval in which it falls with probability `confidence`.

    `groups` authors (or recordings) were resampled for it.
    """

    mean: float
    low: float
    high: float
    confidence: float
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN becomes None."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data


@dataclass(frozen=True, eq=False)
class Owners:
    """Whose each clip is: what resampling draws.

    Attributes:
        authors: of each clip the numbers of its authors, none of them twice.
        count: number of authors.
        unit_of: int64 (N,), the unit that each clip is drawn with: a recording, else its authors.
        unit_authors: of each unit the numbers of its authors.
        spread: the largest number of authors of one clip.
    """

    authors: tuple[tuple[int, ...], ...]
    count: int
    unit_of: np.ndarray
    unit_authors: tuple[tuple[int, ...], ...]
    spread: int

    @classmethod
    def of(
        cls, authors: Sequence[Any] | np.ndarray, sources: Sequence[Any] | None = None
    ) -> Owners:
        """From each clip's author, (N,), and, where known, the recording it was cut from, (N,).

        A text with ``;`` names several authors: the clip is a mixture. Recordings are drawn inside
        their author; where some clip has several authors, authors alone are drawn.

        Raises:
            AtgnnError: no clip, or not as many sources as authors.
        """
        names = [_people(author) for author in authors]
        if not names or (sources is not None and len(sources) != len(names)):
            given = "no sources" if sources is None else f"{len(sources)} sources"
            raise AtgnnError(f"expected an author for each clip, got {len(names)} and {given}")
        numbers: dict[str, int] = {}
        owned = tuple(
            tuple(sorted({numbers.setdefault(name, len(numbers)) for name in several}))
            for several in names
        )
        spread = max(map(len, owned))
        place: dict[Any, int] = {}
        finer = [None] * len(owned) if sources is None or spread > 1 else [str(s) for s in sources]
        units = [place.setdefault(key, len(place)) for key in zip(owned, finer, strict=True)]
        return cls(
            owned,
            len(numbers),
            np.array(units, np.int64),
            tuple(people for people, _ in place),
            spread,
        )

    def __len__(self) -> int:
        return len(self.authors)

    @property
    def single(self) -> bool:
        """Whether there is nothing to resample: one author and one recording."""
        return len(self.unit_authors) < 2

    def draws(
        self, generator: np.random.Generator, resamples: int, dtype: Any = np.float32
    ) -> Iterator[np.ndarray]:
        """Weights of the units, blocks of shape (U, up to BLOCK), `resamples` in all."""
        for done in range(0, resamples, BLOCK):
            yield self._draw(generator, min(BLOCK, resamples - done)).astype(dtype)

    def _draw(self, generator: np.random.Generator, draws: int) -> np.ndarray:
        times = generator.multinomial(self.count, np.full(self.count, 1 / self.count), size=draws)
        if self.spread > 1:
            sums = [
                times[:, list(people)].sum(axis=1) - len(people) for people in self.unit_authors
            ]
            return 1 + np.stack(sums) / self.spread
        weights = np.empty((len(self.unit_authors), draws))
        for author, units in enumerate(self._units()):
            drawn, size = times[:, author], len(units)
            if size > 1:  # as many recordings as the drawn author has, each time that it is drawn
                share = np.full(size, 1 / size)
                weights[units] = generator.multinomial(drawn * size, share).T
            else:
                weights[units] = drawn
        return weights

    def _units(self) -> list[list[int]]:
        """The units of each author, where each unit has one author."""
        units: list[list[int]] = [[] for _ in range(self.count)]
        for unit, (author,) in enumerate(self.unit_authors):
            units[author].append(unit)
        return units

    def independent(self, rows: np.ndarray) -> int:
        """How many of the clips under the mask `rows` (N,) can be chosen with no author in common.

        For clips of one author each: the number of their authors. For mixtures a lower bound,
        from choosing those of the fewest authors first.
        """
        seen: set[int] = set()
        count = 0
        for people in sorted({self.authors[row] for row in np.flatnonzero(rows)}, key=len):
            if seen.isdisjoint(people):
                seen.update(people)
                count += 1
        return count


def pivotal(
    estimate: float,
    resampled: np.ndarray,
    *,
    confidence: float = 0.95,
    spread: int = 1,
    scale: Scale = "arcsine",
) -> tuple[float, float]:
    """The interval around `estimate` after the movements of `resampled` (R,), see above.

    ``arcsine`` is for values between 0 and 1, ``root`` for rates from 0 on, ``plain`` for
    differences. Resamples of NaN take no part; NaN where half of them are.
    """
    defined = resampled[~np.isnan(resampled)]
    if math.isnan(estimate) or 2 * len(defined) <= len(resampled):
        return math.nan, math.nan
    there, back = _SCALES[scale]
    centre = there(np.float64(estimate))
    tail = (1 - confidence) / 2
    low, high = np.quantile(there(defined), [1 - tail, tail])
    moved = centre - spread * (np.array([low, high]) - centre)
    first, last = back(moved)
    # The bias that a pivotal interval takes away may be more than its width.
    return float(min(first, estimate)), float(max(last, estimate))


def cluster_interval(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Bootstrap interval of the mean of `values` (N,), resampling whole `groups` (N,).

    Authors are drawn with replacement, each with all of its clips, and the percentiles of the
    resampled means are returned: a mean, unlike average precision, has its centre in the right
    place. `generator` decides the draws: the same one, the same result.
    """
    numbers, owners = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if numbers.ndim != 1 or not numbers.size or owners.shape != numbers.shape:
        raise AtgnnError(
            f"expected as many groups as values and at least one, got {owners.shape} and "
            f"{numbers.shape}"
        )
    if not np.isfinite(numbers).all():
        raise AtgnnError("an interval needs finite values: leave out or fix NaN and infinity")
    check_resampling(confidence, resamples)
    owned = Owners.of(owners.astype(str))
    means = np.concatenate(
        [
            ratio(owned.unit_of, numbers, np.ones_like(numbers), weights)
            for weights in owned.draws(generator, resamples, np.float64)
        ]
    )
    tail = (1 - confidence) / 2
    mean = numbers.mean()
    low, high = mean + owned.spread * (np.quantile(means, [tail, 1 - tail]) - mean)
    return Interval(float(mean), float(low), float(high), confidence, owned.count)


def check_resampling(confidence: float, resamples: int) -> None:
    """Raises `AtgnnError` for what no interval can be made with."""
    if not 0 < confidence < 1 or resamples < 1:
        raise AtgnnError(f"confidence {confidence} must be in (0, 1), resamples {resamples} >= 1")


def ratio(
    unit_of: np.ndarray, above: np.ndarray, below: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Weighted sum of `above` over that of `below` (N,), for each column of `weights` (U, R)."""
    size = len(weights)
    sums = (np.bincount(unit_of, weights=part, minlength=size) @ weights for part in (above, below))
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: np.ndarray = np.divide(*sums)
    return quotient


def jsonable(value: Any) -> Any:
    """Plain data with None in the place of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {name: jsonable(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _people(author: Any) -> list[str]:
    parts = [part.strip() for part in str(author).split(SEPARATOR)]
    return [part for part in parts if part] or [str(author)]


def _from_angle(angle: np.ndarray) -> np.ndarray:
    square: np.ndarray = np.sin(np.clip(angle, 0, math.pi / 2)) ** 2
    return square


def _from_root(root: np.ndarray) -> np.ndarray:
    square: np.ndarray = np.clip(root, 0, None) ** 2
    return square


_Change: TypeAlias = Callable[[Any], Any]
_SCALES: dict[str, tuple[_Change, _Change]] = {
    "arcsine": (lambda x: np.arcsin(np.sqrt(np.clip(x, 0, 1))), _from_angle),
    "root": (np.sqrt, _from_root),
    "plain": (lambda x: x, lambda x: x),
}
