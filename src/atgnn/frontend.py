"""The front end: waveform in, normalised log-mel out.

Kaldi's filter-bank features as used by PSLA, AST and the ATGNN paper, for batches of clips
of unequal length. The module is differentiable, computes in float32 whatever surrounds it,
and runs on any device. Its settings (`FrontEndConfig`) travel with a model's weights.

Order of operations, which decides the last bits of quiet cells beside loud ones: clip mean
off, frames, frame mean off, pre-emphasis, Hann window, zeros up to the FFT, power, triangular
mel filters, logarithm.

Shapes: B clips, S samples, T frames, W FFT length, K FFT bins, F mel bins.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as functional
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from atgnn.errors import AudioError, ConfigError, describe_error

__all__ = [
    "FRONT_ENDS",
    "FrontEnd",
    "FrontEndConfig",
    "Statistics",
    "measure_statistics",
]

_Self = TypeVar("_Self", bound="FrontEnd")

#: Floor of a mel band's power: float32 epsilon, as in Kaldi. Its logarithm is -15.942.
POWER_FLOOR = 1.1920928955078125e-07

#: Frames that a CPU works on at once: its buffers stay in the cache (2.5 times faster at B = 32).
_FRAMES_AT_ONCE = 256

#: Filters multiplied at once: neighbours share few FFT bins, so most of the bank is zeros.
_FILTERS_AT_ONCE = 32

#: Samples of a wave that are summed in float32.
_BLOCK = 1024


def _mel(hertz: float) -> float:
    return 1127 * math.log1p(hertz / 700)


def _samples(milliseconds: float, sample_rate: int) -> int:
    """Whole samples, rounded down as in Kaldi (the term undoes binary fractions)."""
    return int(milliseconds * sample_rate / 1000 + 1e-9)


def _bins_between(low: float, high: float, sample_rate: int, n_fft: int) -> int:
    """FFT bins inside the mel range; like Kaldi, without the one at half the sample rate."""
    width = sample_rate / n_fft
    return min(n_fft // 2 - 1, math.floor(high / width)) - math.ceil(low / width) + 1


class FrontEndConfig(BaseModel):
    """Settings of the front end. The defaults are the paper's (16 kHz, 128 bins up to 8 kHz).

    Attributes:
        sample_rate: samples a second that the waveform must have.
        n_mels: mel bins F.
        f_min, f_max: edges of the mel range in Hz; `f_max=None` is half the sample rate.
        window_ms, hop_ms: length of a frame and step between frames, in milliseconds.
        preemphasis: coefficient c of y[j] = x[j] - c x[j-1], 0 for none.
        mean, std: statistics of log-mel cells used by `FrontEnd.normalise`; measure your own
            with `measure_statistics`.
        pad_to_frames: None keeps every clip's own length; a number reproduces the published
            fixed-length input (rows of 0.0 before normalisation; the first frames are kept).

    Raises:
        ConfigError: a value is out of range or unknown; one line names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sample_rate: int = Field(16_000, gt=0)
    n_mels: int = Field(128, gt=0)
    f_min: float = Field(20.0, ge=0)
    f_max: float | None = Field(None, gt=0)
    window_ms: float = Field(25.0, gt=0)
    hop_ms: float = Field(10.0, gt=0)
    preemphasis: float = Field(0.97, ge=0, le=1)
    mean: float = -4.6476
    std: float = Field(4.5699, gt=0)
    pad_to_frames: int | None = Field(None, gt=0)

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(
                f"front end: {describe_error(error, FrontEndConfig.model_fields)}"
            ) from None

    @model_validator(mode="after")
    def _fits_together(self) -> "FrontEndConfig":
        nyquist = self.sample_rate / 2
        low, high = self.band
        if high > nyquist:
            raise ValueError(
                f"f_max is {high:g} Hz but {self.sample_rate} Hz sound ends at {nyquist:g} Hz: "
                "lower f_max, raise sample_rate or leave f_max out"
            )
        if low >= high:
            raise ValueError(f"f_min is {low:g} Hz, expected below f_max, {high:g} Hz")
        if self.window < 2 or self.hop < 1:
            raise ValueError(
                f"window_ms={self.window_ms:g} and hop_ms={self.hop_ms:g} are {self.window} and "
                f"{self.hop} samples at {self.sample_rate} Hz, expected at least 2 and 1"
            )
        bins = _bins_between(low, high, self.sample_rate, self.n_fft)
        if self.n_mels > bins:
            raise ValueError(
                f"n_mels is {self.n_mels} but the {self.n_fft}-point FFT has {bins} bins between "
                f"{low:g} and {high:g} Hz: lower n_mels or lengthen window_ms"
            )
        return self

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return _samples(self.window_ms, self.sample_rate)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return _samples(self.hop_ms, self.sample_rate)

    @property
    def n_fft(self) -> int:
        """Points of the FFT: the next power of two from the window."""
        return 1 << (self.window - 1).bit_length()

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest frequency that a model can hear, in Hz."""
        return self.f_min, self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def mel_centres(self) -> tuple[float, ...]:
        """Frequency in Hz at which each mel filter peaks, (F,)."""
        return tuple(self.bins_to_hertz(np.arange(self.n_mels)).tolist())

    def bins_to_hertz(self, bins: np.ndarray) -> np.ndarray:
        """Frequency in Hz at which mel filters peak, also between filters and beyond them."""
        low, step = self._mel_grid
        out: np.ndarray = 700 * np.expm1((low + (np.asarray(bins, np.float64) + 1) * step) / 1127)
        return out

    @property
    def _mel_grid(self) -> tuple[float, float]:
        """Lower edge of the first filter and distance between filters, in mel."""
        low, high = map(_mel, self.band)
        return low, (high - low) / (self.n_mels + 1)

    def samples_to_frames(self, samples: int) -> int:
        """Frames of a clip; a clip shorter than one window still has one."""
        return 1 + max(samples - self.window, 0) // self.hop

    def seconds_to_frames(self, seconds: float) -> int:
        """Frames of a clip that lasts `seconds`: 998 for 10 s at the paper's settings."""
        return self.samples_to_frames(round(seconds * self.sample_rate))

    def frames_to_seconds(self, frames: float) -> float:
        """Time from the start of a clip to the start of frame number `frames`."""
        return frames * self.hop / self.sample_rate


#: Settings by name. "paper": 16 kHz with PSLA's statistics. "wide-32k", for wildlife and
#: music: the same frames in time, an octave more above. Its statistics are over every cell of
#: ESC-10, whose 400 clips (some with digital silence) are 44.1 kHz recordings of animals,
#: weather, machines and people: `python -m benchmarks.speed frontend --statistics ESC10`.
FRONT_ENDS = {
    "paper": FrontEndConfig(),
    "wide-32k": FrontEndConfig(sample_rate=32_000, mean=-5.9597, std=5.8619),
}


class FrontEnd(nn.Module):
    """Waveform (B, S) -> normalised log-mel (B, T, F), float32, with each clip's frames.

    Equal to Kaldi's filter bank at the paper's settings. The features of a clip do
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
        self.register_buffer("window", _hann(self.config), persistent=False)
        self.register_buffer("filters", _mel_filters(self.config), persistent=False)
        self._blocks = _blocks(_mel_filters(self.config))

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

        Raises:
            AudioError: as `forward`.
        """
        _check(wave, lengths)
        lengths = None if lengths is None else lengths.to(wave.device)
        frames = self.config.samples_to_frames(wave.shape[1])
        with torch.autocast(device_type=wave.device.type, enabled=False):
            if wave.device.type == "cpu" and not (
                wave.requires_grad or torch.compiler.is_compiling()
            ):
                features = self._in_portions(wave, lengths)
            else:
                features = self._filter_bank(*self._frames(wave, lengths))
        if lengths is None:
            return features, torch.full((len(wave),), frames, device=wave.device)
        frame_lengths = 1 + (lengths - self.config.window).clamp_min(0) // self.config.hop
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
        low, high = self.config.band
        return (
            f"{self.config.sample_rate} Hz, {self.config.n_mels} mel bins from {low:g} to "
            f"{high:g} Hz, window {self.config.window}, hop {self.config.hop}"
        )

    def _normalise_(self, features: Tensor, frame_lengths: Tensor | None) -> Tensor:
        features = features.sub_(self.config.mean).div_(self.config.std)
        return features if frame_lengths is None else _zero_past_end(features, frame_lengths)

    def _in_portions(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        """Log-mel (B, T, F) of waves (B, S) on a CPU, in portions that stay in its cache."""
        frames = self.config.samples_to_frames(wave.shape[1])
        features = torch.empty(len(wave), frames, self.config.n_mels, dtype=torch.float32)
        clips = max(1, _FRAMES_AT_ONCE // frames)
        for i in range(0, len(wave), clips):
            some = slice(i, i + clips)
            parts = self._frames(wave[some], None if lengths is None else lengths[some])
            for t in range(0, frames, _FRAMES_AT_ONCE):
                now = slice(t, t + _FRAMES_AT_ONCE)
                features[some, now] = self._filter_bank(*(part[:, now] for part in parts))
        return features

    def _frames(self, wave: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Frames (B, T, W) of waves (B, S) less the clip's mean, and each frame's mean (B, T, 1).

        The frames overlap in memory, and run on into the next ones past the window.
        """
        window, hop, n_fft = self.config.window, self.config.hop, self.config.n_fft
        end = max(wave.shape[1], window) + n_fft - window
        wave = _centred(wave.float(), lengths, zeros=n_fft)
        frames = wave[:, :end].unfold(1, n_fft, hop)
        return frames, frames[..., :window].mean(-1, keepdim=True)

    def _filter_bank(self, frames: Tensor, offset: Tensor) -> Tensor:
        """Log-mel (B, T, F) of frames (B, T, W) with their mean (B, T, 1) still in."""
        power = _power(torch.fft.rfft(self._windowed(frames, offset)))  # (B, T, K)
        mel = [
            power[..., low:high] @ self.filters[low:high, first:last]
            for low, high, first, last in self._blocks
        ]
        return torch.cat(mel, -1).clamp_min_(POWER_FLOOR).log_()

    def _windowed(self, frames: Tensor, offset: Tensor) -> Tensor:
        frames = frames - offset
        before = frames * self.config.preemphasis
        # The first sample of a frame has no predecessor, and the window gives it weight 0.
        frames[..., 1:].sub_(before[..., :-1])
        return frames.mul_(self.window)

    def _apply(self: _Self, fn: Any, recurse: bool = True) -> _Self:
        """Move with the model, but stay float32 when it is halved (`model.half()`)."""
        super()._apply(fn, recurse)
        self.window = _hann(self.config).to(self.window.device)
        self.filters = _mel_filters(self.config).to(self.filters.device)
        return self


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of every log-mel cell of `clips` clips."""

    mean: float
    std: float
    clips: int
    frames: int

    def apply_to(self, config: FrontEndConfig) -> FrontEndConfig:
        """The same settings with these statistics."""
        return FrontEndConfig(**{**config.model_dump(), "mean": self.mean, "std": self.std})


def measure_statistics(waves: Iterable[np.ndarray | Tensor], config: FrontEndConfig) -> Statistics:
    """Statistics of the log-mel cells of clips (S,), in one pass and float64.

    Every cell of every frame counts once, so long clips weigh more than short ones. Feed the
    training clips only, at `config.sample_rate`, without mixing or masks; any iterable will do.

    Raises:
        AudioError: there are no clips, or their cells are all equal (silence) or not finite.
    """
    front_end = FrontEnd(config)
    clips, cells, mean, deviation = 0, 0, 0.0, 0.0  # deviation: sum of squared differences
    with torch.inference_mode():
        for wave in waves:
            features = front_end.log_mel(torch.as_tensor(wave)[None])[0].double()
            size, centre = features.numel(), features.mean().item()
            spread = (features - centre).square_().sum().item()
            # Chan's update: exact, where a running sum of squares would cancel
            total = cells + size
            deviation += spread + (centre - mean) ** 2 * cells * size / total
            mean += (centre - mean) * size / total
            cells, clips = total, clips + 1
    if not clips:
        raise AudioError("no clips came to measure mean and std from, expected at least one")
    std = math.sqrt(deviation / cells)
    if not math.isfinite(std) or std == 0:
        raise AudioError(
            f"the log-mel cells of {clips} clips have mean {mean:g} and std {std:g}: expected "
            "finite sound that is not all silence"
        )
    return Statistics(mean, std, clips, cells // config.n_mels)


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


def _centred(wave: Tensor, lengths: Tensor | None, zeros: int) -> Tensor:
    """Waves (B, S) less their mean over valid samples; 0 past the end, whatever lay there.

    At least `zeros` zeros follow. Sums of aligned blocks are added in float64 (where there is
    one) and rounded once, so that the mean does not depend on padding.
    """
    samples = wave.shape[1]
    past_end = None
    if lengths is not None:
        past_end = torch.arange(samples, device=wave.device) >= lengths[:, None]  # (B, S)
        wave = wave.masked_fill(past_end, 0)
    wave = functional.pad(wave, (0, zeros + _BLOCK))
    precise = torch.float32 if wave.device.type == "mps" else torch.float64
    sums = wave.unfold(1, _BLOCK, _BLOCK).sum(-1).to(precise).sum(1)  # (B,)
    wave = wave - (sums / (samples if lengths is None else lengths)).float()[:, None]
    wave[:, samples:].zero_()
    if past_end is not None:
        wave[:, :samples].masked_fill_(past_end, 0)
    return wave


def _power(spectrum: Tensor) -> Tensor:
    squares = torch.view_as_real(spectrum).square_()
    return squares[..., 0] + squares[..., 1]


def _zero_past_end(features: Tensor, frame_lengths: Tensor) -> Tensor:
    past_end = torch.arange(features.shape[1], device=features.device) >= frame_lengths[:, None]
    return features.masked_fill(past_end[..., None], 0)


def _hann(config: FrontEndConfig) -> Tensor:
    """Symmetric Hann window, completed with zeros, (W,)."""
    window = torch.hann_window(
        config.window, periodic=False, dtype=torch.float32, device=torch.device("cpu")
    )
    return functional.pad(window, (0, config.n_fft - config.window))


def _mel_filters(config: FrontEndConfig) -> Tensor:
    """Triangles in mel (K, F), without area normalisation; the last FFT bin has weight 0.

    Deliberately float32: float64 moves a weight near a triangle's foot by 0.16 %, and a loud
    tone there by more than the 1e-3 within which published features are reproduced.
    """
    low, step = config._mel_grid
    cpu = torch.device("cpu")
    bins = torch.arange(config.n_fft // 2, dtype=torch.float32, device=cpu)[:, None]
    mel = 1127 * (1 + config.sample_rate / config.n_fft * bins / 700).log()
    index = torch.arange(config.n_mels, dtype=torch.float32, device=cpu)
    left, centre, right = (low + (index + edge) * step for edge in (0.0, 1.0, 2.0))
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    return functional.pad(torch.minimum(rising, falling).clamp_min(0), (0, 0, 0, 1))


def _blocks(filters: Tensor) -> tuple[tuple[int, int, int, int], ...]:
    """Ranges of FFT bins and of filters (low, high, first, last) that hold every weight."""
    blocks = []
    for first in range(0, filters.shape[1], _FILTERS_AT_ONCE):
        last = min(first + _FILTERS_AT_ONCE, filters.shape[1])
        used = filters[:, first:last].any(1).nonzero().flatten().tolist() or [0]
        blocks.append((used[0], used[-1] + 1, first, last))
    return tuple(blocks)
