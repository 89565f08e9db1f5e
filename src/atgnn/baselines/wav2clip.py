"""Wav2CLIP: an audio encoder taught by CLIP, and a classifier on its embeddings.

H.-H. Wu, P. Seetharaman, K. Kumar and J. P. Bello: "Wav2CLIP: Learning Robust Audio
Representations from CLIP", ICASSP 2022. A ResNet-18 hears a spectrogram as a grey picture,
frequency downwards, time to the right; its pooled features, 512 numbers, pass through a small
network (the audio transform) into CLIP's space.

Facts, from the authors' code (descriptinc/lyrebird-wav2clip): one input channel; the spectrogram is
that of 16 kHz sound, power, 512-point FFT, a step of 353 samples, all 257 linear bins (no mel
filters), log(x + 1e-7), then less its mean and over its standard deviation; the transform is
512 -> 512 -> 512 with ReLU and dropout 0.1. Two departures: theirs takes mean and deviation over a
whole batch, ours over each clip, which is the same for one clip and lets no clip's scores depend on
others'. And the paper classifies embeddings by a multi-layer perceptron whose sizes it does not
give: ours has the form of the transform, one hidden layer of 512.

The backbone is written here, not taken from transformers, though its ResNet computes the same (a
test compares them): the published names then fit as they are, and no optional package is needed.

B batch, F frequency, T time, C channels, E embedding, S labels.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.base import Baseline, BaselineConfig, ImageNorm
from atgnn.baselines.published import Piece, fill
from atgnn.errors import CheckpointError, some_of
from atgnn.graph import mean_nodes, node_mask
from atgnn.model.layers import Patches
from atgnn.model.weights import Source, WeightsReport, read_state, source_name

__all__ = ["WAV2CLIP_PRESETS", "Wav2CLIP", "Wav2CLIPConfig", "load_wav2clip"]

SILENCE = 1e-3  # nats


class Wav2CLIPConfig(BaselineConfig):
    """Layout of Wav2CLIP's encoder and classifier."""

    kind: Literal["wav2clip"] = "wav2clip"
    front_end: ClassVar[str] = "wav2clip"
    n_mels: int = Field(257, ge=2, description="frequency bins of the input")
    width: int = Field(64, ge=1, description="channels of the first stage; doubled at each other")
    blocks: tuple[PositiveInt, ...] = Field((2, 2, 2, 2), min_length=1)
    hidden: tuple[PositiveInt, ...] = Field((512,), description="classifier's hidden layers (open)")
    dropout: float = Field(0.1, ge=0, lt=1, description="behind each hidden layer")
    frozen: bool = Field(False, description="train the classifier alone, on the embeddings")

    @property
    def embedding(self) -> int:
        """E: 512 as published."""
        return self.width << (len(self.blocks) - 1)


WAV2CLIP_PRESETS = {"wav2clip": Wav2CLIPConfig()}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a residual (K. He et al., CVPR 2016, the block of ResNet-18)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = ImageNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = ImageNorm(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, ImageNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, F, T)`` to ``(B, outputs, ceil(F / stride), ceil(T / stride))``."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.downsample(x)
        return functional.relu(out)


class ResNet(nn.Module):
    """The encoder: a picture of one channel in, its pooled features out."""

    def __init__(self, inputs: int, width: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = ImageNorm(width)
        self.stages: list[str] = []
        channels = width
        for number, count in enumerate(blocks):
            outputs = width << number
            strides = [1 if number == 0 else 2, *[1] * (count - 1)]
            stage = nn.Sequential()
            for stride in strides:
                stage.append(BasicBlock(channels, outputs, stride))
                channels = outputs
            self.stages.append(f"layer{number + 1}")
            self.add_module(self.stages[-1], stage)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, F, T)`` to ``(B, E)``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


class Wav2CLIP(Baseline):
    """Log-power spectrogram in, one logit per label out."""

    by_label = ("classifier.weight", "classifier.bias")

    def __init__(self, config: Wav2CLIPConfig) -> None:
        super().__init__(config)
        size, rate = config.embedding, config.dropout
        self.encoder = ResNet(config.in_channels, config.width, config.blocks)
        self.transform = nn.Sequential(
            nn.Linear(size, size), nn.ReLU(), nn.Dropout(rate), nn.Linear(size, size)
        )
        self.hidden = nn.Sequential()
        for units in config.hidden:
            self.hidden.extend([nn.Linear(size, units), nn.ReLU(), nn.Dropout(rate)])
            size = units
        self.classifier = nn.Linear(size, config.num_labels)
        for part in (self.encoder, self.transform):
            part.requires_grad_(not config.frozen)
        self.initialise()

    def logits(self, mel: Tensor) -> Tensor:
        """Score log-power spectrograms of one length, ``(B, T, n_mels)``: ``(B, S)``."""
        return self._classify(self.embed(mel))

    def padded_logits(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Score clips of several lengths together, in training; each is standardised by itself."""
        return self._classify(self.embed(mel, lengths))

    def norm_pairs(self) -> Iterable[tuple[nn.Module, nn.Module, str]]:
        """Every convolution and its norm."""
        for owner in self.encoder.modules():
            if isinstance(owner, ResNet | BasicBlock):
                yield owner.conv1, owner, "bn1"
            if isinstance(owner, BasicBlock):
                yield owner.conv2, owner, "bn2"
                if isinstance(owner.downsample, nn.Sequential):
                    yield owner.downsample[0], owner.downsample, "1"

    def embed(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeddings in CLIP's space: ``(B, E)``; past a clip's end the picture is 0, its mean."""
        image = _standardised(Patches.of(mel).x, lengths)
        out: Tensor = self.transform(self.encoder(image.permute(0, 3, 1, 2)))
        return out

    def _classify(self, embeddings: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.hidden(embeddings))
        return out

    def train(self, mode: bool = True) -> "Wav2CLIP":
        """As `nn.Module.train`; what is frozen keeps its statistics and drops nothing."""
        super().train(mode)
        if self.config.frozen:
            self.encoder.eval()
            self.transform.eval()
        return self

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights; `residual_scale` is that of every block's last norm."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, BasicBlock):
                nn.init.constant_(module.bn2.weight, residual_scale)
        nn.init.normal_(self.classifier.weight, std=0.01)


def _standardised(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Clips ``(B, F, T, C)`` less their means, over their deviations; 0 past a clip's end.

    A deviation below `SILENCE` counts as that much: the rounding of a constant is no sound.
    """
    cells = x.shape[1] * (x.shape[2] if lengths is None else lengths[:, None])
    x = x - mean_nodes(x, lengths)[:, None, None]
    variance = mean_nodes(x.square(), lengths) * cells / (cells - 1)
    x = x / variance.sqrt().clamp(min=SILENCE)[:, None, None]
    if lengths is None:
        return x
    return x.masked_fill(~node_mask(lengths, x.shape[1], x.shape[2])[..., None], 0)


# ---------------------------------------------------------------------------- published weights

# Beginnings of names in the published file, and here.
_NAMES = {"audio_encoder.": "encoder.", "audio_transform.sequential.": "transform."}
_UNUSED = {
    "audio_encoder.spectrogram.": "a window: the front end has its own",
    "audio_encoder.fc.": "a layer that the published encoder does not use",
    "image_transform.": "for pictures",
    "loss_fn": "of the loss",
}


def load_wav2clip(model: Wav2CLIP, source: Source) -> WeightsReport:
    """Copy the published encoder and its transform into a model, in place; the classifier is new.

    Args:
        model: of the published layout, whatever its classifier and labels.
        source: the authors' file (``Wav2CLIP.pt``), opened with ``weights_only=True``, or a state
            dict.

    Raises:
        CheckpointError: it cannot be read, or a tensor is unknown, missing or misshapen. The model
            is unchanged then.
    """
    state = read_state(source)
    name = source_name(source)
    if "audio_encoder.conv1.weight" not in state:
        raise CheckpointError(
            f"{name}: not Wav2CLIP's weights: expected a key audio_encoder.conv1.weight, got "
            f"{some_of(list(state), 3)}"
        )
    head = [key for key in model.state_dict() if key.startswith(("hidden.", "classifier."))]
    return fill(model, map(_piece, state.items()), name, head)


def _piece(item: tuple[str, Tensor]) -> Piece:
    key, value = item
    for start, reason in _UNUSED.items():
        if key.startswith(start):
            return Piece(key, "", value, reason)
    for start, ours in _NAMES.items():
        if key.startswith(start):
            return Piece(key, ours + key.removeprefix(start), value)
    return Piece(key, key, value)  # unknown: `fill` says so
