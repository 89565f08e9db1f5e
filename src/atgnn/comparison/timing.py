"""How long models take for one clip: all under the same clock, turn by turn, in one process.

A clip is as long as the window of the recipe, alone in its batch, and made up; the time is from
samples to scores, front end included. Every model is called twice to warm up; then A B C A B C,
so that what disturbs the machine disturbs a whole round; the median of the rounds counts.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atgnn.frontend import FrontEnd
from atgnn.networks import for_inference

__all__ = ["FILE", "ROUNDS", "caller", "made_up", "medians", "turn_by_turn"]

FILE = "inference.json"
WARM, ROUNDS = 2, 7


def turn_by_turn(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    warm: int = WARM,
    settle: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Seconds of every call, A B C A B C, `rounds` of each after `warm`.

    `settle` waits for the device, before and after a call.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + warm):
        for call, row in zip(calls, seconds, strict=True):
            settle()
            start = time.perf_counter()
            call()
            settle()
            if number >= warm:
                row.append(time.perf_counter() - start)
    return seconds


def medians(
    models: Mapping[str, Callable[[], object]], device: str, rounds: int = ROUNDS
) -> dict[str, float]:
    """Milliseconds of each call, the median of the rounds."""
    settle = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    seconds = turn_by_turn(list(models.values()), rounds, settle=settle)
    pairs = zip(models, seconds, strict=True)
    return {name: 1e3 * statistics.median(row) for name, row in pairs}


def caller(network: Any, front_end: FrontEnd, wave: Tensor) -> Callable[[], Tensor]:
    """One call: scores of a waveform (1, S), from samples on, on the device that it is on."""
    front_end, ready = front_end.to(wave.device), for_inference(network).to(wave.device)

    @torch.inference_mode()
    def call() -> Tensor:
        features, _ = front_end(wave)
        logits: Tensor = ready(features, None)
        return logits

    return call


def made_up(seconds: float, rate: int) -> Tensor:
    """A sound, (1, S) float32: tones that rise, in noise."""
    instants = torch.arange(max(1, round(seconds * rate))) / rate
    noise = torch.randn(len(instants), generator=torch.Generator().manual_seed(0))
    return (0.3 * torch.sin(2000 * instants * (1 + instants / seconds)) + 0.02 * noise)[None]
