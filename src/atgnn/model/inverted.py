"""Inverted bottlenecks: the blocks of EfficientNets, narrow between blocks and wide inside.

M. Tan and Q. Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
2019. Baselines are made of them (`atgnn.baselines.efficientnet`), and the convolutions of an ATGNN
with `ModelConfig.trunk` ``lite0``: the stages of EfficientNet-Lite0, which there are ImageNet
weights for.

B batch, F frequency, T time, C channels. Features are channels-last: ``(B, F, T, C)``.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from atgnn.graph.precision import without_autocast
from atgnn.model.layers import BatchNorm, DropPath, LinearNorm, Patches, mean_of

__all__ = [
    "FIRST",
    "STAGES",
    "Excitation",
    "InvertedBlock",
    "InvertedStage",
    "LiteEntry",
    "LiteStem",
    "SpatialNorm",
    "pointwise",
]

FIRST = 32  # channels of the first layer, before scaling
IN_STEM = 5  # stages of Lite0 before the first patch blocks: the rest is before the second


class SpatialNorm(nn.Module):
    """A convolution over the grid and batch normalisation.

    Zeros lie where TensorFlow's "same" padding puts them for a picture's size (`even` or not),
    whatever the size: what a clip sees does not depend on the length of the batch it is in.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, even: bool = True
    ) -> None:
        super().__init__()
        before = (kernel - (stride if even else 1)) // 2
        after = kernel - 1 - before
        both = before if before == after else 0  # which spares a copy with zeros around it
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, both, groups=groups, bias=False)
        self.norm: nn.Module = BatchNorm(outputs, eps=1e-3)
        self.stride = stride
        self.zeros = (0, 0) if both else (before, after)

    def forward(self, patches: Patches) -> Patches:
        """``(B, F, T, inputs)`` to ``(B, ceil(F / stride), ceil(T / stride), outputs)``."""
        x, mask = patches.x, patches.mask
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        image = x.contiguous().permute(0, 3, 1, 2)  # what oneDNN and cuDNN call channels-last
        if any(self.zeros):
            image = functional.pad(image, self.zeros * 2)
        out = patches.at_stride(
            self.stride, self._convolved(image).permute(0, 2, 3, 1).contiguous()
        )
        return out.with_features(self.norm(out.x, out.mask))

    def _convolved(self, image: Tensor) -> Tensor:
        """The convolution; in training on a processor in float32, three times as fast there."""
        out: Tensor
        if self.training and image.device.type == "cpu" and self.conv.groups > 1:
            with without_autocast(image):
                out = self.conv(image.to(self.conv.weight.dtype))
        else:
            out = self.conv(image)
        return out


class Excitation(nn.Module):
    """Squeeze-and-excitation: each channel is weighed by what there is in the whole clip."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)

    def forward(self, patches: Patches) -> Patches:
        """``(B, F, T, C)`` to the same."""
        weights = self.expand(functional.silu(self.reduce(mean_of(patches)))).sigmoid()  # (B, C)
        return patches.with_features(patches.x * weights[:, None, None])


class InvertedBlock(nn.Module):
    """Wide inside, narrow outside: expansion, depthwise convolution, projection (MBConv)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        depthwise: SpatialNorm,
        excite: Excitation | None,
        drop_path: float,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        inner = depthwise.conv.in_channels
        self.expand = pointwise(inputs, inner) if inner > inputs else None
        self.depthwise = depthwise
        self.excite = excite
        self.project = pointwise(inner, outputs)
        self.drop_path = DropPath(drop_path)
        self.activation = activation
        self.residual = depthwise.stride == 1 and inputs == outputs

    def forward(self, patches: Patches) -> Patches:
        """``(B, F, T, inputs)`` to ``(B, ceil(F / stride), ceil(T / stride), outputs)``."""
        inner = patches
        if self.expand is not None:
            inner = patches.with_features(self.activation(self.expand(patches.x, patches.mask)))
        inner = self.depthwise(inner)
        inner = inner.with_features(self.activation(inner.x))
        if self.excite is not None:
            inner = self.excite(inner)
        x = self.project(inner.x, inner.mask)
        return inner.with_features(patches.x + self.drop_path(x) if self.residual else x)


def pointwise(inputs: int, outputs: int) -> LinearNorm:
    """A linear map of every node with the batch normalisation of these networks."""
    return LinearNorm(inputs, outputs, bias=False, eps=1e-3)


class InvertedStage(NamedTuple):
    """A row of the paper's Table 1: the first block has the stride and changes the channels."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int

    def build(
        self,
        inputs: int,
        drop_paths: Sequence[float],
        activation: Callable[[Tensor], Tensor],
        squeeze: float = 0,
        even: bool = False,
    ) -> Iterator[InvertedBlock]:
        """Its blocks.

        Args:
            inputs: channels that come in.
            drop_paths: a rate for each block.
            activation: behind the first two maps of a block.
            squeeze: channels of squeeze-and-excitation per input channel; 0 for none.
            even: see `SpatialNorm`.
        """
        for number, rate in enumerate(drop_paths):
            stride, inner = 1 if number else self.stride, inputs * self.expansion
            depthwise = SpatialNorm(inner, inner, self.kernel, stride, inner, even)
            excite = Excitation(inner, max(1, int(inputs * squeeze))) if squeeze else None
            yield InvertedBlock(inputs, self.channels, depthwise, excite, rate, activation)
            inputs = self.channels


STAGES = (
    InvertedStage(3, 1, 1, 16, 1),
    InvertedStage(3, 2, 6, 24, 2),
    InvertedStage(5, 2, 6, 40, 2),
    InvertedStage(3, 2, 6, 80, 3),
    InvertedStage(5, 1, 6, 112, 3),
    InvertedStage(5, 2, 6, 192, 4),
    InvertedStage(3, 1, 6, 320, 1),
)


class LiteStem(nn.Module):
    """EfficientNet-Lite0 up to its fifth stage: a spectrogram to patch nodes of 16 x 16 cells.

    Here and in `LiteEntry` zeros lie on both sides alike, unlike in
    `atgnn.baselines.efficientnet`: so the first node's centre stays the first frame and the first
    bin, as with every other stem. The last map has no activation, as in a plain stem.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.first = SpatialNorm(in_channels, FIRST, 3, 2, 1, even=False)
        self.activation: Callable[[Tensor], Tensor] = functional.relu6
        self.blocks = _lite0(FIRST, STAGES[:IN_STEM])

    def forward(self, patches: Patches) -> Patches:
        """``(B, n_mels, frames, in_channels)`` to ``(B, F, T, 112)``."""
        patches = self.first(patches)
        return _through(self.blocks, patches.with_features(self.activation(patches.x)))


class LiteEntry(nn.Module):
    """The rest of EfficientNet-Lite0, from the first patch stage to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = _lite0(STAGES[IN_STEM - 1].channels, STAGES[IN_STEM:])

    def forward(self, patches: Patches) -> Patches:
        """``(B, F, T, 112)`` to ``(B, ceil(F / 2), ceil(T / 2), 320)``."""
        return _through(self.blocks, patches)


def _lite0(inputs: int, stages: Sequence[InvertedStage]) -> nn.ModuleList:
    blocks = nn.ModuleList()
    for stage in stages:
        blocks.extend(stage.build(inputs, (0.0,) * stage.blocks, functional.relu6))
        inputs = stage.channels
    return blocks


def _through(blocks: nn.ModuleList, patches: Patches) -> Patches:
    for block in blocks:
        patches = block(patches)
    return patches
