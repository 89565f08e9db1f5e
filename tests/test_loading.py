"""From clips to what the network gets: packed or decoded, mixed, in threads, on any device."""

import threading
import time
from contextlib import closing, nullcontext

import numpy as np
import pytest
import torch
from helpers import RATE, sound, tiny_model, write

from atgnn.data import waveforms
from atgnn.data.clips import Clips
from atgnn.data.store import SCALE, PackedWaveforms
from atgnn.data.waveforms import Waveforms
from atgnn.errors import ClipsError
from atgnn.frontend import FrontEnd
from atgnn.training.loading import (
    ClipDataset,
    EpochSampler,
    Item,
    Loader,
    Sound,
    collate,
)
from atgnn.training.recipe import AugmentSettings, Recipe, load_recipe

MIXED = AugmentSettings(mixup_probability=1)
VARIED = AugmentSettings(
    crop_seconds=0.4, crop_shortest=0.2, fill=0.5, gain_db=6, roll=0.5, mixup_probability=0.5
)
EQUAL, RAGGED = (0, 1, 9), (0, 2, 3)  # rows of `clips`


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(12):
        seconds = 0.3 + 0.05 * (i % 5)
        write(folder / ("high", "low")[i % 2] / f"{i}.wav", sound(seconds, seed=i))
    return Clips.read(folder)


@pytest.fixture(scope="module")
def packed(clips, tmp_path_factory):
    return PackedWaveforms.write(clips, tmp_path_factory.mktemp("packed") / "store", RATE)


def dataset(clips, settings=None, packed=(), seed=1):
    targets = clips.targets(clips.vocabulary())
    return ClipDataset(Waveforms(clips, RATE, 1.0, 10.0, packed), targets, settings, seed)


def noise(samples, seed, offset=0):
    random = np.random.default_rng(seed)
    return (random.integers(-3000, 3000, samples) + offset).astype(np.int16)


# ---------------------------------------------------------------------- waveforms


def test_packed_and_decoded_clips_are_the_same(clips, packed):
    shuffled = clips.subset(np.array([3, 0, 11, 7]))
    decoded = Waveforms(shuffled, RATE, 1.0, 0.35)
    mapped = Waveforms(shuffled, RATE, 0.0, 0.35, [packed])
    for index in range(4):
        assert len(mapped[index]) <= 0.35 * RATE
        np.testing.assert_array_equal(mapped[index], decoded[index])


def test_several_packed_folders_serve_one_table(clips, packed, tmp_path):
    parts = [
        PackedWaveforms.write(clips[:5], tmp_path / "a", RATE),
        PackedWaveforms.write(clips[5:], tmp_path / "b", RATE),
    ]
    waves = Waveforms(clips, RATE, 0.0, 10.0, parts)
    assert all(np.array_equal(waves[i], packed[i]) for i in range(len(clips)))


def test_packed_folders_that_do_not_fit_are_refused(clips, packed, tmp_path):
    few = PackedWaveforms.write(clips[:10], tmp_path / "few", RATE, longest=5.0)
    with pytest.raises(ClipsError, match=r"2 of 12 clips are not packed in .*few, the first is"):
        Waveforms(clips, RATE, 0.0, 5.0, [few])
    with pytest.raises(ClipsError, match=r"packed at 16000 Hz, the front end needs 32000 Hz"):
        Waveforms(clips, 32_000, 0.0, 10.0, [packed])
    with pytest.raises(ClipsError, match=r"at most 5 s of each clip, window_seconds is 10"):
        Waveforms(clips, RATE, 0.0, 10.0, [few])


def test_decoded_clips_are_kept_while_there_is_room(clips, monkeypatch):
    decoded = []
    monkeypatch.setattr(waveforms, "decode", lambda clip, *_: decoded.append(clip) or noise(100, 0))
    roomy, full = Waveforms(clips, RATE, 1.0, 1.0), Waveforms(clips, RATE, 450 / 2**30, 1.0)
    for waves, expected in ((roomy, 12), (full, 12 + 10)):
        decoded.clear()
        for index in [*range(12), *range(12)]:
            assert len(waves[index]) == 100
        assert len(decoded) == expected


# ---------------------------------------------------------------------- mixing


def reference(a, b, share):
    """PSLA's mixup, with its steps one after another."""
    a, b = a - a.mean(), b - b.mean()
    b = np.pad(b[: len(a)], (0, max(0, len(a) - len(b))))
    mixed = share * a + (1 - share) * b
    return mixed - mixed.mean()


@pytest.mark.parametrize("partner", [1000, 400, 1700, 1])
def test_mixtures_are_those_of_psla(partner):
    a, b, share = noise(1000, 1, offset=500), noise(partner, 2, offset=-800), 0.3
    item = Item(
        Sound(a, 2 * share * SCALE), np.zeros(3, np.float32), Sound(b, 0.5 * (1 - share) * SCALE)
    )
    longer = Item(Sound(noise(1500, 3), SCALE), np.zeros(3, np.float32))
    (wave,) = collate([item]).wave().numpy()
    expected = reference(2 * SCALE * a.astype(float), 0.5 * SCALE * b.astype(float), share)
    np.testing.assert_allclose(wave, expected, atol=0.26 * SCALE)
    batch = collate([longer, item])
    assert (batch.shortest, batch.rows.tolist()) == (1000, [1])
    np.testing.assert_array_equal(batch.wave()[1, :1000], wave)
    assert not batch.wave()[1, 1000:].any()
    np.testing.assert_array_equal(batch.wave()[0], longer.sound.samples * np.float32(SCALE))


def test_mixed_items_have_a_partner_and_both_targets(clips, packed):
    data = dataset(clips, MIXED, [packed])
    shares = []
    for index in range(len(data)):
        item = data[index]
        assert item.partner is not None
        shares.append(item.sound.gain / SCALE)
        assert item.sound.gain + item.partner.gain == pytest.approx(SCALE)
        assert item.target.sum() == pytest.approx(1)
        own = data.targets[index].argmax()
        assert item.target[own] == pytest.approx(1) or item.target[own] == pytest.approx(shares[-1])
    assert 0.3 < np.mean(shares) < 0.7
    assert len(set(shares)) == len(shares)
    half = dataset(clips, AugmentSettings(mixup_probability=0.5), [packed])
    counts = 0
    for epoch in range(20):
        half.set_epoch(epoch)
        counts += sum(half[index].partner is not None for index in range(len(half)))
    assert 90 < counts < 150  # of 240


def test_a_clip_s_wave_is_the_same_in_any_batch(clips, packed):
    data = dataset(clips, VARIED, [packed])
    together = collate([data[index] for index in range(len(data))])
    alone = [collate([data[index]]) for index in range(len(data))]
    assert 0 < len(together.rows) < len(data)
    for row, one in enumerate(alone):
        length = int(one.lengths[0])
        assert together.lengths[row] == length
        assert torch.equal(together.wave()[row, :length], one.wave()[0])
        assert not together.wave()[row, length:].any()
        assert torch.equal(together.targets[row], one.targets[0])


# ---------------------------------------------------------------------- the loader


def batches(data, workers, epoch=0):
    loader = Loader(data, 5, workers, EpochSampler(len(data), 3))
    loader.set_epoch(epoch)
    return list(loader)


def same(first, second):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_threads_and_packing_change_no_bit(clips, packed):
    plain = batches(dataset(clips, VARIED), 0)
    assert len(plain) == 2  # a shuffled epoch has no incomplete batch
    assert same(plain, batches(dataset(clips, VARIED), 3))
    assert same(plain, batches(dataset(clips, VARIED, [packed]), 2))
    assert same(batches(dataset(clips, VARIED), 0, 1), batches(dataset(clips, VARIED), 3, 1))
    other = batches(dataset(clips, VARIED), 0, epoch=1)
    assert not torch.equal(plain[0].targets, other[0].targets) or not same(plain, other)


def test_without_a_sampler_all_clips_come_in_order(clips):
    data = dataset(clips)
    loader = Loader(data, 5, 2)
    seen = list(loader)
    assert [len(batch.targets) for batch in seen] == [5, 5, 2]
    assert len(loader) == 3
    assert torch.equal(torch.cat([batch.targets for batch in seen]), torch.tensor(data.targets))
    assert len(Loader(data, 20, 0, EpochSampler(12, 1))) == len(Loader(data, 20)) == 1


def test_batches_are_loaded_a_little_ahead(clips, packed):
    loaded = []

    class Counting(ClipDataset):
        def item(self, index, repeat=0):
            loaded.append(index)
            return super().item(index, repeat)

    data = Counting(Waveforms(clips, RATE, 0, 10.0, [packed]), np.zeros((12, 2), np.float32))
    with closing(iter(Loader(data, 1, workers=2))) as iterator:
        next(iterator)
        deadline = time.monotonic() + 10
        while len(loaded) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 4 <= len(loaded) <= 5
    assert not [one for one in threading.enumerate() if one.name.startswith("atgnn-ahead")]


def test_an_unreadable_clip_stops_the_run_with_its_name(clips, tmp_path):
    write(tmp_path / "Dog" / "fine.wav")
    (tmp_path / "Dog" / "bad.wav").write_text("no sound")
    bad = Clips.read(tmp_path)
    with pytest.raises(ValueError, match=r"bad\.wav"):
        list(Loader(dataset(bad), 1, 2))


def test_a_core_delivers_a_thousand_clips_a_second(tmp_path):
    """Ten seconds each, mixed half of the time: 0.2 ms of one core here, 1 ms allowed."""
    write(tmp_path / "Dog" / "a.wav", sound(10.0))
    one = PackedWaveforms.write(Clips.read(tmp_path), tmp_path / "packed", RATE)
    rows = one.clips.subset(np.zeros(48, int))
    data = ClipDataset(
        Waveforms(rows, RATE, 0, 10.0, [one]), np.zeros((48, 200), np.float32), AugmentSettings()
    )
    loader = Loader(data, 24)
    best = min(_thread_seconds(lambda: list(loader)) for _ in range(5))
    assert best / 48 < 1e-3


def _thread_seconds(function):
    start = time.thread_time()
    function()
    return time.thread_time() - start


# ---------------------------------------------------------------------- on the training device


@pytest.fixture(scope="module")
def module():
    pytest.importorskip("lightning")
    from atgnn.training.module import TaggingModule

    recipe = Recipe(name="x", front_end={"n_mels": 32}, augment=AugmentSettings(frequency_shift=2))
    return TaggingModule(recipe, tiny_model(2), ("high", "low"), 1)


def features(module, batch, augmented=False):
    torch.manual_seed(0)
    return module.features(batch, augmented=augmented)


def test_the_front_end_hears_the_clips_at_their_own_length(module, clips):
    ragged = collate([dataset(clips)[index] for index in RAGGED])
    heard, lengths = features(module, ragged)
    front_end = FrontEnd(module.front_end.config)
    expected, frames = front_end(ragged.wave(), ragged.lengths)
    assert torch.equal(heard, expected)
    assert torch.equal(lengths, frames)
    equal = collate([dataset(clips)[index] for index in EQUAL])
    heard, lengths = features(module, equal)
    assert lengths is None
    assert torch.equal(heard, front_end(equal.wave(), equal.lengths)[0])
    nearly = [Item(Sound(noise(8000 + i, i), SCALE), np.zeros(2, np.float32)) for i in range(3)]
    assert features(module, collate(nearly))[1] is None  # as many frames, if not samples


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_front_end_is_float32_under_autocast(module, clips, dtype):
    batch = collate([dataset(clips, VARIED)[index] for index in range(8)])
    plain, _ = features(module, batch, augmented=True)
    with torch.autocast("cpu", dtype):
        assert torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype == dtype
        cast, _ = features(module, batch, augmented=True)
    assert cast.dtype == torch.float32
    assert torch.equal(plain, cast)


@pytest.mark.parametrize("indices", [EQUAL, RAGGED], ids=["equal", "ragged"])
def test_nothing_waits_for_the_device(module, clips, indices, monkeypatch):
    """On "meta" there are no values: whatever asks the device for one fails."""
    batch = collate([dataset(clips, MIXED)[index] for index in indices])
    there = batch._replace(
        **{k: v.to("meta") for k, v in batch._asdict().items() if isinstance(v, torch.Tensor)}
    )
    with pytest.raises(RuntimeError):
        bool((there.lengths == 1).all())
    here, _ = features(module, batch, augmented=True)
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())  # which knows no "meta"
    monkeypatch.setitem(module._modules, "front_end", FrontEnd(module.front_end.config).to("meta"))
    heard, lengths = features(module, there, augmented=True)
    assert heard.shape == here.shape
    assert heard.device.type == "meta"
    assert (lengths is None) == (indices == EQUAL)


# ---------------------------------------------------------------------- a run


def test_a_run_from_packed_clips_is_the_run_from_files(clips, packed, tmp_path):
    pytest.importorskip("lightning")
    from atgnn.training.run import train

    table = clips.write(tmp_path / "clips.csv")
    settings = [
        "model={preset: mini, channels: [8, 16], stem_widths: [8, 8], stem_strides: [4, 4],"
        " blocks: [1, 1], reductions: [1, 1], label_blocks: [1, 1], head_width: 16, k: 3}",
        *("data.ontology=false", "data.validation_share=0.25", "optim.batch_size=4"),
        *("optim.epochs=2", "augment.crop_seconds=0.4", "select=last"),
    ]
    sources = {
        "files": [f"data.clips={table}"],
        "packed": [f"data.clips={packed.folder}"],
        "both": [f"data.clips={table}", f"data.packed={packed.folder}"],
    }
    histories = set()
    for name, source in sources.items():
        train(load_recipe("folder", [*settings, *source]), tmp_path / name)
        histories.add((tmp_path / name / "history.csv").read_text())
    assert len(histories) == 1
