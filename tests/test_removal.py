"""Graphs without some of their nodes: the model computes as though these had never been there."""

import pytest
import torch
from test_model import FAMILY, build, sound, tiny
from torch import Tensor

from atgnn.graph import (
    NO_POSITION,
    Position,
    coarser,
    knn_extremum,
    mean_nodes,
    nearest_neighbours,
    neighbour_extremum,
    pool_nodes,
    use_backend,
)
from atgnn.model import ATGNN
from atgnn.model.inference import for_inference
from atgnn.model.layers import Patches

BACKENDS = ("auto", "plain")


def mask(shape: tuple[int, ...], share: float = 0.4, seed: int = 0) -> Tensor:
    """Nodes that stay, at random, one in every clip at least."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < share
    kept[:, 0, 0] = True
    return kept


def nodes_of(model: ATGNN, clips: int = 3) -> Patches:
    with torch.no_grad():
        return model.encoder.nodes(sound(clips, 100, model.config))


def scored(model: ATGNN, patches: Patches) -> Tensor:
    with torch.no_grad():
        return model.scored(model.encoder.through(patches))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["none", "table", "clips", "axes"])
def test_removed_candidates_are_no_neighbours(backend: str, kind: str) -> None:
    torch.manual_seed(1)
    query, candidates = torch.randn(2, 24, 6), torch.randn(2, 40, 6)
    position = {
        "none": NO_POSITION,
        "table": Position(table=torch.randn(24, 40)),
        "clips": Position(table=torch.randn(2, 24, 40)),
        "axes": Position(torch.randn(4, 5), torch.randn(6, 8)),
    }[kind]
    kept = mask((2, 5, 8))
    with use_backend(backend):
        value, near = knn_extremum(
            query, candidates, 4, 2, position=position, lengths=kept, columns=8, reduce="min"
        )
    bias = position.dense()
    expected = nearest_neighbours(
        query, candidates, 4, 2, bias=bias, candidate_mask=kept.flatten(1)
    )
    assert torch.equal(near.long(), expected)
    assert torch.equal(value, neighbour_extremum(candidates, expected, "min"))
    assert near.dtype == torch.int32


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_goes_to_kept_candidates_alone(backend: str) -> None:
    torch.manual_seed(1)
    candidates, kept = torch.randn(2, 12, 3, requires_grad=True), mask((2, 3, 4))
    with use_backend(backend):
        value, _ = knn_extremum(torch.randn(2, 5, 3), candidates, 3, lengths=kept, columns=4)
    value.sum().backward()
    assert candidates.grad is not None
    assert candidates.grad.sum() == value.numel()
    assert not candidates.grad[~kept.flatten(1)].any()


def test_a_graph_needs_a_node() -> None:
    with pytest.raises(ValueError, match="all of a clip's are removed"):
        knn_extremum(
            torch.randn(1, 2, 3), torch.randn(1, 4, 3), 1,
            lengths=torch.zeros(1, 2, 2, dtype=torch.bool), columns=2,
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"a mask \(1, 2, 2\), got \(1, 4, 1\)"):
        knn_extremum(
            torch.randn(1, 2, 3), torch.randn(1, 4, 3), 1,
            lengths=torch.ones(1, 4, 1, dtype=torch.bool), columns=2,
        )  # fmt: skip


def test_means_count_what_is_there() -> None:
    x, kept = torch.arange(12.0).view(1, 3, 4, 1), torch.zeros(1, 3, 4, dtype=torch.bool)
    kept[0, 0, 1] = kept[0, 1, 0] = kept[0, 2, 3] = True  # values 1, 4 and 11
    assert mean_nodes(x, kept).item() == pytest.approx(16 / 3)
    cells, there = pool_nodes(x, 2, kept)
    assert cells[0, :, :, 0].tolist() == [[2.5, 0], [0, 11]]
    assert there is not None
    assert there.tolist() == [[[True, False], [False, True]]]
    shorter = coarser(torch.tensor([3]), 2)
    assert shorter is not None
    assert shorter.tolist() == [2]
    assert coarser(None, 2) is None


@pytest.mark.parametrize("name", list(FAMILY))
def test_removing_none_changes_nothing(name: str) -> None:
    model = build(FAMILY[name])
    patches = nodes_of(model)
    kept = torch.ones(patches.x.shape[:3], dtype=torch.bool)
    torch.testing.assert_close(
        scored(model, patches.keeping(kept)), scored(model, patches), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["pyramid", "isotropic", "after every block"])
def test_removed_nodes_leave_no_trace(name: str) -> None:
    model = build(FAMILY[name])
    patches = nodes_of(model)
    kept = mask(tuple(patches.x.shape[:3]))
    other = patches.x.masked_fill(~kept[..., None], 1e3)
    a = scored(model, patches.keeping(kept))
    b = scored(model, patches.with_features(other).keeping(kept))
    assert torch.equal(a, b)
    assert (a - scored(model, patches)).abs().max() > 1e-3


def test_removing_the_end_is_a_shorter_clip() -> None:
    model = build(tiny())
    patches = nodes_of(model)
    kept = torch.ones(patches.x.shape[:3], dtype=torch.bool)
    kept[:, :, 16:] = False
    shorter = Patches(patches.x[:, :, :16].contiguous(), None)
    torch.testing.assert_close(
        scored(model, patches.keeping(kept)), scored(model, shorter), rtol=1e-4, atol=1e-4
    )


def test_padding_and_removal_go_together() -> None:
    model = build(tiny())
    whole = nodes_of(model)
    lengths = torch.tensor([25, 18, 9])
    patches = whole._replace(lengths=lengths)
    kept = mask(tuple(whole.x.shape[:3]), 0.6)
    together = scored(model, patches.keeping(kept))
    for row, length in enumerate(lengths.tolist()):
        alone = Patches(whole.x[row : row + 1, :, :length].contiguous(), None)
        alone = alone.keeping(kept[row : row + 1, :, :length])
        torch.testing.assert_close(together[row], scored(model, alone)[0], rtol=1e-4, atol=1e-4)


def test_nodes_are_removed_from_a_folded_model_alike() -> None:
    model = build(tiny())
    folded = for_inference(model).folded
    patches = nodes_of(model)
    patches = patches.keeping(mask(tuple(patches.x.shape[:3])))
    torch.testing.assert_close(
        scored(folded, patches), scored(model, patches), rtol=1e-3, atol=1e-3
    )


def test_nodes_removed_twice_are_removed_both_times() -> None:
    patches = Patches(torch.randn(1, 2, 2, 3), None)
    first, second = torch.tensor([[[1, 1], [0, 1]]]) > 0, torch.tensor([[[1, 0], [1, 1]]]) > 0
    both = patches.keeping(first).keeping(second)
    assert both.mask is not None
    assert both.mask.tolist() == [[[True, False], [False, True]]]
    assert both.valid is both.mask or torch.equal(both.valid, both.mask)
