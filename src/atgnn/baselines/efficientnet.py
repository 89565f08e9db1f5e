"""EfficientNet-Lite on spectrograms: the pretrained baseline, and a teacher.

M. Tan and Q. Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
2019; the Lite variants (Google, 2020) have no squeeze-and-excitation and clip at 6 (ReLU6). A
spectrogram is a grey picture here, frequency upwards, time to the right.

B batch, F frequency, T time, C channels, S labels. Features are channels-last: ``(B, F, T, C)``.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.base import Baseline, BaselineConfig
from atgnn.graph import mean_nodes
from atgnn.model.layers import BatchNorm, DropPath, LinearNorm, Patches, check_input

__all__ = ["LITE_PRESETS", "EfficientNetLite", "EfficientNetLiteConfig"]

STEM, HEAD = 32, 1280  # channels; the same in all variants

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


class EfficientNetLiteConfig(BaselineConfig):
    """Layout of an EfficientNet-Lite; the default is Lite0."""

    front_end: ClassVar[str] = "paper"

    kind: Literal["efficientnet-lite"] = "efficientnet-lite"
    width: float = Field(1.0, gt=0, description="factor of the channels")
    depth: float = Field(1.0, gt=0, description="factor of the blocks of a stage")
    dropout: float = Field(0.2, ge=0, lt=1, description="before the classifier")
    drop_path: float = Field(0.2, ge=0, lt=1, description="grows from 0 towards the last block")

    def channels(self, base: int) -> int:
        """Scaled to a multiple of 8, and never below nine tenths of what was asked for."""
        wanted = base * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    def repeats(self, stage: int) -> int:
        """Blocks of a stage; the first and the last one are not scaled."""
        blocks = STAGES[stage][4]
        return blocks if stage in (0, len(STAGES) - 1) else math.ceil(blocks * self.depth)


LITE_PRESETS = {
    "lite0": EfficientNetLiteConfig(),
    "lite1": EfficientNetLiteConfig(depth=1.1),
    "lite2": EfficientNetLiteConfig(width=1.1, depth=1.2, dropout=0.3),
    "lite3": EfficientNetLiteConfig(width=1.2, depth=1.4, dropout=0.3),
    "lite4": EfficientNetLiteConfig(width=1.4, depth=1.8, dropout=0.3),
}


class SpatialNorm(nn.Module):
    """A convolution over the grid, batch normalisation and ReLU6.

    Zeros lie where TensorFlow's "same" padding puts them for even sizes, whatever the size: what a
    clip sees does not depend on the length of the batch it is in.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = BatchNorm(outputs, eps=1e-3)
        self.stride = stride
        self.before = (kernel - stride) // 2
        self.after = kernel - 1 - self.before

    def forward(self, patches: Patches) -> Patches:
        """``(B, F, T, inputs)`` to ``(B, ceil(F / stride), ceil(T / stride), outputs)``."""
        x, mask = patches.x, patches.mask
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        image = x.contiguous().permute(0, 3, 1, 2)  # what oneDNN and cuDNN call channels-last
        image = functional.pad(image, (self.before, self.after) * 2)
        out = patches.at_stride(self.stride, self.conv(image).permute(0, 2, 3, 1).contiguous())
        return out.with_features(functional.relu6(self.norm(out.x, out.mask)))


class InvertedBlock(nn.Module):
    """Wide inside, narrow outside: expansion, depthwise convolution, projection (MBConv)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, drop_path: float
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _pointwise(inputs, inner) if expansion > 1 else None
        self.depthwise = SpatialNorm(inner, inner, kernel, stride, inner)
        self.project = _pointwise(inner, outputs)
        self.drop_path = DropPath(drop_path)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, patches: Patches) -> Patches:
        """``(B, F, T, inputs)`` to ``(B, ceil(F / stride), ceil(T / stride), outputs)``."""
        inner = patches
        if self.expand is not None:
            inner = patches.with_features(functional.relu6(self.expand(patches.x, patches.mask)))
        inner = self.depthwise(inner)
        x = self.project(inner.x, inner.mask)
        return inner.with_features(patches.x + self.drop_path(x) if self.residual else x)


def _pointwise(inputs: int, outputs: int) -> LinearNorm:
    return LinearNorm(inputs, outputs, bias=False, eps=1e-3)


class EfficientNetLite(Baseline):
    """Log-mel spectrogram in, one logit per label out.

    It knows which cells are sound, in training too: `forward` is its own.
    """

    by_label: ClassVar[tuple[str, ...]] = ("classifier.weight", "classifier.bias")

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = SpatialNorm(config.in_channels, STEM, 3, 2, 1)
        self.blocks = nn.ModuleList(_blocks(config))
        self.head = _pointwise(config.channels(STAGES[-1][3]), HEAD)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(HEAD, config.num_labels)
        self.initialise()

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score normalised log-mel spectrograms ``(B, T, n_mels[, in_channels])``: ``(B, S)``.

        What lies beyond a clip's `lengths` ``(B,)`` has no influence on its logits.
        """
        features, steps, _ = self.features(mel, lengths)
        out: Tensor = self.classifier(self.dropout(mean_nodes(features, steps)))
        return out

    def features(self, mel: Tensor, lengths: Tensor | None = None) -> Patches:
        """What the classifier takes the mean of: ``(B, ceil(F / 32), ceil(T / 32), 1280)``."""
        check_input(self.config, mel, lengths)
        image = mel if mel.ndim == 4 else mel[..., None]
        patches: Patches = self.stem(Patches(image.transpose(1, 2), lengths))
        for block in self.blocks:
            patches = block(patches)
        return patches.with_features(functional.relu6(self.head(patches.x, patches.mask)))

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights; `residual_scale` as in `atgnn.model.atgnn.initialise`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, InvertedBlock) and module.residual:
                assert isinstance(module.project.norm, BatchNorm)
                nn.init.constant_(module.project.norm.weight, residual_scale)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def norm_pairs(self) -> Iterator[tuple[Any, nn.Module, str]]:
        """As `Baseline.norm_pairs`."""
        for module in self.modules():
            if isinstance(module, LinearNorm):
                yield module.linear, module, "norm"
            elif isinstance(module, SpatialNorm):
                yield module.conv, module, "norm"


def _blocks(config: EfficientNetLiteConfig) -> list[InvertedBlock]:
    total = sum(config.repeats(stage) for stage in range(len(STAGES)))
    blocks: list[InvertedBlock] = []
    inputs = STEM
    for stage, (kernel, stride, expansion, base, _) in enumerate(STAGES):
        outputs = config.channels(base)
        for repeat in range(config.repeats(stage)):
            rate = config.drop_path * len(blocks) / total
            step = 1 if repeat else stride
            blocks.append(InvertedBlock(inputs, outputs, kernel, step, expansion, rate))
            inputs = outputs
    return blocks
