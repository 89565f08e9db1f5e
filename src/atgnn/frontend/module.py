"""The front end: waveform in, normalised log-mel out, or the normalised waveform itself.

For batches of clips of unequal length. The module is differentiable, computes in float32 whatever
surrounds it, and runs on any device. Its settings (`FrontEndConfig`) travel with a model's weights.

Order of operations of Kaldi's filter bank, which decides the last bits of quiet cells beside loud
ones: clip mean off, frames, frame mean off, pre-emphasis, Hann window, zeros up to the FFT, power,
triangular mel filters, logarithm. Other kinds have fewer steps.

Shapes: B clips, S samples, T frames, W FFT length, K FFT bins, F mel bins.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from atgnn.errors import AudioError
from atgnn.frontend.config import FrontEndConfig
from atgnn.frontend.filters import blocks, mel_filters
from atgnn.frontend.kaldi import KaldiFrames
from atgnn.frontend.stft import StftFrames

__all__ = ["FrontEnd"]

_Self = TypeVar("_Self", bound="FrontEnd")

#: Frames that a CPU works on at once: its buffers stay in the cache (2.5 times faster at B = 32).
_FRAMES_AT_ONCE = 256


#: What cuts waveforms into frames, by kind; a waveform stays whole.
_CUTTERS: dict[str, Callable[[FrontEndConfig], KaldiFrames | StftFrames | None]] = {
    "kaldi": KaldiFrames,
    "stft": StftFrames,
    "waveform": lambda config: None,
}


class FrontEnd(nn.Module):
    """Waveform (B, S) -> normalised log-mel (B, T, F), float32, with each clip's frames.

    Equal to Kaldi's filter bank at the paper's settings, to librosa's log-mel spectrogram where
    the kind is "stft"; of kind "waveform", the samples (B, S, 1). The features of a clip do
    not depend on what it is batched with, and cells past its end are 0. A clip shorter than
    one window is completed with zeros, so there is always at least one frame. A filter that
    holds no FFT bin (number 3 at the paper's settings) is ln(2^-23) everywhere, as in Kaldi.

    Nothing is stored: the window and the filters follow from the configuration.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: FrontEndConfig | None = None) -> None:
        super().__init__()
        self.config = config or FrontEndConfig()
        self._cutter = _CUTTERS[self.config.kind](self.config)
        if self._cutter is not None:
            filters = mel_filters(self.config)
            self.register_buffer("window", self._cutter.window(), persistent=False)
            self.register_buffer("filters", filters, persistent=False)
            self._blocks = blocks(filters)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised features (B, T, F) and frames of each clip (B,).

        `wave` (B, S) holds floats in [-1, 1] at the configured rate, `lengths` (B,) the
        samples of each clip (None: all S). With `pad_to_frames` every clip has that many.

        Raises:
            AudioError: the waveform or the lengths have the wrong shape, type or range.
        """
        features, frame_lengths = self.pad_or_cut(*self.log_mel(wave, lengths))
        ragged = lengths is not None and self.config.pad_to_frames is None
        return self._normalise_(features, frame_lengths if ragged else None), frame_lengths

    def log_mel(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) before normalisation and frames of each clip (B,); 0 past its end.

        Of kind "waveform" they are the samples.

        Raises:
            AudioError: as `forward`.
        """
        _check(wave, lengths)
        lengths = None if lengths is None else lengths.to(wave.device)
        frames = self.config.samples_to_frames(wave.shape[1])
        with torch.autocast(device_type=wave.device.type, enabled=False):
            features = self._features(wave, lengths)
        if lengths is None:
            return features, torch.full((len(wave),), frames, device=wave.device)
        frame_lengths = lengths if self._cutter is None else self._cutter.frame_lengths(lengths)
        return _zero_past_end(features, frame_lengths), frame_lengths

    def pad_or_cut(self, features: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel with `pad_to_frames` frames, all of them counted; unchanged where that is None.

        Rows of 0.0 are appended *before* normalisation, as published: not silence.
        """
        frames = self.config.pad_to_frames
        if frames is None:
            return features, frame_lengths
        features = functional.pad(features, (0, 0, 0, frames - features.shape[1]))
        return features, torch.full_like(frame_lengths, frames)

    def normalise(self, features: Tensor, frame_lengths: Tensor | None = None) -> Tensor:
        """(features - mean) / std, float32, and exactly 0 past each clip's end."""
        return self._normalise_(features.to(torch.float32, copy=True), frame_lengths)

    def extra_repr(self) -> str:
        if self.config.kind == "waveform":
            return f"{self.config.sample_rate} Hz, the waveform"
        low, high = self.config.band
        return (
            f"{self.config.sample_rate} Hz, {self.config.n_mels} mel bins from {low:g} to "
            f"{high:g} Hz, window {self.config.window}, hop {self.config.hop}"
        )

    def _normalise_(self, features: Tensor, frame_lengths: Tensor | None) -> Tensor:
        features = features.sub_(self.config.mean).div_(self.config.std)
        return features if frame_lengths is None else _zero_past_end(features, frame_lengths)

    def _features(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, F) of waves (B, S), whatever lies past the end of a clip."""
        if self._cutter is None:
            return wave.to(torch.float32, copy=True)[..., None]
        if wave.device.type == "cpu" and not (wave.requires_grad or torch.compiler.is_compiling()):
            return self._in_portions(self._cutter, wave, lengths)
        return self._filter_bank(self._cutter, *self._cutter.cut(wave, lengths))

    def _in_portions(
        self, cutter: KaldiFrames | StftFrames, wave: Tensor, lengths: Tensor | None
    ) -> Tensor:
        """Log-mel (B, T, F) of waves (B, S) on a CPU, in portions that stay in its cache."""
        frames = self.config.samples_to_frames(wave.shape[1])
        features = wave.new_empty(len(wave), frames, self.config.n_mels, dtype=torch.float32)
        clips = max(1, _FRAMES_AT_ONCE // frames)
        for i in range(0, len(wave), clips):
            some = slice(i, i + clips)
            parts = cutter.cut(wave[some], None if lengths is None else lengths[some])
            for t in range(0, frames, _FRAMES_AT_ONCE):
                now = slice(t, t + _FRAMES_AT_ONCE)
                features[some, now] = self._filter_bank(cutter, *(part[:, now] for part in parts))
        return features

    def _filter_bank(self, cutter: KaldiFrames | StftFrames, *parts: Tensor) -> Tensor:
        """Log-mel (B, T, F) of what the cutter made of waves."""
        power = _power(torch.fft.rfft(cutter.windowed(self.window, *parts)))  # (B, T, K)
        mel = [
            power[..., low:high] @ self.filters[low:high, first:last]
            for low, high, first, last in self._blocks
        ]
        features, floor = torch.cat(mel, -1), self.config.least_power
        features = features.add_(floor) if self.config.floor_added else features.clamp_min_(floor)
        features = features.log_()
        return features if self.config.scale == "ln" else features.div_(self.config.unit)

    def _apply(self: _Self, fn: Any, recurse: bool = True) -> _Self:
        """Move with the model, but stay float32 when it is halved (`model.half()`)."""
        super()._apply(fn, recurse)
        if self._cutter is not None:
            self.window = self._cutter.window().to(self.window.device)
            self.filters = mel_filters(self.config).to(self.filters.device)
        return self


def _check(wave: Tensor, lengths: Tensor | None) -> None:
    if wave.dim() != 2 or wave.shape[1] == 0 or not wave.is_floating_point():
        raise AudioError(
            f"the front end got a waveform of shape {tuple(wave.shape)} and type {wave.dtype}, "
            "expected floats in [-1, 1] of shape (clips, samples)"
        )
    if lengths is None:
        return
    if lengths.shape != wave.shape[:1] or lengths.is_floating_point():
        raise AudioError(
            f"the front end got lengths of shape {tuple(lengths.shape)} and type {lengths.dtype}, "
            f"expected integers of shape ({len(wave)},), the samples of each clip"
        )
    # Looking at values would stall an accelerator and break a graph: only where it is free
    if lengths.device.type == "cpu" and not torch.compiler.is_compiling() and len(lengths):
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1 or longest > wave.shape[1]:
            raise AudioError(
                f"the front end got lengths from {shortest} to {longest} samples, expected 1 to "
                f"{wave.shape[1]}, the length of the batch"
            )


def _power(spectrum: Tensor) -> Tensor:
    squares = torch.view_as_real(spectrum).square_()
    return squares[..., 0] + squares[..., 1]


def _zero_past_end(features: Tensor, frame_lengths: Tensor) -> Tensor:
    past_end = torch.arange(features.shape[1], device=features.device) >= frame_lengths[:, None]
    return features.masked_fill(past_end[..., None], 0)
