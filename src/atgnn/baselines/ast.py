"""The Audio Spectrogram Transformer (AST), on the backbone of the package `transformers`.

Y. Gong, Y.-A. Chung, J. Glass: "AST: Audio Spectrogram Transformer", Interspeech 2021. The picture
of a sound is cut into overlapping squares, each one a token with its place; two more tokens gather
what the clip is about. The published code has a Vision Transformer of timm for it (DeiT, base,
distilled, 384).

The paper of ATGNN gives AST 88.7 M parameters. At 527 classes and 1024 frames this model has
86.59 M: 85.05 M in twelve blocks, 0.93 M in 1214 positions, 0.41 M in the head, 0.20 M elsewhere.
The published code also carries both classifiers of DeiT (2 x 768 x 1000, never computed with):
88.13 M. What is left, 0.57 M, is documented nowhere; a projection of three colours that is counted
beside the one of the spectrogram would be 0.59 M.

B batch, F frequency, T time, C channels, N tokens, S labels.
"""

import re
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from atgnn.baselines.base import Baseline, BaselineConfig
from atgnn.errors import MissingExtraError

__all__ = ["AST", "AST_PRESETS", "ASTConfig", "hub_name", "resize_positions"]

GATHERING = 2  # tokens before those of the patches: class and distillation


class ASTConfig(BaselineConfig):
    """Layout of an AST; the default is the published one (base, patches every 10)."""

    kind: Literal["ast"] = "ast"
    front_end: ClassVar[str] = "ast"

    width: int = Field(768, ge=1, description="channels of a token")
    depth: int = Field(12, ge=1, description="blocks")
    heads: int = Field(12, ge=1)
    ffn_ratio: int = Field(4, ge=1)
    patch: int = Field(16, ge=1, description="side of a patch, in bins and frames")
    strides: tuple[PositiveInt, PositiveInt] = Field(
        (10, 10), description="from one patch to the next, in bins and in frames"
    )
    nominal_frames: int = Field(1024, ge=1, description="frames that stored positions are made for")
    dropout: float = Field(0.0, ge=0, lt=1, description="of tokens and of branches; 0 as published")
    norm_eps: float = Field(1e-6, gt=0)
    head_norm_eps: float = Field(1e-5, gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> "ASTConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.in_channels != 1:
            raise ValueError(f"in_channels is {self.in_channels}: an AST hears one spectrogram")
        for name in ("n_mels", "nominal_frames"):
            if getattr(self, name) < self.patch:
                raise ValueError(f"{name} {getattr(self, name)} is less than a patch {self.patch}")
        return self

    def grid(self, frames: int) -> tuple[int, int]:
        """Rows and columns of whole patches in `frames` frames; at least one column."""
        sizes = zip((self.n_mels, max(frames, self.patch)), self.strides, strict=True)
        rows, columns = ((size - self.patch) // stride + 1 for size, stride in sizes)
        return rows, columns


AST_PRESETS = {"ast": ASTConfig()}


class AST(Baseline):
    """Log-mel spectrogram in, one logit per label out.

    Weights are named as in files of the Hugging Face Hub, whatever `transformers` of the day calls
    its layers: a checkpoint outlives the version that wrote it.

    Raises:
        MissingExtraError: `transformers` is not installed.
    """

    by_label: ClassVar[tuple[str, ...]] = ("classifier.weight", "classifier.bias")

    def __init__(self, config: ASTConfig) -> None:
        super().__init__(config)
        self.least_frames = config.patch
        self.backbone = _backbone(config)
        self.norm = nn.LayerNorm(config.width, eps=config.head_norm_eps)
        self.classifier = nn.Linear(config.width, config.num_labels)
        self.register_state_dict_post_hook(_to_hub_names)
        self.register_load_state_dict_pre_hook(_from_hub_names)
        self.initialise()

    def logits(self, mel: Tensor) -> Tensor:
        """Score clips of one length, ``(B, T, n_mels)``: ``(B, S)``."""
        place = {"embeddings.position_embeddings": self.positions(mel.shape[1])}
        tokens = torch.func.functional_call(self.backbone, place, (mel,)).pooler_output  # (B, C)
        out: Tensor = self.classifier(self.norm(tokens))
        return out

    def positions(self, frames: int) -> Tensor:
        """What is added to the tokens of a clip of `frames` frames: ``(1, N, C)``."""
        stored: Tensor = self.backbone.get_parameter("embeddings.position_embeddings")
        nominal = self.config.grid(self.config.nominal_frames)
        return resize_positions(stored, nominal, self.config.grid(frames))

    @torch.no_grad()
    def initialise(self, residual_scale: float = 1.0) -> None:
        """Random weights as in the published code; `residual_scale` as in `atgnn.model.atgnn`."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, value in self.state_dict().items():
            if ".embeddings." in name and "projection" not in name:  # tokens and positions
                nn.init.trunc_normal_(value, std=0.02)
            elif name.endswith("output.dense.weight"):  # where a residual branch ends
                value.mul_(residual_scale)


def _backbone(config: ASTConfig) -> nn.Module:
    try:
        from transformers import ASTConfig as Layout
        from transformers import ASTModel
    except ImportError:
        raise MissingExtraError.of("transformers", "baselines", "AST") from None
    settings: dict[str, Any] = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_ratio * config.width,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.norm_eps,
        "patch_size": config.patch,
        "frequency_stride": config.strides[0],
        "time_stride": config.strides[1],
        "num_mel_bins": config.n_mels,
        "max_length": config.nominal_frames,
        "attn_implementation": "sdpa",
    }
    backbone: nn.Module = ASTModel(Layout(**settings))
    return backbone


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions ``(1, 2 + rows x columns, C)`` of one grid for another, as the published code.

    An axis that shrinks keeps its middle, one that grows is interpolated linearly. The gathering
    tokens, which come first, keep theirs.
    """
    if old == new:
        return table
    gathering, patches = table[:, :GATHERING], table[:, GATHERING:]
    image = patches.unflatten(1, old).permute(0, 3, 1, 2)  # (1, C, rows, columns)
    for axis in (3, 2):
        size, wanted = image.shape[axis], new[axis - 2]
        if wanted <= size:
            image = image.narrow(axis, size // 2 - wanted // 2, wanted)
        else:
            shape = (image.shape[2], wanted) if axis == 3 else (wanted, image.shape[3])
            image = functional.interpolate(image, size=shape, mode="bilinear", align_corners=False)
    return torch.cat([gathering, image.flatten(2).transpose(1, 2)], dim=1)


# ---------------------------------------------------------------------------- names of weights

# Of a block's layers: in recent versions of `transformers`, and on the Hub.
_ON_THE_HUB = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")


def hub_name(name: str) -> str:
    """What files of the Hub call a tensor of `transformers`' ASTModel, of any version."""
    if (found := _LAYER.fullmatch(name)) is None:
        return name
    block, layer, part = found.groups()
    return f"encoder.layer.{block}.{_ON_THE_HUB.get(layer, layer)}.{part}"


def _to_hub_names(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    here = f"{prefix}backbone."
    for key in [key for key in state if key.startswith(here)]:
        state[here + hub_name(key.removeprefix(here))] = state.pop(key)


def _from_hub_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    here = f"{prefix}backbone."
    backbone = module.get_submodule("backbone")
    for name, _value in backbone.named_parameters():
        if (key := here + hub_name(name)) in state:
            state[here + name] = state.pop(key)
