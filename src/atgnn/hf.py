"""Our checkpoints in Hugging Face's `transformers`: importing this module registers them there.

    import atgnn.hf
    from transformers import pipeline
    tag = pipeline("audio-classification", model="RUN/model")
    tag("dog.wav")

The feature extractor hands waveforms on; the model holds the front end, whose statistics travel
with the weights. A recording longer than the checkpoint's window is scored in windows, as
`atgnn.Tagger` does it: the logits are those of the mean over windows, each counting by its length.

The other way round, their models here: `atgnn.others.huggingface`.

B batch, S samples, L labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atgnn.checkpoint import DEFAULT_MODEL, HF_EXTRACTOR, HF_TYPE, Checkpoint
from atgnn.errors import AudioError, CheckpointError, MissingExtraError

try:
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModelForAudioClassification,
        BatchFeature,
        PretrainedConfig,
        PreTrainedModel,
        SequenceFeatureExtractor,
    )
    from transformers.modeling_outputs import SequenceClassifierOutput
except ImportError:
    raise MissingExtraError.of("transformers", "transformers", "`atgnn.hf`") from None

__all__ = ["ATGNNConfig", "ATGNNFeatureExtractor", "ATGNNForAudioClassification"]

LEAST, MOST = 1e-7, 1 - 1e-7  # scores whose logits are finite


class ATGNNConfig(PretrainedConfig):
    """What `transformers` asks of a configuration; `checkpoint` is the content of config.json."""

    model_type = HF_TYPE

    def __init__(self, checkpoint: dict[str, Any] | None = None, **more: Any) -> None:
        self.checkpoint = checkpoint
        if checkpoint is not None:
            names = [label["name"] for label in checkpoint["labels"]]
            more["id2label"] = dict(enumerate(names))
            more["label2id"] = {name: index for index, name in enumerate(names)}
            exclusive = checkpoint.get("activation") == "softmax"
            kind = "single_label" if exclusive else "multi_label"
            more["problem_type"] = f"{kind}_classification"
        super().__init__(**more)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From a checkpoint's config.json, or from what `to_dict` gave."""
        if "format_version" in config_dict:
            name = config_dict.get("_name_or_path", "")
            ours = {k: v for k, v in config_dict.items() if not k.startswith("_")}
            config_dict = {"checkpoint": ours, "_name_or_path": name}
        return super().from_dict(config_dict, **kwargs)


class ATGNNFeatureExtractor(SequenceFeatureExtractor):
    """Puts waveforms of unequal length into one batch, and says how long each is."""

    model_input_names = ("input_values", "lengths")

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(feature_size, sampling_rate, padding_value, **more)

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchFeature:
        """One waveform (S,), or several, in [-1, 1]: `input_values` (B, S) and `lengths` (B,).

        AudioError for another sampling rate than the model's, and for what is no mono sound.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise AudioError(
                f"samples at {sampling_rate} Hz, this model takes {self.sampling_rate} Hz: "
                "resample them"
            )
        many = isinstance(raw_speech, Sequence) and raw_speech and np.ndim(raw_speech[0]) > 0
        waves = [np.asarray(one, np.float32) for one in (raw_speech if many else [raw_speech])]
        for wave in waves:
            if wave.ndim != 1 or not len(wave):
                raise AudioError(
                    f"a waveform of shape {wave.shape}: expected mono samples of shape (samples,)"
                )
        lengths = np.array([len(wave) for wave in waves])
        batch = np.zeros((len(waves), lengths.max()), np.float32)
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = wave
        data = {"input_values": batch, "lengths": lengths}
        return BatchFeature(data, tensor_type=return_tensors)


class ATGNNForAudioClassification(PreTrainedModel):
    """A checkpoint from waveforms to logits: `sigmoid` of them are the scores of `atgnn.Tagger`."""

    config_class = ATGNNConfig
    main_input_name = "input_values"

    def __init__(self, config: ATGNNConfig, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(config)
        if checkpoint is None:
            raise CheckpointError(
                "a model without weights: load it with from_pretrained, or make one with "
                "`atgnn train`"
            )
        self.model, self.front_end = checkpoint.model, checkpoint.make_front_end()
        self._checkpoint = checkpoint
        rate = checkpoint.front_end.sample_rate
        self.window = round(checkpoint.window_seconds * rate)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
        *_: Any,
        config: ATGNNConfig | None = None,
        **more: Any,
    ) -> ATGNNForAudioClassification:
        """As `Checkpoint.from_pretrained`: a shipped model, a folder, or a repository of the hub.

        Of `transformers`' own arguments those of the hub are used; the model is in float32.
        """
        asked = ("revision", "token", "cache_dir", "local_files_only", "force_download")
        hub = {name: more[name] for name in asked if more.get(name) is not None}
        checkpoint = Checkpoint.from_pretrained(pretrained_model_name_or_path, **hub)
        if config is None:
            config = ATGNNConfig(checkpoint.description())
        return cls(config, checkpoint).eval()

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], **_: Any
    ) -> None:
        """Write the checkpoint's folder (`Checkpoint.save_pretrained`)."""
        self._checkpoint.save_pretrained(save_directory)

    def forward(
        self, input_values: Tensor, lengths: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Waveforms ``(B, S)`` and their samples ``(B,)`` to logits ``(B, L)``."""
        if lengths is None:
            lengths = torch.full((len(input_values),), input_values.shape[1])
        rows = [
            self._logits(wave[:length])
            for wave, length in zip(input_values, lengths.tolist(), strict=True)
        ]
        return SequenceClassifierOutput(logits=torch.cat(rows))

    def _logits(self, wave: Tensor) -> Tensor:
        """``(S,)`` to ``(1, L)``."""
        windows = wave.float().split(self.window)
        exclusive = self._checkpoint.activation == "softmax"
        silent = [bool(window.min() == window.max()) for window in windows]
        logits = [self.model(self.front_end(window[None])[0]) for window in windows]
        if len(logits) == 1 and not silent[0]:
            return self._checkpoint.calibrated(logits[0])
        shares = [len(window) / len(wave) for window in windows]
        scores = torch.stack([self._checkpoint.scores(one) for one in logits], -1)  # (1, L, W)
        scores[..., silent] = 0  # digital silence is no sound, as the tagger has it
        mean = scores @ scores.new_tensor(shares)
        return mean.clamp(min=1e-30).log() if exclusive else mean.clamp(LEAST, MOST).logit()


AutoConfig.register(HF_TYPE, ATGNNConfig, exist_ok=True)
AutoFeatureExtractor.register(ATGNNConfig, ATGNNFeatureExtractor, exist_ok=True)
AutoModelForAudioClassification.register(ATGNNConfig, ATGNNForAudioClassification, exist_ok=True)
assert ATGNNFeatureExtractor.__name__ == HF_EXTRACTOR
