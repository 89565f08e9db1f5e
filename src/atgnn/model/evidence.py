"""From what labels drew to where in frequency they looked.

A channel of a label's node comes, in each label block, from the patch that won it. So a row of
patches has a share of a label's channels: evidence that costs no second pass.

B batch, F frequency rows, T time columns, S labels, K neighbours, D width of labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.model.label import Drawing

__all__ = ["row_shares"]


def row_shares(seen: Sequence[Drawing], rows: int) -> Tensor:
    """The share of each label's channels that came from each row, ``(B, S, rows)`` float32.

    The mean over label blocks; the patches' own rows, fewer in later stages, are divided evenly
    into `rows`, those of the first stage. They add up to 1.
    """
    shares = [_of_block(one, rows) for one in seen]
    return torch.stack(shares).mean(0)


def _of_block(drawn: Drawing, rows: int) -> Tensor:
    x = drawn.patches.x
    batch, own, columns, width = x.shape
    labels, near = drawn.neighbours.shape[1:]
    flat = drawn.neighbours.long().flatten(1)  # (B, S K)
    features = x.flatten(1, 2).gather(1, flat[..., None].expand(-1, -1, width))
    places = features.unflatten(1, (labels, near)).argmin(2)  # (B, S, D), the nearest of equals
    row = drawn.neighbours.long().gather(2, places) // columns
    counts = torch.zeros(batch, labels, own, device=x.device)
    counts.scatter_add_(2, row, torch.ones(row.shape, device=x.device))
    spread = functional.interpolate(counts, size=rows, mode="nearest")
    return spread / spread.sum(2, keepdim=True)
