"""Front ends of other systems: librosa's log-mel spectrogram, and the waveform as it is."""

import numpy as np
import pytest
import torch

from atgnn.errors import ConfigError
from atgnn.frontend import FRONT_ENDS, FrontEnd, FrontEndConfig, front_end_preset
from atgnn.training.pretrain.settings import load_settings
from atgnn.training.recipe import AugmentSettings, Recipe, load_recipe
from atgnn.training.spectral import vary_features

STFT = FrontEndConfig(kind="stft", sample_rate=8_000, n_mels=20, window_ms=20, hop_ms=8, scale="db")


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mel_scale": "slaney", "mel_area": True, "floor": 1e-10},
        {"fft_size": 512, "scale": "ln", "f_min": 200.0, "f_max": 3_000.0},
        {"n_mels": 7, "mel_scale": "slaney"},
    ],
)
def test_equals_librosa(changes):
    librosa = pytest.importorskip("librosa")
    config = FrontEndConfig(**{**STFT.model_dump(), **changes})
    wave = noise(5_003)
    mel = librosa.feature.melspectrogram(
        y=wave.numpy(),
        sr=config.sample_rate,
        n_fft=config.n_fft,
        win_length=config.window,
        hop_length=config.hop,
        n_mels=config.n_mels,
        fmin=config.band[0],
        fmax=config.band[1],
        htk=config.mel_scale == "htk",
        norm="slaney" if config.mel_area else None,
        pad_mode="reflect",
    )
    expected = np.log(np.maximum(mel, config.least_power)).T
    if config.scale == "db":
        expected = expected * 10 / np.log(10)
    ours = FrontEnd(config).log_mel(wave[None])[0][0]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)
    edges = librosa.mel_frequencies(
        config.n_mels + 2, fmin=config.band[0], fmax=config.band[1], htk=config.mel_scale == "htk"
    )
    np.testing.assert_allclose(config.mel_centres, edges[1:-1], rtol=1e-9)


def test_every_bin_of_the_fft():
    """The spectrogram of Wav2CLIP, as torch has it, and the floor under its logarithm."""
    config, wave = FRONT_ENDS["wav2clip"], noise(5_003)
    window = torch.hann_window(512)
    spectrum = torch.stft(wave, 512, 353, window=window, return_complex=True)
    expected = (spectrum.abs().square() + 1e-7).log().T
    torch.testing.assert_close(FrontEnd(config).log_mel(wave[None])[0][0], expected)
    silent = FrontEnd(config).log_mel(torch.zeros(1, 900))[0]
    torch.testing.assert_close(silent, torch.full((1, 3, 257), 1e-7).log())
    assert config.mel_centres == pytest.approx([31.25 * k for k in range(257)])


def test_the_front_end_of_cnn14():
    config = front_end_preset("cnn14")
    assert (config.n_fft, config.window, config.hop, config.n_mels) == (1024, 1024, 320, 64)
    assert config.seconds_to_frames(10) == 1001
    silence = FrontEnd(config)(torch.zeros(1, 32_000))[0]
    torch.testing.assert_close(silence, torch.full((1, 101, 64), -100.0))


@pytest.mark.parametrize(
    "config",
    [STFT, FRONT_ENDS["wav2clip"], FRONT_ENDS["waveform"]],
    ids=["stft", "wav2clip", "waveform"],
)
@pytest.mark.parametrize("samples", [1, 2, 79, 80, 81, 400, 3_999])
def test_a_clip_does_not_depend_on_its_batch(config, samples):
    front_end, wave = FrontEnd(config), noise(samples, samples)
    alone, frames = front_end(wave[None])
    batch = torch.full((2, 4_000), 9.0)
    batch[0, :samples] = wave
    together, both = front_end(batch, torch.tensor([samples, 4_000]))
    assert int(frames) == int(both[0]) == alone.shape[1] == config.samples_to_frames(samples)
    torch.testing.assert_close(together[0, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-5)
    assert not together[0, alone.shape[1] :].any()


@pytest.mark.parametrize("config", [STFT, FrontEndConfig(), FRONT_ENDS["waveform"]])
def test_the_shortest_clip_of_so_many_frames(config):
    for frames in (2, 3, 50):
        samples = config.frames_to_samples(frames)
        assert config.samples_to_frames(samples) == frames
        assert config.samples_to_frames(samples - 1) == frames - 1
    assert config.samples_to_frames(config.frames_to_samples(1)) == 1


def test_gradient_reaches_every_sample():
    wave = noise(900)[None].requires_grad_()
    features, _ = FrontEnd(STFT)(wave, torch.tensor([700]))
    features[:, : STFT.samples_to_frames(700)].sum().backward()
    assert wave.grad[0, :700].count_nonzero() == 700
    assert not wave.grad[0, 700:].any()
    with torch.no_grad():
        same, _ = FrontEnd(STFT)(wave.detach(), torch.tensor([700]))
    torch.testing.assert_close(same, features.detach(), atol=1e-4, rtol=1e-5)


def test_a_waveform_is_what_comes_out():
    config = FrontEndConfig(kind="waveform", mean=0.5, std=2.0)
    wave = noise(40)[None]
    before = wave.clone()
    features, frames = FrontEnd(config)(wave)
    torch.testing.assert_close(features, (wave[..., None] - 0.5) / 2)
    assert torch.equal(wave, before)
    assert (int(frames), config.hop, config.band) == (40, 1, (0.0, 8_000.0))
    assert FrontEnd(config.model_copy(update={"pad_to_frames": 50}))(wave)[0].shape == (1, 50, 1)
    assert "waveform" in repr(FrontEnd(config))
    with pytest.raises(ConfigError, match="has no mel bins"):
        config.bins_to_hertz(np.arange(2))


def test_half_precision_models_keep_their_front_end():
    front_end = FrontEnd(FRONT_ENDS["cnn14-16k"])
    wave = noise(2_000)[None]
    before = front_end(wave)[0]
    assert torch.equal(front_end.half()(wave)[0], before)
    assert FrontEnd(FRONT_ENDS["waveform"]).half()(wave)[0].dtype == torch.float32


def test_settings_of_old_models_are_saved_as_they_were():
    """Digests of weights hang on the text: packs and indexes name the model that they belong to."""
    assert FrontEndConfig().model_dump_json() == (
        '{"sample_rate":16000,"n_mels":128,"f_min":20.0,"f_max":null,"window_ms":25.0,'
        '"hop_ms":10.0,"preemphasis":0.97,"mean":-4.6476,"std":4.5699,"pad_to_frames":null}'
    )
    for config in FRONT_ENDS.values():
        assert FrontEndConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "cqt"}, "kind: Input should be 'kaldi', 'stft' or 'waveform' (got 'cqt')"),
        (
            {"kind": "stft", "preemphasis": 0.97},
            "preemphasis is 0.97, but a front end of kind stft",
        ),
        ({"kind": "stft", "fft_size": 256}, "fft_size is 256, expected at least the window's 400"),
        ({"kind": "waveform", "n_mels": 64}, "n_mels is 64, but a front end of kind waveform"),
        (
            {"kind": "stft", "mel_scale": "none"},
            "the 512-point FFT has 257 bins from 0 to 8000 Hz: set n_mels=257 f_min=0",
        ),
        ({"floor_added": True}, "floor_added is True, but a front end of kind kaldi has no use"),
        ({"scale": "db"}, "scale is db, but a front end of kind kaldi has no use for it"),
    ],
)
def test_settings_that_do_not_fit_get_one_line(settings, words):
    with pytest.raises(ConfigError) as caught:
        FrontEndConfig(**settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_front_end():
    with pytest.raises(ConfigError, match=r"unknown front end 'cn14'.*did you mean 'cnn14'"):
        front_end_preset("cn14")


# ---------------------------------------------------------------------- recipes


def recipe(*changes: str) -> Recipe:
    return load_recipe("folder", ["data.clips=x", *changes])


def test_a_recipe_names_the_front_end_of_its_model():
    own = recipe("front_end={preset: own, hop_ms: 20}", "model={preset: lite0}")
    assert own.front_end_config() == FrontEndConfig(hop_ms=20)
    assert recipe("front_end={preset: wide-32k}").front_end_config() == FRONT_ENDS["wide-32k"]
    other = recipe("front_end={preset: cnn14}", "model={preset: lite0}")
    assert other.model_config_for(3).n_mels == 64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["front_end={preset: own}", "model={preset: lito}"], "unknown preset 'lito'"),
        (
            ["front_end={preset: waveform}", "augment={masks: 0}"],
            "makes the waveform, a network of kind atgnn hears mel bins",
        ),
        (
            ["front_end={preset: waveform}", "augment={noise: 0.5}"],
            "augment.frequency_mask, augment.noise: add --set augment.frequency_mask=0 --set "
            "augment.noise=0",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(changes, words):
    with pytest.raises(ConfigError) as caught:
        recipe(*changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pre_training_knows_natural_logarithms_alone():
    with pytest.raises(ConfigError, match=r"set front_end.scale=ln"):
        load_settings(None, ["front_end={preset: cnn14}", "model={preset: mini}"])


def test_decibels_vary_as_natural_logarithms_do():
    settings = AugmentSettings(equalise_db=6, noise=0.7, band_limit=0.7)
    power = noise(6 * 40 * 20).view(6, 40, 20) - 3
    ln = FrontEndConfig(**{**STFT.model_dump(), "scale": "ln", "floor": 1e-10})
    db = FrontEndConfig(**{**STFT.model_dump(), "floor": 1e-10})
    lengths = torch.full((6,), 40)
    one, two = (
        vary_features(power / c.unit, lengths, settings, torch.Generator().manual_seed(1), c)[0]
        for c in (ln, db)
    )
    assert (one - power).abs().max() > 1
    torch.testing.assert_close(two * db.unit, one, atol=1e-4, rtol=1e-5)
    silent = torch.full((6, 40, 20), np.log(1e-10)) / db.unit
    quiet = AugmentSettings(equalise_db=6, band_limit=1.0)
    out, _ = vary_features(silent, lengths, quiet, torch.Generator().manual_seed(1), db)
    assert out.min() >= -100.001


def test_exports_as_a_graph():
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=200)
    program = torch.export.export(
        FrontEnd(STFT),
        (noise(4_000)[None].repeat(2, 1), torch.tensor([4_000, 999])),
        dynamic_shapes=({0: batch, 1: samples}, {0: batch}),
    )
    wave, lengths = noise(3 * 2_000).view(3, 2_000), torch.tensor([2_000, 40, 1_999])
    both = program.module()(wave, lengths), FrontEnd(STFT)(wave, lengths)
    for found, expected in zip(*both, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
