"""PANNs' CNN14: six blocks of two convolutions on a log-mel spectrogram.

Q. Kong, Y. Cao, T. Iqbal, Y. Wang, W. Wang, M. Plumbley: "PANNs: Large-Scale Pretrained Audio
Neural Networks for Audio Pattern Recognition", IEEE/ACM TASLP 28, 2020; layout after
qiuqiangkong/audioset_tagging_cnn (MIT licence), class Cnn14. What belongs to its training alone,
mixup and the masks of SpecAugment, is in our recipes.

B batch, F mel bins, T frames, C channels, S labels.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.base import Baseline, BaselineConfig, ImageNorm
from atgnn.model.layers import BatchNorm

__all__ = ["CNN14", "CNN14_PRESETS", "CNN14Config"]


class CNN14Config(BaselineConfig):
    """Layout of CNN14; the defaults are the published ones, all blocks but the last one pooled."""

    kind: Literal["cnn14"] = "cnn14"
    front_end: ClassVar[str] = "cnn14"
    n_mels: int = Field(64, ge=1, description="frequency bins of the input")
    channels: tuple[PositiveInt, ...] = Field(
        (64, 128, 256, 512, 1024, 2048), min_length=1, description="of each block"
    )
    hidden: int = Field(2048, ge=1, description="width of the embedding")
    block_dropout: float = Field(0.2, ge=0, lt=1, description="behind each block")
    dropout: float = Field(0.5, ge=0, lt=1, description="before the embedding's layer")

    @model_validator(mode="after")
    def _fits_together(self) -> "CNN14Config":
        if self.in_channels != 1:
            raise ValueError(f"in_channels is {self.in_channels}, expected 1")
        if self.n_mels < self.reduction:
            raise ValueError(
                f"n_mels is {self.n_mels}, expected at least {self.reduction}: every block but the "
                "last one halves them"
            )
        return self

    @property
    def reduction(self) -> int:
        """Frames, and mel bins, under one cell of the last block."""
        return int(2 ** (len(self.channels) - 1))


#: `cnn14-16k` is the same network on sound up to 8 kHz: it differs in its front end alone.
CNN14_PRESETS = {"cnn14": CNN14Config(), "cnn14-16k": CNN14Config()}


class ConvBlock(nn.Module):
    """Two convolutions, each with a batch normalisation and a ReLU, then a mean over cells."""

    def __init__(self, inputs: int, outputs: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1: nn.Module = ImageNorm(outputs)
        self.bn2: nn.Module = ImageNorm(outputs)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, T, F)`` to ``(B, outputs, T // pool, F // pool)``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.avg_pool2d(x, self.pool) if self.pool > 1 else x


class CNN14(Baseline):
    """Log-mel spectrogram in decibels in, one logit per label out."""

    by_label = ("classifier.weight", "classifier.bias")

    def __init__(self, config: CNN14Config) -> None:
        super().__init__(config)
        self.bn0 = BatchNorm(config.n_mels)
        widths, last = (1, *config.channels), len(config.channels) - 1
        self.blocks = nn.ModuleList(
            ConvBlock(widths[place], widths[place + 1], 1 if place == last else 2)
            for place in range(last + 1)
        )
        self.block_dropout = nn.Dropout(config.block_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.fc1 = nn.Linear(widths[-1], config.hidden)
        self.classifier = nn.Linear(config.hidden, config.num_labels)
        self.initialise()

    def logits(self, mel: Tensor) -> Tensor:
        """Score clips of one length, ``(B, T, F)``: ``(B, S)``."""
        return self._scored(self.bn0(mel))

    def padded_logits(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """As `Baseline.padded_logits`; zero, the mean of a bin, lies past the end behind `bn0`.

        Before it, in decibels, zero is a loud sound. The statistics are of sound alone.
        """
        inside = torch.arange(mel.shape[1], device=mel.device) < lengths[:, None]  # (B, T)
        return self._scored(self.bn0(mel, inside))

    def _scored(self, mel: Tensor) -> Tensor:
        missing = self.config.reduction - mel.shape[1]  # for a cell behind the last pooling
        x = functional.pad(mel, (0, 0, 0, max(0, missing)))[:, None]  # (B, 1, T, F)
        for block in self.blocks:
            x = self.block_dropout(block(x))
        x = x.mean(3)  # (B, C, T)
        x = self.dropout(x.amax(2) + x.mean(2))
        out: Tensor = self.classifier(functional.relu(self.fc1(x)))
        return out

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights as published; there are no residual branches for `residual_scale`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def norm_pairs(self) -> Iterator[tuple[Any, nn.Module, str]]:
        """As `Baseline.norm_pairs`; `bn0` has no map before it."""
        for block in self.blocks:
            yield block.conv1, block, "bn1"
            yield block.conv2, block, "bn2"
