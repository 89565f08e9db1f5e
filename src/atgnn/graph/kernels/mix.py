"""A linear map of each group's channels of two inputs, with bias and GELU, by the compiled kernel.

What follows a graph: as one pass it takes a third of the time of two products for each group, the
GELU and what PyTorch needs around them.

R rows, C channels, D outputs, G groups.
"""

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.graph.kernels import cpu

__all__ = ["Packed", "mix", "pack", "serves"]


class _Mix(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "channels", "outputs", "groups")),
        *((name, ctypes.c_int64) for name in ("half", "gelu")),
        *((name, ctypes.c_void_p) for name in ("x", "m", "weight", "bias", "out")),
    ]


class Packed:
    """Weights as a level of the kernel reads them."""

    def __init__(self, panels: Tensor, bias: Tensor, groups: int, outputs: int, level: int) -> None:
        self.panels, self.bias, self.level = panels, bias, level
        self.groups, self.outputs = groups, outputs


def serves(weight: Tensor) -> bool:
    """Whether the kernel takes weights ``(G, D / G, 2 C / G)``, here and now."""
    if weight.device.type != "cpu" or not cpu.loads():
        return False
    if weight.dtype == torch.bfloat16:
        own = cpu.LEVELS[cpu.best_level()] == "avx512_bf16"
        return own and weight.shape[2] % 4 == 0  # pairs of each input's channels
    return weight.dtype == torch.float32


def pack(weight: Tensor, bias: Tensor) -> Packed:
    """Weights ``(G, D / G, 2 C / G)``, columns of x first, and bias ``(D,)``, for `mix`."""
    level = cpu.best_level()
    width = cpu.panel_width(level)
    groups, outputs, inputs = weight.shape
    rest = -outputs % width
    wide = functional.pad(weight.detach(), (0, 0, 0, rest))
    offset = functional.pad(bias.detach().float().view(groups, -1), (0, rest))
    panels = wide.view(groups, -1, width, inputs)  # (G, panels, WIDE, 2 C / G)
    if weight.dtype == torch.bfloat16:
        panels = panels.unflatten(3, (-1, 2)).permute(0, 1, 3, 2, 4)
    else:
        panels = panels.transpose(2, 3)
    return Packed(panels.contiguous(), offset.contiguous(), groups, groups * outputs, level)


def mix(x: Tensor, m: Tensor, packed: Packed, gelu: bool) -> Tensor:
    """``(R, C)`` twice, in the dtype of the weights, to ``(R, D)``."""
    x, m = x.contiguous(), m.contiguous()
    out = x.new_empty(x.shape[0], packed.outputs)
    arguments = _Mix(
        rows=x.shape[0],
        channels=x.shape[1],
        outputs=packed.outputs,
        groups=packed.groups,
        half=x.dtype == torch.bfloat16,
        gelu=gelu,
        x=x.data_ptr(),
        m=m.data_ptr(),
        weight=packed.panels.data_ptr(),
        bias=packed.bias.data_ptr(),
        out=out.data_ptr(),
    )
    cpu.call_mix(arguments, packed.level)
    return out
