"""Mean and deviation of features, which normalise them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atgnn.errors import AudioError
from atgnn.frontend.config import FrontEndConfig
from atgnn.frontend.module import FrontEnd

__all__ = ["Statistics", "measure_statistics"]


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
