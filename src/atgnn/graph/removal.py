"""Graphs without some of their nodes: the candidates that remain, as a list of their own.

B batch, N query nodes, M candidates, R candidates that remain (in the clip with most), C channels.
"""

import torch
from torch import Tensor

from atgnn.graph.position import Position

__all__ = ["without_removed"]


def without_removed(
    candidates: Tensor, position: Position, mask: Tensor
) -> tuple[Tensor, Position, Tensor, Tensor]:
    """The candidates that remain, in one row, their order kept; a clip with fewer is padded.

    Args:
        candidates: ``(B, M, C)``.
        position: of all of them.
        mask: ``(B, M)``, False where a candidate is removed.

    Returns:
        ``(B, R, C)``, the position of these, the lengths ``(B,)`` of the row, and the index
        ``(B, R)`` that each had before.

    Raises:
        ValueError: a clip would have none.
    """
    lengths = mask.sum(1)
    if not bool(lengths.all()):
        raise ValueError("a graph needs at least one candidate node: all of a clip's are removed")
    own = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    own = own[:, : int(lengths.max())]
    kept = candidates.gather(1, own[..., None].expand(-1, -1, candidates.shape[2]))
    table = position.dense()
    if table is None:
        return kept, position, lengths, own
    table = table.expand(len(own), *table.shape[-2:])
    table = table.gather(2, own[:, None, :].expand(-1, table.shape[1], -1))
    return kept, Position(table=table), lengths, own
