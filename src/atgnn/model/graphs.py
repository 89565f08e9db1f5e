"""CUDA graphs: one clip's network as a single launch.

For a clip at a time a GPU waits for Python more than it computes: hundreds of small kernels, each
launched by itself. A CUDA graph records them once for a shape of input and replays them at once.

B batch, T frames, S labels.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from atgnn.model.patch import GridPosition

__all__ = ["CapturedModel"]

WARM_UPS = 3  # calls before the capture: Triton compiles, cuBLAS and cuDNN choose, tables are made

Replay: TypeAlias = Callable[[Tensor], Tensor]


class CapturedModel:
    """A model for inference that replays a CUDA graph where it can, and else simply calls.

    A graph is captured at the first call with a shape, dtype and autocast setting, and kept for
    the next ones; of more than `most_shapes` the one used longest ago is dropped. Captured are
    calls on a GPU, in evaluation mode, without gradients, without `lengths` and with at most
    `largest_batch` clips: larger batches keep a GPU busy by themselves, and lengths would be
    recorded as they are.

    Weights may be changed in place; after replacing them (`Module.to`, loading by assignment)
    call `clear`. The graphs share their memory, so use one from one thread and on one stream.

    What is captured, kept, dropped and left alone is tested on the CPU with a stand-in for the
    capture; the capture itself only where the tests find a GPU.

    Source: "CUDA semantics: CUDA Graphs" in PyTorch's documentation.
    """

    device_type = "cuda"

    def __init__(self, model: nn.Module, *, most_shapes: int = 8, largest_batch: int = 4) -> None:
        if most_shapes < 1:
            raise ValueError(f"expected room for one shape or more, got {most_shapes}")
        self.model = model
        self.most_shapes, self.largest_batch = most_shapes, largest_batch
        self._replays: OrderedDict[tuple[Any, ...], Replay] = OrderedDict()
        self._pool: Any = None

    def __call__(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `atgnn.model.ATGNN.forward`: ``(B, T, n_mels[, in_channels])`` to logits ``(B, S)``.

        The result is the caller's own: later calls do not overwrite it.
        """
        if not self._suits(mel, lengths):
            out: Tensor = self.model(mel, lengths)
            return out
        key = (mel.shape, mel.dtype, mel.device, _autocast(mel))
        if key not in self._replays:
            if len(self._replays) == self.most_shapes:
                self._replays.popitem(last=False)
            self._replays[key] = self._capture(mel)
        self._replays.move_to_end(key)
        return self._replays[key](mel)

    def clear(self) -> None:
        """Forget all graphs and give back their memory."""
        self._replays.clear()
        self._pool = None

    def _suits(self, mel: Tensor, lengths: Tensor | None) -> bool:
        return (
            mel.device.type == self.device_type
            and lengths is None
            and 0 < mel.shape[0] <= self.largest_batch
            and not self.model.training
            and not torch.is_grad_enabled()
        )

    def _capture(self, mel: Tensor) -> Replay:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return _Graph(self.model, mel, self._pool)


class _Graph:
    """The model's kernels for one shape, recorded on a copy of `mel` that replays fill anew."""

    def __init__(self, model: nn.Module, mel: Tensor, pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with _on(mel):
            self.mel = mel.detach().clone()
            self._warm_up(model)
            # Other threads, which decode and copy meanwhile, may go on.
            recording = torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local")
            with _uncached_autocast(mel), recording:
                self.logits = model(self.mel)
        self.tables = _tables(model)

    def _warm_up(self, model: nn.Module) -> None:
        """On a stream of its own, as a capture demands."""
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side), _uncached_autocast(self.mel):
            for _ in range(WARM_UPS):
                model(self.mel)
        current.wait_stream(side)

    def __call__(self, mel: Tensor) -> Tensor:
        with _on(mel):
            self.mel.copy_(mel)
            self.graph.replay()
            return self.logits.clone()


@contextmanager
def _on(mel: Tensor) -> Iterator[None]:
    """The tensor's GPU, no gradients, and no inference mode: its tensors could not be filled."""
    with torch.cuda.device(mel.device), torch.inference_mode(False), torch.no_grad():
        yield


def _autocast(like: Tensor) -> torch.dtype | None:
    """The dtype of the autocast in force, or None."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _uncached_autocast(like: Tensor) -> AbstractContextManager[object]:
    """The autocast in force, without its cache of cast weights.

    The cache is freed when the caller's autocast ends, under a graph that would still read it.
    """
    dtype = _autocast(like)
    if dtype is None:
        return nullcontext()
    return torch.autocast(like.device.type, dtype=dtype, cache_enabled=False)


def _tables(model: nn.Module) -> list[Any]:
    """Tables of relative position that a graph reads; the modules may drop theirs."""
    grids = [module for module in model.modules() if isinstance(module, GridPosition)]
    return [table for grid in grids for table in grid._known.values()]
