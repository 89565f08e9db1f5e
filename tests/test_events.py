"""Events: windows, hysteresis, merging, and a stream that gives those of the whole file."""

import numpy as np
import pytest
import soundfile
from helpers import LABELS, RATE, sound, tiny_checkpoint

from atgnn import audio
from atgnn.errors import AudioError, ConfigError, LabelError
from atgnn.events import (
    Detector,
    Event,
    EventSettings,
    Listening,
    Stream,
    curve,
    detect,
    heard,
    timelines,
)
from atgnn.tagger import Scores, Tagger
from atgnn.tags import Failure

DOG, BARK, RAIN = (LABELS.index(name) for name in ("Dog", "Bark", "Rain"))
SECONDS = {"window_s": 1.0, "hop_s": 1.0}
FINE = EventSettings(window_s=1.0, hop_s=0.3, on=0.55, off=0.45, ancestors=True)


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(tiny_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def stereo() -> np.ndarray:
    """7.3 s of int16 (T, 2) at 44.1 kHz."""
    left, right = (sound(7.3, 44_100, seed) for seed in (1, 2))
    return (np.stack([left, right], axis=1) * 20_000).astype(np.int16)


# --- windows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "hop"), [(10, 10), (10, 3), (7, 1), (5, 4), (200, 50)])
@pytest.mark.parametrize("cut", [1, 4, 13, 101])
def test_windows_do_not_depend_on_how_the_signal_is_cut(size, hop, cut):
    signal = np.arange(101)
    framer = audio.Framer(size, hop)
    windows = []
    for begin in range(0, len(signal), cut):
        windows += framer.push(signal[begin : begin + cut])
    windows += framer.finish()
    starts = [0]
    while starts[-1] + size < len(signal):
        starts.append(starts[-1] + hop)
    assert [window.tolist() for window in windows] == [
        signal[start : start + size].tolist() for start in starts
    ]


def test_overlapping_scores_have_their_places(tagger):
    samples = sound(4.1)
    (scores,) = tagger.score_many([(samples, RATE)], window=1.0, hop=0.5)
    np.testing.assert_allclose(scores.starts, np.arange(8) * 0.5)
    np.testing.assert_allclose(scores.seconds, [1.0] * 7 + [0.6])
    assert scores.duration == pytest.approx(4.1)
    third = tagger.scores((samples[RATE : 2 * RATE], RATE))
    np.testing.assert_allclose(scores.windows[2], third, atol=1e-4)


@pytest.mark.parametrize(("window", "hop"), [(0, None), (1, 0), (1, 1.5), (float("nan"), None)])
def test_windows_that_make_no_sense_are_refused(tagger, window, hop):
    with pytest.raises(ConfigError, match="give a"):
        tagger.framing(window, hop)


@pytest.mark.parametrize(("window", "hop"), [(2.0, 0.5), (1.0, 0.3), (1.0, 0.7), (3.0, 3.0)])
@pytest.mark.parametrize("duration", [0.4, 2.0, 7.75])
def test_a_stretch_is_the_mean_of_the_windows_that_hold_it(tagger, window, hop, duration):
    starts = [0.0]
    while starts[-1] + window < duration - 1e-9:
        starts.append(len(starts) * hop)
    seconds = [min(window, duration - start) for start in starts]
    rows = np.random.default_rng(0).random((len(starts), len(LABELS)))
    scores = Scores(None, rows, np.array(seconds), np.array(starts))
    found = curve(scores, tagger.checkpoint, EventSettings(window_s=window, hop_s=hop))
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(duration)
    for number, stretch in enumerate(found):
        begin, end = number * hop, (number + 1) * hop
        assert stretch.start == pytest.approx(begin)
        assert stretch.end == pytest.approx(min(end, duration))
        held = [i for i, s in enumerate(starts) if s <= begin + 1e-9 and end <= s + window + 1e-9]
        away = [abs(starts[i] + window / 2 - (begin + end) / 2) for i in held]
        weights = [np.cos(np.pi * one / (window + hop)) ** 2 for one in away]
        expected = np.average(rows[held], axis=0, weights=weights) if held else rows[-1]
        np.testing.assert_allclose(stretch.scores, expected)
    assert len(found) == int(np.ceil(duration / hop - 1e-9))


# --- from scores to events -------------------------------------------------------------------


def events_of(tagger, rows, **settings) -> list[Event]:
    """Events of windows of 1 s, one every second, whose scores are given by label and else 0."""
    detector = Detector(
        tagger.checkpoint, EventSettings(**{**SECONDS, "on": 0.6, "off": 0.3, **settings})
    )
    events = []
    for second, row in enumerate(rows):
        scores = np.zeros(len(LABELS), np.float32)
        for label, score in row.items():
            scores[label] = score
        events += detector.add(float(second), 1.0, scores)
    return events + detector.finish()


def rain(*scores: float) -> list[dict[int, float]]:
    return [{RAIN: score} for score in scores]


def test_an_event_reaches_on_and_lasts_while_off(tagger):
    (event,) = events_of(tagger, rain(0.1, 0.4, 0.7, 0.9, 0.35, 0.2, 0.5, 0.1))
    assert (event.label, event.start, event.end) == ("Rain", 1.0, 5.0)
    assert event.score == pytest.approx(0.9)
    assert (event.low_hz, event.high_hz) == (None, None)


def test_an_event_may_begin_and_end_with_the_recording(tagger):
    (event,) = events_of(tagger, rain(0.7, 0.7, 0.4))
    assert (event.start, event.end) == (0.0, 3.0)


def test_events_are_given_as_soon_as_they_are_certain(tagger):
    detector = Detector(tagger.checkpoint, EventSettings(**SECONDS, on=0.6, gap_s=1.0))
    loud, quiet = np.full(len(LABELS), 0.9), np.zeros(len(LABELS))
    given = [len(detector.add(i, 1.0, row)) for i, row in enumerate([loud, *[quiet] * 5])]
    # A window's stretch is known with the next window; a gap must be longer than 1 s.
    assert [index for index, count in enumerate(given) if count] == [3]


def test_near_events_are_one(tagger):
    scores = rain(0.7, 0.1, 0.8, 0.1, 0.1, 0.65)
    assert [(e.start, e.end) for e in events_of(tagger, scores)] == [(0, 1), (2, 3), (5, 6)]
    joined = events_of(tagger, scores, gap_s=1.0)
    assert [(e.start, e.end) for e in joined] == [(0, 3), (5, 6)]
    assert joined[0].score == pytest.approx(0.8)
    # what lies between need not be silent, and what never reaches `on` joins nothing
    assert len(events_of(tagger, rain(0.7, 0.1, 0.5, 0.1, 0.7), gap_s=1.5)) == 2
    (late,) = events_of(tagger, rain(0.7, 0.1, 0.5, 0.5, 0.5, 0.7), gap_s=1.0)
    assert (late.start, late.end) == (0, 6)


def test_short_events_are_left_out_after_joining(tagger):
    scores = rain(0.7, 0.1, 0.8, 0.1, 0.1, 0.1, 0.65)
    kept = events_of(tagger, scores, gap_s=1.0, shortest_s=2.0)
    assert [(e.start, e.end) for e in kept] == [(0, 3)]


def test_a_label_that_another_implies_is_left_out_where_that_is_heard(tagger):
    rows = [{DOG: 0.9, BARK: 0.8}] * 2 + [{DOG: 0.9}] + [{}] + [{DOG: 0.7}] * 3 + [{BARK: 0.7}]
    found = events_of(tagger, rows)
    assert [(e.label, e.start, e.end) for e in found] == [
        ("Bark", 0, 2),
        ("Dog", 4, 7),
        ("Bark", 7, 8),
    ]
    everything = events_of(tagger, rows, ancestors=True)
    assert sorted(e.label for e in everything) == ["Bark", "Bark", "Dog", "Dog"]


def test_thresholds_by_label(tagger):
    two = [{RAIN: 0.5, BARK: 0.5}, {}]
    named = events_of(tagger, two, on={"Rain": 0.4}, off=0.1)
    assert [e.label for e in named] == ["Rain", "Bark"] or [e.label for e in named] == [
        "Bark",
        "Rain",
    ]
    assert [e.label for e in events_of(tagger, two, on={"Bark": 0.51}, off=0.1)] == ["Rain"]
    own = Tagger(tiny_checkpoint(thresholds=(0.1, 0.2, 0.3, 0.4, 0.5)), "cpu")
    on, off = EventSettings(on={"Rain": 0.8}, off={"Dog": 0.3}).thresholds(own.checkpoint)
    np.testing.assert_allclose(on, [0.1, 0.2, 0.3, 0.8, 0.5])
    np.testing.assert_allclose(off, [0.05, 0.1, 0.3, 0.4, 0.25])


def test_settings_that_do_not_fit(tagger):
    with pytest.raises(LabelError, match=r"'Rian'.*did you mean 'Rain'"):
        EventSettings(on={"Rian": 0.5}).thresholds(tagger.checkpoint)
    with pytest.raises(ConfigError, match="off <= on"):
        EventSettings(on=0.3, off=0.5).thresholds(tagger.checkpoint)
    with pytest.raises(ConfigError, match="did you mean 'hop_s'"):
        EventSettings.of(hop=3)


@pytest.mark.parametrize("name", ["window_s", "hop_s", "smooth_s", "gap_s", "shortest_s"])
def test_settings_without_end_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: Input should be a finite number"):
        EventSettings.of(**{name: np.inf})


def test_labels_that_the_model_does_not_know_are_refused_before_anything_is_heard(tagger):
    with pytest.raises(LabelError, match="did you mean 'Rain'"):
        Listening(tagger, EventSettings(on={"Rian": 0.5}))


# --- files and streams -----------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 997, 44_100, 10**6])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_stream_gives_exactly_the_events_of_the_file(tagger, stereo, tmp_path, chunk, rate):
    if chunk == 1:  # as many calls
        stereo = stereo[:50_003]
    path = tmp_path / "a.flac"
    soundfile.write(path, stereo, rate)
    expected = list(detect(tagger, path, FINE))
    assert len(expected) > 2
    stream = Stream(tagger, rate, FINE, channels=2)
    found = []
    for begin in range(0, len(stereo), chunk):
        found += stream.feed(stereo[begin : begin + chunk])
    assert stream.seconds == pytest.approx(len(stereo) / rate)
    assert found + stream.finish() == expected
    assert stream.finish() == []


def test_other_recordings_change_nothing(tagger, stereo, tmp_path):
    sources = [(stereo, 44_100), tmp_path / "missing.wav", (sound(0.2), RATE), (sound(3), RATE)]
    found = list(timelines(tagger, sources, FINE, on_error="collect", top=2, ancestors=True))
    assert isinstance(found[1], Failure)
    for source, timeline in zip(sources, found, strict=True):
        if isinstance(timeline, Failure):
            continue
        alone = sorted(detect(tagger, source, FINE), key=lambda e: (e.start, e.end, e.label))
        assert list(timeline.events) == alone
        assert len(timeline.tags) <= 2
    assert found[0].duration == pytest.approx(7.3)
    (scores,) = tagger.score_many(sources[:1], window=1.0, hop=0.3)
    best = scores.mean.max()
    assert found[0].tags[0].score == pytest.approx(best, abs=1e-4)


def test_of_what_is_read_for_bands_only_events_and_scores_are_kept(tagger, stereo, tmp_path):
    soundfile.write(tmp_path / "a.wav", stereo, RATE)
    paths = [str(tmp_path / "a.wav"), str(tmp_path / "none.wav"), str(tmp_path / "a.wav")]
    settings = EventSettings(window_s=1.0, hop_s=0.5, on=0.1, bands=True)
    first, missing, again = heard(tagger, paths, settings, on_error="collect")
    assert isinstance(missing[0], Failure)
    (whole,) = timelines(tagger, paths[:1], settings)
    assert first[1] == again[1] == whole.events
    assert first[1][0].low_hz is not None
    (scores,) = tagger.score_many(paths[:1], window=1.0, hop=0.5, share_batches=False)
    np.testing.assert_allclose(first[0].windows, scores.windows, atol=1e-5)
    assert first[0].windows.base is None, "the rows they were cut from are not held"


def test_a_stream_without_sound_or_with_bad_sound(tagger):
    with pytest.raises(AudioError, match="no samples"):
        Stream(tagger, RATE).finish()
    stream = Stream(tagger, RATE, channels=2)
    for bad, message in (
        (np.zeros(10), r"\(10,\); expected \(T, 2\)"),
        (np.full((10, 2), np.nan), "NaN"),
        (np.zeros((10, 2), complex), "complex"),
    ):
        with pytest.raises(AudioError, match=message):
            stream.feed(bad)
    assert stream.seconds == 0
    stream.feed(np.zeros((RATE, 2)))
    stream.finish()
    with pytest.raises(AudioError, match="ended"):
        stream.feed(np.zeros((1, 2)))
    with pytest.raises(AudioError, match="rate"):
        Stream(tagger, 3)


def test_silence_has_a_defined_result(tagger):
    quiet = np.zeros(30 * RATE, np.float32)
    one = list(detect(tagger, (quiet, RATE), EventSettings(on=0.0)))
    assert {(event.start, event.end) for event in one} == {(0.0, 30.0)}
    assert list(detect(tagger, (quiet, RATE), EventSettings(on=0.01))) == []
