"""Balanced sampling: PSLA's weights, draws that a seed and an epoch decide."""

import numpy as np
import pytest

from atgnn.errors import ClipsError
from atgnn.training.recipe import AugmentSettings
from atgnn.training.sampling import balanced_order, balanced_weights, repeats, shuffled_order

pytest.importorskip("lightning")
from atgnn.training.loading import ClipDataset, EpochSampler, Loader

NAN = np.nan


def test_a_clip_weighs_the_sum_of_its_labels():
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 1]], np.float32)
    common, rare, middle = 1000 / 3.01, 1000 / 1.01, 1000 / 2.01
    expected = [common, common + rare, common + middle, middle]
    np.testing.assert_allclose(balanced_weights(targets), expected)


def test_unknown_cells_count_for_nobody():
    targets = np.array([[1, NAN], [NAN, 1], [1, 0], [NAN, NAN]], np.float32)
    expected = [1000 / 2.01, 1000 / 1.01, 1000 / 2.01, 0]
    np.testing.assert_allclose(balanced_weights(targets), expected)


def test_a_label_without_clips_changes_nothing_and_no_label_at_all_is_an_error():
    targets = np.array([[1, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(balanced_weights(targets), [1000 / 2.01] * 2)
    with pytest.raises(ClipsError, match="nothing to balance"):
        balanced_weights(np.array([[0, NAN]], np.float32))


def test_draws_follow_the_weights():
    weights = np.array([0, 1, 2, 7.0])
    drawn = np.concatenate([balanced_order(weights, 5, epoch) for epoch in range(5000)])
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, weights / 10, atol=0.01)
    assert share[0] == 0


def test_orders_are_functions_of_seed_and_epoch():
    weights = np.arange(1, 101.0)
    for order in (
        lambda *key: balanced_order(weights, *key),
        lambda *key: shuffled_order(100, *key),
    ):
        assert len(order(1, 2)) == 100
        np.testing.assert_array_equal(order(1, 2), order(1, 2))
        assert not np.array_equal(order(1, 2), order(1, 3))
        assert not np.array_equal(order(1, 2), order(2, 2))


def test_repeats_counts_as_a_loop_does():
    order = np.random.default_rng(0).integers(0, 20, size=200)
    seen = {}
    for entry, times in zip(order.tolist(), repeats(order).tolist(), strict=True):
        assert times == seen.setdefault(entry, 0)
        seen[entry] += 1
    assert repeats(np.array([], np.int64)).tolist() == []


class Sounds(list):
    rate = 100


def test_a_clip_that_comes_twice_is_changed_twice():
    rng = np.random.default_rng(0)
    waves = Sounds(rng.integers(-9000, 9000, 500).astype(np.int16) for _ in range(8))
    settings = AugmentSettings(crop_seconds=1.0, gain_db=6, mixup_probability=0)
    weights = np.array([1e6, *[1.0] * 7])  # nearly always the first
    dataset = ClipDataset(waves, np.eye(8, dtype=np.float32), settings, seed=3)
    loader = Loader(dataset, 4, sampler=EpochSampler(8, 3, weights))
    loader.set_epoch(1)
    batches = list(loader)
    assert [len(batch.targets) for batch in batches] == [4, 4]
    rows = np.concatenate([batch.wave().numpy() for batch in batches])
    first = np.concatenate([batch.targets.numpy() for batch in batches])[:, 0] == 1
    assert first.sum() > 5
    assert len(np.unique(rows[first], axis=0)) == first.sum()
    again = np.concatenate([batch.wave().numpy() for batch in loader])
    np.testing.assert_array_equal(rows, again)
