"""What an encoder learns from sound without labels.

B pairs, 2 B views (the first of every pair, then the second), F frequency, T time, C channels,
R x K cells under the patch nodes of the last stage (rows along frequency, columns along time).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from atgnn.model.layers import Patches, spread_of

__all__ = ["Cells", "Predictor", "Projector", "contrast", "spread"]

HIDDEN = 512  # units between an embedding and the space in which views are compared
NOISE = 1e-2
FINE = 2  # bins and frames that one predicted value stands for


class Projector(nn.Module):
    """Patch nodes of a view to a unit vector, in a space of its own that is thrown away later."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * channels, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, width),
        )

    def forward(self, patches: Patches) -> Tensor:
        """``(2 B, F, T, C)`` to ``(2 B, width)``."""
        return functional.normalize(self.layers(spread_of(patches)).float(), dim=1)


def contrast(vectors: Tensor, temperature: float) -> Tensor:
    """Each view must find its partner among the other views of the batch: ``(2 B, W)`` to a loss.

    Cross-entropy over cosine similarities. Source: NT-Xent of SimCLR (Chen et al., 2020).
    """
    count = len(vectors)
    similar = vectors @ vectors.T / temperature
    itself = torch.eye(count, dtype=torch.bool, device=vectors.device)
    partner = torch.arange(count, device=vectors.device).roll(count // 2)
    return functional.cross_entropy(similar.masked_fill(itself, -torch.inf), partner)


class Cells:
    """The parts of a spectrogram under the last stage's patch nodes, `size` bins x `size` frames.

    Cells at the upper edge or at the end may be cut; those are neither hidden nor predicted.
    """

    def __init__(self, size: int, frames: int, bins: int) -> None:
        self.size, self.frames, self.bins = size, frames, bins
        self.rows, self.columns = bins // size, frames // size

    def draw(self, count: int, share: float, generator: torch.Generator) -> Tensor:
        """Which cells of so many views are hidden, ``(2 B, R, K)``: `share` of each view's."""
        order = torch.rand(count, self.rows * self.columns, generator=generator).argsort(1)
        hidden = max(1, round(share * order.shape[1]))
        return (order < hidden).view(count, self.rows, self.columns)

    def hide(self, features: Tensor, hidden: Tensor) -> Tensor:
        """Normalised views ``(2 B, T, F)`` with 0, their mean level, in the hidden cells."""
        whole = hidden.transpose(1, 2)
        whole = whole.repeat_interleave(self.size, 1).repeat_interleave(self.size, 2)
        rest = (0, self.bins - whole.shape[2], 0, self.frames - whole.shape[1])
        return features.masked_fill(functional.pad(whole, rest), 0.0)

    def contents(self, features: Tensor) -> Tensor:
        """Means of 2 x 2 in each cell: ``(2 B, T, F)`` to ``(2 B, R, K, (size / 2) ** 2)``."""
        rows, columns, fine = self.rows, self.columns, self.size // FINE
        inside = features[:, None, : columns * self.size, : rows * self.size]
        means = functional.avg_pool2d(inside, FINE)[:, 0]
        cells = means.view(-1, columns, fine, rows, fine).permute(0, 3, 1, 2, 4)
        return cells.flatten(3)


class Predictor(nn.Module):
    """Patch nodes to what is in their cells; only hidden ones count.

    A hidden node knows nothing but its place: what it predicts came through its graph.
    """

    def __init__(self, channels: int, cells: Cells) -> None:
        super().__init__()
        self.cells = cells
        self.layers = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, (cells.size // FINE) ** 2)
        )

    def forward(self, patches: Patches, features: Tensor, hidden: Tensor) -> Tensor:
        """Nodes ``(2 B, F, T, C)``, whole views ``(2 B, T, F)``: mean squared error."""
        nodes = patches.x[:, : self.cells.rows, : self.cells.columns]
        guess = self.layers(nodes).float()
        error = (guess - self.cells.contents(features)).square().mean(-1)
        return error[hidden].mean()


def spread(embeddings: Tensor) -> Tensor:
    """How far embeddings ``(B, D)`` point in different directions: 1 for random ones, 0 for one.

    Root of the summed variance of the unit vectors. Where it falls to 0, the encoder has collapsed:
    it says the same of every sound. What a norm leaves of equal inputs, rounding noise, is no
    direction: vectors far shorter than `NOISE` count as 0.
    """
    embeddings = embeddings.detach().float()
    unit = embeddings / (embeddings.norm(dim=1, keepdim=True) + NOISE)
    return unit.std(0, unbiased=False).square().sum().sqrt()
