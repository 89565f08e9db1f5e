"""Where half precision would change the result, and how much to do at once."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["AUTOCAST_DEVICES", "at_least_float32", "clips_at_once", "without_autocast"]


#: Devices that know autocast; asked once, for torch.compile of older releases cannot trace it.
AUTOCAST_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(device)
)


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Suspend autocast on the tensor's device; a no-op on devices that have none (meta)."""
    if like.device.type not in AUTOCAST_DEVICES:
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def clips_at_once(values_per_clip: int, like: Tensor) -> int:
    """How many clips to treat in one piece: on a CPU, what stays in its cache; elsewhere all."""
    if like.device.type != "cpu":
        return max(1, like.shape[0])
    return max(1, 2**19 // max(1, values_per_clip))
