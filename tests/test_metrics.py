"""Metrics against scikit-learn, and what they refuse."""

import json
import math
import time

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from atgnn.errors import AtgnnError
from atgnn.metrics import (
    accuracy,
    average_precision,
    cluster_interval,
    d_prime,
    evaluate_scores,
    roc_auc,
)


def random_case(seed: int, ties: bool, unknown: bool, clips: int = 151, labels: int = 37):
    generator = np.random.default_rng(seed)
    targets = (generator.random((clips, labels)) < generator.random(labels) * 0.5).astype(float)
    targets[:2] = [[1.0], [0.0]]
    scores = generator.normal(size=(clips, labels)) + targets
    if ties:
        scores = np.round(scores)
    if unknown:
        hidden = generator.random((clips, labels)) < 0.4
        hidden[:2] = False
        targets[hidden] = np.nan
    return targets, scores, [f"label {i}" for i in range(labels)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_scikit_learn(seed, ties, unknown):
    targets, scores, names = random_case(seed, ties, unknown)
    metrics = evaluate_scores(targets, scores, names)
    aps, aucs = [], []
    for i, one in enumerate(metrics.per_class):
        known = ~np.isnan(targets[:, i])
        aps.append(average_precision_score(targets[known, i], scores[known, i]))
        aucs.append(roc_auc_score(targets[known, i], scores[known, i]))
        assert one.label == names[i]
        assert one.average_precision == pytest.approx(aps[-1], abs=1e-9)
        assert one.auc == pytest.approx(aucs[-1], abs=1e-9)
        assert one.positives == np.nansum(targets[:, i])
        assert one.known == known.sum()
    assert metrics.mean_ap == pytest.approx(np.mean(aps), abs=1e-9)
    assert metrics.auc == pytest.approx(np.mean(aucs), abs=1e-9)
    assert metrics.d_prime == pytest.approx(math.sqrt(2) * norm.ppf(np.mean(aucs)), abs=1e-9)
    assert metrics.left_out == metrics.without_negatives == ()
    assert metrics.accuracy is None
    assert metrics.clips == len(targets)


def test_what_is_unknown_does_not_matter():
    targets, scores, names = random_case(3, ties=True, unknown=True)
    other = evaluate_scores(targets, np.where(np.isnan(targets), 1e6, scores), names)
    metrics = evaluate_scores(targets, scores, names)
    assert other.mean_ap == pytest.approx(metrics.mean_ap, abs=1e-12)
    assert other.auc == pytest.approx(metrics.auc, abs=1e-12)


def test_only_the_order_of_scores_matters():
    targets, scores, names = random_case(4, ties=True, unknown=True)
    stretched = 1 / (1 + np.exp(-scores))
    assert evaluate_scores(targets, stretched, names) == evaluate_scores(targets, scores, names)
    shuffled = np.random.default_rng(0).permutation(len(scores))
    mixed = evaluate_scores(targets[shuffled], scores[shuffled], names)
    assert mixed.mean_ap == pytest.approx(
        evaluate_scores(targets, scores, names).mean_ap, abs=1e-12
    )


def test_d_prime_is_of_the_mean_auc_not_the_mean_of_d_primes():
    targets = np.array([[1, 1], [0, 0], [0, 1], [1, 0]])
    scores = np.array([[4, 4], [1, 3], [2, 2], [3, 1]])
    metrics = evaluate_scores(targets, scores, ["sure", "unsure"])
    assert [one.auc for one in metrics.per_class] == [1.0, 0.75]
    assert metrics.d_prime == pytest.approx(math.sqrt(2) * norm.ppf(0.875), abs=1e-12)
    assert d_prime(1) == math.inf
    assert d_prime(0) == -math.inf
    assert d_prime(0.5) == 0
    assert math.isnan(d_prime(math.nan))
    with pytest.raises(AtgnnError, match="between 0 and 1"):
        d_prime(1.2)


def test_a_label_without_positives_is_left_out_and_named():
    targets = np.array([[1, 0, 1, np.nan], [0, 0, 1, 0], [0, np.nan, np.nan, np.nan]])
    scores = np.array([[0.1, 0.5, 0.5, 0.2], [0.9, 0.6, 0.4, 0.3], [0.0, 0.1, 0.9, 0.4]])
    metrics = evaluate_scores(targets, scores, ["a", "never", "always", "nobody knows"])
    assert metrics.left_out == ("never", "nobody knows")
    assert metrics.without_negatives == ("always",)
    assert metrics.mean_ap == pytest.approx((0.5 + 1.0) / 2)
    assert metrics.auc == pytest.approx(0.5)
    assert [one.known for one in metrics.per_class] == [3, 2, 2, 1]
    assert math.isnan(metrics.per_class[1].average_precision)


def test_nothing_to_measure_is_nan_not_a_crash():
    metrics = evaluate_scores(np.zeros((3, 1)), np.zeros((3, 1)), ["never"])
    assert math.isnan(metrics.mean_ap)
    assert math.isnan(metrics.d_prime)
    assert metrics.left_out == ("never",)


def test_accuracy_is_argmax_against_the_one_label():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 5, 60)
    targets = np.eye(5)[truth]
    scores = generator.normal(size=(60, 5)) + targets
    expected = accuracy_score(truth, scores.argmax(axis=1))
    assert 0 < expected < 1
    assert accuracy(targets, scores) == pytest.approx(expected)
    metrics = evaluate_scores(targets, scores, list("abcde"), single_label=True)
    assert metrics.accuracy == pytest.approx(expected)
    targets[7, truth[7] - 1] = 1
    with pytest.raises(AtgnnError, match="1 of 60 clips differ, the first is number 7"):
        accuracy(targets, scores)


def test_one_label_alone():
    targets, scores = [1, 0, 1, 0, np.nan], [0.9, 0.8, 0.7, 0.1, 5.0]
    assert average_precision(targets, scores) == pytest.approx((1 + 2 / 3) / 2)
    assert roc_auc(targets, scores) == pytest.approx(0.75)


def test_infinite_scores_have_a_rank():
    targets, scores = [1, 0, 1, 0], [np.inf, np.inf, 0.0, -np.inf]
    assert roc_auc(targets, scores) == pytest.approx((0.5 + 1 + 0 + 1) / 4)


@pytest.mark.parametrize(
    ("targets", "scores", "names", "message"),
    [
        ([[1, 0]], [[0.5, np.nan]], ["a", "b"], "1 of 2 scores are NaN"),
        ([[1, 0]], [[0.5]], ["a", "b"], "differ in shape"),
        ([[1, 0]], [[0.5, 0.5]], ["a"], "one column per name"),
        ([[2, 0]], [[0.5, 0.5]], ["a", "b"], "must be 1"),
        (np.zeros((0, 2)), np.zeros((0, 2)), ["a", "b"], "at least one clip"),
        ([1, 0], [0.5, 0.5], ["a", "b"], "one column per name"),
    ],
)
def test_bad_input_is_one_line(targets, scores, names, message):
    with pytest.raises(AtgnnError, match=message) as caught:
        evaluate_scores(targets, scores, names)
    assert "\n" not in str(caught.value)


def test_to_dict_is_strict_json():
    targets, scores = [[1, 0], [0, 0]], [[0.9, 0.1], [0.1, 0.2]]
    data = evaluate_scores(targets, scores, ["a", "never"], single_label=False).to_dict()
    again = json.loads(json.dumps(data, allow_nan=False))
    assert again["mean_ap"] == 1
    assert again["d_prime"] is None
    assert again["left_out"] == ["never"]
    assert again["per_class"][0] == {
        "label": "a",
        "average_precision": 1.0,
        "auc": 1.0,
        "positives": 1,
        "known": 2,
        "independent": None,
    }
    assert again["per_class"][1]["auc"] is None


def test_ten_thousand_clips_of_two_hundred_labels_take_about_a_second():
    generator = np.random.default_rng(0)
    targets = generator.random((10_000, 200)) < 0.05
    scores = generator.random((10_000, 200), dtype=np.float32)
    start = time.process_time()
    evaluate_scores(targets, scores, [str(i) for i in range(200)])
    assert time.process_time() - start < 3  # 0.3 s on an idle laptop core


def test_cluster_interval_resamples_groups():
    """With 25 groups of 16 equal values, the spread is that of 25 numbers, not of 400."""
    generator = np.random.default_rng(0)
    per_group = generator.normal(size=25)
    values, groups = np.repeat(per_group, 16), np.repeat([f"author {i}" for i in range(25)], 16)
    interval = cluster_interval(values, groups, generator=np.random.default_rng(1))
    half = 1.96 * per_group.std() / 5
    assert interval.mean == pytest.approx(per_group.mean())
    assert interval.low == pytest.approx(per_group.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(per_group.mean() + half, abs=0.1 * half)
    assert interval.groups == 25
    clips = cluster_interval(values, np.arange(400), generator=np.random.default_rng(1))
    assert clips.high - clips.low == pytest.approx((interval.high - interval.low) / 4, rel=0.1)


def test_cluster_interval_weighs_groups_by_their_clips_and_repeats():
    values, groups = [1, 1, 1, 0], ["a", "a", "a", "b"]
    first = cluster_interval(values, groups, generator=np.random.default_rng(5), resamples=2500)
    again = cluster_interval(values, groups, generator=np.random.default_rng(5), resamples=2500)
    assert first == again
    assert (first.mean, first.low, first.high) == (0.75, 0, 1)
    middle = cluster_interval(values, groups, generator=np.random.default_rng(5), confidence=0.4)
    assert middle.low == middle.high == 0.75
    assert first.to_dict()["confidence"] == 0.95


@pytest.mark.parametrize(
    ("values", "groups"), [([], []), ([1.0], [1, 2]), ([np.nan, 1], [1, 2]), ([[1.0]], [[1]])]
)
def test_cluster_interval_refuses_what_it_cannot_use(values, groups):
    with pytest.raises(AtgnnError):
        cluster_interval(values, groups, generator=np.random.default_rng(0))
