"""Measuring explanations: chance is chance, others' methods do what they say."""

import numpy as np
import pytest
import torch
from helpers import LABELS, sound, tiny_checkpoint

from atgnn.explain.examine import Examiner
from atgnn.model.label import PatchLabelGraph
from atgnn.model.patch import Grapher
from benchmarks.explain.methods import (
    METHODS,
    at_random,
    background,
    by_gradient,
    cells_of,
    densities,
    node_shares,
    spread,
)
from benchmarks.explain.report import print_report
from benchmarks.explain.run import regions
from benchmarks.explain.scores import FRACTIONS, Truth, curves, matched, share


def examined(everybody: bool = False):
    checkpoint = tiny_checkpoint()
    if everybody:
        for module in checkpoint.model.modules():
            if isinstance(module, Grapher | PatchLabelGraph):
                module.k = 10_000
    mel, _ = checkpoint.make_front_end()(torch.from_numpy(sound(2))[None])
    return Examiner(checkpoint).examine(mel)


@pytest.fixture(scope="module")
def examination():
    return examined()


def test_a_density_that_goes_by_loudness_alone_is_at_chance():
    random = np.random.default_rng(0)
    loudness = random.random((50, 40))
    inside = random.random((50, 40)) < 0.3 * loudness * 2
    level = np.digitize(loudness, np.quantile(loudness, np.linspace(0, 1, 21)[1:-1]))
    alone = np.exp(level / 4)
    assert share(alone, inside) == pytest.approx(matched(alone, inside, loudness), abs=1e-9)
    knowing = alone * inside
    assert share(knowing, inside) == 1
    assert matched(knowing, inside, loudness) < 0.6
    shuffled = random.permutation(alone.ravel()).reshape(alone.shape)
    assert share(shuffled, inside) == pytest.approx(inside.mean(), abs=0.05)
    assert np.isnan(share(0 * alone, inside))
    assert np.isnan(matched(0 * alone, inside, loudness))


def test_the_truth_of_an_event_is_its_time_and_band():
    from types import SimpleNamespace

    config = tiny_checkpoint().front_end
    event = SimpleNamespace(onset=0.5, offset=1.0, low_hz=500.0, high_hz=1000.0)
    truth = Truth.of(event, config.seconds_to_frames(2), config)
    assert truth.frames.sum() == pytest.approx(50, abs=1)
    centres = np.array(config.mel_centres)[truth.bins]
    assert (centres > 350).all()
    assert (centres < 1300).all()
    assert truth.box.sum() == truth.frames.sum() * truth.bins.sum()


def test_what_nodes_gave_adds_up_to_the_score_less_the_background():
    """Where everybody is everybody's neighbour, so that on the way no neighbours change."""
    examination = examined(everybody=True)
    given = by_gradient(examination, 1, steps=96)
    checkpoint = examination.examiner.checkpoint
    with torch.no_grad():
        quiet = checkpoint.log_odds(checkpoint.model(background(examination.mel)))[0, 1]
    change = float(examination.logits[1] - quiet)
    assert given.sum() == pytest.approx(change, abs=0.03 * abs(change) + 0.01)


def test_cells_share_out_a_density_and_give_it_back():
    assert cells_of(20, 8).tolist() == [0] * 4 + [1] * 8 + [2] * 8
    weights = np.random.default_rng(0).random((4, 25))
    density = spread(torch.zeros(1, 198, 32), weights, 8)
    assert density.sum() == pytest.approx(weights.sum())
    np.testing.assert_allclose(node_shares(density, 8), weights)


@pytest.mark.parametrize("name", ["ours", "edges", "Grad-CAM, stage 2", "occlusion", "energy"])
def test_a_method_gives_a_density(examination, name):
    ((found, density),) = densities(examination, 2, [name])
    assert found == name in METHODS
    assert density.shape == tuple(examination.mel.shape[1:])
    assert (density >= 0).all()
    assert np.isfinite(density).all()


def test_random_halves_find_what_counts():
    from types import SimpleNamespace

    weights = np.zeros((4, 24))
    weights[1, 10] = 1.0
    log_odds = lambda kept: torch.from_numpy((kept.numpy() * weights).sum((1, 2)))[:, None]  # noqa: E731
    found = at_random(SimpleNamespace(shape=(4, 24), log_odds=log_odds), 0)
    assert found[1, 10] == found.max()
    assert found[:, :4].max() < found.max() / 2


def test_curves_end_where_they_began(examination):
    label, count = 2, examination.shape[0] * examination.shape[1]
    order = np.arange(count)[::-1].tolist()
    deletion, insertion = curves(examination, label, order)
    back, forth = curves(examination, label, order[::-1])
    half = FRACTIONS.index(0.5)
    assert deletion[half] == pytest.approx(forth[half], abs=1e-6)  # the other half of the nodes
    assert insertion[half] == pytest.approx(back[half], abs=1e-6)
    assert len(deletion) == len(insertion) == len(FRACTIONS)
    assert len(LABELS) == len(examination.logits)


def test_the_report_goes_by_authors_and_pairs_methods(tmp_path, capsys):
    head = "fold,scene,label,author,method,score,time,time_chance,box,box_chance,other,other_chance"
    rows = [
        f"2,{scene},Dog,Ada,{method},0.8,{share},0.4,0.5,0.25,nan,nan,0.8 0.4,0.2 0.6"
        for scene, share in ((0, 0.6), (1, 0.7), (2, 0.5))
        for method in ("ours", "other")
    ]
    rows[-1] = rows[-1].replace("0.5,0.4", "0.2,0.4")
    text = "\n".join([f"{head},deletion,insertion", *rows]) + "\n"
    (tmp_path / "scenes-fold2-0.csv").write_text(text)
    print_report(tmp_path)
    printed = capsys.readouterr().out
    assert "scenes: 3 events heard, folds 2, 1 authors" in printed
    assert "| ours | 3 | 0.600 | 0.400 (+0.200 to +0.200) | 0.500 |" in printed
    assert "| other | +0.100 (+0.100 to +0.100) | +0.000 (+0.000 to +0.000) |" in printed
    assert "| deletion, ours | 1.00 | 0.50 | 0.750 |" in printed


def test_events_with_the_same_label_are_one_truth(examination):
    from types import SimpleNamespace

    name = LABELS[2]
    events = [
        SimpleNamespace(labels=(name,), onset=0.2, offset=0.5, low_hz=500.0, high_hz=1000.0),
        SimpleNamespace(labels=(name, "x"), onset=1.0, offset=1.5, low_hz=500.0, high_hz=1000.0),
        SimpleNamespace(labels=("x",), onset=0.4, offset=1.2, low_hz=500.0, high_hz=2000.0),
    ]
    masks = regions(examination, 2, events[0], SimpleNamespace(events=events))
    config = examination.examiner.checkpoint.front_end
    truths = [Truth.of(event, examination.mel.shape[1], config).box for event in events]
    assert (masks["box"] == truths[0] | truths[1]).all()
    assert (masks["other"] == truths[2] & ~masks["box"]).all()
    assert not masks["time"].all()
    assert (masks["time"] >= masks["box"]).all()


def test_boxes_are_hidden_once_for_all_labels(examination, monkeypatch):
    from benchmarks.explain import methods

    (_, before), (_, other) = (
        next(densities(examination, label, ["occlusion"])) for label in (1, 3)
    )
    monkeypatch.setattr(examination.examiner, "fast", None)  # no further pass is needed
    again = methods.occlusion(examination, 1)
    assert (before == again).all()
    assert not (before == other).all()
