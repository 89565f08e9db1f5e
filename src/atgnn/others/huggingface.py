"""Any audio classification model of Hugging Face's `transformers`, as it is: scores of its labels.

The feature extractor and the rate are the model's own. A recording longer than a window is scored
in windows, and its scores are their mean, each counting by its length, as in `Tagger`. Windows of
one length go through the model together, so that what a clip is batched with changes nothing; code
that a model brings along is never run.

B windows, S samples, L labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from atgnn.baselines.published import hub_activation
from atgnn.checkpoint import HF_PREFIX
from atgnn.errors import CheckpointError, MissingExtraError
from atgnn.tagger import WindowScorer, choose_device

__all__ = ["HuggingFaceScorer", "is_hugging_face"]

WINDOW = 10.0  # s, of models that take any length: the length of AudioSet's clips
LEAST = 0.1  # s; what is shorter is filled up with zeros, as networks need some frames
FRAME, SHIFT = 0.025, 0.01  # s, of Kaldi's filter banks, whose frames AST counts


def is_hugging_face(name: str) -> bool:
    """Whether a model's name stands for one of `transformers`."""
    return name.startswith(HF_PREFIX)


class HuggingFaceScorer(WindowScorer):
    """A model and its feature extractor, ready to score recordings.

    >>> scorer = HuggingFaceScorer.from_pretrained("MIT/ast-finetuned-audioset-10-10-0.4593")
    ... # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        extractor: Any,
        device: str | torch.device | None = None,
        *,
        window_seconds: float | None = None,
        activation: Literal["sigmoid", "softmax"] | None = None,
    ) -> None:
        """Takes the model over: moves it to `device` and into evaluation mode.

        `activation`: None is what the model's ``problem_type`` says; a model that says nothing has
        independent labels if they all are AudioSet's, else exclusive ones, as `transformers` has
        it.
        """
        super().__init__(choose_device(device))
        self.model, self.extractor = model.to(self.device).eval(), extractor
        names = model.config.id2label
        self._labels = tuple(str(names[index]) for index in range(len(names)))
        self._window = window_seconds or _window_of(extractor)
        self._activation = activation or hub_activation(model.config.problem_type, self._labels)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        device: str | torch.device | None = None,
        *,
        window_seconds: float | None = None,
        activation: Literal["sigmoid", "softmax"] | None = None,
    ) -> HuggingFaceScorer:
        """A model from a folder or the hub; an ``hf:`` before its name is passed over.

        A folder opens no connection.

        Raises:
            CheckpointError: no such model, it is none of audio classification, or it brings code.
            MissingExtraError: the extra `transformers` is not installed.
        """
        place = os.fspath(name).removeprefix(HF_PREFIX)
        model, extractor = _loaded(place)
        return cls(model, extractor, device, window_seconds=window_seconds, activation=activation)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def rate(self) -> int:
        return int(self.extractor.sampling_rate)

    @property
    def band(self) -> tuple[float, float]:
        return 0.0, self.rate / 2

    @property
    def window_seconds(self) -> float:
        return self._window

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        return self._activation

    @property
    def calibrated(self) -> bool:
        return False

    def _network(self, windows: list[np.ndarray]) -> Tensor:
        least = round(LEAST * self.rate)
        padded = [np.pad(one, (0, max(0, least - len(one)))) for one in windows]
        scores = torch.empty(len(windows), len(self._labels), device=self.device)
        for size in {len(one) for one in padded}:
            rows = [row for row, one in enumerate(padded) if len(one) == size]
            scores[rows] = self._scores([padded[row] for row in rows])
        return scores

    def _scores(self, windows: Sequence[np.ndarray]) -> Tensor:
        """Scores (B, L) of windows of one length, (S,) each."""
        inputs = self.extractor(list(windows), sampling_rate=self.rate, return_tensors="pt")
        logits = self.model(**inputs.to(self.device)).logits.float()
        return cast(
            Tensor, logits.softmax(1) if self._activation == "softmax" else logits.sigmoid()
        )


def _loaded(name: str) -> tuple[Any, Any]:
    try:
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
        from transformers.utils import logging
    except ImportError:
        raise MissingExtraError.of("transformers", "transformers", f"the model {name}") from None
    local = Path(name).is_dir()
    if not local and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise CheckpointError(f"no model {name!r}: give a folder, or a name on the hub, OWNER/NAME")
    options: Any = {"trust_remote_code": False, "local_files_only": local}
    logging.disable_progress_bar()
    try:
        extractor = AutoFeatureExtractor.from_pretrained(name, **options)
        model, found = AutoModelForAudioClassification.from_pretrained(
            name, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(_why_not(name, error)) from None
    if found["missing_keys"]:
        raise CheckpointError(
            f"{name} lacks weights, such as {sorted(found['missing_keys'])[0]}: it was not trained "
            "for audio classification"
        )
    if not hasattr(extractor, "sampling_rate"):
        raise CheckpointError(f"{name} does not say at which rate it listens: it is no audio model")
    return model, extractor


def _why_not(name: str, error: Exception) -> str:
    message = " ".join(str(error).split())
    if "trust_remote_code" in message:
        return (
            f"{name} brings code of its own, which is never run here: score the clips with its own "
            "tools and `atgnn import` what they write"
        )
    return f"{name} cannot be loaded as an audio classification model: {message[:160]}"


def _window_of(extractor: Any) -> float:
    """Seconds that a model takes at once."""
    if hasattr(extractor, "chunk_length"):  # Whisper: pads everything to so many seconds
        return float(extractor.chunk_length)
    frames = getattr(extractor, "max_length", None)
    if isinstance(frames, int) and hasattr(extractor, "num_mel_bins"):  # AST: to so many frames
        return min(WINDOW, FRAME + SHIFT * (frames - 1))
    return WINDOW
