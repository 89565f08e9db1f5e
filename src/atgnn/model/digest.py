"""One short name for a network's weights and settings, to tell models apart."""

from hashlib import blake2b

import torch
from pydantic import BaseModel
from torch import nn

__all__ = ["weights_digest"]


def weights_digest(module: nn.Module, *settings: BaseModel | str) -> str:
    """32 hex digits that change with any value, name, type or shape of a weight or setting.

    The device does not matter. What was stored in half precision and widened differs from what it
    was before.
    """
    state = blake2b(digest_size=16)
    for record in settings:
        text = record if isinstance(record, str) else record.model_dump_json()
        state.update(len(text).to_bytes(8, "big") + text.encode())
    for name, value in sorted(module.state_dict().items()):
        state.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        data = value.detach().cpu().contiguous().reshape(-1)
        state.update(data.view(torch.uint8).numpy().data)
    return state.hexdigest()
