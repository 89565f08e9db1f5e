"""The k nearest neighbours of every node, with dilation.

B batch, N query nodes, M candidate nodes, K neighbours, C channels.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.graph.precision import at_least_float32, clips_at_once, exporting, without_autocast

__all__ = ["Distance", "check_nodes", "nearest_neighbours", "shrink"]

Distance = Literal["cosine", "euclidean"]


def shrink(k: int, dilation: int, candidates: int) -> tuple[int, int]:
    """Fit neighbour count and dilation to a graph with few candidates.

    The dilation gives way first, then the number of neighbours:
    ``d = min(d, max(1, M // k))``, ``k = min(k, M)``.
    """
    dilation = min(dilation, max(1, candidates // k))
    return min(k, candidates), dilation


@torch.no_grad()
def nearest_neighbours(
    query: Tensor,
    candidates: Tensor,
    k: int,
    dilation: int = 1,
    *,
    bias: Tensor | None = None,
    candidate_mask: Tensor | None = None,
    distance: Distance = "cosine",
) -> Tensor:
    """For each query node, every `dilation`-th of its k x dilation nearest candidates.

    Args:
        query: ``(B, N, C)``.
        candidates: ``(B, M, C)``.
        k: neighbours per node; `k` and `dilation` shrink on small graphs (see `shrink`),
            each clip by its own number of valid candidates.
        dilation: take ranks 0, d, 2d, ...
        bias: ``(N, M)`` or ``(B, N, M)``, added to the squared distance (position).
        candidate_mask: ``(B, M)``, False where a candidate is padding.
        distance: "cosine" is the squared Euclidean distance of L2-normalised vectors, as in
            Vision GNN; "euclidean" the squared distance of the vectors themselves.

    Returns:
        ``(B, N, K)`` candidate indices, nearest first; the lowest index wins ties. Where a clip
        has fewer than K valid candidates its nearest one is repeated, which leaves every
        maximum over neighbours as it is.

    Gradient does not flow through the choice of neighbours.
    """
    check_nodes(query, candidates)
    scores = _scores(query, candidates, bias, distance)
    if candidate_mask is None:
        k, dilation = shrink(k, dilation, candidates.shape[1])
        ranked = _smallest(scores, (k - 1) * dilation + 1)
        return ranked[..., ::dilation]
    scores = scores.masked_fill(~candidate_mask[:, None, :], torch.inf)
    return _ranks_by_clip(scores, candidate_mask.sum(1), k, dilation)


def check_nodes(query: Tensor, candidates: Tensor) -> None:
    """ValueError unless there can be a graph from ``(B, N, C)`` to ``(B, M, C)``."""
    if query.ndim != 3 or candidates.ndim != 3:
        raise ValueError(
            f"expected nodes (B, N, C) and (B, M, C), got {tuple(query.shape)} and "
            f"{tuple(candidates.shape)}"
        )
    if query.shape[0] != candidates.shape[0] or query.shape[2] != candidates.shape[2]:
        raise ValueError(
            f"query {tuple(query.shape)} and candidates {tuple(candidates.shape)} must agree "
            "in batch and channels"
        )
    if candidates.shape[1] == 0:
        raise ValueError("a graph needs at least one candidate node, got none")


def _scores(query: Tensor, candidates: Tensor, bias: Tensor | None, distance: Distance) -> Tensor:
    """Squared distance less the query's own norm, which is the same for a whole row: (B, N, M).

    In float32 at least, whatever the autocast: half precision would change one neighbour in ten.
    """
    with without_autocast(query):
        x, y = at_least_float32(query), at_least_float32(candidates)
        if distance == "cosine":
            x, y = functional.normalize(x, dim=-1), functional.normalize(y, dim=-1)
        offset = y.square().sum(-1).unsqueeze(1)  # (B, 1, M)
        if bias is not None:
            offset = offset + bias.to(x.dtype)  # (B, N, M)
        return torch.baddbmm(offset, x, y.transpose(1, 2), alpha=-2)


def _ranks_by_clip(scores: Tensor, valid: Tensor, k: int, dilation: int) -> Tensor:
    """Ranks 0, d, 2d, ... where d and k shrink by each clip's own `valid` (B,) candidates."""
    most = scores.shape[-1]
    ranked = _smallest(scores, min(most, (k - 1) * dilation + 1))
    step = torch.clamp(valid // k, min=1).clamp(max=dilation)  # (B,)
    rank = torch.arange(min(k, most), device=scores.device) * step[:, None]  # (B, K)
    rank = rank.masked_fill(rank >= valid[:, None], 0)
    rank = rank[:, None, :].expand(-1, ranked.shape[1], -1)
    return ranked.gather(-1, rank)


def _smallest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` smallest scores of each row; the lowest index wins ties.

    `topk` alone leaves the order of ties open. In float32 the score's bits, made to sort like
    integers, go above the index in one 64-bit key, so that no two keys are equal. In other runtimes
    nothing views floats as integers; there the definition of TopK in ONNX orders ties as we do.
    """
    if exporting():
        return scores.topk(count, dim=-1, largest=False, sorted=True).indices
    if scores.dtype != torch.float32:
        return scores.sort(dim=-1, stable=True).indices[..., :count]
    index = torch.arange(scores.shape[-1], device=scores.device)
    out = []
    for part in scores.split(clips_at_once(scores.shape[1:].numel(), scores)):
        bits = (part + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
        keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
        keys = keys.bitwise_left_shift_(32).bitwise_or_(index)
        smallest = keys.topk(count, dim=-1, largest=False, sorted=True).values
        out.append(smallest & 0xFFFFFFFF)
    return torch.cat(out)
