"""The VGG-like baseline of the FSD50K paper: small, and the best of the four that it trained.

E. Fonseca, X. Favory, J. Pons, F. Font, X. Serra: "FSD50K: An Open Dataset of Human-Labeled Sound
Events", IEEE/ACM TASLP 30, 2022. It scores patches of one second, one every half second; a clip's
probabilities are the means of its patches'.

Its authors published no code. The layers here are those of which independent reimplementations
say that they are the paper's, completed so that the parameters agree: 265,992 at 200 classes, for
the paper's 0.27 M. Left open and chosen here: the hidden layer has a ReLU and no dropout.

B batch, F mel bins, T frames, P patches, C channels, S labels.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.base import Baseline, BaselineConfig, ImageNorm

__all__ = ["FSD50K_VGG_PRESETS", "FSD50KVGG", "FSD50KVGGConfig"]

AT_ONCE = 64  # patches that are scored together: a batch of long clips has thousands


class FSD50KVGGConfig(BaselineConfig):
    """Layout of the VGG-like network; the defaults are the paper's."""

    kind: Literal["fsd50k-vgg"] = "fsd50k-vgg"
    front_end: ClassVar[str] = "fsd50k-vgg"
    n_mels: int = Field(96, ge=1, description="frequency bins of the input")
    channels: tuple[tuple[PositiveInt, ...], ...] = Field(
        ((32, 32, 32), (64, 64), (128,)),
        min_length=1,
        description="of the convolutions between one halving of the grid and the next",
    )
    hidden: int = Field(256, ge=1, description="width of the layer before the classifier")
    patch_frames: int = Field(101, ge=1, description="frames of a patch; shorter clips get zeros")
    patch_step: int = Field(50, ge=1, description="frames from one patch to the next")

    @model_validator(mode="after")
    def _fits_together(self) -> "FSD50KVGGConfig":
        if self.in_channels != 1:
            raise ValueError(f"in_channels is {self.in_channels}, expected 1")
        if not all(self.channels):
            raise ValueError("channels: a group without convolutions")
        least = 2 ** (len(self.channels) - 1)
        if min(self.n_mels, self.patch_frames) < least:
            raise ValueError(
                f"patches of {self.patch_frames} frames and {self.n_mels} bins are too small: "
                f"expected at least {least} of each, as each group but the last halves them"
            )
        return self


FSD50K_VGG_PRESETS = {"fsd50k-vgg": FSD50KVGGConfig()}


class ConvNormReLU(nn.Module):
    """A 3x3 convolution, batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm: nn.Module = ImageNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, T, F)`` to ``(B, outputs, T, F)``."""
        return functional.relu(self.norm(self.conv(x)))


class FSD50KVGG(Baseline):
    """Log-mel spectrogram in, one logit per label out."""

    by_label = ("classifier.weight", "classifier.bias")

    def __init__(self, config: FSD50KVGGConfig) -> None:
        super().__init__(config)
        self.least_frames = config.patch_frames
        self.groups, inputs = nn.ModuleList(), 1
        for widths in config.channels:
            pairs = zip((inputs, *widths), widths, strict=False)
            self.groups.append(nn.Sequential(*(ConvNormReLU(*pair) for pair in pairs)))
            inputs = widths[-1]
        self.hidden = nn.Linear(2 * inputs, config.hidden)
        self.classifier = nn.Linear(config.hidden, config.num_labels)
        self.initialise()

    def logits(self, mel: Tensor) -> Tensor:
        """Score clips of one length, ``(B, T, F)``: ``(B, S)``, from means of probabilities."""
        patches = torch.stack([mel[:, i : i + self.least_frames] for i in self._starts(mel)], 1)
        rows = patches.flatten(0, 1)
        portions = [rows] if self.training else rows.split(AT_ONCE)
        logits = torch.cat([self.patch_logits(some) for some in portions])
        logits = logits.view(*patches.shape[:2], -1)  # (B, P, S)
        if logits.shape[1] == 1:
            return logits[:, 0]
        # ln(p / (1 - p)) of the mean p, without a p that rounds to 0 or 1.
        true, false = (functional.logsigmoid(x).logsumexp(1) for x in (logits, -logits))
        return true - false

    def patch_logits(self, patches: Tensor) -> Tensor:
        """``(B P, T, F)`` to ``(B P, S)``."""
        x = patches[:, None]
        for number, group in enumerate(self.groups):
            x = group(functional.max_pool2d(x, 2) if number else x)
        pooled = torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)  # (B P, 2 C)
        out: Tensor = self.classifier(functional.relu(self.hidden(pooled)))
        return out

    def _starts(self, mel: Tensor) -> list[int]:
        """First frames of patches; the last one ends with the clip."""
        last = mel.shape[1] - self.least_frames
        return sorted({*range(0, last + 1, self.config.patch_step), last})

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights, as He et al.; there are no residual branches for `residual_scale`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=1 / math.sqrt(self.config.hidden))

    def norm_pairs(self) -> Iterator[tuple[Any, nn.Module, str]]:
        """As `Baseline.norm_pairs`."""
        for module in self.modules():
            if isinstance(module, ConvNormReLU):
                yield module.conv, module, "norm"
