"""Where half precision would change the result, and how much to do at once."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["at_least_float32", "clips_at_once", "without_autocast"]


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Suspend autocast on the tensor's device; a no-op on devices that have none (meta)."""
    if not torch.amp.is_autocast_available(like.device.type):
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
