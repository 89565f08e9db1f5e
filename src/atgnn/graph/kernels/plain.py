"""The graph operator in plain PyTorch: the oracle, the fallback, and what is exported.

B batch, N query nodes, M candidates, K neighbours, C channels.
"""

import torch
from torch import Tensor

from atgnn.graph.extremum import neighbour_extremum
from atgnn.graph.neighbours import nearest_neighbours
from atgnn.graph.pooling import node_mask
from atgnn.graph.position import Position

__all__ = ["backward", "extremum", "forward"]


def forward(
    query: Tensor,
    candidates: Tensor,
    by_frequency: Tensor | None,
    by_time: Tensor | None,
    table: Tensor | None,
    lengths: Tensor | None,
    columns: int,
    k: int,
    dilation: int,
    largest: bool,
    cosine: bool,
) -> tuple[Tensor, Tensor]:
    """See `atgnn.graph.operator.knn_extremum`; differentiable by itself."""
    mask = None
    if lengths is not None:
        mask = node_mask(lengths, candidates.shape[1] // columns, columns).flatten(1)
    neighbours = nearest_neighbours(
        query,
        candidates,
        k,
        dilation,
        bias=Position(by_frequency, by_time, table).dense(),
        candidate_mask=mask,
        distance="cosine" if cosine else "euclidean",
    )
    extremum = neighbour_extremum(candidates, neighbours, "max" if largest else "min")
    return extremum, neighbours.int()


def extremum(candidates: Tensor, neighbours: Tensor, largest: bool) -> Tensor:
    """Over neighbours ``(B, N, K)``, one after the other: nothing of size N x K x C is made."""
    further = torch.maximum if largest else torch.minimum
    first, *others = neighbours.long().unbind(2)  # (B, N) each
    clip = torch.arange(len(candidates), device=candidates.device)[:, None]
    out = candidates[clip, first]
    for near in others:
        out = further(out, candidates[clip, near])
    return out


def backward(grad: Tensor, candidates: Tensor, neighbours: Tensor, largest: bool) -> Tensor:
    """Gradient of the candidates: each channel's goes to the nearest neighbour that won."""
    with torch.enable_grad():
        y = candidates.detach().requires_grad_()
        extremum = neighbour_extremum(y, neighbours.long(), "max" if largest else "min")
        (out,) = torch.autograd.grad(extremum, y, grad)
    return out
