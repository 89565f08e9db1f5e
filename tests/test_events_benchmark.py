"""The benchmark of events: what is found right counts as right, and the sound has its length."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from helpers import LABELS, tiny_checkpoint

from atgnn.events import EventSettings
from atgnn.tagger import Scores

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks" / "events").is_dir():
    pytest.skip("benchmarks come with a checkout only", allow_module_level=True)

from benchmarks.events import bands, hour, measures, quality, scenes  # noqa: E402

PLAN = EventSettings(window_s=1.0, hop_s=1.0, on=0.5, ancestors=True)


def fold(shift: float) -> measures.Fold:
    """Two scenes in which every label is heard for three seconds, and said to be `shift` later."""
    truth, scores = {}, {}
    for scene in ("a", "b"):
        rows = np.zeros((20, len(LABELS)), np.float32)
        for label in range(len(LABELS)):
            rows[3 * label + 2 : 3 * label + 5, label] = 0.9
        scores[scene] = Scores(scene, rows, np.ones(20), np.arange(20.0))
        truth[scene] = [
            (3 * i + 2 + shift, 3 * i + 5 + shift, name) for i, name in enumerate(LABELS)
        ]
    tagger = SimpleNamespace(labels=LABELS, checkpoint=tiny_checkpoint())
    return measures.Fold(tagger, truth, scores, LABELS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shift", "expected"), [(0.0, 1.0), (0.1, 1.0), (0.4, 0.0)])
def test_events_in_their_collars_count(shift, expected):
    pytest.importorskip("sed_scores_eval")
    one = fold(shift)
    values = measures.f1(one, PLAN)
    assert values["macro_average"] == pytest.approx(expected)
    assert measures.f1(one, PLAN, onset_collar=0.5, offset_collar=0.5)["Rain"] == 1.0


@pytest.mark.filterwarnings("ignore")
def test_thresholds_are_those_that_find_most():
    pytest.importorskip("sed_scores_eval")
    tuned = measures.chosen(fold(0.0), PLAN)
    assert set(tuned.on) == set(LABELS)
    assert measures.f1(fold(0.0), tuned)["macro_average"] == 1.0
    assert quality.after(5) == 1


def test_report_prints_what_is_on_record(capsys):
    quality.report()
    lines = capsys.readouterr().out.splitlines()
    (mean,) = [line for line in lines if line.startswith("events") and " mean " in line]
    rows = [row for row in quality.on_record() if row["settings"] == "events"]
    judged = [float(row["psds2"]) for row in rows if int(row["fold"]) != quality.DEV]
    assert f"{np.mean(judged):.3f}" in mean


def test_the_hour_is_as_long_as_asked(tmp_path):
    hour.write_sound(tmp_path / "a.wav", 12, 8000, 2)
    sound = soundfile.info(tmp_path / "a.wav")
    assert (sound.frames, sound.channels, sound.samplerate) == (96_000, 2, 8000)
    measured = hour.measure([sys.executable, "-c", "x = bytearray(200_000_000)"], 1)
    assert measured["peak_mb"] > 200
    assert 0 < measured["cpu_s"] <= measured["wall_s"] * 2 + 1
    with pytest.raises(SystemExit, match="code 3"):
        hour.measure([sys.executable, "-c", "raise SystemExit(3)"], 1)


def test_a_blurred_truth_rises_and_falls_by_the_width_of_the_window():
    pytest.importorskip("sed_scores_eval")
    rain = scenes.LABELS.index("Rain")
    scores = scenes.blurred([(2.0, 4.0, "Rain")], 2.0)[list(scenes.LABELS)].to_numpy()
    assert scores[29, rain] == pytest.approx(0.975)  # 2.95 s: from 1.95 s on, of 2 s
    assert scores[9, rain] == 0
    assert scores[20, rain] == pytest.approx(0.525)
    assert scores[:, rain].sum() * 0.1 == pytest.approx(2.0)
    assert scores.sum() == scores[:, rain].sum()


def test_bands_share_and_cover():
    assert bands.overlap((100, 300), (200, 400)) == pytest.approx((1 / 3, 0.5, 200))
    assert bands.overlap((100, 300), (400, 500)) == (0, 0, 200)


def test_what_is_on_record_of_scenes_is_printed(capsys):
    scenes.report()
    bands.report()
    shown = capsys.readouterr().out
    for row in scenes.on_record():
        assert row["psds1"] in shown
    assert "whole band" in shown
