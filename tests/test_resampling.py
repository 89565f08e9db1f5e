"""Resampling: weighted metrics against scikit-learn, what is drawn, and what intervals hold."""

import importlib.util
import math
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
    precision_recall_curve,
    roc_auc_score,
)

from atgnn.errors import AtgnnError
from atgnn.metrics import (
    Owners,
    calibration_error,
    cluster_interval,
    evaluate_scores,
    label_ranking,
    pivotal,
    precision_recall,
    reliability,
    resample,
)
from atgnn.metrics.ranking import Ranking


def case(seed: int = 0, clips: int = 120, labels: int = 9, unknown: bool = True):
    generator = np.random.default_rng(seed)
    targets = (generator.random((clips, labels)) < 0.3).astype(float)
    targets[:2] = [[1.0], [0.0]]
    scores = np.round(generator.normal(size=(clips, labels)) + targets, 1)  # with ties
    if unknown:
        hidden = generator.random((clips, labels)) < 0.3
        hidden[:2] = False
        targets[hidden] = np.nan
    return targets, scores


def rng(seed: int = 0):
    return np.random.default_rng(seed)


# --------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("seed", range(3))
def test_weighted_metrics_equal_scikit_learn(seed):
    targets, scores = case(seed)
    unit = rng(seed).integers(0, 40, len(targets))
    weights = rng(seed + 9).integers(0, 4, (40, 3)).astype(float)
    for target, score in zip(targets.T, scores.T, strict=True):
        known = ~np.isnan(target)
        ap, auc = Ranking.of(target, score, unit).measure(weights)
        for draw in range(3):
            given = (target[known], score[known])
            weight = weights[unit[known], draw]
            expected = average_precision_score(*given, sample_weight=weight)
            assert ap[draw] == pytest.approx(expected, abs=1e-9)
            expected = roc_auc_score(*given, sample_weight=weight)
            assert auc[draw] == pytest.approx(expected, abs=1e-9)


def test_lwlrap_is_label_ranking_precision_weighted_by_labels():
    targets, scores = case(3, unknown=False)
    targets[5] = 0  # a clip without a label has no part in it
    counted = targets.sum(axis=1)
    expected = label_ranking_average_precision_score(targets, scores, sample_weight=counted)
    assert label_ranking(targets, scores) == pytest.approx(expected, abs=1e-12)
    names = [str(i) for i in range(9)]
    assert evaluate_scores(targets, scores, names).lwlrap == pytest.approx(expected, abs=1e-12)
    assert math.isnan(label_ranking(np.zeros((2, 2)), np.ones((2, 2))))


def test_lwlrap_passes_over_unknown_cells():
    targets, scores = case(4)
    parts, counted = [], []
    for target, score in zip(targets, scores, strict=True):
        known = ~np.isnan(target)
        if (target == 1).any():
            given = (target[known][None], score[known][None])
            parts.append(label_ranking_average_precision_score(*given))
            counted.append((target == 1).sum())
    expected = np.average(parts, weights=counted)
    assert label_ranking(targets, scores) == pytest.approx(expected, abs=1e-12)


def test_the_curve_is_scikit_learn_s_at_the_scores_of_positives():
    targets, scores = case(5, unknown=False)
    precision, recall, threshold = precision_recall(targets[:, 0], scores[:, 0])
    curve = precision_recall_curve(targets[:, 0], scores[:, 0])
    for p, r, t in zip(precision, recall, threshold, strict=True):
        at = int(np.flatnonzero(curve[2] == t)[0])
        assert (p, r) == pytest.approx((curve[0][at], curve[1][at]))
    assert recall[-1] == 1
    assert (np.diff(threshold) < 0).all()
    area = (precision * np.diff(recall, prepend=0)).sum()
    assert area == pytest.approx(average_precision_score(targets[:, 0], scores[:, 0]))
    assert [len(part) for part in precision_recall([0, 0], [1, 2])] == [0, 0, 0]


def test_reliability_equals_scikit_learn_and_its_error_the_definition():
    generator = rng(1)
    scores = generator.random((400, 5))
    targets = (generator.random((400, 5)) < scores**2).astype(float)
    found = reliability(targets, scores, bins=10)
    shares, means = calibration_curve(
        targets.ravel(), scores.ravel(), n_bins=10, strategy="quantile"
    )
    assert found.scores == pytest.approx(means)
    assert found.shares == pytest.approx(shares)
    assert found.counts.tolist() == [200] * 10
    assert found.error == pytest.approx(np.abs(means - shares).mean())
    assert 0.1 < found.error < 0.2  # the mean of p - p^2 is 1/6
    honest = (generator.random((400, 5)) < scores).astype(float)
    assert calibration_error(honest, scores, bins=10) < 0.04


def test_reliability_keeps_ties_together_and_refuses_logits():
    found = reliability([[1, 0, np.nan, 0, 1, 1]], [[0.5, 0.5, 0.9, 0.5, 0.5, 0.8]], bins=4)
    assert found.counts.tolist() == [4, 1]
    assert found.shares.tolist() == [0.5, 1]
    with pytest.raises(AtgnnError, match="scores go from -1"):
        calibration_error([[1, 0]], [[3.0, -1.0]])
    with pytest.raises(AtgnnError, match="all targets are unknown"):
        calibration_error([[np.nan]], [[0.3]])


# --------------------------------------------------------------------------- owners


def test_authors_are_drawn_and_their_recordings_inside_them():
    owners = Owners.of(["ann", "ann", "ann", "bob", "bob"], ["1", "1", "2", "1", "1"])
    assert owners.unit_of.tolist() == [0, 0, 1, 2, 2]  # bob's first recording is not ann's
    (weights,) = owners.draws(rng(), 200)
    assert weights.shape == (3, 200)
    ann, bob = weights[:2].sum(axis=0) / 2, weights[2]
    assert set(ann.tolist()) == {0, 1, 2}  # two recordings for each time that ann is drawn
    assert (ann + bob == 2).all()
    both = weights[:, ann == 1]
    assert set(both[0].tolist()) == {0, 1, 2}
    alone = Owners.of(["ann", "ann", "bob"])
    (weights,) = alone.draws(rng(), 100)
    assert weights.shape == (2, 100)
    assert (weights.sum(axis=0) == 2).all()


def test_one_author_leaves_recordings_to_draw_and_one_recording_nothing():
    owners = Owners.of(["ann"] * 4, ["1", "2", "3", "3"])
    assert (owners.count, owners.single) == (1, False)
    (weights,) = owners.draws(rng(), 50)
    assert (weights.sum(axis=0) == 3).all()
    assert weights.std() > 0
    assert Owners.of(["ann", "ann"]).single


def test_mixtures_have_all_their_authors():
    owners = Owners.of(["a;b", "b; a", "c", "a;d;d"], ["1", "2", "3", "4"])
    assert owners.authors == ((0, 1), (0, 1), (2,), (0, 3))
    assert (owners.count, owners.spread) == (4, 2)
    assert owners.unit_of.tolist() == [0, 0, 1, 2]  # recordings play no part
    (weights,) = owners.draws(rng(), 250, np.float64)
    assert weights.min() >= 0
    assert weights.mean(axis=1) == pytest.approx(1, abs=0.15)
    assert 2 * weights[1] == pytest.approx(np.round(2 * weights[1]))  # halves of whole draws


def test_independent_positives_share_no_author():
    alone = Owners.of(["ann", "ann", "bob", "cem"])
    assert alone.independent(np.array([True, True, True, False])) == 2
    mixed = Owners.of(["a;b;c", "a", "b", "c;d", "a;d"])
    assert mixed.independent(np.ones(5, dtype=bool)) == 3  # a, b and c;d
    assert mixed.independent(np.zeros(5, dtype=bool)) == 0


def test_average_precision_is_said_to_mean_something_from_ten_authors_on():
    targets, scores = np.eye(24)[:, :2] * 0, rng().random((24, 2))
    targets[:12] = 1
    authors = [f"a{i}" for i in range(24)]
    owners = Owners.of([*authors[:12], *["one"] * 12])
    targets[3:12, 1] = 0
    metrics = evaluate_scores(targets, scores, ["many", "few"], owners=owners)
    assert [one.independent for one in metrics.per_class] == [12, 3]
    assert [one.enough for one in metrics.per_class] == [True, False]
    assert metrics.too_few == ("few",)
    assert metrics.mean_ap_enough == metrics.per_class[0].average_precision != metrics.mean_ap
    same = evaluate_scores(targets[:, :1], scores[:, :1], ["many"], owners=Owners.of(["x"] * 24))
    assert same.too_few == ("many",)
    assert math.isnan(same.mean_ap_enough)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Owners.of([]), "an author for each clip"),
        (lambda: Owners.of(["a", "b"], ["1"]), "got 2 and 1 sources"),
        (
            lambda: resample([[1.0], [0.0]], [[[1.0], [0.0]]], Owners.of(["a"]), generator=rng()),
            "1 owners do not fit 2 clips",
        ),
        (
            lambda: resample([[1.0]], [[[1.0]]], Owners.of(["a"]), generator=rng(), resamples=0),
            "resamples 0",
        ),
    ],
)
def test_bad_owners_are_one_line(make, message):
    with pytest.raises(AtgnnError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------- resamples


def test_resamples_are_the_metrics_of_repeated_clips():
    """A draw of weights is the same as listing clips as often as they were drawn."""
    targets, scores = case(7)
    owners = Owners.of(rng(1).integers(0, 12, len(targets)))
    (found,) = resample(targets, [scores], owners, generator=rng(2), resamples=5)
    (weights,) = owners.draws(rng(2), 5)
    for draw in range(5):
        rows = np.repeat(np.arange(len(targets)), weights[owners.unit_of, draw].astype(int))
        listed = evaluate_scores(targets[rows], scores[rows], [str(i) for i in range(9)])
        assert found.mean_ap()[draw] == pytest.approx(listed.mean_ap, abs=1e-5)
        assert found.mean_auc()[draw] == pytest.approx(listed.auc, abs=1e-5)
        assert found.lwlrap[draw] == pytest.approx(listed.lwlrap, abs=1e-5)
    assert found.accuracy is None


def test_two_models_see_the_same_draws():
    targets, scores = case(8)
    owners = Owners.of(rng(1).integers(0, 12, len(targets)))
    first, second = resample(targets, [scores, 2 * scores], owners, generator=rng(3), resamples=20)
    assert np.array_equal(first.average_precision, second.average_precision, equal_nan=True)


def test_a_label_absent_from_a_draw_is_not_zero():
    targets = np.array([[1.0, 1], [0, 0], [0, 1], [0, 1]])
    scores = np.array([[0.9, 0.8], [0.1, 0.1], [0.2, 0.7], [0.3, 0.6]])
    (found,) = resample(
        targets, [scores], Owners.of(["a", "b", "c", "d"]), generator=rng(), resamples=200
    )
    gone = np.isnan(found.average_precision[:, 0])
    assert 0.2 < gone.mean() < 0.45  # (3/4)^4 = 0.32
    assert found.mean_ap()[gone] == pytest.approx(found.average_precision[gone, 1])


def test_ten_thousand_clips_of_two_hundred_labels_a_thousand_times():
    generator = rng()
    targets = (generator.random((10_000, 200)) < 0.05).astype(np.float32)
    scores = generator.random((10_000, 200), dtype=np.float32)
    owners = Owners.of(generator.integers(0, 3000, 10_000), np.arange(10_000) // 2)
    start = time.process_time()
    resample(targets, [scores], owners, generator=generator, resamples=250)
    # A thousand take 4 s of processor time; a quarter of them bounds it without taking as long.
    assert time.process_time() - start < 7


# --------------------------------------------------------------------------- intervals


def test_pivotal_mirrors_the_movements_about_the_estimate():
    values = np.linspace(0.5, 0.8, 1001)
    low, high = pivotal(0.7, values, confidence=0.9, scale="plain")
    assert (low, high) == pytest.approx((1.4 - 0.785, 1.4 - 0.515))
    low, high = pivotal(0.7, values, confidence=0.9, scale="plain", spread=2)
    assert (low, high) == pytest.approx((0.7 - 2 * 0.085, 0.7 + 2 * 0.185))
    low, high = pivotal(0.97, values + 0.2, confidence=0.9)
    assert 0 < low < 0.97 < high <= 1  # never beyond what a share can be


def test_pivotal_without_enough_defined_resamples_is_nan():
    values = np.where(np.arange(100) < 60, np.nan, 0.5)
    assert all(math.isnan(end) for end in pivotal(0.5, values))
    assert all(math.isnan(end) for end in pivotal(math.nan, np.ones(9)))
    assert pivotal(1.0, np.ones(9)) == (1.0, 1.0)


def test_an_interval_of_mixtures_is_as_wide_as_what_their_authors_do():
    """Values are the sum of two authors' effects: resampling mixtures would be far too narrow."""
    authors, means, widths, naive = 40, [], [], []
    for trial in range(100):
        generator = rng(trial)
        effect = generator.normal(size=authors)
        pairs = generator.permutation([(a, b) for a in range(authors) for b in range(a)])[:300]
        values = effect[pairs].sum(axis=1)
        names = [f"{a};{b}" for a, b in pairs]
        found = cluster_interval(values, names, generator=generator, resamples=300)
        means.append(found.mean)
        widths.append((found.high - found.low) / 2 / 1.96)
        naive.append(values.std() / np.sqrt(len(values)))
    assert np.mean(widths) == pytest.approx(np.std(means), rel=0.15)
    assert np.mean(naive) < 0.4 * np.std(means)


@pytest.mark.slow
def test_pivotal_intervals_hold_the_truth_more_often_than_percentiles():
    """`benchmarks/coverage.py` as it is: with 80 trials a share is good to five points only."""
    path = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = benchmark.simulate(authors=30)
    ours = held["authors, then recordings", "pivotal"]
    percentile = held["authors, then recordings", "percentile"]
    clips = held["clips", "pivotal"]
    assert ours["mAP, common"] > 0.9
    assert ours["mAP"] > percentile["mAP"]
    assert ours["mAP, common"] > clips["mAP, common"]
