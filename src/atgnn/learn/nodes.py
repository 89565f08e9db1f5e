"""What learning needs of a clip: its patch nodes, computed once and kept on disk.

A clip's file is named by the digest of its content and lies in a folder named by the digest of the
model, so that neither a renamed clip nor another model can be taken for something else. The folder
is bounded in size: what was used longest ago goes first. A kept file that is damaged is computed
anew.

F frequency, T time, C channels of a stage.
"""

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from atgnn import audio
from atgnn.checkpoint import Checkpoint
from atgnn.errors import AtgnnError, AudioError, printable
from atgnn.files import cache_folder, content_digest, replacing
from atgnn.model import ATGNN
from atgnn.model.beside import label_levels, stage_ends, summary
from atgnn.model.inference import for_inference
from atgnn.packs import base_of, model_digest
from atgnn.tagger import Excerpt, Taggable
from atgnn.tags import Failure

__all__ = ["ClipNodes", "Listener", "NodeCache", "Window", "content_key"]

#: Windows of a clip that are listened to; a label is learned from clips, not from recordings.
MOST_WINDOWS = 6
MOST_BYTES = 2_000_000_000
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Window:
    """What the network makes of a window: patch nodes of each level that label blocks look at.

    `levels` are float16 (F, T, C); `hidden` (H,) and `summary` (E,) float32, see
    `atgnn.model.beside`.
    """

    levels: tuple[Tensor, ...]
    hidden: Tensor
    summary: Tensor


@dataclass(frozen=True)
class ClipNodes:
    """The windows of a clip, what to call it, and the digest of its content."""

    key: str
    name: str
    windows: tuple[Window, ...]


class NodeCache:
    """Clips' nodes on disk, for one model.

    `folder` is that of all models, by default in the user's cache; `most_bytes` bounds this
    model's part of it.
    """

    def __init__(
        self,
        model: str,
        folder: str | os.PathLike[str] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.folder = (cache_folder("nodes") if folder is None else Path(folder)) / model
        self.most_bytes = most_bytes
        self._bytes: int | None = None

    def get(self, key: str, name: str) -> ClipNodes | None:
        """What is kept under a key; None where nothing is, or it is damaged."""
        path = self.folder / (key + SUFFIX)
        try:
            tensors = load(path.read_bytes())
            windows = _unpacked(tensors)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError):
            return None  # `put` writes it anew
        with suppress(OSError):
            os.utime(path)
        return ClipNodes(key, name, windows)

    def put(self, clip: ClipNodes) -> None:
        """Keep a clip; where the disk does not let us, it is only not kept."""
        path = self.folder / (clip.key + SUFFIX)
        content = save(_packed(clip.windows))
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as scratch:
                scratch.write_bytes(content)
            self._make_room(len(content))

    def _make_room(self, added: int) -> None:
        """Remove what was used longest ago until the folder is within its bound."""
        if self._bytes is not None and self._bytes + added <= self.most_bytes:
            self._bytes += added
            return
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                state = path.stat()
                found.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.most_bytes:
                break
            with suppress(OSError):
                path.unlink()
            total -= size
        self._bytes = total


def _packed(windows: tuple[Window, ...]) -> dict[str, Tensor]:
    out = {}
    for number, window in enumerate(windows):
        for level, nodes in enumerate(window.levels):
            out[f"{number}.{level}"] = nodes.contiguous()
        out[f"{number}.hidden"], out[f"{number}.summary"] = window.hidden, window.summary
    return out


def _unpacked(tensors: dict[str, Tensor]) -> tuple[Window, ...]:
    count = 1 + max(int(name.split(".")[0]) for name in tensors)
    levels = sum(name.startswith("0.") for name in tensors) - 2
    return tuple(
        Window(
            tuple(tensors[f"{number}.{level}"] for level in range(levels)),
            tensors[f"{number}.hidden"],
            tensors[f"{number}.summary"],
        )
        for number in range(count)
    )


class Listener:
    """Turns sounds into patch nodes with a checkpoint's own front end and encoder, on a CPU."""

    def __init__(self, checkpoint: Checkpoint, cache: NodeCache | None = None) -> None:
        self.checkpoint, self.cache = checkpoint, cache
        network = copy.deepcopy(base_of(checkpoint.model)).cpu().eval().requires_grad_(False)
        self.network = network  # as it was trained: gradients pass through its label blocks
        folded = for_inference(network).folded
        assert isinstance(folded, ATGNN)
        self._folded = folded
        self.front_end = checkpoint.make_front_end()
        self.heard = 0  # clips that were computed, not found in the cache

    @classmethod
    def of(cls, checkpoint: Checkpoint, folder: str | os.PathLike[str] | None = None) -> "Listener":
        """With the cache in `folder`, by default the user's; a user without a home has none."""
        try:
            cache = NodeCache(model_digest(checkpoint), folder)
        except RuntimeError:
            return cls(checkpoint)
        return cls(checkpoint, cache)

    def clips(self, sources: Iterable[Taggable]) -> Iterator[ClipNodes | Failure]:
        """The nodes of every clip, or why it has none; in order."""
        for source in sources:
            try:
                yield self.clip(source)
            except AtgnnError as error:
                yield Failure(_name(source), error)

    def clip(self, source: Taggable) -> ClipNodes:
        """The nodes of one clip. AudioError where it cannot be read."""
        excerpt = source if isinstance(source, Excerpt) else Excerpt(source)
        name = _name(source) or "samples"
        excerpt = replace(excerpt, source=audio.held(excerpt.source)).trimmed()
        key = content_key(excerpt)
        found = self.cache.get(key, name) if self.cache else None
        if found is not None:
            return found
        rate, seconds = self.front_end.config.sample_rate, self.checkpoint.window_seconds
        blocks = audio.stream(
            excerpt.source, rate, block_seconds=seconds, start=excerpt.start, end=excerpt.end
        )
        samples = list(islice(blocks, MOST_WINDOWS))
        if len(samples) > 1 and len(samples[-1]) < len(samples[0]) // 4:
            samples.pop()  # what is left over at the end says little
        clip = ClipNodes(key, name, tuple(self._window(part, name) for part in samples))
        self.heard += 1
        if self.cache:
            self.cache.put(clip)
        return clip

    @torch.inference_mode()
    def _window(self, samples: np.ndarray, name: str) -> Window:
        mel, _ = self.front_end(torch.from_numpy(samples)[None])
        network = self._folded
        stages = network.encoder(mel)
        levels = label_levels(network, stages)
        hidden = network.patch_head.hidden(stages[-1][-1])[0]
        pooled = summary(network.config, stage_ends(network.config, levels))[0]
        halves = tuple(patches.x[0].half() for patches in levels)
        if not all(bool(torch.isfinite(nodes).all()) for nodes in (*halves, hidden, pooled)):
            raise AudioError(f"{name}: its samples are far beyond [-1, 1], so nothing is learned")
        return Window(halves, hidden.clone(), pooled.clone())


def content_key(excerpt: Excerpt) -> str:
    """32 hex digits that change with any byte of a clip, or with the part that is meant.

    AudioError where the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{excerpt.start!r} {excerpt.end!r} {MOST_WINDOWS}\n".encode())
    source: Any = excerpt.source
    if isinstance(source, bytes | bytearray | memoryview):
        digest.update(source)
    elif isinstance(source, tuple):
        samples, rate = source
        array = np.ascontiguousarray(samples)
        digest.update(f"{array.dtype} {array.shape} {rate}\n".encode())
        digest.update(array.tobytes())
    else:
        try:
            digest.update(content_digest(source).encode())
        except OSError as error:
            raise AudioError(
                f"{printable(str(source))}: cannot be read ({error.strerror or error})"
            ) from None
    return digest.hexdigest()


def _name(source: Taggable) -> str | None:
    inner = source.source if isinstance(source, Excerpt) else source
    if isinstance(inner, str | os.PathLike):
        return Path(os.fsdecode(inner)).name
    return None
