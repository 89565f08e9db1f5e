"""Sounds made by rule, as examples of what a new label is not when nobody gives any.

Who has five clips of one sound and nothing else must still tell it from *other* sounds. No
recording is needed for that: noises of all colours, hums, whistles, clicks, bells, engines, buzzes
in the rhythm of speech, and two of them at once, cover the space of sounds thinly but widely.

S samples.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["COUNT", "SAMPLE_RATE", "synthetic_sounds"]

SAMPLE_RATE = 16_000
SECONDS = 4.0
COUNT = 40


def synthetic_sounds(count: int = COUNT, seed: int = 0) -> list[np.ndarray]:
    """`count` sounds, each float32 (S,) at 16 kHz; the same for the same seed."""
    kinds = tuple(KINDS)
    sounds = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        sound = KINDS[kinds[number % len(kinds)]](rng)
        if number >= len(kinds) and rng.random() < 0.4:  # something else at the same time
            sound = sound + rng.uniform(0.2, 1) * KINDS[kinds[int(rng.integers(len(kinds)))]](rng)
        peak = max(1e-9, float(np.abs(sound).max()))
        level = 10 ** rng.uniform(-1.6, -0.1)  # -32 to -2 dB below full scale
        hiss = 10 ** rng.uniform(-4.5, -2.5) * rng.standard_normal(len(sound))
        sounds.append((level * sound / peak + hiss).astype(np.float32))
    return sounds


def _time() -> np.ndarray:
    return np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE


def _slow(rng: np.random.Generator, hertz: float) -> np.ndarray:
    """A random curve (S,) of about unit variance that changes some `hertz` times a second."""
    points = rng.standard_normal(max(4, round(SECONDS * hertz)) + 2)
    place = np.linspace(0, len(points) - 1, len(_time()))
    return np.interp(place, np.arange(len(points)), points)


def _coloured(rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency to the power `slope`."""
    spectrum = np.fft.rfft(rng.standard_normal(len(_time())))
    frequency = np.maximum(np.fft.rfftfreq(len(_time()), 1 / SAMPLE_RATE), 20)
    out = np.fft.irfft(spectrum * frequency ** (-slope / 2), len(_time()))
    return out / out.std()


def _band(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Noise between two frequencies in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(len(_time())))
    frequency = np.fft.rfftfreq(len(_time()), 1 / SAMPLE_RATE)
    spectrum[(frequency < low) | (frequency > high)] = 0
    out = np.fft.irfft(spectrum, len(_time()))
    return out / max(1e-9, out.std())


def _steady_noise(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, rng.uniform(-0.5, 2.5))


def _moving_noise(rng: np.random.Generator) -> np.ndarray:
    return _coloured(rng, rng.uniform(0, 2)) * np.exp(0.8 * _slow(rng, rng.uniform(0.5, 6)))


def _band_noise(rng: np.random.Generator) -> np.ndarray:
    low = np.exp(rng.uniform(np.log(80), np.log(4000)))
    return _band(rng, low, low * rng.uniform(1.2, 3)) * np.exp(0.5 * _slow(rng, 2))


def _hum(rng: np.random.Generator) -> np.ndarray:
    """Many harmonics of a low note: mains, motors, organ."""
    pitch = np.exp(rng.uniform(np.log(40), np.log(400))) * np.exp(0.01 * _slow(rng, 1))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    fall = rng.uniform(0.5, 2)
    return np.sum([np.sin(n * phase) / n**fall for n in range(1, 15)], axis=0)


def _whistle(rng: np.random.Generator) -> np.ndarray:
    """A gliding tone that comes and goes."""
    pitch = np.exp(rng.uniform(np.log(400), np.log(5000)) + 0.3 * _slow(rng, rng.uniform(0.5, 8)))
    gate = _slow(rng, rng.uniform(1, 6)) > rng.uniform(-0.5, 0.8)
    soft = np.convolve(gate, np.ones(400) / 400, "same")
    return np.sin(2 * np.pi * np.cumsum(np.minimum(pitch, 7500)) / SAMPLE_RATE) * soft


def _struck(
    rng: np.random.Generator, voice: Callable[[np.random.Generator, int], np.ndarray], often: float
) -> np.ndarray:
    """Short sounds at random times, `often` a second."""
    out = np.zeros(len(_time()))
    for _ in range(1 + rng.poisson(often * SECONDS)):
        one = voice(rng, round(rng.uniform(0.02, 0.8) * SAMPLE_RATE))
        start = int(rng.integers(len(out)))
        part = out[start : start + len(one)]
        part += one[: len(part)] * rng.uniform(0.2, 1)
    return out


def _decay(rng: np.random.Generator, samples: int) -> np.ndarray:
    return np.exp(-np.linspace(0, rng.uniform(3, 9), samples))


def _click(rng: np.random.Generator, samples: int) -> np.ndarray:
    short = min(samples, round(rng.uniform(0.001, 0.03) * SAMPLE_RATE))
    return rng.standard_normal(short) * _decay(rng, short)


def _bell(rng: np.random.Generator, samples: int) -> np.ndarray:
    time = np.arange(samples) / SAMPLE_RATE
    partials = np.exp(rng.uniform(np.log(200), np.log(5000), 5))
    tones = np.sin(2 * np.pi * partials[:, None] * time).sum(0)
    return tones * _decay(rng, samples)


def _thud(rng: np.random.Generator, samples: int) -> np.ndarray:
    smooth = int(rng.integers(5, 120))
    dull = np.convolve(rng.standard_normal(samples), np.ones(smooth) / smooth, "same")
    return 3 * dull * _decay(rng, samples)


def _clicks(rng: np.random.Generator) -> np.ndarray:
    return _struck(rng, _click, np.exp(rng.uniform(0, 3.5)))


def _bells(rng: np.random.Generator) -> np.ndarray:
    return _struck(rng, _bell, rng.uniform(0.5, 5))


def _thuds(rng: np.random.Generator) -> np.ndarray:
    return _struck(rng, _thud, rng.uniform(0.5, 6))


def _engine(rng: np.random.Generator) -> np.ndarray:
    """Noisy pulses at a rate that wanders."""
    rate = np.exp(rng.uniform(np.log(8), np.log(120))) * np.exp(0.1 * _slow(rng, 1))
    phase = np.cumsum(rate) / SAMPLE_RATE
    pulse = np.exp(-6 * (phase % 1))
    return pulse * _coloured(rng, rng.uniform(0, 1.5))


def _buzz_in_syllables(rng: np.random.Generator) -> np.ndarray:
    """A buzz through three resonances, opened and closed some four times a second."""
    pitch = rng.uniform(80, 300) * np.exp(0.15 * _slow(rng, 3))
    phase = np.cumsum(pitch) / SAMPLE_RATE
    sound = 2 * (phase % 1) - 1 + 0.1 * rng.standard_normal(len(phase))
    spectrum = np.fft.rfft(sound)
    turn = np.exp(-2j * np.pi * np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE) / SAMPLE_RATE)
    radius = np.exp(-np.pi * 120 / SAMPLE_RATE)  # 120 Hz wide
    for centre in (rng.uniform(300, 900), rng.uniform(900, 2300), rng.uniform(2300, 3500)):
        cosine = np.cos(2 * np.pi * centre / SAMPLE_RATE)
        spectrum /= 1 - 2 * radius * cosine * turn + radius**2 * turn**2
    sound = np.fft.irfft(spectrum, len(sound))
    gate = np.maximum(0, _slow(rng, rng.uniform(3, 8)))
    return sound / sound.std() * gate


def _nearly_silent(rng: np.random.Generator) -> np.ndarray:
    return 1e-3 * _coloured(rng, 1.0) + np.zeros(len(_time()))


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "steady noise": _steady_noise,
    "hum": _hum,
    "clicks": _clicks,
    "syllables": _buzz_in_syllables,
    "moving noise": _moving_noise,
    "bells": _bells,
    "engine": _engine,
    "whistle": _whistle,
    "thuds": _thuds,
    "band noise": _band_noise,
    "nearly silent": _nearly_silent,
}
