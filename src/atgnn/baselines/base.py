"""What all baselines share: clips of unequal length, copies for inference, and their cost.

B batch, F mel bins, T frames, S labels.
"""

import copy
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from atgnn.costs import Cost
from atgnn.model.config import LayoutConfig
from atgnn.model.empty import without_values
from atgnn.model.fused import normalise
from atgnn.model.inference import InferenceModel, check_dtype, fold
from atgnn.model.layers import Unchanged, check_input
from atgnn.model.together import shared

__all__ = ["Baseline", "BaselineConfig", "ImageNorm"]

_DENSE = (nn.Linear, nn.Conv1d, nn.Conv2d)


class ImageNorm(nn.BatchNorm2d):
    """Batch normalisation of ``(B, C, F, T)``, over all processes where they share statistics.

    `shared_statistics`: as of `atgnn.model.layers.BatchNorm`.
    """

    shared_statistics = False

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, F, T)`` to the same."""
        if not (self.training and shared(self)):
            return super().forward(x)
        return normalise(x.movedim(1, -1), self, None).movedim(-1, 1)


class BaselineConfig(LayoutConfig):
    """Layout of a system to compare with.

    Attributes:
        front_end: the name in `atgnn.frontend.FRONT_ENDS` of what the published system hears.
    """

    front_end: ClassVar[str]


class Baseline(nn.Module):
    """Features in, one logit per label out; the interface of `atgnn.model.ATGNN`.

    A system says what it makes of clips of one length (`logits`), which of its weights have a row
    per label, and how it begins; this class does the rest.

    Attributes:
        by_label: weights whose first axis counts labels.
        least_frames: shorter clips get zeros up to so many frames.
        one_graph: whether `forward` is its own and scores clips of unequal length together, by
            masks: then it can be exported.
    """

    by_label: ClassVar[tuple[str, ...]]
    least_frames: int = 1
    one_graph: ClassVar[bool] = False

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config: Any = config

    def logits(self, mel: Tensor) -> Tensor:
        """Score clips of one length, ``(B, T, n_mels[, in_channels])``: ``(B, S)``."""
        raise NotImplementedError

    def initialise(self, residual_scale: float = 1.0) -> None:
        """Draw random weights; `residual_scale` as in `atgnn.model.atgnn.initialise`."""
        raise NotImplementedError

    def norm_pairs(self) -> Iterable[tuple[Any, nn.Module, str]]:
        """Linear maps with the batch norm right behind each: map, owner of the norm, its name."""
        return ()

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score normalised features ``(B, T, n_mels[, in_channels])``: ``(B, S)``.

        In evaluation, clips are scored in groups of equal `lengths` ``(B,)``: what lies beyond a
        clip's length, and the rest of the batch, have no influence on its logits. In training all
        are scored together, with zeros past the end, as these systems were trained.
        """
        check_input(self.config, mel, lengths)
        if lengths is None:
            return self.logits(self._long_enough(mel))
        if self.training or self._norms_learn():
            return self.padded_logits(mel, lengths)
        ends = lengths.tolist()
        groups = [[row for row, own in enumerate(ends) if own == end] for end in sorted(set(ends))]
        parts = [self.logits(self._long_enough(mel[rows, : ends[rows[0]]])) for rows in groups]
        logits = torch.cat(parts)
        out = torch.empty_like(logits)
        out[[row for rows in groups for row in rows]] = logits
        return out

    def _norms_learn(self) -> bool:
        """Whether batch norms gather statistics while all else is as in evaluation."""
        return any(m.training for m in self.modules() if isinstance(m, _BatchNorm))

    def padded_logits(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Score clips of several lengths together, in training."""
        past = torch.arange(mel.shape[1], device=mel.device) >= lengths[:, None]
        past = past.view(*past.shape, *(1,) * (mel.ndim - 2))
        return self.logits(self._long_enough(mel.masked_fill(past, 0)))

    def _long_enough(self, mel: Tensor) -> Tensor:
        missing = self.least_frames - mel.shape[1]
        if missing <= 0:
            return mel
        return functional.pad(mel, (*(0, 0) * (mel.ndim - 2), 0, missing))

    def for_inference(self, dtype: torch.dtype = torch.float32) -> InferenceModel:
        """As `atgnn.model.inference.for_inference`: a copy with its norms folded away."""
        check_dtype(dtype)
        folded = copy.deepcopy(self).eval().requires_grad_(False)
        for linear, owner, name in folded.norm_pairs():
            fold(linear, getattr(owner, name), linear.weight)
            setattr(owner, name, Unchanged())
        if dtype != torch.float32:
            for module in folded.modules():
                if isinstance(module, _DENSE):
                    module.to(dtype)
        return InferenceModel(folded, dtype)

    def measure_cost(self, frames: int) -> Cost:
        """Parameters and multiply-accumulates for one clip of `frames` frames.

        A network without values scores a clip without values while torch counts the products of
        convolutions, linear maps and attention; two floating-point operations are one of ours.
        """
        from torch.utils.flop_counter import FlopCounterMode

        with without_values():
            empty = type(self)(self.config).eval()
        inputs = () if self.config.in_channels == 1 else (self.config.in_channels,)
        clip = torch.empty(1, frames, self.config.n_mels, *inputs, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            empty(clip)
        parameters = sum(p.numel() for p in empty.parameters())
        learned = sum(p.numel() for p in empty.parameters() if p.requires_grad)
        return Cost(learned, parameters, counter.get_total_flops() / 2e9)
