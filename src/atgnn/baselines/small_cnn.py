"""A plain small convolutional network: the baseline that any new architecture has to beat first.

Ours, not a published one: pairs of 3x3 convolutions, the first of each halving the grid, as in
VGG; then the mean and the spread over what is left, and one linear map. Some 0.6 million
parameters. It hears clips of unequal length as `ATGNN` does, with masks: padding takes part in
nothing.

B batch, F frequency, T time, C channels, S labels.
"""

import itertools
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from atgnn.baselines.base import Baseline, BaselineConfig
from atgnn.model.layers import ConvNorm, Patches, check_input, spread_of

__all__ = ["SMALL_CNN_PRESETS", "SmallCNN", "SmallCNNConfig"]


class SmallCNNConfig(BaselineConfig):
    """Layout of the small network."""

    kind: Literal["small-cnn"] = "small-cnn"
    front_end: ClassVar[str] = "paper"
    channels: tuple[PositiveInt, ...] = Field(
        (24, 48, 96, 160), min_length=1, description="of each block; every block halves the grid"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="before the classifier")


SMALL_CNN_PRESETS = {"small-cnn": SmallCNNConfig()}


class SmallCNN(Baseline):
    """Log-mel spectrogram in, one logit per label out."""

    by_label = ("classifier.weight", "classifier.bias")
    one_graph: ClassVar[bool] = True

    def __init__(self, config: SmallCNNConfig) -> None:
        super().__init__(config)
        widths = (config.in_channels, *config.channels)
        self.convs = nn.ModuleList()
        for inputs, outputs in itertools.pairwise(widths):
            self.convs.append(ConvNorm(inputs, outputs, 2))
            self.convs.append(ConvNorm(outputs, outputs, 1))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * widths[-1], config.num_labels)
        self.initialise()

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score normalised log-mel spectrograms ``(B, T, n_mels[, in_channels])``: ``(B, S)``.

        What lies beyond a clip's `lengths` ``(B,)`` has no influence on its logits.
        """
        out: Tensor = self.classifier(self.dropout(spread_of(self.features(mel, lengths))))
        return out

    def features(self, mel: Tensor, lengths: Tensor | None = None) -> Patches:
        """What the classifier hears the mean and spread of: ``(B, ~F / 16, ~T / 16, C)``."""
        check_input(self.config, mel, lengths)
        patches = Patches.of(mel, lengths)
        for conv in self.convs:
            patches = conv(patches, gelu=True)
        return patches

    def norm_pairs(self) -> Iterable[tuple[nn.Module, nn.Module, str]]:
        """Every convolution and its norm."""
        for conv in self.convs:
            assert isinstance(conv, ConvNorm)
            yield conv.conv, conv, "norm"

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights. There are no residual branches, so `residual_scale` finds none."""
        for module in self.convs.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
