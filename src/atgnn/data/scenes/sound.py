"""The sound of scenes: noise, repetition, fades. S samples, float."""

import math

import numpy as np

__all__ = ["coloured_noise", "faded", "repeated"]


def coloured_noise(length: int, generator: np.random.Generator) -> np.ndarray:
    """Noise (S,) whose spectrum falls by 0 to 9 dB an octave: from white to rumbling."""
    spectrum = np.fft.rfft(generator.standard_normal(length))
    slope = generator.uniform(0, 9) / (20 * math.log10(2))
    place = np.arange(len(spectrum), dtype=float)
    place[: max(1, len(spectrum) // 400)] = max(1, len(spectrum) // 400)  # nothing below 20 Hz
    noise: np.ndarray = np.fft.irfft(spectrum * place**-slope, length)
    return noise


def repeated(
    sound: np.ndarray, length: int, crossing: int, generator: np.random.Generator
) -> np.ndarray:
    """A part of `sound` (S',) that is `length` long, from a random place; repeated, if need be.

    Repetitions fade into one another over `crossing` samples.
    """
    if len(sound) >= length:
        first = int(generator.integers(len(sound) - length + 1))
        return sound[first : first + length]
    crossing = min(crossing, len(sound) // 3)
    if crossing:
        rise = np.sin(np.linspace(0, np.pi / 2, crossing))
        joint = sound[:crossing] * rise + sound[-crossing:] * rise[::-1]
        sound = np.concatenate([joint, sound[crossing:-crossing]])
    return np.resize(np.roll(sound, -int(generator.integers(len(sound)))), length)


def faded(sound: np.ndarray, samples: int) -> np.ndarray:
    """A copy that rises from and falls to nothing over so many samples, or a third of it."""
    samples = min(samples, len(sound) // 3)
    out = sound.copy()
    if samples:
        rise = np.linspace(0, 1, samples, endpoint=False)
        out[:samples] *= rise
        out[-samples:] *= rise[::-1]
    return out
