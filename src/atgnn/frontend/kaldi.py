"""Frames as Kaldi cuts them: the first starts with the clip, the last ends within it.

B clips, S samples, T frames, W FFT length.
"""

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.frontend.config import FrontEndConfig

__all__ = ["KaldiFrames"]

#: Samples of a wave that are summed in float32.
_BLOCK = 1024


class KaldiFrames:
    """How a waveform becomes windowed frames."""

    def __init__(self, config: FrontEndConfig) -> None:
        self.config = config

    def window(self) -> Tensor:
        """Symmetric Hann window, completed with zeros, (W,)."""
        window = torch.hann_window(
            self.config.window, periodic=False, dtype=torch.float32, device=torch.device("cpu")
        )
        return functional.pad(window, (0, self.config.n_fft - self.config.window))

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Samples of clips (B,) to their frames."""
        return 1 + (lengths - self.config.window).clamp_min(0) // self.config.hop

    def cut(self, wave: Tensor, lengths: Tensor | None) -> tuple[Tensor, ...]:
        """Frames (B, T, W) of waves (B, S) less the clip's mean, and each frame's mean (B, T, 1).

        The frames overlap in memory, and run on into the next ones past the window.
        """
        window, hop, n_fft = self.config.window, self.config.hop, self.config.n_fft
        end = max(wave.shape[1], window) + n_fft - window
        wave = _centred(wave.float(), lengths, zeros=n_fft)
        frames = wave[:, :end].unfold(1, n_fft, hop)
        return frames, frames[..., :window].mean(-1, keepdim=True)

    def windowed(self, window: Tensor, *parts: Tensor) -> Tensor:
        """What `cut` gave, without its mean and with pre-emphasis, ready for the FFT."""
        frames, offset = parts
        frames = frames - offset
        before = frames * self.config.preemphasis
        # The first sample of a frame has no predecessor, and the window gives it weight 0.
        frames[..., 1:].sub_(before[..., :-1])
        return frames.mul_(window)


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
