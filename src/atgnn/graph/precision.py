"""Where half precision would change the result, how much to do at once, and for whom."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = [
    "AUTOCAST_DEVICES",
    "at_least_float32",
    "clips_at_once",
    "exporting",
    "without_autocast",
]

#: Devices that know autocast; asked once, for torch.compile of older releases cannot trace it.
AUTOCAST_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(device)
)

_is_exporting = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Suspend autocast on the tensor's device; a no-op on devices that have none (meta)."""
    if exporting() or like.device.type not in AUTOCAST_DEVICES:
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def exporting() -> bool:
    """Whether `torch.export` is tracing: a graph for other runtimes, for any batch and length."""
    return _is_exporting is not None and bool(_is_exporting())


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def clips_at_once(values_per_clip: int, like: Tensor) -> int:
    """How many clips to treat in one piece: on a CPU, what stays in its cache; elsewhere all.

    Not asked while `exporting`: pieces would tie a graph to one batch size.
    """
    if like.device.type != "cpu":
        return max(1, like.shape[0])
    return max(1, 2**19 // max(1, values_per_clip))
