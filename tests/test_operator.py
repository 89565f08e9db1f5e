"""The one graph operator with every backend that runs here, four ways: against a slow loop written
from its definition, by invariances, by its gradient, by its failures."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from math import hypot
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from atgnn.errors import KernelError
from atgnn.graph import (
    NO_POSITION,
    Position,
    backend_in_use,
    extremum_over,
    knn_extremum,
    use_backend,
)
from atgnn.graph import operator as graph_operator
from atgnn.graph.kernels import cpu

WAYS = [("cosine", "max"), ("euclidean", "min")]
HALVES = (torch.bfloat16, torch.float16)
LEVELS = cpu.LEVELS[: 1 + cpu.newest_level()] if cpu.loads() else cpu.LEVELS


@pytest.fixture(scope="module")
def kernel(tmp_path_factory) -> str:
    """Why there is no compiled kernel here; empty where there is one. Where it is missing or older
    than its sources, it is built."""
    if cpu.loads():
        return ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        try:
            cpu.build()
        except KernelError as error:
            return str(error)
    return ""


@pytest.fixture(params=LEVELS)
def level(request, kernel) -> Iterator[str]:
    """Every instruction-set level that this processor runs, in use."""
    with _use(request.param, kernel):
        yield request.param


@pytest.fixture(params=("plain", *LEVELS))
def backend(request, kernel) -> Iterator[str]:
    """The same, and plain PyTorch."""
    with _use(request.param, kernel):
        yield request.param


def _use(name: str, kernel: str) -> AbstractContextManager[None]:
    if name != "plain" and kernel:
        pytest.skip(kernel)
    if name != "plain" and cpu.LEVELS.index(name) > cpu.newest_level():
        pytest.skip(f"this processor does not run {name}")
    return use_backend(name)


@pytest.mark.parametrize("name", cpu.LEVELS)
def test_every_level_is_tested(kernel, name) -> None:
    """Or says here, once, that this processor lacks it."""
    with _use(name, kernel):
        assert name in LEVELS
        assert backend_in_use() == name


class Case(NamedTuple):
    """Sizes of a graph, and what else the operator is told."""

    nodes: int
    candidates: int
    channels: int
    k: int
    dilation: int = 1
    position: str = ""  # or "table", "clips" (a table for each clip), "axes" (separable)
    columns: int | None = None
    lengths: tuple[int, ...] | None = None


CASES = [
    Case(1, 1, 1, 1),
    Case(1, 1, 1, 9, 3),
    Case(7, 5, 3, 9, 2),  # fewer candidates than neighbours
    Case(3, 2, 19, 1, 5),
    Case(25, 31, 17, 9, 2),
    Case(24, 16, 8, 3, 5),
    Case(26, 33, 19, 4, 3, "table"),
    Case(5, 64, 16, 7, 1, "clips"),
    Case(15, 6, 5, 2, 2, "axes", columns=3),
    Case(27, 24, 9, 9, 1, "axes", columns=8),
    Case(28, 45, 9, 6, 4, "axes", columns=9, lengths=(9, 4)),
    Case(10, 20, 4, 6, 3, columns=4, lengths=(1, 3)),  # fewer valid candidates than neighbours
    Case(10, 45, 4, 5, 3, "table", columns=45, lengths=(45, 14)),
    Case(4, 70, 6, 70),  # all of them
    Case(4, 100, 6, 40, 2),
    Case(4, 90, 6, 31, 5),  # the dilation gives way
    Case(1, 3072, 5, 25, 4),
    Case(1, 3072, 2, 9, 1, columns=96, lengths=(96, 31)),
]


def case_id(case: Case) -> str:
    return "-".join(str(value) for value in case if value not in ("", None)).replace(" ", "")


def values(whole: bool, *shape: int, seed: int = 0) -> Tensor:
    """Small whole numbers, whose scores are exact and often tie, or normal ones."""
    generator = torch.Generator().manual_seed(seed)
    if whole:
        return torch.randint(-3, 4, shape, generator=generator).float()
    return torch.randn(shape, generator=generator)


def sample(
    case: Case, whole: bool = False, batch: int = 2, dtypes: tuple[torch.dtype, ...] = ()
) -> tuple[Tensor, Tensor, dict]:
    """Query, candidates, and the rest of `knn_extremum`'s arguments."""
    query = values(whole, batch, case.nodes, case.channels, seed=1)
    candidates = values(whole, batch, case.candidates, case.channels, seed=2)
    if dtypes:
        query, candidates = query.to(dtypes[0]), candidates.to(dtypes[1])
    position = NO_POSITION
    if case.position == "table":
        position = Position(table=values(whole, case.nodes, case.candidates, seed=3))
    elif case.position == "clips":
        position = Position(table=values(whole, batch, case.nodes, case.candidates, seed=3))
    elif case.position == "axes":
        rows = next(rows for rows in (4, 3) if case.nodes % rows == 0)
        high = values(whole, rows, case.candidates // case.columns, seed=3)
        position = Position(high, values(whole, case.nodes // rows, case.columns, seed=4))
    lengths = None if case.lengths is None else torch.tensor(case.lengths)
    rest = {"position": position, "lengths": lengths, "columns": case.columns}
    return query, candidates, {"k": case.k, "dilation": case.dilation, **rest}


# ---------------------------------------------------------------------- by the definition


def slow_scores(query: list, candidates: list, bias: list | None, cosine: bool) -> list:
    """||y_j||^2 - 2 x_i . y_j + bias of one clip: (N, M)."""
    x, y = query, candidates
    if cosine:
        x, y = ([[v / max(hypot(*row), 1e-12) for v in row] for row in rows] for rows in (x, y))
    scores = [
        [
            sum(v * v for v in y_j) - 2 * sum(a * b for a, b in zip(x_i, y_j, strict=True))
            for y_j in y
        ]
        for x_i in x
    ]
    if bias is None:
        return scores
    return [
        [score + extra for score, extra in zip(*rows, strict=True)]
        for rows in zip(scores, bias, strict=True)
    ]


def slow_bias(position: Position, b: int) -> list | None:
    """Node (f, t) and candidate (g, s), flattened: (N, M)."""
    high, wide, table = position
    if high is not None:
        high, wide = high.tolist(), wide.tolist()
        return [
            [from_f[g] + from_t[s] for g in range(len(from_f)) for s in range(len(from_t))]
            for from_f in high
            for from_t in wide
        ]
    if table is None:
        return None
    return (table if table.ndim == 2 else table[b]).tolist()


def slow_neighbours(scores: list, k: int, dilation: int, columns: int, length: int) -> list:
    """Ranks 0, d, 2d, ... of the valid candidates by (score, index): (N, K)."""
    count = len(scores[0])
    valid = [j for j in range(count) if j % columns < length]
    step = min(dilation, max(1, len(valid) // k))
    result = []
    for row in scores:
        ranked = sorted(valid, key=lambda j, row=row: (row[j], j))
        ranks = [r * step for r in range(min(k, count))]
        result.append([ranked[rank if rank < len(valid) else 0] for rank in ranks])
    return result


def slow_extremum(candidates: list, neighbours: list, reduce: str) -> list:
    """The largest or smallest value of every channel: (N, C)."""
    best = max if reduce == "max" else min
    return [
        [best(channel) for channel in zip(*(candidates[j] for j in near), strict=True)]
        for near in neighbours
    ]


@cache  # for all backends
def by_loops(case: Case, whole: bool, distance: str, dtypes: tuple) -> list[tuple[list, list]]:
    """Scores (N, M) and neighbours (N, K) of each clip."""
    query, candidates, rest = sample(case, whole, dtypes=dtypes)
    columns, result = case.columns or case.candidates, []
    for b, (x, y) in enumerate(zip(query.tolist(), candidates.tolist(), strict=True)):
        scores = slow_scores(x, y, slow_bias(rest["position"], b), distance == "cosine")
        length = columns if case.lengths is None else case.lengths[b]
        result.append((scores, slow_neighbours(scores, case.k, case.dilation, columns, length)))
    return result


def check(case: Case, whole: bool, distance: str, reduce: str, dtypes: tuple = ()) -> None:
    """The operator against the loops: index for index where scores are exact; else, as rounding
    may turn a near tie around, by the scores of those it chose."""
    query, candidates, rest = sample(case, whole, dtypes=dtypes)
    extremum, neighbours = knn_extremum(query, candidates, **rest, distance=distance, reduce=reduce)
    assert extremum.dtype == candidates.dtype
    assert extremum.shape == query.shape
    assert neighbours.dtype == torch.int32
    assert neighbours.shape == (*query.shape[:2], min(case.k, case.candidates))
    columns = case.columns or case.candidates
    for b, (scores, wanted) in enumerate(by_loops(case, whole, distance, dtypes)):
        found = neighbours[b].tolist()
        if whole and distance == "euclidean":
            assert found == wanted
        for row, near, right in zip(scores, found, wanted, strict=True):
            assert len(set(near)) == len(set(right))
            assert case.lengths is None or all(j % columns < case.lengths[b] for j in near)
            for one, other in zip(near, right, strict=True):
                assert abs(row[one] - row[other]) <= 1e-5 * max(1, abs(row[other]))
        assert extremum[b].tolist() == slow_extremum(candidates[b].tolist(), found, reduce)


@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_by_the_definition_with_normal_values(backend, case, way) -> None:
    check(case, False, *way)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_by_the_definition_with_exact_scores(backend, case) -> None:
    """Whole numbers: every index, with the lowest first among the many ties."""
    check(case, True, "euclidean", "max")


@pytest.mark.parametrize("dilation", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("k", [1, 9, 17])
def test_ranks_that_dilation_skips(backend, k, dilation) -> None:
    check(Case(26, 67, 5, k, dilation), True, "euclidean", "min")


DTYPES = [
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.bfloat16),
]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "normal"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda both: f"{both[0]}-{both[1]}")
def test_other_dtypes(backend, dtypes, whole) -> None:
    """Scores are taken in float32 of the values given; the extremum is one of the values given."""
    for case in (CASES[6], CASES[10]):
        check(case, whole, "euclidean", "max", dtypes)
        check(case, whole, "cosine", "min", dtypes)


def test_position_in_other_dtypes(backend) -> None:
    query, candidates, rest = sample(CASES[9], whole=True)
    expected = knn_extremum(query, candidates, **rest)
    for dtype in (torch.float64, torch.bfloat16):
        tables = (table.to(dtype) for table in rest["position"][:2])
        found = knn_extremum(query, candidates, **{**rest, "position": Position(*tables)})
        assert all(map(torch.equal, expected, found))


def test_separable_position_is_the_sum_of_its_tables(backend) -> None:
    """And the candidates' columns are those of the position where they are not said."""
    query, candidates, rest = sample(CASES[9], whole=True)
    way = {"distance": "euclidean"}
    apart = knn_extremum(query, candidates, **rest, **way)
    dense = Position(table=rest["position"].dense())
    together = knn_extremum(query, candidates, **{**rest, "position": dense}, **way)
    assert all(map(torch.equal, apart, together))
    unsaid = knn_extremum(query, candidates, **{**rest, "columns": None}, **way)
    assert all(map(torch.equal, apart, unsaid))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_silence_takes_the_lowest_indices(backend, value) -> None:
    """All vectors equal, zero ones too: every score ties."""
    query, candidates = torch.full((2, 30, 7), value), torch.full((2, 200, 7), value)
    for distance, reduce in WAYS:
        extremum, near = knn_extremum(query, candidates, 9, 3, distance=distance, reduce=reduce)
        assert near.tolist() == [[[0, 3, 6, 9, 12, 15, 18, 21, 24]] * 30] * 2
        assert extremum.equal(query)


def test_equal_candidates_tie_after_normalisation(backend) -> None:
    y = values(False, 1, 20, 11).repeat_interleave(4, dim=1)
    _, near = knn_extremum(y, y, 4)
    assert near[0].tolist() == [[i // 4 * 4 + r for r in range(4)] for i in range(80)]


def test_scores_around_zero_keep_their_order(backend) -> None:
    """Of both signs, with -0.0 beside 0.0, which tie, numbers below the normal ones, and large."""
    table = torch.tensor([[0.0, -0.0, -3.0, 2.0, -1e-30, 1e30, -1e30, 1e-40, -1e-40, -0.0]])
    order = [[[6, 2, 4, 8, 0, 1, 9, 7, 3, 5]]]
    zero = torch.zeros(1, 10, 3)
    assert knn_extremum(zero[:, :1], zero, 10, position=Position(table=table))[1].tolist() == order


@pytest.mark.parametrize("lengths", [None, (7, 3)])
@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf, 3e38])
def test_what_is_not_finite_stays_inside(backend, bad, lengths) -> None:
    """No meaning is promised, but no index may point outside, and nothing may crash."""
    query, candidates, rest = sample(Case(9, 70, 5, 6, 2, columns=7, lengths=lengths))
    candidates[0, ::9, 2] = bad
    query[:, 3] = bad
    candidates[1] = bad
    for distance in ("cosine", "euclidean"):
        y = candidates.clone().requires_grad_()
        extremum, near = knn_extremum(query, y, **rest, distance=distance)
        assert near.min() >= 0
        assert near.max() < 70
        extremum.sum().backward()
        assert y.grad.sum().item() == pytest.approx(query.numel())


@pytest.mark.parametrize("lengths", [(0, -3), (99, 7)])
def test_lengths_beyond_the_grid_stay_inside(backend, lengths) -> None:
    """They are not checked, which would wait for a GPU: columns there are, at most and at least."""
    query, candidates, rest = sample(Case(9, 28, 5, 5, 6, columns=7, lengths=lengths))
    _, near = knn_extremum(query, candidates, **rest)
    assert near.min() >= 0
    assert near.max() < 28
    if min(lengths) > 0:
        assert near.equal(knn_extremum(query, candidates, **{**rest, "lengths": None})[1])


@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 3, 4)])
def test_nothing_to_connect(backend, shape) -> None:
    query, candidates = torch.zeros(shape), torch.zeros(shape[0], 5, 4, requires_grad=True)
    extremum, near = knn_extremum(query, candidates, 3)
    assert extremum.shape == shape
    assert near.shape == (*shape[:2], 3)
    extremum.sum().backward()
    assert candidates.grad.equal(torch.zeros_like(candidates))


def test_numbers_of_the_published_code(backend, fixtures) -> None:
    loaded = np.load(fixtures / "graph_ops.npz")
    z = {key: torch.from_numpy(np.asarray(value)) for key, value in loaded.items()}
    x, y = z["query"].transpose(1, 2), z["candidates"].transpose(1, 2)  # neither is contiguous
    k, dilation = int(z["k"]), int(z["dilation"])
    for table in (z["bias"][0], z["bias"].expand(2, -1, -1)):
        extremum, near = knn_extremum(x, y, k, dilation, position=Position(table=table))
        assert near.long().equal(z["neighbours"])
        m = (extremum - x).transpose(1, 2)
        torch.testing.assert_close(m, z["max_relative"], rtol=0, atol=1e-6)
    assert knn_extremum(x, x, k, dilation)[1].long().equal(z["self_neighbours"])


# ---------------------------------------------------------------------- invariances

LARGE = Case(130, 84, 37, 9, 2, "axes", columns=12, lengths=(12, 7, 3))


@pytest.fixture
def large(backend) -> tuple[Tensor, Tensor, dict]:
    """Three clips over several tiles of rows, whose scores the backend rounds always alike: the
    matrix product of plain PyTorch depends on the sizes, so whole numbers there."""
    case = LARGE._replace(nodes=132)
    return sample(case, whole=backend == "plain", batch=3)


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_clip_does_not_depend_on_its_batch(large, way, backend) -> None:
    query, candidates, rest = large
    distance, reduce = ("euclidean", way[1]) if backend == "plain" else way
    options = {"distance": distance, "reduce": reduce}
    whole = knn_extremum(query, candidates, **rest, **options)
    order = torch.tensor([2, 0, 1])
    turned = {**rest, "lengths": rest["lengths"][order]}
    for one, other in zip(
        whole, knn_extremum(query[order], candidates[order], **turned, **options), strict=True
    ):
        assert one[order].equal(other)
    for b in range(3):
        alone = {**rest, "lengths": rest["lengths"][b : b + 1]}
        found = knn_extremum(query[b : b + 1], candidates[b : b + 1], **alone, **options)
        assert found[0].equal(whole[0][b : b + 1])
        assert found[1].equal(whole[1][b : b + 1])


def test_padding_columns_are_never_chosen(large) -> None:
    """A grid with columns of anything behind those of the lengths, or without them."""
    query, candidates, rest = large
    high, wide, _ = rest["position"]
    rest["dilation"] = 3  # shrinks by the valid candidates
    for distance in ("cosine", "euclidean"):
        padded, near = knn_extremum(query, candidates, **rest, distance=distance)
        noise = torch.full_like(candidates.unflatten(1, (7, 12)), torch.nan)
        for b, length in enumerate(rest["lengths"].tolist()):
            noise[b, :, :length] = candidates[b].unflatten(0, (7, 12))[:, :length]
            cut = candidates[b : b + 1].unflatten(1, (7, 12))[:, :, :length].flatten(1, 2)
            position = Position(high, wide[:, :length].contiguous())
            short = {**rest, "lengths": None, "columns": length, "position": position}
            extremum, found = knn_extremum(query[b : b + 1], cut, **short, distance=distance)
            assert extremum[0].equal(padded[b])
            assert (found // length * 12 + found % length)[0].equal(near[b])
        unheard, same = knn_extremum(query, noise.flatten(1, 2), **rest, distance=distance)
        assert same.equal(near)
        assert unheard.equal(padded)


def test_threads_and_repetition_change_nothing(level) -> None:
    query, candidates, rest = sample(LARGE._replace(nodes=132), batch=3)
    upstream = values(False, *query.shape, seed=9)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1, 3):
            torch.set_num_threads(threads)
            y = candidates.clone().requires_grad_()
            extremum, near = knn_extremum(query, y, **rest)
            extremum.backward(upstream)
            results.append((extremum.detach(), near, y.grad))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, results[0], result))


def test_calls_from_several_threads(level) -> None:
    """As in a server: every caller gets its own result."""
    query, candidates, rest = sample(LARGE._replace(nodes=132), batch=3)
    wanted = [knn_extremum(query + i, candidates, **rest) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda i: knn_extremum(query + i, candidates, **rest), range(6)))
    for one, other in zip(wanted, found, strict=True):
        assert all(map(torch.equal, one, other))


def test_memory_layout_changes_nothing(backend) -> None:
    query, candidates, rest = sample(LARGE._replace(nodes=132), whole=True, batch=3)
    rest["position"] = Position(*(table.t().contiguous().t() for table in rest["position"][:2]))
    way = {"distance": "euclidean"}
    wanted = knn_extremum(query, candidates, **rest, **way)
    x, y = (v.transpose(1, 2).contiguous().transpose(1, 2) for v in (query, candidates))
    assert not x.is_contiguous()
    assert all(map(torch.equal, wanted, knn_extremum(x, y, **rest, **way)))
    labels = query[:1].expand(3, -1, -1)  # as the label blocks pass them
    found = knn_extremum(labels, candidates, **rest, **way)
    assert all(
        map(torch.equal, found, knn_extremum(labels.contiguous(), candidates, **rest, **way))
    )
    with torch.inference_mode():
        assert all(map(torch.equal, found, knn_extremum(labels, candidates, **rest, **way)))
    half = knn_extremum(x.bfloat16(), y.bfloat16(), **rest, **way)
    assert half[1].equal(wanted[1])


def test_default_dtype_and_device_do_not_matter(backend) -> None:
    query, candidates, rest = sample(CASES[6], whole=True)
    wanted = knn_extremum(query, candidates, **rest)
    cpu.best_level.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = knn_extremum(query, candidates, **rest)
            assert cpu.best_level() == cpu.newest_level()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, wanted, found))


# ---------------------------------------------------------------------- gradient


@pytest.mark.parametrize("name", ["auto", "plain"])
@pytest.mark.parametrize("reduce", ["max", "min"])
def test_gradient_by_differences(kernel, name, reduce) -> None:
    query, candidates, rest = sample(Case(3, 6, 2, 2, 2, columns=3, lengths=(3, 2)))
    query, candidates = query.double(), candidates.double().requires_grad_()

    def extremum(y: Tensor) -> Tensor:
        return knn_extremum(query, y, **rest, reduce=reduce)[0]

    with use_backend(name):
        assert torch.autograd.gradcheck(extremum, candidates)


def gradient(case: Case, whole: bool, given: torch.dtype, taken: torch.dtype) -> Tensor:
    """Of candidates in the dtype `taken`, where query, candidates and upstream gradient have
    passed through the dtype `given`."""
    query, candidates, rest = sample(case, whole)
    x, y, upstream = (
        v.to(given).to(taken) for v in (query, candidates, values(whole, *query.shape, seed=9))
    )
    x.requires_grad_(), y.requires_grad_()
    extremum, near = knn_extremum(x, y, **rest, distance="euclidean", reduce=WAYS[case.k % 2][1])
    assert not near.requires_grad
    extremum.backward(upstream)
    assert x.grad is None
    assert y.grad.dtype == taken
    return y.grad


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_gradient_is_that_of_the_oracle(level, case) -> None:
    """Bit for bit with whole numbers, whose ties are many and whose sums are exact."""
    kinds = [(True, torch.float32), *((False, dtype) for dtype in (torch.float32, *HALVES))]
    for whole, dtype in kinds:
        found = gradient(case, whole, dtype, dtype)
        with use_backend("plain"):
            wanted = gradient(case, whole, dtype, torch.float32)
        if whole:
            assert found.equal(wanted)
        else:  # in half precision rounded once, at the end
            torch.testing.assert_close(found, wanted.to(dtype), rtol=1e-6, atol=1e-6)


def test_the_nearest_of_equal_values_gets_the_whole_gradient(backend) -> None:
    """Also where its value is -0.0 and a farther one's 0.0."""
    candidates = torch.zeros(1, 40, 19)
    candidates[:, 5] = -0.0
    candidates.requires_grad_()
    table = torch.arange(40.0).expand(33, 40).clone()
    table[:, 5] = -1
    for reduce in ("max", "min"):
        candidates.grad = None
        extremum, near = knn_extremum(
            torch.ones(1, 33, 19), candidates, 6, 2, position=Position(table=table), reduce=reduce
        )
        assert (near[..., 0] == 5).all()
        extremum.sum().backward()
        assert (candidates.grad[0, 5] == 33).all()
        assert candidates.grad.sum() == 33 * 19


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_gradients_are_summed_in_float32(backend, dtype) -> None:
    candidates = torch.ones(1, 3, 5, dtype=dtype, requires_grad=True)
    knn_extremum(torch.ones(1, 2048, 5, dtype=dtype), candidates, 2)[0].sum().backward()
    assert candidates.grad.dtype == dtype
    assert candidates.grad[0].tolist() == [[2048] * 5, [0] * 5, [0] * 5]


def test_there_is_no_second_derivative(kernel) -> None:
    """And no silent zero in its place."""
    query, candidates, rest = sample(CASES[2])
    candidates.requires_grad_()
    total = knn_extremum(query, candidates, **rest)[0].square().sum()
    (first,) = torch.autograd.grad(total, candidates, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


def test_no_gradient_for_candidates_that_want_none(backend) -> None:
    query, candidates, rest = sample(CASES[6])
    query.requires_grad_()
    extremum, _ = knn_extremum(query, candidates, **rest)
    (extremum.sum() + query.sum()).backward()
    assert query.grad.equal(torch.ones_like(query))


# ---------------------------------------------------------------------- as PyTorch sees it

SAMPLES = [
    ("auto", CASES[10]._replace(nodes=12), torch.float32),
    ("auto", CASES[6], torch.bfloat16),
    ("auto", CASES[2], torch.float64),
    ("plain", CASES[11], torch.bfloat16),
]


@pytest.mark.parametrize(("name", "case", "dtype"), SAMPLES)
def test_the_operators_are_registered_well(kernel, name, case, dtype) -> None:
    query, candidates, rest = sample(case, whole=True)
    position, columns = rest["position"], rest["columns"] or case.candidates
    arguments = (query.to(dtype), candidates.to(dtype).requires_grad_(), *position)
    arguments = (*arguments, rest["lengths"], columns, case.k, case.dilation, True, False)
    with use_backend(name):
        torch.library.opcheck(torch.ops.atgnn.knn_extremum.default, arguments)
        extremum, near = torch.ops.atgnn.knn_extremum(*arguments)
        backward = (extremum.detach(), arguments[1].detach(), near, True)
        torch.library.opcheck(torch.ops.atgnn.knn_extremum_backward.default, backward)
        again = (arguments[1], near, True)
        torch.library.opcheck(torch.ops.atgnn.extremum_over.default, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("case", [CASES[3], CASES[10]], ids=str)
@pytest.mark.parametrize(("distance", "reduce"), WAYS)
def test_over_known_neighbours_it_is_the_same(backend, case, distance, reduce, dtype) -> None:
    query, candidates, rest = sample(case)
    query, candidates = query.to(dtype), candidates.to(dtype).requires_grad_()
    extremum, near = knn_extremum(
        query, candidates, **{**rest, "reduce": reduce, "distance": distance}
    )
    again = extremum_over(candidates, near, reduce)
    assert torch.equal(again, extremum)
    upstream = torch.randn(extremum.shape, generator=torch.manual_seed(2)).to(dtype)
    (wanted,) = torch.autograd.grad(extremum, candidates, upstream)
    (got,) = torch.autograd.grad(again, candidates, upstream)
    assert torch.equal(got, wanted)


def test_one_node_for_tracers(kernel) -> None:
    """A traced program holds the operator itself; one for exporters, traced with the plain
    backend, only PyTorch's own."""
    query, candidates, rest = sample(CASES[10], whole=True)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return knn_extremum(x, y, **rest, distance="euclidean")

    def traced() -> tuple[set[str], tuple[Tensor, Tensor]]:
        program = torch.export.export(Module(), (query, candidates), strict=False)
        calls = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
        return calls, program.module()(query, candidates)

    wanted = Module()(query, candidates)
    ours, found = traced()
    assert "atgnn.knn_extremum.default" in ours
    assert all(map(torch.equal, wanted, found))
    query, candidates, rest = sample(CASES[10])  # no ties: PyTorch's own topk leaves them open
    wanted = Module()(query, candidates)
    with use_backend("plain"):
        calls, found = traced()
    assert not [name for name in calls if name.startswith("atgnn")]
    assert all(map(torch.equal, wanted, found))


def test_compiles_without_a_graph_break(kernel) -> None:
    torch._dynamo.reset()
    query, candidates, rest = sample(CASES[10], whole=True)

    def extremum(x: Tensor, y: Tensor) -> Tensor:
        return knn_extremum(x, y, **rest)[0] - x

    y = candidates.clone().requires_grad_()
    compiled = torch.compile(extremum, backend="aot_eager", fullgraph=True)(query, y)
    assert compiled.equal(extremum(query, candidates))
    compiled.sum().backward()
    other = candidates.clone().requires_grad_()
    extremum(query, other).sum().backward()
    assert y.grad.equal(other.grad)


def test_the_first_call_takes_no_seconds() -> None:
    """Nothing of `torch.compile`, which is long to import, is needed to run the operator."""
    program = (
        "import sys, torch; from atgnn.graph import knn_extremum; x = torch.ones(1, 4, 2);"
        "knn_extremum(x, x.clone().requires_grad_(), 2)[0].sum().backward();"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_shapes_without_data() -> None:
    query, candidates, rest = sample(CASES[2])
    extremum, near = knn_extremum(query.to("meta"), candidates.to("meta"), **rest)
    assert (extremum.shape, near.shape, near.dtype) == (query.shape, (2, 7, 5), torch.int32)


# ---------------------------------------------------------------------- failures

X, Y = torch.zeros(2, 6, 4), torch.zeros(2, 12, 4)
WRONG = [
    ("expected nodes", (X[0], Y, 1), {}),
    ("agree in batch", (X[:1], Y, 1), {}),
    ("agree in batch", (X, Y[..., :3], 1), {}),
    ("at least one candidate", (X, Y[:, :0], 1), {}),
    ("k and dilation", (X, Y, 0), {}),
    ("k and dilation", (X, Y, 2, 0), {}),
    ("rows of 5", (X, Y, 1), {"columns": 5}),
    ("rows of 0", (X, Y, 1), {"columns": 0}),
    ("expected 2 lengths", (X, Y, 1), {"lengths": torch.ones(3).long()}),
    ("expected 2 lengths", (X, Y, 1), {"lengths": torch.ones(2, 1).long()}),
    ("position table", (X, Y, 1), {"position": Position(table=torch.zeros(12, 6))}),
    ("position table", (X, Y, 1), {"position": Position(table=torch.zeros(6, 1))}),
    ("position table", (X, Y, 1), {"position": Position(table=torch.zeros(1, 6, 12))}),
    ("or neither", (X, Y, 1), {"position": Position(by_time=torch.zeros(6, 12))}),
    ("do not fit", (X, Y, 1), {"position": Position(torch.zeros(2, 3), torch.zeros(2, 4))}),
    ("do not fit", (X, Y, 1), {"position": Position(torch.zeros(2, 2), torch.zeros(3, 4))}),
    (
        "do not fit",
        (X, Y, 1),
        {"position": Position(torch.zeros(2, 3), torch.zeros(3, 4)), "columns": 3},
    ),
    ("query is on cpu", (X, Y.to("meta"), 1), {}),
    ("query is on cpu", (X, Y, 1), {"lengths": torch.ones(2, device="meta")}),
]


@pytest.mark.parametrize(("message", "arguments", "options"), WRONG)
def test_wrong_shapes_are_refused(backend, message, arguments, options) -> None:
    """Before a kernel that trusts its sizes sees them."""
    with pytest.raises(ValueError, match=message):
        knn_extremum(*arguments, **options)


def test_backends_that_are_not_there(monkeypatch) -> None:
    with pytest.raises(KernelError, match="unknown backend 'sse9'"), use_backend("sse9"):
        pass
    monkeypatch.setattr(cpu, "loads", lambda: True)
    monkeypatch.setattr(cpu, "newest_level", lambda: 0)
    with (
        pytest.raises(KernelError, match="this processor does not run 'avx2'"),
        use_backend("avx2"),
    ):
        pass
    monkeypatch.setattr(cpu, "loads", lambda: False)
    with pytest.raises(KernelError, match="atgnn doctor --build"), use_backend("base"):
        pass
    monkeypatch.setattr(graph_operator, "_chosen", "avx2")  # as ATGNN_KERNEL would
    with pytest.raises(KernelError, match="atgnn doctor --build"):
        knn_extremum(X, Y, 1)
    assert backend_in_use("cpu", torch.float64) == "plain"


def test_a_level_that_errs_is_not_used(level, monkeypatch) -> None:
    right = cpu.forward

    def wrong(level, **arguments):
        extremum, near = right(level=level, **arguments)
        return extremum + (level > 0), near

    cpu.best_level.cache_clear()
    try:
        assert cpu.best_level() == cpu.newest_level()
        cpu.best_level.cache_clear()
        monkeypatch.setattr(cpu, "forward", wrong)
        assert cpu.best_level() == 0
    finally:
        cpu.best_level.cache_clear()


def test_a_level_is_checked_whatever_autocast_is_on(kernel) -> None:
    if kernel:
        pytest.skip(kernel)
    cpu.best_level.cache_clear()
    try:
        with torch.autocast("cpu", torch.float16):
            assert cpu.best_level() == cpu.newest_level()
    finally:
        cpu.best_level.cache_clear()


# ---------------------------------------------------------------------- older processors


def test_no_newer_instruction_outside_its_level(kernel) -> None:
    """What an older processor runs has none that it lacks: AVX and later begin with v."""
    if kernel or shutil.which("objdump") is None:
        pytest.skip(kernel or "needs objdump")
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn"]
    text = subprocess.run(
        [*command, str(cpu.library_path())], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, set[str]] = {level: set() for level in cpu.LEVELS}
    level = "base"
    for line in text.splitlines():
        if function := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = re.search(r"\b(avx2|avx512|avx512_bf16)::", function[1])
            level = name[1] if name else "base"
        elif instruction := re.match(r"\s*[0-9a-f]+:\s+(.*)", line):
            found[level].add(instruction[1])
    if not any("%xmm" in line for line in found["base"]):
        pytest.skip("not an x86 library")
    assert not [line for line in found["base"] if re.match(r"v|.*%[yz]mm", line)]
    assert not [
        line for line in found["avx2"] if re.search(r"%zmm|%k\d|%[xy]mm(1[6-9]|[23]\d)", line)
    ]
    assert any("%ymm" in line for line in found["avx2"])
    assert any("%zmm" in line for line in found["avx512"])
    assert not [line for line in found["avx512"] if "bf16" in line]
    assert not found["avx512_bf16"] or any("vdpbf16ps" in line for line in found["avx512_bf16"])


@pytest.fixture
def sixteen_lanes(kernel, tmp_path, monkeypatch) -> Iterator[None]:
    """The code of the avx512 level, compiled for processors with AVX2."""
    if kernel or "avx2" not in cpu.LEVELS[: 1 + cpu.newest_level()]:
        pytest.skip(kernel or "this processor does not run avx2")
    for path in cpu.SOURCES:
        text = re.sub(r'target\("avx512\w+,', 'target("avx2,', path.read_text(encoding="utf-8"))
        text = re.sub(r",avx512\w+", "", text)
        text = re.sub(r'supports\("avx512\w+"\)', 'supports("avx2")', text)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    flags = [flag.replace("-O3", "-O1") for flag in cpu.compile_flags()]
    flags.append("-DATGNN_NO_AVX512")
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "compile_flags", lambda: flags)
        patch.setattr(cpu, "SOURCES", [tmp_path / path.name for path in cpu.SOURCES])
        try:
            cpu._compile(cpu._compiler(), tmp_path / "wide.so")
        except KernelError as error:
            pytest.skip(str(error))
    monkeypatch.setattr(cpu, "_found", lambda: tmp_path / "wide.so")
    cpu._library.cache_clear()
    try:
        with use_backend("avx512"):
            yield
    finally:
        monkeypatch.undo()
        cpu._library.cache_clear()
        cpu.best_level.cache_clear()


def test_vectors_of_sixteen_without_avx512(sixteen_lanes) -> None:
    """What only newer processors run is at least right in its logic."""
    assert cpu.library_path().name == "wide.so"
    for case in CASES:
        check(case, True, "euclidean", "max")
        check(case, False, "cosine", "min")
        found = gradient(case, True, torch.bfloat16, torch.bfloat16)
        with use_backend("plain"):
            assert gradient(case, True, torch.bfloat16, torch.bfloat16).equal(found)


def test_an_outdated_library_is_not_used(kernel, tmp_path, monkeypatch) -> None:
    """A library answers with its sources' digest: after an edit, it no longer fits."""
    if kernel:
        pytest.skip(kernel)
    library = Path(cpu.library_path())
    assert cpu._fits(library)
    monkeypatch.setattr(cpu, "digest", lambda: "0123456789abcdef")
    assert not cpu._fits(library)
    assert not cpu._fits(tmp_path / "missing.so")
    (tmp_path / "damaged.so").write_bytes(b"not a library")
    assert not cpu._fits(tmp_path / "damaged.so")
