"""A model without values: its layers and shapes alone, on torch's "meta" device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from atgnn.model.atgnn import ATGNN
from atgnn.model.config import ModelConfig

__all__ = ["empty_model", "without_values"]


def empty_model(config: ModelConfig) -> ATGNN:
    """Build a model that takes no memory, to count its layers or to fill it from a file."""
    with without_values():
        return ATGNN(config)


@contextmanager
def without_values() -> Iterator[None]:
    """Modules built meanwhile have shapes alone."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Skips initial values, which the file replaces: drawing them on "meta" imports for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.div_):
            return args[0]
        return func(*args, **kwargs)
