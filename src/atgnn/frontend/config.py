"""Settings of the front end, which travel with a model's weights, and their presets.

F mel bins.
"""

import math
from typing import Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from atgnn.errors import ConfigError, describe_error, did_you_mean
from atgnn.frontend.filters import MEL_SCALES, bins_between

__all__ = ["FRONT_ENDS", "FrontEndConfig", "front_end_preset"]

#: What a setting is where a kind other than Kaldi's says nothing of it.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "stft": {"preemphasis": 0.0, "mean": 0.0, "std": 1.0},
    "waveform": {"n_mels": 1, "f_min": 0.0, "preemphasis": 0.0, "mean": 0.0, "std": 1.0},
}

#: Settings that mean nothing to a kind: they stay at their defaults.
_UNUSED: dict[str, tuple[str, ...]] = {
    "kaldi": ("fft_size", "mel_scale", "mel_area", "scale", "floor", "floor_added"),
    "stft": ("preemphasis",),
}
_UNUSED["waveform"] = (
    *("n_mels", "f_min", "f_max", "window_ms", "hop_ms"),
    *_UNUSED["kaldi"],
    *_UNUSED["stft"],
)

#: Settings that came with other kinds than Kaldi's: left out of what is saved where they are at
#: their defaults, so that a model's digest stays what it was.
_LATER = ("kind", "fft_size", "mel_scale", "mel_area", "scale", "floor", "floor_added")


def _samples(milliseconds: float, sample_rate: int) -> int:
    """Whole samples, rounded down as in Kaldi (the term undoes binary fractions)."""
    return int(milliseconds * sample_rate / 1000 + 1e-9)


class FrontEndConfig(BaseModel):
    """Settings of the front end. The defaults are the paper's (16 kHz, 128 bins up to 8 kHz).

    Attributes:
        kind: "kaldi", its filter bank, as PSLA, AST and the ATGNN paper use it; "stft", a centred
            short-time Fourier transform (reflected at the ends, periodic Hann window) and mel
            filters by librosa's definition; "waveform", the samples themselves, one bin a frame.
        sample_rate: samples a second that the waveform must have.
        n_mels: mel bins F.
        f_min, f_max: edges of the mel range in Hz; `f_max=None` is half the sample rate.
        window_ms, hop_ms: length of a frame and step between frames, in milliseconds.
        fft_size: points of the FFT; None is the next power of two from the window.
        preemphasis: coefficient c of y[j] = x[j] - c x[j-1], 0 for none.
        mel_scale: "htk" (Kaldi's too); "slaney", which is linear up to 1 kHz; "none": no mel
            filters, the bins are those of the FFT, from 0 Hz to half the sample rate.
        mel_area: whether triangles have an area of 1 (librosa's norm) or a height of 1.
        scale: natural logarithm of power ("ln") or decibels ("db").
        floor: the least power of a mel bin; None is float32's epsilon, as in Kaldi.
        floor_added: add the floor to every power, which leaves no bin below it.
        mean, std: statistics of log-mel cells used by `FrontEnd.normalise`; measure your own
            with `measure_statistics`.
        pad_to_frames: None keeps every clip's own length; a number reproduces the published
            fixed-length input (rows of 0.0 before normalisation; the first frames are kept).

    Raises:
        ConfigError: a value is out of range or unknown; one line names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["kaldi", "stft", "waveform"] = "kaldi"
    sample_rate: int = Field(16_000, gt=0)
    n_mels: int = Field(128, gt=0)
    f_min: float = Field(20.0, ge=0)
    f_max: float | None = Field(None, gt=0)
    window_ms: float = Field(25.0, gt=0)
    hop_ms: float = Field(10.0, gt=0)
    fft_size: int | None = Field(None, gt=0, multiple_of=2)
    preemphasis: float = Field(0.97, ge=0, le=1)
    mel_scale: Literal["htk", "slaney", "none"] = "htk"
    mel_area: bool = False
    scale: Literal["ln", "db"] = "ln"
    floor: float | None = Field(None, gt=0)
    floor_added: bool = False
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

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**_DEFAULTS.get(str(values.get("kind")), {}), **values}

    @model_validator(mode="after")
    def _fits_together(self) -> "FrontEndConfig":
        self._uses_all_settings()
        if self.kind == "waveform":
            return self
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
        if self.n_fft < self.window:
            raise ValueError(
                f"fft_size is {self.n_fft}, expected at least the window's {self.window} samples"
            )
        if self.mel_scale == "none":
            return self._every_bin()
        bins = bins_between(low, high, self.sample_rate, self.n_fft)
        if self.n_mels > bins:
            raise ValueError(
                f"n_mels is {self.n_mels} but the {self.n_fft}-point FFT has {bins} bins between "
                f"{low:g} and {high:g} Hz: lower n_mels or lengthen window_ms"
            )
        return self

    def _every_bin(self) -> "FrontEndConfig":
        bins = self.n_fft // 2 + 1
        if self.n_mels != bins or self.band != (0, self.sample_rate / 2) or self.mel_area:
            raise ValueError(
                f"without mel filters the {self.n_fft}-point FFT has {bins} bins from 0 to "
                f"{self.sample_rate / 2:g} Hz: set n_mels={bins} f_min=0, leave f_max and "
                "mel_area out"
            )
        return self

    def _uses_all_settings(self) -> None:
        fields, own = type(self).model_fields, _DEFAULTS.get(self.kind, {})
        for name in _UNUSED[self.kind]:
            expected = own.get(name, fields[name].default)
            if getattr(self, name) != expected:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but a front end of kind {self.kind} has no "
                    f"use for it: leave it at {expected}"
                )

    @model_serializer(mode="wrap")
    def _without_later_settings(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        if self.kind == "kaldi":
            values = {name: value for name, value in values.items() if name not in _LATER}
        return values

    @property
    def window(self) -> int:
        """Samples in a frame."""
        if self.kind == "waveform":
            return 1
        return _samples(self.window_ms, self.sample_rate)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        if self.kind == "waveform":
            return 1
        return _samples(self.hop_ms, self.sample_rate)

    @property
    def n_fft(self) -> int:
        """Points of the FFT."""
        return 1 << (self.window - 1).bit_length() if self.fft_size is None else self.fft_size

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest frequency that a model can hear, in Hz."""
        return self.f_min, self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def summary(self) -> str:
        """What comes out, in a few words."""
        return "the waveform" if self.kind == "waveform" else f"{self.n_mels} mel bins"

    @property
    def least_power(self) -> float:
        """Floor of a mel bin's power; Kaldi's is float32's epsilon, whose logarithm is -15.942."""
        return float(np.finfo(np.float32).eps) if self.floor is None else self.floor

    @property
    def unit(self) -> float:
        """Natural logarithm of the power that one unit of a feature stands for."""
        return math.log(10) / 10 if self.scale == "db" else 1.0

    @property
    def mel_centres(self) -> tuple[float, ...]:
        """Frequency in Hz at which each mel filter peaks, (F,)."""
        return tuple(self.bins_to_hertz(np.arange(self.n_mels)).tolist())

    def bins_to_hertz(self, bins: np.ndarray) -> np.ndarray:
        """Frequency in Hz at which mel filters peak, also between filters and beyond them.

        Raises:
            ConfigError: a waveform has none.
        """
        if self.kind == "waveform":
            raise ConfigError("a front end of kind waveform has no mel bins")
        low, step = self.mel_grid
        out: np.ndarray = MEL_SCALES[self.mel_scale].hertz(
            low + (np.asarray(bins, np.float64) + 1) * step
        )
        return out

    @property
    def mel_grid(self) -> tuple[float, float]:
        """Lower edge of the first filter and distance between filters, in mel.

        Without mel filters they are in hertz, one for each bin of the FFT: triangles between the
        neighbouring bins, which hold nothing else.
        """
        if self.mel_scale == "none":
            return -self.sample_rate / self.n_fft, self.sample_rate / self.n_fft
        low, high = (float(MEL_SCALES[self.mel_scale].mel(np.float64(f))) for f in self.band)
        return low, (high - low) / (self.n_mels + 1)

    def samples_to_frames(self, samples: int) -> int:
        """Frames of a clip; even a short one has one."""
        if self.kind == "stft":
            return 1 + samples // self.hop
        return 1 + max(samples - self.window, 0) // self.hop

    def frames_to_samples(self, frames: int) -> int:
        """The shortest clip that has so many frames."""
        if self.kind == "stft":
            return max(1, (frames - 1) * self.hop)
        return self.window + (frames - 1) * self.hop

    def seconds_to_frames(self, seconds: float) -> int:
        """Frames of a clip that lasts `seconds`: 998 for 10 s at the paper's settings."""
        return self.samples_to_frames(round(seconds * self.sample_rate))

    def frames_to_seconds(self, frames: float) -> float:
        """Time that passes in `frames` frames: from the first one to number `frames`."""
        return frames * self.hop / self.sample_rate

    @property
    def first_centre(self) -> float:
        """Seconds from the start of a clip to the middle of its first frame."""
        return 0.0 if self.kind == "stft" else self.window / 2 / self.sample_rate


#: CNN14 at either rate: decibels, which go into a batch normalisation per bin (Kong et al., 2020).
_PANNS: dict[str, Any] = {
    "kind": "stft",
    "n_mels": 64,
    "f_min": 50.0,
    "window_ms": 32.0,
    "mel_scale": "slaney",
    "mel_area": True,
    "scale": "db",
    "floor": 1e-10,
}

#: Settings by name. "paper": 16 kHz with PSLA's statistics. "wide-32k", for wildlife and
#: music: the same frames in time, an octave more above. Its statistics are over every cell of
#: ESC-10, whose 400 clips (some with digital silence) are 44.1 kHz recordings of animals,
#: weather, machines and people: `python -m benchmarks.speed frontend --statistics ESC10`.
#: The others are those of published systems (docs/baselines.md).
FRONT_ENDS = {
    "paper": FrontEndConfig(),
    "wide-32k": FrontEndConfig(sample_rate=32_000, mean=-5.9597, std=5.8619),
    # YuanGongND/psla: "paper", always 1056 frames (AudioSet; FSD50K has 3000).
    "psla": FrontEndConfig(pad_to_frames=1056),
    # YuanGongND/ast: statistics of AudioSet, divided by two deviations; always 1024 frames.
    "ast": FrontEndConfig(mean=-4.2677393, std=2 * 4.5689974, pad_to_frames=1024),
    "cnn14": FrontEndConfig(**_PANNS, sample_rate=32_000, f_max=14_000.0),
    "cnn14-16k": FrontEndConfig(**_PANNS, f_max=8_000.0),
    # descriptinc/lyrebird-wav2clip: all bins of the FFT, every 353 samples.
    "wav2clip": FrontEndConfig(
        kind="stft",
        n_mels=257,
        f_min=0.0,
        window_ms=32.0,
        hop_ms=22.0625,
        mel_scale="none",
        floor=1e-7,
        floor_added=True,
    ),
    # Fonseca et al., 2022: 96 bands of 30 ms frames every 10 ms. The rest is not said there; the
    # statistics are ESC-10's, as above.
    "fsd50k-vgg": FrontEndConfig(
        kind="stft",
        sample_rate=22_050,
        n_mels=96,
        f_min=0.0,
        window_ms=30.0,
        mel_scale="slaney",
        mean=-4.0607,
        std=6.3167,
    ),
    "waveform": FrontEndConfig(kind="waveform"),
}


def front_end_preset(name: str) -> FrontEndConfig:
    """The settings of this name; ConfigError where there are none."""
    if name not in FRONT_ENDS:
        raise ConfigError(
            f"unknown front end {name!r}: choose from {', '.join(FRONT_ENDS)}"
            f"{did_you_mean(name, FRONT_ENDS)}"
        )
    return FRONT_ENDS[name]
