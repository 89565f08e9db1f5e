"""From recordings to scores: windows, batches, threads, warnings."""

import io
import os
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest
import soundfile
import torch
from helpers import LABELS, RATE, sound, sparse_wav, tiny_checkpoint, write

import atgnn
from atgnn import audio
from atgnn.errors import AudioError, CheckpointError, ConfigError
from atgnn.frontend import FrontEndConfig
from atgnn.model.inference import best_dtype
from atgnn.tagger import (
    FIRST_DRAW,
    BandWarning,
    Excerpt,
    Tagger,
    _Flight,
    choose_device,
    choose_dtype,
)
from atgnn.tags import Failure

LENGTHS = (0.3, 2.0, 5.0, 0.01, 1.7, 4.0, 3.1, 1.0)  # s; the window is 2 s


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(tiny_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def sources() -> list[tuple[np.ndarray, int]]:
    return [(sound(seconds, seed=i), RATE) for i, seconds in enumerate(LENGTHS)]


def by_hand(tagger: Tagger, samples: np.ndarray) -> np.ndarray:
    """Scores of one window, straight through front end and model."""
    with torch.inference_mode():
        features, _ = tagger.front_end(torch.from_numpy(samples)[None])
        return torch.sigmoid(tagger.model(features))[0].numpy()


def test_scores_are_the_model_s(tagger):
    samples = sound(1.5)
    assert tagger.scores((samples, RATE)).dtype == np.float32
    np.testing.assert_allclose(tagger.scores((samples, RATE)), by_hand(tagger, samples), atol=1e-5)


def test_long_recordings_are_cut_into_windows_and_averaged_by_length(tagger):
    samples = sound(5.0)
    parts = [samples[: 2 * RATE], samples[2 * RATE : 4 * RATE], samples[4 * RATE :]]
    expected = np.stack([by_hand(tagger, part) for part in parts])
    windows = tagger.window_scores((samples, RATE))
    assert windows.shape == (3, len(LABELS))
    np.testing.assert_allclose(windows, expected, atol=1e-4)
    mean = (2 * expected[0] + 2 * expected[1] + expected[2]) / 5
    np.testing.assert_allclose(tagger.scores((samples, RATE)), mean, atol=1e-4)
    assert np.abs(expected[0] - expected[2]).max() > 1e-2, "the windows differ, so this says a lot"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batching_changes_nothing(tagger, sources, batch_size):
    alone = [tagger.scores(source) for source in sources]
    together = list(tagger.score_many(iter(sources), batch_size=batch_size))
    assert [round(one.duration, 4) for one in together] == list(LENGTHS)
    np.testing.assert_allclose([one.mean for one in together], alone, atol=1e-4)


def test_any_kind_of_source(tagger, tmp_path):
    path = write(tmp_path / "a.wav", sound(1.2))
    expected = tagger.scores(path)
    content = path.read_bytes()
    stored = audio.load(path)
    with path.open("rb") as handle:
        given = [str(path), content, io.BytesIO(content), (stored.samples, RATE), handle]
        for source in given:
            np.testing.assert_allclose(tagger.scores(source), expected, atol=1e-5)
        assert tagger.tag(handle).path == str(path)
    assert tagger.tag(content).path is None
    assert tagger.tag(path).path == str(path)
    assert tagger.tag(path).duration == pytest.approx(1.2)


def test_excerpts(tagger):
    samples = sound(6.0)
    part = samples[RATE : 4 * RATE]
    np.testing.assert_allclose(
        tagger.scores(Excerpt((samples, RATE), 1.0, 4.0)), tagger.scores((part, RATE)), atol=1e-5
    )


def test_without_silence_at_the_ends(tagger):
    samples = sound(3.0)
    silence = np.zeros(4 * RATE, np.float32)
    padded = np.concatenate([silence, samples, silence])
    file = io.BytesIO()
    soundfile.write(file, padded, RATE, format="WAV", subtype="FLOAT")
    expected = tagger.scores((samples, RATE))
    assert abs(tagger.scores((padded, RATE)) - expected).max() > 1e-3
    for source in ((padded, RATE), file, file.getvalue()):
        (found,) = tagger.score_many([Excerpt(source, trim_db=60)])
        np.testing.assert_allclose(found.mean, expected, atol=1e-5)
        assert found.duration == pytest.approx(3.0, abs=0.011)
    (silent,) = tagger.score_many([Excerpt((silence, RATE), trim_db=60)])
    np.testing.assert_allclose(silent.mean, tagger.scores((silence, RATE)), atol=1e-6)
    (gone,) = tagger.score_many([Excerpt("not-there.wav", trim_db=60)], on_error="collect")
    assert isinstance(gone, Failure)


def test_other_rates_are_resampled(tagger):
    time = np.arange(2 * 48_000) / 48_000
    high = (np.sin(2 * np.pi * 440 * time).astype(np.float32), 48_000)
    low = (np.sin(2 * np.pi * 440 * time[::3]).astype(np.float32), RATE)
    np.testing.assert_allclose(tagger.scores(high), tagger.scores(low), atol=0.02)


def test_softmax_models_give_shares():
    tagger = Tagger(tiny_checkpoint(activation="softmax"), "cpu")
    windows = tagger.window_scores((sound(5.0), RATE))
    np.testing.assert_allclose(windows.sum(axis=1), 1, atol=1e-5)
    assert tagger.scores((sound(5.0), RATE)).sum() == pytest.approx(1, abs=1e-5)


def test_padded_front_ends_batch_too(sources):
    front_end = FrontEndConfig(n_mels=32, pad_to_frames=200)
    tagger = Tagger(tiny_checkpoint(front_end=front_end), "cpu")
    alone = [tagger.scores(source) for source in sources[:4]]
    together = [one.mean for one in tagger.score_many(sources[:4], batch_size=8)]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_tags_come_sorted_with_names_from_the_vocabulary(tagger):
    tagging = tagger.tag((sound(1.0), RATE), top=len(LABELS), ancestors=True)
    assert {tag.label for tag in tagging} == set(LABELS)
    scores = tagger.scores((sound(1.0), RATE))
    assert [tag.label for tag in tagging] == [LABELS[i] for i in np.argsort(-scores)]
    assert tagging.tags == tagger.tag((sound(1.0), RATE), threshold=0.0, ancestors=True).tags


def test_a_bad_recording_is_raised_at_its_turn_or_collected(tagger, tmp_path):
    good, bad = (sound(0.5), RATE), tmp_path / "missing.wav"
    half_bad = sound(5.0)
    half_bad[-10] = np.nan
    results = tagger.tag_many([good, bad, good], batch_size=8)
    assert next(results).duration == pytest.approx(0.5)
    with pytest.raises(AudioError, match=r"missing\.wav"):
        next(results)
    collected = list(
        tagger.tag_many([bad, good, (half_bad, RATE), good, bad], batch_size=2, on_error="collect")
    )
    assert [isinstance(one, Failure) for one in collected] == [True, False, True, False, True]
    assert collected[0].path == str(bad)
    assert "NaN" in str(collected[2])
    for one, same in zip(collected[1].tags, collected[3].tags, strict=True):
        assert (one.label, one.score) == (same.label, pytest.approx(same.score, abs=1e-4))


def test_nothing_in_nothing_out(tagger):
    assert list(tagger.tag_many([])) == []


def test_a_window_without_sound_has_no_label(tagger):
    samples = sound(6.0)
    samples[2 * RATE : 4 * RATE] = 0.25  # a constant is no sound either
    windows = tagger.window_scores((samples, RATE))
    assert (windows[1] == 0).all()
    assert (windows[[0, 2]] > 0).all()
    np.testing.assert_allclose(windows[0], by_hand(tagger, samples[: 2 * RATE]), atol=1e-4)


def test_silence_gives_a_finite_result(tagger):
    for samples in (np.zeros(RATE, np.float32), np.zeros(1, np.float32), np.ones(9, np.float32)):
        scores = tagger.scores((samples, RATE))
        assert np.isfinite(scores).all()
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_absurd_levels_are_one_clear_error(tagger):
    with pytest.raises(AudioError, match=r"far beyond \[-1, 1\]"):
        tagger.scores((sound(1.0) * np.float32(1e30), RATE))


def test_memory_is_bounded_by_windows_in_flight(tagger, monkeypatch):
    drawn, scored, most = 0, 0, 0
    lock = threading.Lock()

    def endless_stream(source, rate, **_):
        nonlocal drawn
        for index in range(source[1]):
            with lock:
                drawn += 1
            yield np.full(100, index, np.float32)

    def network(windows):
        nonlocal scored, most
        most = max(most, drawn - scored)
        scored += len(windows)
        return torch.zeros(len(windows), len(LABELS))

    monkeypatch.setattr(audio, "stream", endless_stream)
    monkeypatch.setattr(tagger, "_network", network)
    lengths = [2000, 3000, 0, 1, 2, 3, *[700] * 20]
    results = list(tagger.score_many(((None, n) for n in lengths if n), batch_size=4))
    assert [len(one.windows) for one in results] == [n for n in lengths if n]
    assert scored == sum(lengths)
    # one batch in use, the next decoded, and the first windows of each of eight recordings ahead
    assert most <= 3 * 4 + FIRST_DRAW * 8 + 4


@pytest.mark.parametrize("lengths", [[1] * 12, [12]], ids=["many short", "one long"])
def test_the_next_batch_is_decoded_while_one_is_in_the_network(tagger, monkeypatch, lengths):
    """The network waits for the decoder here: one after the other, they would wait for ever."""
    decoded = threading.Condition()
    count = 0

    def stream(source, rate, **_):
        nonlocal count
        for _ in range(source[1]):
            yield np.zeros(100, np.float32)
            with decoded:  # the one just yielded has been taken
                count += 1
                decoded.notify()

    batches = []

    def network(windows):
        batches.append(len(windows))
        with decoded:
            ahead = decoded.wait_for(lambda: count >= min(12, sum(batches) + 3), timeout=20)
        assert ahead, f"batch {len(batches)} is in the network, {count} windows are decoded"
        return torch.zeros(len(windows), len(LABELS))

    monkeypatch.setattr(audio, "stream", stream)
    monkeypatch.setattr(tagger, "_network", network)
    results = list(tagger.score_many(((None, n) for n in lengths), batch_size=3))
    assert batches == [3, 3, 3, 3]
    assert [len(one.windows) for one in results] == lengths


def test_an_accelerator_has_its_next_batch_before_its_scores_are_fetched(monkeypatch, sources):
    tagger = Tagger(tiny_checkpoint(), "cpu")
    expected = list(tagger.score_many(sources, batch_size=3))
    events = []
    network, land = tagger._network, _Flight.land
    monkeypatch.setattr(
        tagger, "_network", lambda windows: events.append("network") or network(windows)
    )
    monkeypatch.setattr(_Flight, "land", lambda flight: events.append("fetch") or land(flight))
    in_turn = list(tagger.score_many(sources, batch_size=3))
    assert events == ["network", "fetch"] * 4
    events.clear()
    monkeypatch.setattr(tagger, "_late", 1)  # as on a GPU
    ahead = list(tagger.score_many(sources, batch_size=3))
    assert events == ["network", *["network", "fetch"] * 3, "fetch"]
    for results in (in_turn, ahead):
        for one, other in zip(results, expected, strict=True):
            np.testing.assert_array_equal(one.windows, other.windows)


def test_sources_are_drawn_only_a_little_ahead_and_stopping_early_is_clean(tagger):
    drawn = 0

    def many():
        nonlocal drawn
        while True:
            drawn += 1
            yield sound(0.1), RATE

    results = tagger.tag_many(many(), batch_size=2)
    for _ in range(5):
        next(results)
    results.close()
    assert drawn <= 16
    assert not [t for t in threading.enumerate() if t.name.startswith("atgnn-decoder")]


def test_threads_and_gradients_are_left_alone(tagger):
    threads = torch.get_num_threads()
    tagger.scores((sound(0.3), RATE))
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_warns_once_of_energy_outside_the_band():
    tagger = Tagger(tiny_checkpoint(), "cpu")
    time = np.arange(48_000) / 48_000
    ultrasound = (np.sin(2 * np.pi * 15_000 * time).astype(np.float32), 48_000)
    with pytest.warns(BandWarning, match="20 and 8000 Hz") as caught:
        list(tagger.tag_many([ultrasound] * 3))
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tagger.tag(ultrasound)
        Tagger(tiny_checkpoint(), "cpu").tag((sound(1.0), RATE))


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None) == choose_device("auto")
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(ConfigError, match="cpu"):
            choose_device(name)


def test_from_pretrained_names_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no model"):
        Tagger.from_pretrained("no-such-model")
    folder = tiny_checkpoint().save_pretrained(tmp_path / "model")
    assert Tagger.from_pretrained(folder, "cpu").labels == LABELS


def test_package_is_lazy_and_complete():
    code = textwrap.dedent("""
        import sys, atgnn
        assert "torch" not in sys.modules and "numpy" not in sys.modules
        assert set(atgnn.__all__) <= set(dir(atgnn))
        for name in atgnn.__all__:
            getattr(atgnn, name)
        try:
            atgnn.nonsense
        except AttributeError as error:
            assert "nonsense" in str(error)
        else:
            raise AssertionError
    """)
    subprocess.run([sys.executable, "-c", code], check=True)
    assert atgnn.Tagger is Tagger


def test_tagging_imports_nothing_heavy(tmp_path):
    """A cold call has 5 seconds; each of these would cost one or more."""
    folder = tiny_checkpoint().save_pretrained(tmp_path / "model")
    path = write(tmp_path / "a.wav")
    code = (
        "import sys; from atgnn import Tagger; "
        f"Tagger.from_pretrained({str(folder)!r}).tag({str(path)!r}, top=2); "
        "print(*{name.partition('.')[0] for name in sys.modules}, 'torch._dynamo' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    heavy = {"pandas", "lightning", "sklearn", "matplotlib", "transformers", "scipy", "av", "sympy"}
    assert not loaded & {*heavy, "True", "huggingface_hub", "torchmetrics"}


@pytest.mark.slow
def test_two_hours_stay_under_a_gigabyte(tmp_path):
    """Two hours of 44.1 kHz stereo: the peak is less than 1 GB above the loaded tagger."""
    folder = tiny_checkpoint(window_seconds=10.0).save_pretrained(tmp_path / "model")
    path = tmp_path / "long.wav"
    sparse_wav(path, seconds=7200, rate=44_100, channels=2)
    code = textwrap.dedent(f"""
        import resource
        from atgnn import Tagger
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        tagger = Tagger.from_pretrained({str(folder)!r}, "cpu")
        idle = peak()
        tagging = tagger.tag({str(path)!r}, top=1)
        assert abs(tagging.duration - 7200) < 0.01, tagging
        print(round(peak() - idle))
    """)
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert float(run.stdout) < 1000


def test_precision_is_checked_before_it_is_used(tagger):
    """The fastest where none is named; what a processor has no instructions for is refused."""
    cpu = torch.device("cpu")
    assert choose_dtype("float32", cpu) == torch.float32
    assert choose_dtype("auto", cpu) == best_dtype(cpu)
    with pytest.raises(ConfigError, match="'half': give float32, bfloat16, float16 or auto"):
        choose_dtype("half", cpu)
    with pytest.raises(ConfigError, match="slower than float32"):
        choose_dtype("float16", cpu)
    assert tagger.network.model.dtype == torch.float32


def test_the_network_is_the_model_folded(tagger):
    mel = torch.randn(1, 100, tagger.checkpoint.model.config.n_mels)
    with torch.inference_mode():
        wanted = tagger.model(mel).sigmoid()
        assert torch.allclose(tagger.network(mel).sigmoid(), wanted, atol=1e-4)
