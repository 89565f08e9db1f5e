"""A model as it is best used, not trained: batch normalisations folded away, weights in one dtype.

What a folded model computes is the same but for rounding: an affine map behind a linear one is a
linear one. Folding moves near-ties among neighbours by a millionth, so compare scores, not
indices.
"""

import copy

import torch
from torch import Tensor, nn

from atgnn.errors import ConfigError
from atgnn.graph.precision import without_autocast
from atgnn.model.atgnn import ATGNN
from atgnn.model.layers import (
    BatchNorm,
    ConvNorm,
    GraphUpdate,
    LinearNorm,
    Patches,
    Relation,
    Unchanged,
)

__all__ = [
    "InferenceModel",
    "best_dtype",
    "check_dtype",
    "fold",
    "for_inference",
    "half_is_fast",
]


class InferenceModel(nn.Module):
    """A folded copy of a model; see `for_inference`."""

    def __init__(self, folded: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.folded, self.dtype = folded, dtype
        self.config = folded.config
        self.eval()

    @torch.no_grad()
    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `ATGNN.forward`: logits ``(B, S)`` in float32."""
        half = self.dtype != torch.float32
        with torch.autocast(mel.device.type, self.dtype, enabled=half, cache_enabled=False):
            logits: Tensor = self.folded(mel, lengths)
        return logits if logits.dtype == torch.float64 else logits.float()


def for_inference(model: ATGNN, dtype: torch.dtype = torch.float32) -> InferenceModel:
    """A copy of the model for inference alone; the original stays as it is.

    Batch normalisations are folded into the linear maps before them, the subtraction of
    max-relative convolution into the weights behind it, and the weights that do the work are
    stored in `dtype`.

    Args:
        model: on any device.
        dtype: torch.float32, torch.bfloat16 or torch.float16 (on an accelerator). The stem
            computes, neighbours are ranked and labels speak to one another in float32 in any case.
    """
    check_dtype(dtype)
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for module in folded.modules():
        if isinstance(module, LinearNorm):
            _fold_linear(module)
        elif isinstance(module, ConvNorm):
            _fold_conv(module)
        elif isinstance(module, GraphUpdate):
            _fold_update(module)
    if dtype != torch.float32:
        # All but the stem: a rounding there is a rounding of every distance behind it.
        folded.encoder.stem = _InFloat32(folded.encoder.stem)
        for part in (folded.encoder.stages, folded.patch_head, folded.label_branch):
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.Conv2d | GraphUpdate):
                    module.to(dtype)
    return InferenceModel(folded, dtype)


def check_dtype(dtype: torch.dtype) -> None:
    """ConfigError for what networks do not compute in."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ConfigError(f"inference in {dtype}: choose float32, bfloat16 or float16")


class _InFloat32(nn.Module):
    """The stem without autocast."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, patches: Patches) -> Patches:
        with without_autocast(patches.x):
            out: Patches = self.stem(patches)
        return out


def half_is_fast(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32, rather than by emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def best_dtype(device: torch.device) -> torch.dtype:
    """The dtype to use on a device where nothing else is asked for."""
    return torch.bfloat16 if half_is_fast(device) else torch.float32


# ------------------------------------------------------------------ folding


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and offset ``(C,)`` of a batch normalisation, in float64."""
    assert isinstance(norm, BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def fold(module: nn.Linear | nn.Conv2d | GraphUpdate, norm: nn.Module, rows: Tensor) -> None:
    """Give a linear map, seen as one row for each output, what `norm` does behind it."""
    scale, offset = _affine(norm)
    bias = 0.0 if module.bias is None else module.bias.double()
    folded = scale[:, None] * rows.double().flatten(1)
    module.weight.copy_(folded.view(module.weight.shape))
    constant = (scale * bias + offset).to(module.weight.dtype)
    module.bias = nn.Parameter(constant, requires_grad=False)


def _fold_linear(module: LinearNorm) -> None:
    fold(module.linear, module.norm, module.linear.weight)
    module.norm = Unchanged()


def _fold_conv(module: ConvNorm) -> None:
    fold(module.conv, module.norm, module.conv.weight)
    module.norm = Unchanged()


class _NoRelation(nn.Module):
    """In a `Relation`'s place once its subtraction is in the weights."""

    def forward(self, x_i: Tensor, extremum: Tensor) -> Tensor:
        return extremum


def _fold_update(module: GraphUpdate) -> None:
    """``W_x x + W_m s (e - x) = (W_x - s W_m) x + s W_m e``, and the norm behind it."""
    assert isinstance(module.relation, Relation)
    sign = module.relation.sign
    by_x, by_m = module.weight.double().chunk(2, dim=2)
    rows = torch.cat([by_x - sign * by_m, sign * by_m], dim=2)  # (G, D/G, 2C/G)
    fold(module, module.norm, rows.flatten(0, 1))
    module.norm, module.relation = Unchanged(), _NoRelation()
