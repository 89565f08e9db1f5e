"""Frames of a centred short-time Fourier transform, as librosa and torchlibrosa cut them.

Frame t is centred at sample t times the hop; at both ends the clip goes on as its reflection.

B clips, S samples, T frames, W FFT length, P = W / 2 samples at either end.
"""

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.frontend.config import FrontEndConfig

__all__ = ["StftFrames"]


class StftFrames:
    """How a waveform becomes windowed frames."""

    def __init__(self, config: FrontEndConfig) -> None:
        self.config = config

    def window(self) -> Tensor:
        """Periodic Hann window with zeros on both sides, (W,)."""
        config = self.config
        window = torch.hann_window(config.window, dtype=torch.float32, device=torch.device("cpu"))
        before = (config.n_fft - config.window) // 2
        return functional.pad(window, (before, config.n_fft - config.window - before))

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Samples of clips (B,) to their frames."""
        return 1 + lengths // self.config.hop

    def cut(self, wave: Tensor, lengths: Tensor | None) -> tuple[Tensor, ...]:
        """Frames (B, T, W) of waves (B, S); they overlap in memory."""
        padded = _reflected(wave.float(), lengths, self.config.n_fft // 2)
        return (padded.unfold(1, self.config.n_fft, self.config.hop),)

    def windowed(self, window: Tensor, *parts: Tensor) -> Tensor:
        """What `cut` gave, ready for the FFT."""
        return parts[0] * window


def _reflected(wave: Tensor, lengths: Tensor | None, reach: int) -> Tensor:
    """Waves (B, S) that go on as their reflection for `reach` samples at both ends, (B, S + 2 P).

    A clip ends where its length says, whatever lies behind. Clips shorter than `reach` are
    reflected to and fro.
    """
    samples = wave.shape[1]
    if lengths is None:
        lengths = torch.full((len(wave),), samples, device=wave.device)
    else:
        wave = wave.masked_fill(torch.arange(samples, device=wave.device) >= lengths[:, None], 0)
    ends, step = lengths[:, None], torch.arange(reach, device=wave.device)
    head = wave.gather(1, _mirrored(step - reach, ends))
    tail = wave.gather(1, _mirrored(ends + step, ends))
    whole = torch.cat([head, functional.pad(wave, (0, reach))], 1)
    return whole.scatter(1, reach + ends + step, tail)


def _mirrored(places: Tensor, ends: Tensor) -> Tensor:
    """Places beyond either end of clips of `ends` (B, 1) samples to where their reflection is."""
    period = (2 * (ends - 1)).clamp_min(1)
    around = places.remainder(period)
    return torch.minimum(around, period - around).minimum(ends - 1)
