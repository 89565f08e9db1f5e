"""Sets of labels drawn after a matrix have the co-occurrence that it says."""

import re

import numpy as np
import pytest

from atgnn.data.cooccurrence import CoOccurrence, Sampler
from atgnn.errors import ClipsError, LabelError

NAMES = tuple("ABCDEFGH")


def random_matrix(spread: float = 0.7, labels=NAMES) -> CoOccurrence:
    values = np.exp(np.random.default_rng(0).normal(0, spread, (len(labels), len(labels))))
    return CoOccurrence.of(labels, values + values.T)


def drawn_pairs(matrix: CoOccurrence, events: tuple[int, int], count: int = 40_000) -> np.ndarray:
    """Shares of all pairs, counted one set after another."""
    sampler = Sampler(matrix, events, np.random.default_rng(1))
    generator = np.random.default_rng(2)
    sizes = sampler.sizes(count, generator)
    sets = sampler.draw(sizes, generator)
    np.testing.assert_array_equal(sets.sum(1), sizes)
    counts = np.zeros((len(matrix.labels),) * 2)
    for members in sets:
        own = np.flatnonzero(members)
        for i in own:
            counts[i, own[own != i]] += 1
    return counts / counts.sum() * 2


@pytest.mark.parametrize("events", [(2, 2), (1, 3), (2, 4)])
def test_what_is_drawn_has_the_shares_of_the_matrix(events):
    matrix = random_matrix()
    found = drawn_pairs(matrix, events)
    np.testing.assert_allclose(found, matrix.pairs, atol=0.006)
    assert np.abs(found - matrix.pairs).sum() / 4 < 0.03
    even = CoOccurrence.independent(NAMES).pairs
    assert np.abs(even - matrix.pairs).sum() / 4 > 0.15, "the matrix is far from even"


def test_every_size_comes_equally_often_and_frequencies_follow_rows():
    matrix = random_matrix()
    generator = np.random.default_rng(0)
    sampler = Sampler(matrix, (1, 3), generator)
    sizes = sampler.sizes(30_000, generator)
    np.testing.assert_allclose(np.bincount(sizes)[1:] / 30_000, 1 / 3, atol=0.01)
    alone = sampler.draw(np.ones(30_000, int), generator).mean(0)
    np.testing.assert_allclose(alone, matrix.frequencies, atol=0.01)


def test_labels_that_are_never_together_are_not_drawn_together():
    values = np.ones((6, 6))
    values[0, 1] = values[1, 0] = values[4, 5] = values[5, 4] = 0
    matrix = CoOccurrence.of(NAMES[:6], values)
    found = drawn_pairs(matrix, (1, 3))
    assert found[0, 1] == found[4, 5] == 0
    np.testing.assert_allclose(found, matrix.pairs, atol=0.01)


def test_the_same_generator_draws_the_same_sets():
    def once() -> np.ndarray:
        generator = np.random.default_rng(5)
        sampler = Sampler(random_matrix(), (1, 4), generator)
        return sampler.draw(sampler.sizes(200, generator), generator)

    np.testing.assert_array_equal(once(), once())


# ---------------------------------------------------------------------- matrices


def test_independent_labels_keep_their_frequencies():
    wanted = np.array([4, 1, 1, 2, 1, 1, 3, 1]) / 14
    matrix = CoOccurrence.independent(NAMES, wanted * 50)
    np.testing.assert_allclose(matrix.frequencies, wanted, atol=1e-6)
    np.testing.assert_allclose(matrix.lift, 1, atol=1e-6)
    found = drawn_pairs(matrix, (2, 3))
    np.testing.assert_allclose(found.sum(0) / found.sum(), wanted, atol=0.01)


def test_reversed_turns_lifts_round_and_keeps_frequencies():
    matrix = random_matrix(0.5)
    other = matrix.reversed()
    upper = np.triu_indices(len(NAMES), 1)
    np.testing.assert_allclose(other.frequencies, matrix.frequencies, atol=1e-6)
    ours, theirs = np.log(matrix.lift[upper]), np.log(other.lift[upper])
    assert np.corrcoef(ours, theirs)[0, 1] < -0.95
    np.testing.assert_allclose(other.reversed().pairs, matrix.pairs, atol=1e-3)


def test_counted_pairs_of_a_table():
    sets = [("A", "B"), ("A", "B", "x"), ("B", "C"), ("C",), ("A", "B", "C")]
    plain = CoOccurrence.counted("ABC", sets, smoothing=0)
    np.testing.assert_allclose(plain.pairs * 6, [[0, 3, 1], [3, 0, 2], [1, 2, 0]])
    smooth = CoOccurrence.counted(NAMES[:4], [*sets, ("D",)], smoothing=0.1)
    assert smooth.pairs[3, 0] > 0, "never counted, and so rare"
    assert smooth.pairs[3].sum() < smooth.pairs[0].sum() / 3


def test_tables_come_back(tmp_path):
    matrix = CoOccurrence.of(["Dog", 'Rain, "heavy"', "Car"], np.arange(9).reshape(3, 3) % 4 + 1
                             + (np.arange(9).reshape(3, 3) % 4 + 1).T)  # fmt: skip
    path = tmp_path / "pairs.csv"
    path.write_text(matrix.to_csv(), encoding="utf-8")
    again = CoOccurrence.read(path)
    assert again.labels == matrix.labels
    np.testing.assert_allclose(again.pairs, matrix.pairs, rtol=1e-6)
    some = again.of_labels(["Car", "Dog"])
    assert some.pairs.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(LabelError, match="did you mean 'Dog'"):
        again.of_labels(["Car", "Dgo"])
    path.write_text("label,A,B\nA,,1\nB,1,\n")  # the diagonal says nothing
    assert CoOccurrence.read(path).pairs.tolist() == [[0, 1], [1, 0]]


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\), expected \(3, 3\)"),
        ([[0, 1, 1], [1, 0, -1], [1, -1, 0]], "B and C is -1: expected 0 or more"),
        ([[0, 1, np.nan], [1, 0, 1], [1, 1, 0]], "A and C is nan"),
        ([[0, 1, 2], [1, 0, 1], [1, 1, 0]], "not symmetric: A with C is 2, C with A is 1"),
        ([[5, 1, 0], [1, 5, 0], [0, 0, 5]], "never with another one, the first is C"),
        (np.zeros((3, 3)), "3 labels of the co-occurrence never with another"),
    ],
)
def test_malformed_matrices_are_one_line(values, message):
    with pytest.raises(ClipsError, match=message) as error:
        CoOccurrence.of("ABC", np.array(values))
    assert "\n" not in str(error.value)


def test_impossible_matrices_are_one_line():
    pairs = np.kron(np.eye(3), np.ones((2, 2)))  # A with B, C with D, E with F
    matrix = CoOccurrence.of(NAMES[:6], pairs)
    assert drawn_pairs(matrix, (1, 2), 2000)[0, 1] > 0.3
    with pytest.raises(ClipsError, match="no 3 labels of the co-occurrence may all be together"):
        Sampler(matrix, (1, 3), np.random.default_rng(0))
    strong = random_matrix(1.5, NAMES[:6])  # five of six labels are nearly all of them
    with pytest.raises(ClipsError, match=r"no scenes of 5 to 5 events .* is the nearest found"):
        Sampler(strong, (5, 5), np.random.default_rng(0))
    with pytest.raises(ClipsError, match="9 events of different labels"):
        Sampler(random_matrix(), (1, 9), np.random.default_rng(0))
    with pytest.raises(ClipsError, match="A is 80% of all labels"):
        CoOccurrence.independent("ABC", np.array([8.0, 1, 1]))
    with pytest.raises(ClipsError, match="none of 2 clips is marked with two"):
        CoOccurrence.counted("AB", [("A",), ("B", "x")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable co-occurrence table"),
        ("label,A,B\nA,0,1\nC,1,0\n", "must name the same labels, once each; they differ in B, C"),
        ("label,A,B\nA,0,x\nB,1,0\n", "a cell is not a number"),
        ("label,A,B\nA,0,1\nB,2,0\n", "not symmetric"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, text, message):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(ClipsError, match=message) as error:
        CoOccurrence.read(path)
    assert re.match(r".*pairs\.csv", str(error.value))
    with pytest.raises(ClipsError, match=r"none\.csv"):
        CoOccurrence.read(tmp_path / "none.csv")
