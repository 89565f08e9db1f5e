"""EfficientNets on spectrograms: what they share, and EfficientNet-Lite, a teacher too.

M. Tan and Q. Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
2019; the Lite variants (Google, 2020) have no squeeze-and-excitation and clip at 6 (ReLU6). A
spectrogram is a grey picture here, frequency upwards, time to the right.

B batch, F frequency, T time, C channels, S labels. Features are channels-last: ``(B, F, T, C)``.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.base import Baseline, BaselineConfig
from atgnn.graph import ceil_div, mean_nodes
from atgnn.model.layers import BatchNorm, DropPath, LinearNorm, Patches, check_input, mean_of

__all__ = [
    "LITE_PRESETS",
    "EfficientNet",
    "EfficientNetConfig",
    "EfficientNetLite",
    "EfficientNetLiteConfig",
]

STEM, TOP = 32, 1280  # channels of the first and of the last layer, before scaling

# Kernel, stride, expansion, channels and blocks of each stage, before scaling (Table 1).
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class EfficientNetConfig(BaselineConfig):
    """What the layouts of all variants share.

    Attributes:
        scaled_ends: whether the first and last layers and stages are scaled like the others.
        squeeze: channels of a block's squeeze-and-excitation per input channel; 0 for none.
        picture: side of the pictures that the published code lays its zeros for.
    """

    scaled_ends: ClassVar[bool]
    squeeze: ClassVar[float]
    picture: ClassVar[int]

    width: float = Field(1.0, gt=0, description="factor of the channels")
    depth: float = Field(1.0, gt=0, description="factor of the blocks of a stage")
    drop_path: float = Field(0.2, ge=0, lt=1, description="grows from 0 towards the last block")

    def channels(self, base: int) -> int:
        """Scaled to a multiple of 8, and never below nine tenths of what was asked for."""
        wanted = base * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    def repeats(self, stage: int) -> int:
        """Blocks of a stage."""
        fixed = not self.scaled_ends and stage in (0, len(STAGES) - 1)
        return STAGES[stage][4] if fixed else math.ceil(STAGES[stage][4] * self.depth)

    @property
    def ends(self) -> tuple[int, int]:
        """Channels of the first and of the last layer."""
        return (self.channels(STEM), self.channels(TOP)) if self.scaled_ends else (STEM, TOP)


class EfficientNetLiteConfig(EfficientNetConfig):
    """Layout of an EfficientNet-Lite; the default is Lite0."""

    front_end: ClassVar[str] = "paper"
    scaled_ends: ClassVar[bool] = False
    squeeze: ClassVar[float] = 0
    picture: ClassVar[int] = 224

    kind: Literal["efficientnet-lite"] = "efficientnet-lite"
    dropout: float = Field(0.2, ge=0, lt=1, description="before the classifier")


LITE_PRESETS = {
    "lite0": EfficientNetLiteConfig(),
    "lite1": EfficientNetLiteConfig(depth=1.1),
    "lite2": EfficientNetLiteConfig(width=1.1, depth=1.2, dropout=0.3),
    "lite3": EfficientNetLiteConfig(width=1.2, depth=1.4, dropout=0.3),
    "lite4": EfficientNetLiteConfig(width=1.4, depth=1.8, dropout=0.3),
}


class SpatialNorm(nn.Module):
    """A convolution over the grid and batch normalisation.

    Zeros lie where TensorFlow's "same" padding puts them for a picture's size (`even` or not),
    whatever the size: what a clip sees does not depend on the length of the batch it is in.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, even: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = BatchNorm(outputs, eps=1e-3)
        self.stride = stride
        self.before = (kernel - (stride if even else 1)) // 2
        self.after = kernel - 1 - self.before

    def forward(self, patches: Patches) -> Patches:
        """``(B, F, T, inputs)`` to ``(B, ceil(F / stride), ceil(T / stride), outputs)``."""
        x, mask = patches.x, patches.mask
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        image = x.contiguous().permute(0, 3, 1, 2)  # what oneDNN and cuDNN call channels-last
        image = functional.pad(image, (self.before, self.after) * 2)
        out = patches.at_stride(self.stride, self.conv(image).permute(0, 2, 3, 1).contiguous())
        return out.with_features(self.norm(out.x, out.mask))


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
        self.expand = _pointwise(inputs, inner) if inner > inputs else None
        self.depthwise = depthwise
        self.excite = excite
        self.project = _pointwise(inner, outputs)
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


def _pointwise(inputs: int, outputs: int) -> LinearNorm:
    return LinearNorm(inputs, outputs, bias=False, eps=1e-3)


class EfficientNet(Baseline):
    """Everything up to the features; what hears them is the subclass's.

    It knows which cells are sound, in training too: `forward` is the subclass's own.
    """

    config: EfficientNetConfig
    one_graph: ClassVar[bool] = True

    def __init__(self, config: EfficientNetConfig, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(config)
        first, last = config.ends
        self.activation = activation
        self.stem = SpatialNorm(config.in_channels, first, 3, 2, 1, config.picture % 2 == 0)
        self.blocks = nn.ModuleList(_blocks(config, activation))
        self.head = _pointwise(config.channels(STAGES[-1][3]), last)

    def features(self, mel: Tensor, lengths: Tensor | None = None) -> Patches:
        """Normalised log-mel ``(B, T, n_mels[, in_channels])`` to ``(B, F / 32, T / 32, C)``.

        Divisions are rounded up. What lies beyond a clip's `lengths` ``(B,)`` has no influence.
        """
        check_input(self.config, mel, lengths)
        patches: Patches = self.stem(Patches.of(mel, lengths))
        patches = patches.with_features(self.activation(patches.x))
        for block in self.blocks:
            patches = block(patches)
        return patches.with_features(self.activation(self.head(patches.x, patches.mask)))

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights; `residual_scale` as in `atgnn.model.atgnn.initialise`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, InvertedBlock) and module.residual:
                assert isinstance(module.project.norm, BatchNorm)
                nn.init.constant_(module.project.norm.weight, residual_scale)

    def norm_pairs(self) -> Iterator[tuple[Any, nn.Module, str]]:
        """As `Baseline.norm_pairs`."""
        for module in self.modules():
            if isinstance(module, LinearNorm):
                yield module.linear, module, "norm"
            elif isinstance(module, SpatialNorm):
                yield module.conv, module, "norm"


class EfficientNetLite(EfficientNet):
    """Log-mel spectrogram in, one logit per label out."""

    by_label: ClassVar[tuple[str, ...]] = ("classifier.weight", "classifier.bias")

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config, functional.relu6)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(TOP, config.num_labels)
        self.initialise()

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score normalised log-mel spectrograms ``(B, T, n_mels[, in_channels])``: ``(B, S)``."""
        features, steps, _ = self.features(mel, lengths)
        out: Tensor = self.classifier(self.dropout(mean_nodes(features, steps)))
        return out

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights; `residual_scale` as in `atgnn.model.atgnn.initialise`."""
        super().initialise(residual_scale)
        nn.init.normal_(self.classifier.weight, std=0.01)


def _blocks(
    config: EfficientNetConfig, activation: Callable[[Tensor], Tensor]
) -> Iterator[InvertedBlock]:
    total = sum(config.repeats(stage) for stage in range(len(STAGES)))
    inputs, side, number = config.ends[0], ceil_div(config.picture, 2), 0
    for stage, (kernel, step, expansion, base, _) in enumerate(STAGES):
        outputs = config.channels(base)
        for repeat in range(config.repeats(stage)):
            stride, inner = 1 if repeat else step, inputs * expansion
            depthwise = SpatialNorm(inner, inner, kernel, stride, inner, side % 2 == 0)
            squeezed = int(inputs * config.squeeze)
            excite = Excitation(inner, max(1, squeezed)) if config.squeeze else None
            rate = config.drop_path * number / total
            yield InvertedBlock(inputs, outputs, depthwise, excite, rate, activation)
            inputs, side, number = outputs, ceil_div(side, stride), number + 1
