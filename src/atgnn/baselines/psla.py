"""PSLA: EfficientNet-B2 with four heads that say when to listen.

Y. Gong, Y.-A. Chung, J. Glass: "PSLA: Improving Audio Tagging with Pretraining, Sampling, Labeling,
and Aggregation", IEEE/ACM TASLP 2021; its code is YuanGongND/psla. Features are averaged over
frequency; each head weighs every moment for every label, the heads are added with learned shares.

The backbone is ours (`atgnn.baselines.efficientnet`), not the EfficientNet of `transformers`, which
drops single activations where the published network drops whole residual branches, turns the
norms' momentum round (running statistics are those of the last batch) and knows of no padding.

The published code lays its zeros for pictures of 260 x 260, and so does this: for what it was
trained on (128 bins; 1056 or 3000 frames) both are equal. Of another length, an odd last column
of the first two grids is heard here and dropped there.

B batch, F frequency, T time, C channels, S labels.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.efficientnet import EfficientNet, EfficientNetConfig
from atgnn.baselines.efficientnet_weights import as_linear, picture_pieces, trunk_pieces
from atgnn.baselines.published import Piece, fill
from atgnn.graph.precision import at_least_float32
from atgnn.model.layers import BatchNorm
from atgnn.model.weights import Source, WeightsReport, read_state, source_name

__all__ = ["PSLA", "PSLA_PRESETS", "AttentionPooling", "PSLAConfig", "load_psla"]

HEADS = 4
_LEAST = 1e-7  # of a moment's weight, and of a score and of what it lacks to 1


class PSLAConfig(EfficientNetConfig):
    """Layout of a PSLA; the default is the published one (B2)."""

    front_end: ClassVar[str] = "psla"
    scaled_ends: ClassVar[bool] = True
    squeeze: ClassVar[float] = 0.25
    picture: ClassVar[int] = 260

    kind: Literal["psla"] = "psla"
    width: float = Field(1.1, gt=0, description="factor of the channels")
    depth: float = Field(1.2, gt=0, description="factor of the blocks of a stage")
    norm_momentum: float = Field(
        0.01, gt=0, le=1, description="weight of a batch in the norms' running statistics"
    )


PSLA_PRESETS = {"psla": PSLAConfig()}


class AttentionPooling(nn.Module):
    """Scores over time to one score, each head with its own weights of the moments."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.weigh = nn.ModuleList(nn.Linear(channels, labels) for _ in range(HEADS))
        self.judge = nn.ModuleList(nn.Linear(channels, labels) for _ in range(HEADS))
        self.shares = nn.Parameter(torch.full((HEADS,), 1 / HEADS))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, C)`` to scores ``(B, S)``; `mask` ``(B, T)`` is False where there is no sound.

        Shares are learned and need not add up to 1: a score may lie outside of 0 and 1. Of half
        precision are the products alone, for which 1 less the smallest weight would be 1.
        """
        total = torch.zeros((), device=x.device)
        for weigh, judge, share in zip(self.weigh, self.judge, self.shares, strict=True):
            weights, scores = (at_least_float32(m(x)).sigmoid() for m in (weigh, judge))
            weights = weights.clamp(_LEAST, 1 - _LEAST)  # (B, T, S)
            if mask is not None:
                weights = weights.masked_fill(~mask[..., None], 0)
            weighed = (weights * scores).sum(1) / weights.sum(1)
            total = total + share * weighed
        return total


class PSLA(EfficientNet):
    """Log-mel spectrogram in, one logit per label out."""

    by_label: ClassVar[tuple[str, ...]] = tuple(
        f"attention.{part}.{head}.{name}"
        for part in ("weigh", "judge")
        for head in range(HEADS)
        for name in ("weight", "bias")
    )

    def __init__(self, config: PSLAConfig) -> None:
        super().__init__(config, functional.silu)
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.momentum = config.norm_momentum
        self.attention = AttentionPooling(config.ends[1], config.num_labels)
        self.initialise()

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score normalised log-mel spectrograms ``(B, T, n_mels[, in_channels])``: ``(B, S)``.

        The published network gives scores, clamped by its loss; these are their logits.
        """
        patches = self.features(mel, lengths)
        mask = None if patches.mask is None else patches.mask[:, 0]
        scores = self.attention(patches.x.mean(1), mask)
        return torch.logit(scores, eps=_LEAST)

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights; `residual_scale` as in `atgnn.model.atgnn.initialise`."""
        super().initialise(residual_scale)
        for linear in (*self.attention.weigh, *self.attention.judge):
            nn.init.normal_(linear.weight, std=0.01)
        nn.init.constant_(self.attention.shares, 1 / HEADS)


# ---------------------------------------------------------------------------- published weights


def load_psla(model: PSLA, source: Source) -> WeightsReport:
    """Copy the published weights (``as_mdl_0.pth``, ``fsd_mdl_wa.pth``) into a model, in place.

    What counts labels is left new where the file counts others. Weights of an EfficientNet-B2 for
    pictures (``efficientnet-b2-8bb594d6.pth``), which the published training begins with, will do
    too; there the first convolution begins at random, here it is summed over colours.

    Args:
        model: of the preset's layout, or of the file's.
        source: a file, opened with ``weights_only=True``, or a state dict.

    Raises:
        CheckpointError: it cannot be read, or a tensor is unknown, missing or misshapen. The model
            is unchanged then.
    """
    state = read_state(source)
    name = source_name(source)
    if "_conv_stem.weight" in state:
        return fill(model, picture_pieces(model, state), name, ("attention.shares",))
    trunk = {key: value for key, value in state.items() if key.startswith("effnet.")}
    rest = {key: value for key, value in state.items() if key not in trunk}
    return fill(model, [*_trunk(model, trunk), *_attention(rest)], name)


def _trunk(model: PSLA, state: Mapping[str, Tensor]) -> Iterator[Piece]:
    bare = {key.removeprefix("effnet."): value for key, value in state.items()}
    for piece in trunk_pieces(model, bare):
        yield piece._replace(key=f"effnet.{piece.key}")


def _attention(state: Mapping[str, Tensor]) -> Iterator[Piece]:
    parts = {"att": "weigh", "cla": "judge"}
    for key, value in state.items():
        steps = key.split(".")
        if key == "attention.head_weight":
            yield Piece(key, "attention.shares", value)
        elif len(steps) == 4 and steps[0] == "attention" and steps[1] in parts:
            target = ".".join(["attention", parts[steps[1]], *steps[2:]])
            yield as_linear(key, target, value)
        else:
            yield Piece(key, key, value)
