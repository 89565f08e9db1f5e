"""Audio Transformers: raw waveform in, no convolution anywhere.

P. Verma and J. Berger: "Audio Transformers: Transformer Architectures For Large Scale Audio
Understanding. Adieu Convolutions", WASPAA 2021. The waveform (16 kHz) is cut into patches of 25 ms;
two dense layers learned with the rest take the place of a filter bank; Transformer layers follow,
with pooling in time between them as in a convolutional network, and one second is heard at a time.

Fixed by the paper: patches of 25 ms without overlap, windows of 1 s (40 patches), a front end of
dense layers, six layers in the large model, pooling between layers, 2.3 million parameters for the
200 classes of FSD50K. Left open, or not found by us, and chosen: a front end of 400 -> 2048 -> 128
and layers of width 128 with 8 heads (the large model of the first author's paper on raw audio of
the same year), four times as wide inside, sinusoidal positions, pairs of patches averaged after the
second and the fourth layer, the mean over what is left, one linear map. That makes 2.299 million
parameters at 200 classes and 2.341 at 527. The paper's multi-rate variant, which adds no
parameters, is not here.

A clip longer than a second is cut into windows of a second, each of which attends to itself alone;
the clip's logits are the mean over all its windows, each counting by its length.

B batch, P patches, W windows, E width, S labels. Patches of one clip: ``(B, P, E)``.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.base import Baseline, BaselineConfig
from atgnn.graph import ceil_div, mean_nodes, node_mask, pool_nodes
from atgnn.model.layers import check_input

__all__ = ["AUDIO_TRANSFORMER_PRESETS", "AudioTransformer", "AudioTransformerConfig"]


class AudioTransformerConfig(BaselineConfig):
    """Layout of an Audio Transformer; the default is the large one with pooling."""

    kind: Literal["audio-transformer"] = "audio-transformer"
    front_end: ClassVar[str] = "waveform"
    n_mels: int = Field(1, description="a waveform has one value at a time")
    patch: int = Field(400, ge=1, description="samples: 25 ms at 16 kHz")
    window: int = Field(40, ge=1, description="patches that attend to one another: 1 s")
    encoder: int = Field(2048, ge=1, description="neurons of the learned front end (open)")
    width: int = Field(128, ge=2, description="of the Transformer (open)")
    heads: int = Field(8, ge=1, description="of its attention (open)")
    layers: int = Field(6, ge=1)
    inner: int = Field(512, ge=1, description="width inside the feed-forward networks (open)")
    pool_after: tuple[PositiveInt, ...] = Field(
        (2, 4), description="layers behind which pairs of patches are averaged (open)"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="of each branch (open)")

    @model_validator(mode="after")
    def _fits_together(self) -> "AudioTransformerConfig":
        if self.n_mels != 1:
            raise ValueError(
                f"it hears the waveform, not {self.n_mels} mel bins: set front_end={{preset: own}}"
            )
        if self.in_channels != 1:
            raise ValueError(f"in_channels is {self.in_channels}: it hears one waveform")
        if self.width % (2 * self.heads):
            raise ValueError("width must be a multiple of twice the heads")
        if any(number >= self.layers for number in self.pool_after):
            raise ValueError(f"pool_after names layers before the last one, {self.layers}")
        return self


AUDIO_TRANSFORMER_PRESETS = {"audio-transformer": AudioTransformerConfig()}


class TransformerLayer(nn.Module):
    """Attention and a feed-forward network, a norm behind each (A. Vaswani et al., NIPS 2017)."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """``(B, P, E)`` to ``(B, P, E)``; nobody attends to patches where `valid` is False."""
        x = self.norm1(x + self.dropout(self._attend(x, valid)))
        inner = self.dropout(functional.relu(self.widen(x)))
        out: Tensor = self.norm2(x + self.dropout(self.narrow(inner)))
        return out

    def _attend(self, x: Tensor, valid: Tensor | None) -> Tensor:
        batch, patches, width = x.shape
        parts = self.query_key_value(x).view(batch, patches, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (B, heads, P, E / heads)
        mask = None if valid is None else valid[:, None, None]
        heard = functional.scaled_dot_product_attention(query, key, value, mask)
        out: Tensor = self.attended(heard.transpose(1, 2).reshape(batch, patches, width))
        return out


class AudioTransformer(Baseline):
    """Waveform in, one logit per label out."""

    by_label = ("classifier.weight", "classifier.bias")

    def __init__(self, config: AudioTransformerConfig) -> None:
        super().__init__(config)
        width = config.width
        self.filters = nn.Linear(config.patch, config.encoder)
        self.project = nn.Linear(config.encoder, width)
        self.layers = nn.ModuleList(
            TransformerLayer(width, config.heads, config.inner, config.dropout)
            for _ in range(config.layers)
        )
        self.classifier = nn.Linear(width, config.num_labels)
        self.initialise()

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score waveforms ``(B, samples, 1)``: ``(B, S)``.

        What lies beyond a clip's `lengths` ``(B,)``, in samples, has no influence on its logits.
        """
        check_input(self.config, mel, lengths)
        x, counts = self._windows(*self._patches(mel, lengths))
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, _heard(counts, x.shape[1]))
            if number in self.config.pool_after:
                pooled, counts = pool_nodes(x[:, None], 2, counts)
                x = pooled[:, 0]
        out: Tensor = self.classifier(_mean(x, counts, len(mel)))
        return out

    def _patches(self, mel: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embedded patches ``(B, P, E)`` and how many of them each clip has, ``(B,)``."""
        batch, samples, _ = mel.shape
        size = self.config.patch
        patches = ceil_div(samples, size)
        wave = functional.pad(mel[..., 0], (0, patches * size - samples))
        counts = None
        if lengths is not None:
            beyond = torch.arange(wave.shape[1], device=mel.device) >= lengths[:, None]
            wave = wave.masked_fill(beyond, 0)
            counts = (lengths + size - 1) // size
        hidden = functional.relu(self.filters(wave.view(batch, patches, size)))
        return self.project(hidden), counts

    def _windows(self, x: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Patches ``(B, P, E)`` as windows ``(B W, P', E)`` with positions, and their counts."""
        batch, patches, width = x.shape
        size = min(self.config.window, patches)
        windows = ceil_div(patches, size)
        if windows * size > patches and counts is None:
            counts = torch.full((batch,), patches, device=x.device)
        if counts is not None:
            starts = torch.arange(windows, device=x.device) * size
            counts = (counts[:, None] - starts).clamp(0, size).flatten()
        x = functional.pad(x, (0, 0, 0, windows * size - patches))
        x = x.reshape(batch * windows, size, width)
        return x + _positions(size, width, x), counts

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights; `residual_scale` multiplies the last map of every residual branch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, TransformerLayer):
                module.attended.weight.mul_(residual_scale)
                module.narrow.weight.mul_(residual_scale)
        nn.init.normal_(self.classifier.weight, std=0.01)


def _positions(patches: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of every patch's place, ``(P, E)``."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(1e4) / width))
    angles = torch.arange(patches, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(like.dtype)


def _heard(counts: Tensor | None, patches: int) -> Tensor | None:
    """Which patches of a window may be attended to; all, where a window is past its clip's end.

    That window's result is used nowhere; with nothing to attend to it would be no number.
    """
    if counts is None:
        return None
    limit = counts.masked_fill(counts == 0, patches)
    return torch.arange(patches, device=counts.device) < limit[:, None]


def _mean(x: Tensor, counts: Tensor | None, batch: int) -> Tensor:
    """Mean over all patches of all windows of a clip: ``(B W, P, E)`` to ``(B, E)``."""
    nodes = x.reshape(batch, 1, -1, x.shape[-1])
    if counts is None:
        return mean_nodes(nodes)
    return mean_nodes(nodes, node_mask(counts, 1, x.shape[1]).reshape(batch, 1, -1))
