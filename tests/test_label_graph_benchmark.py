"""The study of the label graph: variants are what they are called, removal removes, sums agree."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks" / "label_graph").is_dir():
    pytest.skip("benchmarks come with a checkout only", allow_module_level=True)

from benchmarks.label_graph import report, run  # noqa: E402
from benchmarks.label_graph.variants import (  # noqa: E402
    VARIANTS,
    build,
    graphs,
    parameters,
    without_label,
)

LABELS, MELS, FRAMES = 6, 64, 64


def model_of(name: str, seed: int = 0):
    return build(name, LABELS, MELS, FRAMES, seed).eval()


@pytest.fixture(scope="module")
def mel():
    return torch.randn(3, FRAMES, MELS, generator=torch.Generator().manual_seed(0))


def test_variants_differ_in_what_they_are_called():
    models = {name: model_of(name) for name in VARIANTS}
    assert not models["encoder"].config.has_labels
    ten = {name: parameters(build(name, 10, MELS, 249, 0)) for name in VARIANTS}
    assert abs(ten["wide"] / ten["full"] - 1) < 0.005
    assert ten["encoder"] < 0.75 * ten["full"]
    assert ten["full"] - ten["zero"] == ten["full"] - ten["frozen"] == 3 * 10 * 10
    assert all(not graph.adjacency.any() for graph in graphs(models["zero"]))
    for graph, other in zip(graphs(models["frozen"]), graphs(models["full"]), strict=True):
        torch.testing.assert_close(graph.adjacency, other.adjacency)
        assert not graph.adjacency.requires_grad
        assert other.adjacency.requires_grad


def test_mean_pooling_ignores_which_patches_are_near(mel):
    """PLG by the mean gives all labels the same message; PLG by neighbours does not."""
    model = model_of("mean")
    stages = model.encoder(mel)
    patches = stages[0][-1]
    plg = model.label_branch.levels[0].blocks[0].plg
    labels = torch.zeros(3, LABELS, patches.x.shape[-1])
    labels += torch.randn(1, 1, patches.x.shape[-1])
    out = plg(labels, patches)
    torch.testing.assert_close(out, out[:, :1].expand_as(out))
    swapped = patches.with_features(patches.x.flip(1, 2))
    torch.testing.assert_close(plg(labels, swapped), out)
    assert not torch.allclose(model(mel), model_of("full")(mel), atol=1e-3)


def test_a_removed_label_is_not_heard_and_the_model_stays_as_it_was(mel):
    model = model_of("full")
    stages = model.encoder(mel)
    whole = model.label_branch(stages)
    without = without_label(model, stages, 2)
    assert not torch.allclose(without[:, [0, 1, 3, 4, 5]], whole[:, [0, 1, 3, 4, 5]], atol=1e-4)
    torch.testing.assert_close(model.label_branch(stages), whole)
    silent = model_of("zero")
    stages = silent.encoder(mel)
    torch.testing.assert_close(without_label(silent, stages, 2), silent.label_branch(stages))


def test_one_run_learns_and_measures(monkeypatch):
    monkeypatch.setattr(run, "STEPS", 3)
    generator = np.random.default_rng(0)
    scenes = {"lift": np.exp(generator.normal(size=(LABELS, LABELS)))}
    for kind in ("train", *run.TEST_KINDS):
        scenes[f"{kind}_mel"] = generator.normal(size=(40, FRAMES, MELS)).astype(np.float16)
        scenes[f"{kind}_truth"] = (generator.random((40, LABELS)) < 0.4).astype(np.float32)
    first, again = (run.one_run(scenes, "full", 1) for _ in range(2))
    first.pop("cpu_seconds"), again.pop("cpu_seconds")
    assert first == again, "a seed decides a run"
    assert 0 < first["map_reversed"] < 1
    removal = first["removal"]
    assert np.array(removal["mean"]).shape == (LABELS, LABELS)
    assert set(report.removal_numbers(removal)) == {
        "removal_mean", "removal_told", "removal_size",
    }  # fmt: skip
    assert "removal" not in run.one_run(scenes, "encoder", 1)


def test_intervals_are_of_paired_seeds(tmp_path):
    for seed, (full, wide) in enumerate([(0.5, 0.4), (0.7, 0.58), (0.9, 0.82)]):
        for variant, value in (("full", full), ("wide", wide)):
            row = {"variant": variant, "seed": seed, "parameters": 7}
            row.update({f"map_{kind}": value for kind in run.TEST_KINDS})
            (tmp_path / f"run-{seed}-{variant}.json").write_text(json.dumps(row))
    rows = report.read_runs(tmp_path)
    differences = report.paired(rows, "map_training", "wide")
    np.testing.assert_allclose(sorted(differences), [0.08, 0.1, 0.12])
    mean, low, high = report.interval(differences)
    assert mean == pytest.approx(0.1)
    assert high - mean == pytest.approx(4.30 * 0.02 / np.sqrt(3), rel=1e-3)
    assert mean - low == pytest.approx(high - mean)
    text = report.markdown(rows)
    assert "| full model | 7 | 3 | 0.700 | 0.700 | 0.700 |" in text
    assert "+0.100 (+0.050 to +0.150)" in text


def test_rank_correlation_agrees_with_an_independent_library():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 5, 50), generator.normal(size=50)
    assert report.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert np.isnan(report.spearman(np.ones(5), np.arange(5)))


def test_training_scenes_are_of_three_places():
    names = tuple(name for place in run.PLACES for name in place)
    matrix = run.places_matrix(names)
    assert matrix.lift[0, 1] > 2 > 0.6 > matrix.lift[0, -1]
