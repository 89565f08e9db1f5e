"""Random changes to log-mel spectrograms that no label depends on: how fast a sound goes, how a
microphone colours it, what hisses behind it, and how much of the band is left.

They take away what tells a collection from another without telling what is heard. All work on
natural-log mel power before normalisation, ``(B, T, F)`` with lengths ``(B,)``, draw from the
generator they are given, on the CPU, and wait for no device. `vary_features` takes decibels too.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from atgnn.distributed import part, uniform
from atgnn.frontend import FrontEndConfig
from atgnn.training.recipe import AugmentSettings

__all__ = ["add_noise", "equalise", "limit_band", "stretch", "vary_features"]

ANCHORS = 6  # places along the frequency axis at which a random equaliser is set
FLOOR = math.log(FrontEndConfig().least_power)  # what digital silence becomes as published
DB = math.log(10) / 10  # natural-log power of one decibel


def vary_features(
    features: Tensor,
    lengths: Tensor,
    settings: AugmentSettings,
    generator: torch.Generator,
    front_end: FrontEndConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """Everything here that the recipe switches on, in the order in which sound meets it.

    `front_end` says what made the features: their unit, and what silence is (None: the paper's).
    """
    config = front_end or FrontEndConfig()
    floor = math.log(config.least_power)
    if settings.stretch:
        features, lengths = stretch(features, lengths, settings.stretch, generator)
    coloured = settings.equalise_db or settings.noise or settings.band_limit
    if coloured and config.unit != 1:
        features = features * config.unit
    if settings.equalise_db:
        features = equalise(features, settings.equalise_db, generator, floor)
    if settings.noise:
        features = add_noise(features, lengths, settings.noise, generator)
    if settings.band_limit:
        features = limit_band(features, settings.band_limit, generator, floor)
    if coloured and config.unit != 1:
        features = features / config.unit
    return features, lengths


def stretch(
    features: Tensor, lengths: Tensor, largest: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Play each clip faster or slower by up to a factor of 1 + `largest`, pitch unchanged.

    The rate is drawn uniformly on a logarithmic scale. A clip that becomes longer is cut at a
    random place to the frames there are; one that becomes shorter has fewer. Frames between two
    are interpolated linearly. Returns features of the same shape, 0 past a clip's end, and the
    new lengths.
    """
    batch, frames, bins = features.shape
    device = features.device
    draw = uniform(2, batch, clips=1, generator=generator).to(device, non_blocking=True)
    rate = torch.exp((2 * draw[0] - 1) * math.log1p(largest))  # source frames per frame
    new = (lengths / rate).floor().clamp(min=1)
    kept = torch.minimum(new, torch.full_like(new, frames)).long()
    start = draw[1] * (lengths - 1 - (kept - 1) * rate).clamp(min=0)
    step = torch.arange(frames, device=device)
    place = start[:, None] + step * rate[:, None]  # (B, T)
    place = torch.minimum(place.clamp(min=0), (lengths - 1)[:, None].to(place.dtype))
    below = place.floor()
    share = (place - below)[:, :, None]
    first = below.long()
    second = torch.minimum(first + 1, (lengths - 1)[:, None].long())

    def frames_at(index: Tensor) -> Tensor:
        return features.gather(1, index[:, :, None].expand(-1, -1, bins))

    out = frames_at(first) * (1 - share) + frames_at(second) * share
    return out.masked_fill((step >= kept[:, None])[:, :, None], 0.0), kept


def equalise(
    features: Tensor, largest_db: float, generator: torch.Generator, floor: float = FLOOR
) -> Tensor:
    """Colour each clip: a smooth curve over frequency of up to so many decibels either way.

    Silence stays silence: nothing falls below the front end's floor.
    """
    batch, _, bins = features.shape
    anchors = (2 * uniform(batch, 1, ANCHORS, clips=0, generator=generator) - 1) * largest_db * DB
    curve = functional.interpolate(anchors, size=bins, mode="linear", align_corners=True)
    return (features + curve.to(features.device, non_blocking=True)).clamp(min=floor)


def add_noise(
    features: Tensor, lengths: Tensor, probability: float, generator: torch.Generator
) -> Tensor:
    """With this probability, hiss 10 to 50 dB below the loudest frame of the clip.

    Its colour is a random straight line of up to 20 dB over the band either way, and it
    fluctuates from cell to cell as the power of noise does. Powers add.
    """
    batch, frames, bins = features.shape
    draw = uniform(3, batch, 1, 1, clips=1, generator=generator)
    chosen = draw[0] < probability
    tilt = (2 * draw[1] - 1) * 20 * DB * (torch.arange(bins) / max(1, bins - 1) - 0.5)
    below = (10 + 40 * draw[2]) * DB
    # Power of noise is exponentially distributed; a mel band and a frame average several bins.
    # Its size depends on the longest clip at hand: each process draws it from a stream of its own.
    seed = int(torch.randint(2**62, (), generator=generator)) + part().rank
    field = torch.rand(2, batch, frames, bins, generator=torch.Generator().manual_seed(seed))
    ripple = (-torch.log(field.clamp(min=1e-6))).mean(0).log()
    noise = (ripple + tilt - below).masked_fill(~chosen, -1e4).to(features.device)
    inside = torch.arange(frames, device=features.device) < lengths[:, None]
    loudness = features.logsumexp(2) - math.log(bins)  # (B, T)
    loudest = loudness.masked_fill(~inside, -1e4).amax(1)[:, None, None]
    return torch.logaddexp(features, noise + loudest)


def limit_band(
    features: Tensor, probability: float, generator: torch.Generator, floor: float = FLOOR
) -> Tensor:
    """With this probability, take away what lies above a random bin of the upper half or, as
    often, below a random bin of the lowest eighth: telephone, codec, small loudspeaker.

    What is taken away falls by 60 dB, not below the floor.
    """
    batch, _, bins = features.shape
    draw = uniform(3, batch, 1, 1, clips=1, generator=generator)
    bin_ = torch.arange(bins)
    high = (draw[1] < 0.5) & (bin_ >= bins * (0.5 + 0.5 * draw[2]))
    low = (draw[1] >= 0.5) & (bin_ < bins / 8 * draw[2])
    removed = ((draw[0] < probability) & (high | low)).to(features.device)
    return torch.where(removed, (features - 60 * DB).clamp(min=floor), features)
