"""Features and classifiers without networks: what they measure, and that they tell sounds apart."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks" / "comparison").is_dir():
    pytest.skip("benchmarks come with a checkout only", allow_module_level=True)
pytest.importorskip("sklearn")

from benchmarks.comparison import classical  # noqa: E402

FEW = {"mfcc-svm": {}, "logmel-forest": {"trees": 20}}


def defaults(system: str) -> dict:
    return {**classical.draw(system, 1, 0)[0], **FEW[system]}


def mels(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Clips of unequal length with two labels: a hum below, a flutter above, or both, or none."""
    random = np.random.default_rng(seed)
    targets = random.random((count, 2)) < 0.5
    clips = []
    for hum, flutter in targets:
        mel = random.normal(-8, 1, (random.integers(12, 60), 64))
        mel[:, :10] += 2 * hum
        mel[::2, 40:] += 2 * flutter
        clips.append(mel)
    return clips, targets


@pytest.mark.parametrize("system", classical.SPACES)
def test_labels_are_told_apart(system):
    known, unseen = mels(60), mels(30, seed=1)
    model = classical.train(system, defaults(system), *known, seed=0)
    right = (model.scores(unseen[0]) > (0 if system == "mfcc-svm" else 0.5)) == unseen[1]
    assert right.mean() > 0.9


@pytest.mark.filterwarnings("ignore:Label")
@pytest.mark.parametrize("system", classical.SPACES)
def test_a_label_that_all_or_none_have(system):
    clips, targets = mels(20)
    targets = np.column_stack([targets, np.zeros(20, bool), np.ones(20, bool)])
    scores = classical.train(system, defaults(system), clips, targets, seed=0).scores(clips)
    assert scores.shape == (20, 4)
    assert (scores[:, 2] < scores[:, 3]).all()
    one = classical.train(system, defaults(system), clips, targets[:, :1], seed=0)
    assert one.scores(clips).shape == (20, 1)


def test_slopes_and_curvatures():
    time = np.arange(30.0)[:, None]
    line, curve = 3 * time + 1, 0.5 * time**2
    inside = slice(4, -4)  # the ends go on as they are
    np.testing.assert_allclose(classical.slopes(line, 1)[inside], 3)
    np.testing.assert_allclose(classical.slopes(line, 2)[inside], 0, atol=1e-9)
    np.testing.assert_allclose(classical.slopes(curve, 2)[inside], 1)
    assert classical.slopes(line[:2], 1).shape == (2, 1)


def test_digital_silence_is_left_out():
    loud = mels(1)[0][0]
    silent = np.full((40, 64), np.log(np.finfo(np.float32).eps))
    padded = np.concatenate([loud, silent])
    for system, features in (("mfcc-svm", "C"), ("logmel-forest", "leaf")):
        settings = defaults(system)
        assert features in settings
        heard, without = (
            classical.features_of(system, {**settings, "skip_silence": skip}, [padded])
            for skip in (True, False)
        )
        assert not np.allclose(heard, without)
    settings = defaults("logmel-forest")
    np.testing.assert_allclose(
        classical.features_of("logmel-forest", settings, [padded]),
        classical.features_of("logmel-forest", settings, [loud]),
    )
    assert np.isfinite(classical.features_of("mfcc-svm", defaults("mfcc-svm"), [silent])).all()


def test_trials_differ_and_begin_with_the_default():
    for system, space in classical.SPACES.items():
        trials = classical.draw(system, 12, seed=3)
        assert trials[0] == {name: values[0] for name, values in space.items()}
        assert len({str(trial) for trial in trials}) == 12
        assert trials == classical.draw(system, 12, seed=3)
    assert len(classical.draw("logmel-forest", 1_000, seed=0)) == 36
