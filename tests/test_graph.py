"""Graph operators: against slow loops, by invariance, by gradient, by their failures."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from atgnn.graph import (
    ceil_div,
    grid_position,
    legacy_table,
    mean_nodes,
    nearest_neighbours,
    neighbour_extremum,
    node_mask,
    pool_nodes,
    resize_table,
    shrink,
    sine_cosine,
)
from atgnn.model.config import PRESETS
from atgnn.model.layers import Relation

CPU = torch.device("cpu")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=dtype)


# ---------------------------------------------------------------------------- slow references


def slow_neighbours(
    query: Tensor,
    candidates: Tensor,
    k: int,
    dilation: int,
    bias: Tensor | None = None,
    cosine: bool = True,
) -> list[list[int]]:
    """Neighbours of one clip, (N, C) and (M, C), by sorting all distances; ties by index."""
    x, y = query.tolist(), candidates.tolist()
    if cosine:
        x, y = ([[v / math.hypot(*row) for v in row] for row in rows] for rows in (x, y))
    dilation = min(dilation, max(1, len(y) // k))
    k = min(k, len(y))
    result = []
    for i, row in enumerate(x):
        ranked = sorted(
            (sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) + extra, j)
            for j, other in enumerate(y)
            for extra in [0.0 if bias is None else float(bias[i, j])]
        )
        result.append([j for _, j in ranked][: k * dilation : dilation])
    return result


def slow_max_relative(x: Tensor, y: Tensor, neighbours: Tensor, sign: int) -> Tensor:
    """max over j of sign * (y_j - x_i), one number at a time, for one clip."""
    out = torch.empty_like(x)
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            out[i, c] = max(float(sign * (y[j, c] - x[i, c])) for j in neighbours[i].tolist())
    return out


def slow_pool(x: Tensor, ratio: int, length: int) -> Tensor:
    """Means of one clip, (F, T, C), cut to its length first."""
    x = x[:, :length]
    rows, columns = (math.ceil(size / ratio) for size in x.shape[:2])
    cells = [
        [
            x[f * ratio : (f + 1) * ratio, t * ratio : (t + 1) * ratio].flatten(0, 1).mean(0)
            for t in range(columns)
        ]
        for f in range(rows)
    ]
    return torch.stack([torch.stack(row) for row in cells])


# ---------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("nodes", "candidates", "k", "dilation"),
    [(11, 30, 5, 3), (9, 30, 1, 1), (7, 10, 9, 5), (7, 4, 9, 2), (5, 1, 3, 2), (4, 12, 4, 3)],
)
def test_neighbours_against_a_slow_loop(
    generator: torch.Generator,
    nodes: int,
    candidates: int,
    k: int,
    dilation: int,
    dtype: torch.dtype,
) -> None:
    x = normal(generator, 2, nodes, 6, dtype=dtype)
    y = normal(generator, 2, candidates, 6, dtype=dtype)
    bias = normal(generator, nodes, candidates, dtype=dtype)
    for distance in ("cosine", "euclidean"):
        for extra in (None, bias):
            found = nearest_neighbours(x, y, k, dilation, bias=extra, distance=distance)
            for b in range(2):
                wanted = slow_neighbours(x[b], y[b], k, dilation, extra, distance == "cosine")
                assert found[b].tolist() == wanted


def test_parity_fixture(fixtures: Path) -> None:
    z = {
        key: torch.from_numpy(np.asarray(v))
        for key, v in np.load(fixtures / "graph_ops.npz").items()
    }
    x, y = z["query"].transpose(1, 2), z["candidates"].transpose(1, 2)
    k, dilation = int(z["k"]), int(z["dilation"])
    found = nearest_neighbours(x, y, k, dilation, bias=z["bias"][0])
    assert found.equal(z["neighbours"])
    assert nearest_neighbours(x, y, k, dilation, bias=z["bias"].expand(2, -1, -1)).equal(found)
    m = max_relative(x, y, found).transpose(1, 2)
    torch.testing.assert_close(m, z["max_relative"], rtol=0, atol=1e-6)
    assert nearest_neighbours(x, x, k, dilation).equal(z["self_neighbours"])


@pytest.mark.parametrize("dilation", [1, 2])
def test_lowest_index_wins_ties(generator: torch.Generator, dilation: int) -> None:
    """Small whole numbers: distances are exact, and most of them tie."""
    x = torch.randint(-1, 2, (3, 20, 3), generator=generator).float()
    y = torch.randint(-1, 2, (3, 40, 3), generator=generator).float()
    found = nearest_neighbours(x, y, 7, dilation, distance="euclidean")
    masked = nearest_neighbours(
        x, y, 7, dilation, distance="euclidean", candidate_mask=torch.ones(3, 40).bool()
    )
    for b in range(3):
        assert found[b].tolist() == slow_neighbours(x[b], y[b], 7, dilation, cosine=False)
    assert masked.equal(found)
    same = torch.ones(1, 5, 4)
    assert nearest_neighbours(same, same, 3)[0].tolist() == [[0, 1, 2]] * 5


def test_negative_and_zero_scores_keep_their_order() -> None:
    """Scores on both sides of zero, and -0.0 beside 0.0, which tie."""
    bias = torch.tensor([[0.0, -0.0, -3.0, 2.0, -1e-30, 1e30, -1e30, 1e-40]])
    zeros = torch.zeros(1, 1, 2), torch.zeros(1, 8, 2)
    found = nearest_neighbours(*zeros, 8, bias=bias, distance="euclidean")
    assert found[0, 0].tolist() == [6, 2, 4, 0, 1, 7, 3, 5]


def test_permuting_candidates_and_nodes(generator: torch.Generator) -> None:
    x, y = normal(generator, 2, 12, 5), normal(generator, 2, 25, 5)
    bias = normal(generator, 12, 25)
    found = nearest_neighbours(x, y, 4, 3, bias=bias)
    order = torch.randperm(25, generator=generator)
    shuffled = nearest_neighbours(x, y[:, order], 4, 3, bias=bias[:, order])
    assert order[shuffled].equal(found)
    order = torch.randperm(12, generator=generator)
    assert nearest_neighbours(x[:, order], y, 4, 3, bias=bias[order]).equal(found[:, order])


@pytest.mark.parametrize(("k", "dilation"), [(3, 1), (4, 3), (9, 2)])
def test_padding_is_never_a_neighbour(generator: torch.Generator, k: int, dilation: int) -> None:
    """A clip's neighbours in a padded batch are its own, whatever the padding holds."""
    valid = torch.tensor([20, 1, 7, 13])
    mask = torch.arange(20) < valid[:, None]
    x, y = normal(generator, 4, 10, 5), normal(generator, 4, 20, 5)
    bias = normal(generator, 4, 10, 20)
    y[2, 7:], y[3, 13:] = torch.nan, 1e9
    y[1, 1:] = x[1, :1]  # the best match of all, but it is padding
    found = nearest_neighbours(x, y, k, dilation, bias=bias, candidate_mask=mask)
    assert (found < valid[:, None, None]).all()
    m = max_relative(x, y, found)
    for b, count in enumerate(valid.tolist()):
        own = nearest_neighbours(
            x[b : b + 1], y[b : b + 1, :count], k, dilation, bias=bias[b, :, :count]
        )
        assert found[b, :, : own.shape[2]].equal(own[0])
        assert (found[b, :, own.shape[2] :] == own[0, :, :1]).all()  # the nearest, repeated
        assert m[b].equal(max_relative(x[b : b + 1], y[b : b + 1], own)[0])


def test_scattered_mask(generator: torch.Generator) -> None:
    """The mask of a grid is not a prefix: every row has its own padding."""
    mask = node_mask(torch.tensor([3, 5]), 4, 5).flatten(1)
    x = normal(generator, 2, 20, 6)
    found = nearest_neighbours(x, x, 6, candidate_mask=mask)
    kept = torch.arange(20)[mask[0]]
    own = nearest_neighbours(x[:1], x[:1, kept], 6)
    assert kept[own].equal(found[:1])


@pytest.mark.parametrize(
    ("k", "dilation", "candidates", "wanted"),
    [
        (9, 3, 512, (9, 3)),
        (9, 3, 26, (9, 2)),
        (9, 5, 9, (9, 1)),
        (9, 5, 4, (4, 1)),
        (1, 2, 1, (1, 1)),
    ],
)
def test_small_graphs_shrink(
    k: int, dilation: int, candidates: int, wanted: tuple[int, int]
) -> None:
    assert shrink(k, dilation, candidates) == wanted


def test_half_precision_ranks_as_float32(generator: torch.Generator) -> None:
    x = normal(generator, 2, 50, 16, dtype=torch.float32).bfloat16()
    wanted = nearest_neighbours(x.float(), x.float(), 9, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nearest_neighbours(x, x, 9, 2).equal(wanted)
        assert nearest_neighbours(x.float(), x.float(), 9, 2).equal(wanted)


def test_cosine_ignores_loudness(generator: torch.Generator) -> None:
    x, y = normal(generator, 1, 8, 5), normal(generator, 1, 20, 5)
    found = nearest_neighbours(x, y, 4)
    louder = torch.linspace(1, 9, 20, dtype=y.dtype)[:, None]
    assert nearest_neighbours(x * 3, y * louder, 4).equal(found)
    assert not nearest_neighbours(x, y * louder, 4, distance="euclidean").equal(found)


def test_zero_vectors_are_defined() -> None:
    found = nearest_neighbours(torch.zeros(1, 3, 4), torch.zeros(1, 5, 4), 2)
    assert found.tolist() == [[[0, 1]] * 3]


@pytest.mark.parametrize(
    ("query", "candidates"),
    [((2, 3, 4), (1, 3, 4)), ((1, 3, 4), (1, 3, 5)), ((1, 3, 4), (1, 0, 4))],
)
def test_neighbours_refuse(query: tuple[int, ...], candidates: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must agree|at least one candidate"):
        nearest_neighbours(torch.zeros(query), torch.zeros(candidates), 2)


# ---------------------------------------------------------------------------- aggregation


def max_relative(x: Tensor, y: Tensor, neighbours: Tensor) -> Tensor:
    """``max_j (y_j - x_i)``, as patch blocks take it."""
    return Relation(1)(x, neighbour_extremum(y, neighbours, "max"))


def min_relative(x: Tensor, y: Tensor, neighbours: Tensor) -> Tensor:
    """``max_j (x_i - y_j)``, as label blocks take it."""
    return Relation(-1)(x, neighbour_extremum(y, neighbours, "min"))


def test_relative_against_a_slow_loop(generator: torch.Generator) -> None:
    x, y = normal(generator, 2, 9, 5), normal(generator, 2, 14, 5)
    neighbours = torch.randint(0, 14, (2, 9, 4), generator=generator)
    for b in range(2):
        wanted = slow_max_relative(x[b], y[b], neighbours[b], 1)
        assert max_relative(x, y, neighbours)[b].equal(wanted)
        wanted = slow_max_relative(x[b], y[b], neighbours[b], -1)
        assert min_relative(x, y, neighbours)[b].equal(wanted)


def test_signs_of_equations_2_and_4() -> None:
    """Patches take ``y_j - x_i``, labels ``l_i - x_j``."""
    x, y = torch.tensor([[[10.0]]]), torch.tensor([[[1.0], [4.0]]])
    both = torch.tensor([[[0, 1]]])
    assert max_relative(x, y, both).item() == 4 - 10
    assert min_relative(x, y, both).item() == 10 - 1


@pytest.mark.parametrize("operator", [max_relative, min_relative])
def test_relative_gradient_by_finite_differences(generator: torch.Generator, operator) -> None:
    x, y = normal(generator, 2, 5, 3).requires_grad_(), normal(generator, 2, 7, 3).requires_grad_()
    neighbours = nearest_neighbours(x, y, 3, 2)
    assert torch.autograd.gradcheck(lambda a, b: operator(a, b, neighbours), (x, y))
    assert torch.autograd.gradcheck(lambda a: operator(a, y, neighbours), (x,))


def test_gradient_when_nodes_are_their_own_candidates(generator: torch.Generator) -> None:
    x = normal(generator, 1, 8, 3).requires_grad_()
    neighbours = nearest_neighbours(x, x, 3)
    assert (neighbours[0, :, 0] == torch.arange(8)).all()  # self comes first
    assert torch.autograd.gradcheck(lambda a: max_relative(a, a, neighbours), (x,))


def test_gradient_of_ties_goes_to_the_nearest() -> None:
    y = torch.zeros(1, 4, 2, requires_grad=True)
    max_relative(torch.zeros(1, 1, 2), y, torch.tensor([[[2, 0, 3]]])).sum().backward()
    assert y.grad is not None
    assert y.grad[0, :, 0].tolist() == [0, 0, 1, 0]


def test_winner_collects_from_all_who_chose_it() -> None:
    y = torch.tensor([[[1.0], [5.0]]], requires_grad=True)
    neighbours = torch.tensor([[[0, 1], [1, 0], [0, 0]]])
    max_relative(torch.zeros(1, 3, 1), y, neighbours).sum().backward()
    assert y.grad is not None
    assert y.grad.flatten().tolist() == [1, 2]


def test_relative_refuses_other_batch() -> None:
    with pytest.raises(ValueError, match="1 graphs for 2 clips"):
        max_relative(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), torch.zeros(1, 3, 2).long())


# ---------------------------------------------------------------------------- pooling


@pytest.mark.parametrize("ratio", [1, 2, 3, 4])
@pytest.mark.parametrize(("rows", "columns"), [(8, 12), (7, 9), (1, 1), (5, 2)])
def test_pool_against_a_slow_loop(
    generator: torch.Generator, ratio: int, rows: int, columns: int
) -> None:
    x = normal(generator, 3, rows, columns, 2)
    lengths = torch.tensor([columns, 1, max(1, columns - 2)])
    whole, none = pool_nodes(x, ratio)
    assert none is None
    cells, shorter = pool_nodes(x, ratio, lengths)
    assert shorter is not None
    assert shorter.tolist() == [ceil_div(n, ratio) for n in lengths.tolist()]
    for b, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(whole[b], slow_pool(x[b], ratio, columns))
        wanted = slow_pool(x[b], ratio, length)
        torch.testing.assert_close(cells[b, :, : wanted.shape[1]], wanted)


def test_pool_and_mean_gradient(generator: torch.Generator) -> None:
    x, lengths = normal(generator, 2, 3, 5, 2).requires_grad_(), torch.tensor([5, 3])
    assert torch.autograd.gradcheck(lambda a: pool_nodes(a, 2, lengths)[0], (x,))
    assert torch.autograd.gradcheck(lambda a: mean_nodes(a, lengths), (x,))
    mean_nodes(x, lengths).sum().backward()
    assert x.grad is not None
    assert not x.grad[1, :, 3:].any()


def test_mean_of_valid_nodes(generator: torch.Generator) -> None:
    x, lengths = normal(generator, 2, 3, 5, 2), torch.tensor([5, 2])
    x[1, :, 2:] = torch.nan
    means = mean_nodes(x, lengths)
    torch.testing.assert_close(means[0], x[0].flatten(0, 1).mean(0))
    torch.testing.assert_close(means[1], x[1, :, :2].flatten(0, 1).mean(0))
    torch.testing.assert_close(mean_nodes(x[:1]), means[:1])


def test_node_mask_and_ceil() -> None:
    assert node_mask(torch.tensor([2, 0]), 2, 3).tolist() == [
        [[True, True, False]] * 2,
        [[False] * 3] * 2,
    ]
    assert [ceil_div(a, 4) for a in (0, 1, 4, 5)] == [0, 1, 1, 2]


# ---------------------------------------------------------------------------- position


def own_cells(rows: int, columns: int, ratio: int) -> Tensor:
    """Index of the pooled cell that each node lies in."""
    by_row, by_column = torch.arange(rows) // ratio, torch.arange(columns) // ratio
    return (by_row[:, None] * ceil_div(columns, ratio) + by_column).flatten()


def rank_of_own_cell(bias: Tensor, own: Tensor) -> Tensor:
    return (bias < bias.gather(1, own[:, None])).sum(1)


def test_sine_cosine_by_formula() -> None:
    table = sine_cosine(torch.tensor([0.0, 1.5, 40.0]), 12)
    for p, position in enumerate((0.0, 1.5, 40.0)):
        for q in range(6):
            angle = position * 10000 ** (-q / 6)
            assert table[p, q].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[p, 6 + q].item() == pytest.approx(math.cos(angle), abs=1e-12)


@pytest.mark.parametrize(("rows", "columns", "ratio"), [(4, 6, 2), (5, 7, 4), (3, 3, 1)])
def test_grid_equals_direct_formula(rows: int, columns: int, ratio: int) -> None:
    """The separable tables are -2 e_i.e_j / C with e of node and of cell centre, both axes."""
    channels = 24
    bias = grid_position(rows, columns, ratio, channels).dense()

    def embed(f: float, t: float) -> Tensor:
        return torch.cat([sine_cosine(torch.tensor([v]), channels // 2)[0] for v in (f, t)])

    middle = (ratio - 1) / 2
    cells = [
        embed(f * ratio + middle, t * ratio + middle)
        for f in range(ceil_div(rows, ratio))
        for t in range(ceil_div(columns, ratio))
    ]
    nodes = [embed(f, t) for f in range(rows) for t in range(columns)]
    wanted = -2 / channels * torch.stack(nodes) @ torch.stack(cells).T
    torch.testing.assert_close(bias, wanted.float())
    assert bias.abs().max() <= 1 + 1e-6
    if ratio == 1:
        torch.testing.assert_close(bias.diagonal(), -torch.ones(rows * columns))


@pytest.mark.parametrize(
    ("rows", "columns", "ratio"), [(32, 256, 4), (33, 257, 4), (31, 75, 4), (7, 9, 2), (1, 50, 4)]
)
def test_grid_puts_own_cell_nearest(rows: int, columns: int, ratio: int) -> None:
    bias = grid_position(rows, columns, ratio, 80).dense()
    assert not rank_of_own_cell(bias, own_cells(rows, columns, ratio)).any()


@pytest.mark.parametrize("name", [n for n, c in PRESETS.items() if c.position == "grid"])
def test_grid_puts_own_cell_nearest_in_every_preset(name: str) -> None:
    """A table of few channels aliases over large cells: no preset may come near that."""
    config = PRESETS[name]
    for stage, (channels, ratio) in enumerate(zip(config.channels, config.reductions, strict=True)):
        rows, columns = config.grid(300, stage)
        bias = grid_position(rows, columns, ratio, channels).dense()
        assert not rank_of_own_cell(bias, own_cells(rows, columns, ratio)).any()


@pytest.mark.parametrize(
    ("rows", "columns", "share", "median"), [(32, 256, 0.016, 62), (56, 56, 0.152, 10)]
)
def test_legacy_geometry_is_as_wrong_as_published(
    rows: int, columns: int, share: float, median: int
) -> None:
    table = legacy_table(rows * columns, 4, 80)
    ranks = rank_of_own_cell(table, own_cells(rows, columns, 4))
    assert (ranks == 0).float().mean().item() == pytest.approx(share, abs=5e-4)
    assert ranks.median().item() == median


@pytest.mark.parametrize("name", ["pyramid_tiny.pth.tar", "atgnn_tiny.ckpt"])
def test_legacy_tables_are_the_published_ones(fixtures: Path, name: str) -> None:
    content = torch.load(fixtures / name, weights_only=True)
    state = {k.removeprefix("net."): v for k, v in content.get("state_dict", content).items()}
    for slot, ratio, channels in ((0, 4, 16), (3, 2, 24), (6, 1, 32), (13, 1, 48)):
        published = state[f"backbone.{slot}.0.relative_pos"][0]
        ours = legacy_table(published.shape[0], ratio, channels)
        torch.testing.assert_close(ours, published, rtol=0, atol=1e-6)


def test_resize_table(generator: torch.Generator) -> None:
    table = normal(generator, 12, 6, dtype=torch.float32)
    assert resize_table(table, 12, 6) is table
    assert resize_table(table, 30, 7).shape == (30, 7)
    flat = torch.full((12, 6), 0.25)
    torch.testing.assert_close(resize_table(flat, 5, 20), torch.full((5, 20), 0.25))
    assert resize_table(table.half(), 5, 5).dtype == torch.float16
