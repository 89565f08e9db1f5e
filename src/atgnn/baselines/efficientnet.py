"""EfficientNets on spectrograms: what they share, and EfficientNet-Lite, a teacher too.

M. Tan and Q. Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
2019; the Lite variants (Google, 2020) have no squeeze-and-excitation and clip at 6 (ReLU6). A
spectrogram is a grey picture here, frequency upwards, time to the right.

B batch, F frequency, T time, C channels, S labels. Features are channels-last: ``(B, F, T, C)``.
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.base import Baseline, BaselineConfig
from atgnn.graph import ceil_div, mean_nodes
from atgnn.model.inverted import FIRST, STAGES, InvertedBlock, SpatialNorm, pointwise
from atgnn.model.layers import BatchNorm, LinearNorm, Patches, check_input

__all__ = [
    "LITE_PRESETS",
    "EfficientNet",
    "EfficientNetConfig",
    "EfficientNetLite",
    "EfficientNetLiteConfig",
]

TOP = 1280  # channels of the last layer, before scaling


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
        return STAGES[stage].blocks if fixed else math.ceil(STAGES[stage].blocks * self.depth)

    @property
    def ends(self) -> tuple[int, int]:
        """Channels of the first and of the last layer."""
        return (self.channels(FIRST), self.channels(TOP)) if self.scaled_ends else (FIRST, TOP)


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
        self.head = pointwise(config.channels(STAGES[-1].channels), last)

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
    repeats = [config.repeats(number) for number in range(len(STAGES))]
    rates = iter(config.drop_path * number / sum(repeats) for number in range(sum(repeats)))
    inputs, side = config.ends[0], ceil_div(config.picture, 2)
    for stage, count in zip(STAGES, repeats, strict=True):
        scaled = stage._replace(channels=config.channels(stage.channels), blocks=count)
        yield from scaled.build(
            inputs, list(islice(rates, count)), activation, config.squeeze, side % 2 == 0
        )
        inputs, side = scaled.channels, ceil_div(side, stage.stride)
