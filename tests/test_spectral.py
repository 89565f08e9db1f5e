"""Changes to log-mel spectrograms: what they must keep, and what they must change."""

import math

import numpy as np
import pytest
import torch

from atgnn.training import spectral
from atgnn.training.augment import trim
from atgnn.training.recipe import AugmentSettings

FLOOR = spectral.FLOOR


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def features(batch=8, frames=40, bins=16, seed=1):
    torch.manual_seed(seed)
    return torch.randn(batch, frames, bins) - 5


def test_stretch_of_a_ramp_is_a_ramp_of_another_slope():
    ramp = torch.arange(60.0)[None, :, None].expand(32, 60, 4).contiguous()
    lengths = torch.full((32,), 60)
    out, new = spectral.stretch(ramp, lengths, 0.5, generator())
    slopes = []
    for row, length in zip(out, new.tolist(), strict=True):
        steps = row[1:length, 0] - row[: length - 1, 0]
        assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-4)
        assert row[:length].min() >= 0
        assert row[:length].max() <= 59
        assert not row[length:].any()
        slopes.append(float(steps[0]))
    assert min(slopes) < 0.8 < 1.2 < max(slopes)
    assert min(slopes) >= 1 / 1.5 - 1e-4
    assert max(slopes) <= 1.5 + 1e-4


def test_stretch_reads_no_frame_past_a_clips_end():
    wave = features()
    lengths = torch.tensor([40, 30, 20, 10, 5, 2, 1, 40])
    for row, length in enumerate(lengths):
        wave[row, length:] = 1e6
    out, new = spectral.stretch(wave, lengths, 0.3, generator())
    assert out.abs().max() < 100
    assert (new <= 40).all()
    assert (new >= 1).all()


def test_equalise_adds_one_curve_to_all_frames_and_keeps_silence_at_the_floor():
    sound = features()
    sound[:, 3] = FLOOR
    out = spectral.equalise(sound, 6, generator())
    change = (out - sound)[:, [0, 1, 2, 4]]
    assert torch.allclose(change[:, 0], change[:, 1], atol=1e-5)
    assert change.abs().max() <= 6 * spectral.DB + 1e-5
    assert change.abs().amax(dim=(1, 2)).min() > 0.05
    assert out.min() >= FLOOR


def test_noise_only_adds_and_stays_below_the_loudest_frame():
    sound = torch.full((64, 30, 16), FLOOR)
    sound[:, 5] = 2.0
    out = spectral.add_noise(sound, torch.full((64,), 30), 0.5, generator())
    assert (out >= sound - 1e-5).all()
    noisy = out[:, 20].mean(1) > FLOOR + 1
    assert 16 < int(noisy.sum()) < 48
    level = out[noisy][:, 20:].logsumexp(2).mean(1) - math.log(16)
    assert level.max() < 2.0 - 8 * spectral.DB
    assert level.min() > 2.0 - 55 * spectral.DB


def test_noise_is_measured_inside_the_clip():
    sound = torch.full((4, 30, 16), -3.0)
    sound[:, 10:] = 50.0  # not sound: past the end
    out = spectral.add_noise(sound, torch.full((4,), 10), 1.0, generator())
    assert out[:, :10].max() < 0


def test_limit_band_lowers_one_end_of_the_band():
    sound = features(batch=200, bins=32) + 20
    out = spectral.limit_band(sound, 1.0, generator())
    changed = (out != sound).any(1)  # (B, F)
    assert changed.any()
    for row in changed:
        bins = torch.nonzero(row).flatten().tolist()
        if bins:
            assert bins == list(range(bins[0], bins[-1] + 1))
            assert bins[0] == 0 or bins[-1] == 31
            assert bins[0] >= 16 or bins[-1] < 4
    assert torch.equal(spectral.limit_band(sound, 0.0, generator()), sound)


def test_all_together_are_a_function_of_the_generator():
    settings = AugmentSettings(stretch=0.2, equalise_db=4, noise=0.5, band_limit=0.5)
    lengths = torch.full((8,), 40)
    first = spectral.vary_features(features(), lengths, settings, generator(3))
    again = spectral.vary_features(features(), lengths, settings, generator(3))
    other = spectral.vary_features(features(), lengths, settings, generator(4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.isfinite(first[0]).all()


def test_switched_off_changes_nothing():
    sound, lengths = features(), torch.full((8,), 40)
    out, new = spectral.vary_features(sound, lengths, AugmentSettings(), generator())
    assert out is sound
    assert new is lengths


@pytest.mark.parametrize("before", [0, 5, 160, 1003])
@pytest.mark.parametrize("after", [0, 9, 777])
def test_trim_cuts_silence_and_no_sound(before, after):
    rng = np.random.default_rng(0)
    sound = (rng.integers(100, 3000, 500) * rng.choice([-1, 1], 500)).astype(np.int16)
    wave = np.concatenate([np.zeros(before, np.int16), sound, np.ones(after, np.int16)])
    out = trim(wave)
    assert len(sound) <= len(out) <= len(sound) + 2 * 8
    assert np.array_equal(out[np.abs(out) > 1], sound)


def test_trim_hears_the_least_sample_there_is():
    wave = np.zeros(4000, np.int16)
    wave[1000:3000] = -32768
    assert len(trim(wave)) <= 2014
    assert (wave[1000:3000] == -32768).sum() == (trim(wave) == -32768).sum()


def test_trim_leaves_silence_as_it_is():
    silence = np.zeros(100, np.int16)
    assert trim(silence) is silence
