"""A model as it is best used, not trained: batch normalisations folded away, weights in one dtype.

What a folded model computes is the same but for rounding: an affine map behind a linear one is a
linear one. Folding moves near-ties among neighbours by a millionth, so compare scores, not
indices.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from atgnn.errors import ConfigError
from atgnn.graph.kernels import mix as kernel
from atgnn.graph.precision import without_autocast
from atgnn.model import products
from atgnn.model.atgnn import ATGNN
from atgnn.model.beside import LabelsBeside
from atgnn.model.inverted import InvertedBlock, LiteStem, SpatialNorm
from atgnn.model.label import Drawing
from atgnn.model.layers import (
    ConvNorm,
    FeedForward,
    GraphUpdate,
    LinearNorm,
    Patches,
    Relation,
    Unchanged,
)
from atgnn.model.moments import moment_logits

__all__ = [
    "InferenceModel",
    "best_dtype",
    "check_dtype",
    "fold",
    "for_inference",
    "for_inference_beside",
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
        with self._precision(mel):
            logits: Tensor = self.folded(mel, lengths)
        return logits if logits.dtype == torch.float64 else logits.float()

    @torch.no_grad()
    def with_moments(
        self, mel: Tensor, lengths: Tensor | None, stage: int, seen: list[Drawing] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of whole clips ``(B, S)`` and of their moments ``(B, P, S)``, in float32.

        `stage`, `seen`: see `moment_logits`. The network is an `ATGNN`.
        """
        folded: Any = self.folded
        with self._precision(mel):
            stages = folded.encoder(mel, lengths)
            whole, moments = folded.scored(stages), moment_logits(folded, stages, stage, seen)
        return whole.float(), moments.float()

    @torch.no_grad()
    def with_drawings(self, mel: Tensor, lengths: Tensor | None) -> tuple[Tensor, list[Drawing]]:
        """Logits ``(B, S)`` in float32, and what labels drew. The network is an `ATGNN`."""
        folded: Any = self.folded
        seen: list[Drawing] = []
        with self._precision(mel):
            logits: Tensor = folded.scored(folded.encoder(mel, lengths), seen)
        return logits.float(), seen

    def _precision(self, mel: Tensor) -> torch.autocast:
        half = self.dtype != torch.float32
        return torch.autocast(mel.device.type, self.dtype, enabled=half, cache_enabled=False)


def for_inference(
    model: ATGNN, dtype: torch.dtype = torch.float32, *, portable: bool = False
) -> InferenceModel:
    """A copy of the model for inference alone; the original stays as it is.

    Batch normalisations are folded into the linear maps before them, the subtraction of
    max-relative convolution into the weights behind it, and the weights that do the work are
    stored in `dtype`.

    Args:
        model: on any device.
        dtype: torch.float32, torch.bfloat16 or torch.float16 (on an accelerator). The stem
            computes, neighbours are ranked and labels speak to one another in float32 in any case.
        portable: leave out what only this processor's libraries compute: for exporters.
    """
    check_dtype(dtype)
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    for module in folded.modules():
        if isinstance(module, LinearNorm):
            _fold_linear(module)
        elif isinstance(module, ConvNorm | SpatialNorm):
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
    if not portable and _on_processor(folded):
        _fuse_updates(folded)
        if products.available():
            _fuse(folded)
    return InferenceModel(folded, dtype)


def for_inference_beside(model: LabelsBeside, dtype: torch.dtype = torch.float32) -> InferenceModel:
    """`for_inference` of a network with new labels beside its own; the old ones score the same."""
    folded = for_inference(model.network, dtype).folded
    assert isinstance(folded, ATGNN)
    return InferenceModel(LabelsBeside(folded, copy.deepcopy(model.new)), dtype)


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


# ------------------------------------------------------------------ processors


class _Linear(nn.Module):
    """A linear map by oneDNN, with what is behind it (see `products.linear`)."""

    def __init__(self, linear: nn.Linear, then: str) -> None:
        super().__init__()
        self.weight, self.bias, self.then = linear.weight, linear.bias, then

    def forward(self, x: Tensor) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``, in the dtype of the weights."""
        return products.linear(x.to(self.weight.dtype), self.weight, self.bias, self.then)


class _Convolution(nn.Module):
    """A convolution and the ReLU6 behind it, in float32 by oneDNN as one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, F, T)`` to the convolution's shape."""
        if self.conv.weight.dtype == torch.float32:
            return products.convolution_relu6(image.float(), self.conv)
        return functional.relu6(self.conv(image), inplace=True)


def _on_processor(model: nn.Module) -> bool:
    """Whether oneDNN can compute it: in float32 and bfloat16, on a processor."""
    known = torch.float32, torch.bfloat16
    return all(p.device.type == "cpu" and p.dtype in known for p in model.parameters())


class _Nothing(nn.Module):
    """In a norm's place once it and the GELU behind it are done by what is before it."""

    def forward(self, x: Tensor, mask: Tensor | None = None, gelu: bool = False) -> Tensor:
        return x


class _Update(nn.Module):
    """A folded `GraphUpdate` with its GELU, by the compiled kernel."""

    def __init__(self, update: GraphUpdate) -> None:
        super().__init__()
        self.dtype = update.weight.dtype
        self.packed = kernel.pack(update.weight, update.bias)
        self.norm = _Nothing()

    def mix(self, x_i: Tensor, extremum: Tensor) -> Tensor:
        """``(B, N, C)`` twice to ``(B, N, outputs)``."""
        x, m = (t.to(self.dtype).flatten(0, 1) for t in (x_i, extremum))
        out = kernel.mix(x, m, self.packed, gelu=True)
        return out.view(*x_i.shape[:2], self.packed.outputs)

    def forward(self, x_i: Tensor, extremum: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same."""
        return self.mix(x_i, extremum)


def _fuse_updates(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, GraphUpdate) and kernel.serves(child.weight):
                setattr(module, name, _Update(child))


def _fuse(model: nn.Module) -> None:
    """Linear maps by oneDNN, and activations together with what they are behind."""
    for module in list(model.modules()):
        if isinstance(module, FeedForward):
            setattr(module.fc1, "linear", _Linear(module.fc1.linear, "gelu"))  # noqa: B010
            module.fc1.norm = _Nothing()
        elif isinstance(module, InvertedBlock) and module.activation is functional.relu6:
            if module.expand is not None:
                setattr(module.expand, "linear", _Linear(module.expand.linear, "relu6"))  # noqa: B010
            _with_relu6(module, module.depthwise)
        elif isinstance(module, LiteStem):
            _with_relu6(module, module.first)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, _Linear(child, "none"))


def _with_relu6(module: InvertedBlock | LiteStem, first: SpatialNorm) -> None:
    setattr(first, "conv", _Convolution(first.conv))  # noqa: B010
    module.activation = nn.Identity()


# ------------------------------------------------------------------ folding


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and offset ``(C,)`` of a batch normalisation, in float64."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def fold(module: Any, norm: nn.Module, rows: Tensor) -> None:
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


def _fold_conv(module: ConvNorm | SpatialNorm) -> None:
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
