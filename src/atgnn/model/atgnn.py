"""ATGNN: audio tagging graph neural network.

S. Singh, C. J. Steinmetz, E. Benetos, H. Phan, D. Stowell: "ATGNN: Audio Tagging Graph Neural
Network", IEEE Signal Processing Letters, 2023. Patch side after Vision GNN (Han et al., 2022).

B batch, C channels, S labels, H width of the head; T frames of a spectrogram, F x T the grid of its
patch nodes.
"""

import math

import torch
from torch import Tensor, nn

from atgnn.model.config import ModelConfig, preset
from atgnn.model.inverted import InvertedBlock
from atgnn.model.label import Drawing, LabelBranch, NoLabels
from atgnn.model.layers import (
    BatchNorm,
    FeedForward,
    GraphUpdate,
    LinearNorm,
    Patches,
    check_input,
    mean_of,
    spread_of,
)
from atgnn.model.patch import Grapher, PatchEncoder

__all__ = ["ATGNN", "PatchHead"]


class ATGNN(nn.Module):
    """Log-mel spectrogram in, one logit per label out.

    A convolutional stem makes patch nodes; patch blocks connect each patch to its nearest
    neighbours, anew in every block; label blocks tie label nodes to patches and to one another.
    The probability of a label is ``sigmoid(patch logit + label logit)`` (eq. 9).
    """

    #: Weights whose first axis counts labels.
    by_label = (
        "patch_head.fc2.weight",
        "patch_head.fc2.bias",
        "label_branch.embedding",
        "label_branch.readout",
    )

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PatchEncoder(config)
        self.patch_head = PatchHead(config)
        self.label_branch = LabelBranch(config) if config.has_labels else NoLabels()
        initialise(self)

    @classmethod
    def from_preset(cls, name: str, **changes: object) -> "ATGNN":
        """A new model with random weights, e.g. ``ATGNN.from_preset("pyr-s", num_labels=50)``."""
        return cls(preset(name, **changes))

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score a batch of normalised log-mel spectrograms.

        Args:
            mel: ``(B, T, n_mels)``, from `atgnn.frontend.FrontEnd`; with several input channels
                (see `ModelConfig.in_channels`) ``(B, T, n_mels, in_channels)``.
            lengths: ``(B,)`` valid frames of each clip, or None when all T are valid. What lies
                beyond a clip's length has no influence on its logits.

        Returns:
            Logits ``(B, S)``.
        """
        check_input(self.config, mel, lengths)
        return self.scored(self.encoder(mel, lengths))

    def scored(self, stages: list[list[Patches]], seen: list[Drawing] | None = None) -> Tensor:
        """Patch nodes after every block, by stage, to logits ``(B, S)``.

        What labels drew from patches is appended to `seen`.
        """
        patch_logits: Tensor = self.patch_head(stages[-1][-1])
        label_logits = self.label_branch(stages, seen)
        return patch_logits + label_logits


class PatchHead(nn.Module):
    """``W_b gelu(W_a x)`` with x the mean over all patches: one logit per label (eq. 7).

    With `ModelConfig.pooling` ``mean_std`` x is their mean and their standard deviation: ours.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pool = mean_of if config.pooling == "mean" else spread_of
        inputs = config.channels[-1] * (1 if config.pooling == "mean" else 2)
        self.fc1 = LinearNorm(inputs, config.head_width)
        self.dropout = nn.Dropout(config.head_dropout)
        self.fc2 = nn.Linear(config.head_width, config.num_labels)

    def hidden(self, patches: Patches) -> Tensor:
        """``(B, F, T, C)`` to what the last linear map reads, ``(B, H)``."""
        pooled = self.fc1.linear(self.pool(patches))
        out: Tensor = self.dropout(self.fc1.norm(pooled, gelu=True))
        return out

    def forward(self, patches: Patches) -> Tensor:
        """``(B, F, T, C)`` to ``(B, S)``."""
        out: Tensor = self.fc2(self.hidden(patches))
        return out


@torch.no_grad()
def initialise(model: ATGNN, residual_scale: float = 1.0) -> None:
    """Initial weights as published: Kaiming for convolutions, uniform for adjacency and readout.

    `residual_scale` is the scale of the batch normalisation that ends each residual branch: 1 as
    published; 0 makes every block start as the identity, which learns faster from few clips.
    Source: Vision GNN's code (patches) and that of the paper's author (labels).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, GraphUpdate):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight.shape[-1]))
            nn.init.zeros_(module.bias)
        elif isinstance(module, Grapher | FeedForward):
            assert isinstance(module.fc2.norm, BatchNorm)
            nn.init.constant_(module.fc2.norm.weight, residual_scale)
        elif isinstance(module, InvertedBlock) and module.residual:
            assert isinstance(module.project.norm, BatchNorm)
            nn.init.constant_(module.project.norm.weight, residual_scale)
    if isinstance(model.label_branch, LabelBranch):
        branch = model.label_branch
        nn.init.trunc_normal_(branch.embedding, std=0.02)
        nn.init.uniform_(branch.readout, -1, 1).div_(math.sqrt(branch.readout.shape[1]))
        for name, parameter in branch.named_parameters():
            if name.endswith("adjacency"):
                nn.init.uniform_(parameter, -1, 1).div_(math.sqrt(parameter.shape[1]))
