"""The common API of HEAR (Holistic Evaluation of Audio Representations), for its tools.

    import atgnn.hear_api
    model = atgnn.hear_api.load_model("everyday-lite0")
    embeddings = atgnn.hear_api.get_scene_embeddings(audio, model)

Source: https://hearbenchmark.com/hear-api.html. `tests/test_embeddings.py` runs its validator.

N sounds, S samples, M moments.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from atgnn.checkpoint import DEFAULT_MODEL
from atgnn.embeddings import MOMENT, Embedder
from atgnn.encoder import embed
from atgnn.errors import AudioError
from atgnn.frontend import FrontEnd

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

AT_ONCE = 32  # windows that go through the network together


class HearModel(nn.Module):
    """An encoder with what HEAR asks for as attributes.

    Attributes:
        sample_rate: samples a second that `audio` must have.
        scene_embedding_size: width of a sound's embedding.
        timestamp_embedding_size: width of a moment's embedding.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self._embedder = embedder
        self.network, self.front_end = embedder.network, FrontEnd(embedder.front_end)
        self.sample_rate: int = embedder.rate
        self.scene_embedding_size: int = embedder.size
        self.timestamp_embedding_size: int = embedder.moment_size
        self.window = round(embedder.window_seconds * embedder.rate)
        step = MOMENT * embedder.rate
        #: Of whole moments, so that time stamps go on evenly from window to window.
        self.window_of_moments = round(max(1, int(self.window / step + 1e-6)) * step)
        self.requires_grad_(False).eval()

    def scene(self, audio: Tensor) -> Tensor:
        """``(N, S)`` to ``(N, scene_embedding_size)``; of long sounds the mean over windows."""
        total = torch.zeros(len(audio), self.scene_embedding_size, device=audio.device)
        for window in audio.split(self.window, dim=1):
            share = window.shape[1] / audio.shape[1]
            for part, out in zip(window.split(AT_ONCE), total.split(AT_ONCE), strict=True):
                out += share * embed(self.network, self.front_end(part)[0])
        return total

    def moments(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, S)`` to ``(N, M, timestamp_embedding_size)``, and times in ms ``(N, M)``."""
        parts = []
        for window in audio.split(self.window_of_moments, dim=1):
            steps = math.ceil(round(window.shape[1] / self.sample_rate / MOMENT, 6))
            times = np.arange(steps) * MOMENT
            found = [
                self._embedder.at_moments(self.front_end(part)[0], None, times)
                for part in window.split(AT_ONCE)
            ]
            parts.append(torch.cat(found))
        embeddings = torch.cat(parts, 1)
        milliseconds = torch.arange(embeddings.shape[1], device=audio.device) * (1000 * MOMENT)
        return embeddings, milliseconds.expand(len(audio), -1)


def load_model(model_file_path: str = "") -> HearModel:
    """A model from a folder, a name or the hub; without a path, the one that ships.

    Raises `CheckpointError` for what is no ATGNN checkpoint or encoder.
    """
    return HearModel(Embedder.from_pretrained(model_file_path or DEFAULT_MODEL, "cpu"))


@torch.inference_mode()
def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding for each sound.

    Args:
        audio: ``(N, S)`` floats in [-1, 1] at `model.sample_rate`, on the model's device.
        model: from `load_model`.

    Returns:
        float32 ``(N, model.scene_embedding_size)``.

    Raises:
        AudioError: the audio has another shape or is empty.
    """
    _check(audio)
    return model.scene(audio)


@torch.inference_mode()
def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """An embedding for each sound every 50 ms, the first one at 0.

    Returns:
        float32 ``(N, M, model.timestamp_embedding_size)`` and milliseconds ``(N, M)``; arguments
        and errors as in `get_scene_embeddings`.
    """
    _check(audio)
    return model.moments(audio)


def _check(audio: Tensor) -> None:
    if audio.ndim != 2 or 0 in audio.shape or not audio.is_floating_point():
        raise AudioError(
            f"audio of shape {tuple(audio.shape)} and type {audio.dtype}: expected floats in "
            "[-1, 1] of shape (sounds, samples), one of each or more"
        )
