"""Layers that both kinds of block use.

B batch, F frequency, T time, N = F x T patches, C channels, G groups.
Node features are channels-last everywhere: ``(B, F, T, C)`` on the grid, ``(B, N, C)`` as nodes.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from atgnn.distributed import own_rows, part
from atgnn.graph import coarser, mean_nodes, node_mask
from atgnn.graph.precision import at_least_float32
from atgnn.model.config import LayoutConfig
from atgnn.model.fused import grouped_linear, normalise, normalise_gelu_linear
from atgnn.model.products import linear_in_training
from atgnn.model.segments import segment

__all__ = [
    "BatchNorm",
    "ConvNorm",
    "DropPath",
    "FeedForward",
    "GraphUpdate",
    "LinearNorm",
    "Patches",
    "Relation",
    "Unchanged",
    "check_input",
    "drop_path",
    "gelu_linear",
    "mean_of",
    "spread_of",
]


class Patches(NamedTuple):
    """Patch nodes on their frequency x time grid, and which of them there are."""

    x: Tensor  # (B, F, T, C)
    lengths: Tensor | None  # (B,) valid columns of each clip; None when all are valid
    kept: Tensor | None = None  # (B, F, T), False where a node was removed; None when none was

    @classmethod
    def of(cls, mel: Tensor, lengths: Tensor | None = None) -> "Patches":
        """Every cell of spectrograms ``(B, T, n_mels[, in_channels])`` as a node."""
        image = mel if mel.ndim == 4 else mel[..., None]
        return cls(image.transpose(1, 2), lengths)

    @property
    def mask(self) -> Tensor | None:
        """``(B, F, T)``, True where there is a node; None when they are all there."""
        if self.lengths is None:
            return self.kept
        sound = node_mask(self.lengths, self.x.shape[1], self.x.shape[2])
        return sound if self.kept is None else sound & self.kept

    @property
    def valid(self) -> Tensor | None:
        """What says which nodes there are, as briefly as can be: lengths, or else the mask."""
        return self.lengths if self.kept is None else self.mask

    def with_features(self, x: Tensor) -> "Patches":
        """The same grid with other features."""
        return self._replace(x=x)

    def at_stride(self, stride: int, x: Tensor) -> "Patches":
        """Features ``(B, ceil(F / stride), ceil(T / stride), C)`` of a grid made of this one.

        A node is there if one of the stride x stride nodes at its place is.
        """
        kept = None if self.kept is None else coarser(self.mask, stride)
        return Patches(x, coarser(self.lengths, stride), kept)

    def keeping(self, kept: Tensor) -> "Patches":
        """The same without the nodes at which `kept` ``(B, F, T)`` is False.

        What is made of these patches is made as though the others had never been there: they are
        nobody's neighbour, and no mean counts them.
        """
        return self._replace(kept=kept if self.kept is None else self.kept & kept)


def mean_of(patches: Patches) -> Tensor:
    """Mean over the nodes: ``(B, F, T, C)`` to ``(B, C)``."""
    return mean_nodes(patches.x, patches.valid)


def spread_of(patches: Patches) -> Tensor:
    """Mean and standard deviation over the nodes: ``(B, F, T, C)`` to ``(B, 2 C)``.

    In float32 between, as squares overflow in float16.
    """
    x = at_least_float32(patches.x)
    mean = mean_nodes(x, patches.valid)
    square = mean_nodes((x - mean[:, None, None]).square(), patches.valid)
    return torch.cat([mean, (square + 1e-6).sqrt()], 1).to(patches.x.dtype)


def check_input(config: LayoutConfig, mel: Tensor, lengths: Tensor | None) -> None:
    """ValueError unless `mel` is ``(B, T, n_mels[, in_channels])`` and `lengths` ``(B,)`` frames.

    Their values are looked at on a processor alone: elsewhere that would wait for the device.
    """
    bins, inputs = config.n_mels, config.in_channels
    rest = (bins,) if inputs == 1 else (bins, inputs)
    if tuple(mel.shape[2:]) != rest or mel.shape[1] == 0:
        wanted = ", ".join(map(str, rest))
        raise ValueError(
            f"expected a batch of log-mel spectrograms (B, frames, {wanted}), "
            f"got {tuple(mel.shape)}"
        )
    if lengths is None:
        return
    if lengths.shape != mel.shape[:1] or lengths.is_floating_point():
        raise ValueError(
            f"expected {mel.shape[0]} lengths, whole numbers, got {lengths.dtype} of shape "
            f"{tuple(lengths.shape)}"
        )
    if lengths.device.type == "cpu" and len(lengths) and not torch.compiler.is_compiling():
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1 or longest > mel.shape[1]:
            raise ValueError(
                f"expected lengths from 1 to {mel.shape[1]}, the frames of the batch, got "
                f"{shortest} to {longest}: are they samples?"
            )


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all leading axes; in training, statistics of valid rows only.

    `shared_statistics`: in training, of the rows of all processes (`model/together.py`).
    """

    shared_statistics = False

    def forward(self, x: Tensor, mask: Tensor | None = None, gelu: bool = False) -> Tensor:
        """``(..., C)`` to ``(..., C)``; `mask` (...) is False where a row is padding."""
        if self.training:
            return normalise(x, self, mask, gelu)
        out = super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)
        return functional.gelu(out) if gelu else out


class Unchanged(nn.Module):
    """In the place of a norm that is folded away, or of a map where widths agree already."""

    def forward(self, x: Tensor, mask: Tensor | None = None, gelu: bool = False) -> Tensor:
        """``(..., C)`` to the same, through a GELU where asked."""
        return functional.gelu(x) if gelu else x


def gelu_linear(x: Tensor, norm: nn.Module, linear: nn.Linear, mask: Tensor | None) -> Tensor:
    """``linear(gelu(norm(x)))``; in training, what lies between is computed again, not kept."""
    if norm.training and isinstance(norm, BatchNorm):
        return normalise_gelu_linear(x, norm, linear, mask)
    out: Tensor = linear(norm(x, mask, gelu=True))
    return out


class Linear(nn.Linear):
    """One linear map for every node; in training on a processor by the faster library."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``."""
        if self.training:
            return linear_in_training(x, self.weight, self.bias)
        return super().forward(x)


class LinearNorm(nn.Module):
    """A 1x1 convolution, i.e. one linear map for every node, and batch normalisation."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.linear: nn.Linear = Linear(inputs, outputs, bias=bias)
        self.norm: nn.Module = BatchNorm(outputs, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``."""
        out: Tensor = self.norm(self.linear(x), mask)
        return out


class ConvNorm(nn.Module):
    """A 3x3 convolution and batch normalisation on a grid of nodes; halves the grid at stride 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.norm: nn.Module = BatchNorm(outputs)
        self.stride = stride

    def forward(self, patches: Patches, gelu: bool = False) -> Patches:
        """``(B, F, T, inputs)`` to ``(B, ceil(F / stride), ceil(T / stride), outputs)``.

        Padding is zeroed first, so that a clip sees the same zeros beyond its end in any batch.
        """
        x, mask = patches.x, patches.mask
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        # The permuted view of contiguous nodes is what cuDNN and oneDNN call channels-last: nothing
        # is copied between layers. Any other stride would send them down a path ten times slower.
        x = self.conv(x.contiguous().permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
        out = patches.at_stride(self.stride, x)
        return out.with_features(self.norm(x, out.mask, gelu))


class Relation(nn.Module):
    """``m_i``: what a node takes from its neighbours, relative to itself.

    Patches: ``max_j (x_j - x_i)`` (eq. 2), labels: ``max_j (l_i - x_j)`` (eq. 4). As rounding is
    monotonic, the extremum may be taken first, in every bit.
    """

    def __init__(self, sign: Literal[1, -1]) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x_i: Tensor, extremum: Tensor) -> Tensor:
        """``(B, N, C)`` twice: nodes, and the maximum (sign 1) or minimum of their neighbours."""
        return extremum - x_i if self.sign > 0 else x_i - extremum


class GraphUpdate(nn.Module):
    """``W_update [x_i, m_i]``: nodes and what they took from their neighbours, mixed (eq. 2 and 5).

    A grouped linear map C + C -> outputs, batch normalisation and GELU. Group g reads channels
    ``[g C/G, (g+1) C/G)`` of x and of m. The published weights interleave their input
    (x_0, m_0, x_1, m_1, ...); ours hold the x columns first, then the m columns, which spares a
    copy. `atgnn.model.weights` does the permutation.
    """

    def __init__(self, channels: int, outputs: int, groups: int, sign: Literal[1, -1]) -> None:
        super().__init__()
        inputs = 2 * channels // groups
        self.relation: nn.Module = Relation(sign)
        self.weight = nn.Parameter(torch.empty(groups, outputs // groups, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.norm: nn.Module = BatchNorm(outputs)

    def mix(self, x_i: Tensor, extremum: Tensor) -> Tensor:
        """``W_update [x_i, m_i]`` alone: ``(B, N, C)`` twice to ``(B, N, outputs)``."""
        return grouped_linear(x_i, self.relation(x_i, extremum), self.weight, self.bias)

    def forward(self, x_i: Tensor, extremum: Tensor, mask: Tensor | None = None) -> Tensor:
        """``gelu(norm(mix))``; `mask` is ``(B, N)``."""
        out: Tensor = self.norm(self.mix(x_i, extremum), mask, gelu=True)
        return out


class FeedForward(nn.Module):
    """``x + W_2 gelu(W_1 x)`` for every node by itself, each map with its batch normalisation.

    `lean`: in training, the hidden layer is computed again and not kept (`model/segments.py`).
    """

    lean = False

    def __init__(self, channels: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.fc1 = LinearNorm(channels, ratio * channels)
        self.fc2 = LinearNorm(ratio * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        out = segment(self.training and self.lean, self._by_hidden, x, mask)
        out = x + self.drop_path(self.fc2.norm(out, mask))
        return out

    def _by_hidden(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return gelu_linear(self.widen(x), self.fc1.norm, self.fc2.linear, mask)

    def widen(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to the hidden layer ``(B, N, ratio x C)``."""
        out: Tensor = self.fc1.linear(x)
        return out


class DropPath(nn.Module):
    """Stochastic depth: training drops a clip's residual branch with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``(B, ...)`` to ``(B, ...)``; kept branches are scaled by 1 / (1 - rate)."""
        return drop_path(x, self.rate) if self.training and self.rate > 0 else x

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"rate={self.rate:g}"


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Zero whole clips of a batch with probability `rate`, scale the others up."""
    clips = part().world * x.shape[0]
    keep = own_rows(x.new_empty(clips, *(1,) * (x.ndim - 1)).bernoulli_(1 - rate))
    return x * (keep / (1 - rate))
