"""The published front end: Kaldi's filter bank, clip by clip, as torchaudio computes it."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.frontend import FrontEndConfig

__all__ = ["fbank"]


def fbank(wave: Tensor, config: FrontEndConfig) -> Tensor:
    """Log-mel ``(T, F)`` of one clip ``(S,)``, before normalisation.

    Every step is a pass over all frames, the filters are made anew for each clip and multiplied
    as one dense matrix.
    """
    wave = wave - wave.mean()
    frames = wave.unfold(0, config.window, config.hop)
    frames = frames - frames.mean(1, keepdim=True)
    before = functional.pad(frames[:, None], (1, 0), mode="replicate")[:, 0, :-1]
    frames = frames - config.preemphasis * before
    frames = frames * torch.hann_window(config.window, periodic=False, device=wave.device)
    frames = functional.pad(frames, (0, config.n_fft - config.window))
    power = torch.fft.rfft(frames).abs().pow(2.0)
    filters = functional.pad(mel_filters(config), (0, 1)).to(wave.device)
    mel = power @ filters.T
    return torch.max(mel, torch.tensor(torch.finfo(torch.float32).eps, device=wave.device)).log()


def mel_filters(config: FrontEndConfig) -> Tensor:
    """Triangles in mel over the FFT bins below half the sample rate: ``(F, n_fft / 2)``."""
    low, high = (1127 * math.log1p(hertz / 700) for hertz in config.band)
    step = (high - low) / (config.n_mels + 1)
    left = low + step * torch.arange(config.n_mels)[:, None]
    hertz = config.sample_rate / config.n_fft * torch.arange(config.n_fft // 2)
    bins = (1127 * (1 + hertz / 700).log())[None]
    rising, falling = (bins - left) / step, (left + 2 * step - bins) / step
    return torch.minimum(rising, falling).clamp(min=0)
