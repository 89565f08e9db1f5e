"""Kept epochs, averaged weights, what a run reports, ensembles of scores."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from atgnn.checkpoint import Checkpoint
from atgnn.cli import app
from atgnn.data.clips import Clips
from atgnn.errors import ConfigError
from atgnn.scoring import ScoresError, ScoreTable
from atgnn.tagger import Tagger
from atgnn.training.epochs import chosen_epochs, kept_epochs, members, parse_epochs
from atgnn.training.recipe import load_recipe

pytest.importorskip("lightning")
from atgnn.training.averaging import average, average_weights
from atgnn.training.division import divide
from atgnn.training.keeper import mean_report
from atgnn.training.loaders import make_loaders
from atgnn.training.module import TaggingModule
from atgnn.training.norms import measure_norms
from atgnn.training.run import train

RATE = 16000


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """High and low tones in noise."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    time = np.arange(RATE // 2) / RATE
    for label, frequency in (("high", 3000), ("low", 300)):
        (folder / label).mkdir()
        for i in range(8):
            pitch = frequency * rng.uniform(0.9, 1.1)
            wave = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * rng.standard_normal(len(time))
            soundfile.write(folder / label / f"{i}.wav", wave, RATE)
    return folder


def recipe_of(sounds, *more):
    return load_recipe(
        "folder",
        [
            f"data.clips={sounds}",
            "model={preset: mini, channels: [8, 16], stem_widths: [8, 8], stem_strides: [4, 4],"
            " blocks: [1, 1], reductions: [1, 1], label_blocks: [1, 1], head_width: 16, k: 3}",
            "data.ontology=false",
            "data.validation_share=0.25",
            "optim.batch_size=4",
            "optim.epochs=4",
            "optim.warmup_steps=2",
            "augment.crop_seconds=0.4",
            "save_half=false",
            *more,
        ],
    )


@pytest.fixture(scope="module")
def run(sounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(recipe_of(sounds, "select=averaged", "keep_epochs=3"), out)
    return out


def state(folder):
    return Checkpoint.from_pretrained(folder).model.state_dict()


# ---------------------------------------------------------------------- weights


def test_each_state_counts_once_and_whole_numbers_are_the_last():
    states = [
        {"a": torch.tensor([1.0, 4.0]), "n": torch.tensor(3)},
        {"a": torch.tensor([2.0, 4.0]), "n": torch.tensor(5)},
        {"a": torch.tensor([6.0, 4.0]), "n": torch.tensor(7)},
    ]
    mean = average_weights(iter(states))
    assert mean["a"].tolist() == [3, 4]
    assert mean["a"].dtype == torch.float32
    assert mean["n"] == 7
    assert states[0]["a"].tolist() == [1, 4]


def test_a_run_keeps_its_last_epochs_and_averages_them(run):
    assert list(kept_epochs(run)) == [2, 3, 4]
    parts = [state(folder) for folder in kept_epochs(run).values()]
    result = state(run / "model")
    for name, value in result.items():
        if "running" not in name and value.is_floating_point():
            mean = torch.stack([part[name] for part in parts]).mean(0)
            torch.testing.assert_close(value, mean, atol=1e-6, rtol=1e-5)
    card = (run / "model" / "README.md").read_text()
    assert "mean weights of epochs 2-4" in card
    assert "norms measured" in card
    report = json.loads((run / "metrics.json").read_text())
    assert report["epoch"] == 4
    assert 0 <= report["mAP"] <= 1


def test_norms_are_averaged_as_published_or_measured(run, tmp_path):
    average(run, tmp_path / "published", norms="averaged")
    published, measured = state(tmp_path / "published"), state(run / "model")
    parts = [state(folder) for folder in kept_epochs(run).values()]
    statistics = [name for name in published if "running" in name]
    assert statistics
    for name in statistics:
        mean = torch.stack([part[name] for part in parts]).mean(0)
        torch.testing.assert_close(published[name], mean, atol=1e-5, rtol=1e-4)
    assert any(not torch.allclose(published[n], measured[n], rtol=1e-2) for n in statistics)


def test_measured_norms_are_the_mean_over_batches(sounds):
    recipe = recipe_of(sounds, "augment={mixup_probability: 0, masks: 0}")
    division = divide(recipe)
    loader, _ = make_loaders(recipe, division)
    from atgnn.model import ATGNN

    module = TaggingModule(recipe, ATGNN(recipe.model_config_for(2)), ("high", "low"), 3)
    norm = module.model.encoder.stem.convs[0].norm
    inputs = []
    hook = norm.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    loader.set_epoch(0)
    batches = list(loader)
    measure_norms(module.model, (module.features(b, augmented=True) for b in batches))
    hook.remove()
    assert len(inputs) == len(batches) == 3
    flat = [one.reshape(-1, one.shape[-1]) for one in inputs]
    expected = torch.stack([one.mean(0) for one in flat]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected, atol=1e-5, rtol=1e-4)
    variance = torch.stack([one.var(0) for one in flat]).mean(0)
    torch.testing.assert_close(norm.running_var, variance, atol=1e-5, rtol=1e-3)
    assert norm.momentum == 0.1
    assert not module.model.training


# ---------------------------------------------------------------------- what is chosen


def test_the_mean_of_the_last_five_epochs_is_reported(sounds, tmp_path):
    train(recipe_of(sounds, "select=last5", "optim.epochs=7"), tmp_path / "run")
    rows = [line.split(",") for line in (tmp_path / "run" / "history.csv").read_text().split()]
    column = rows[0].index("val_mAP")
    last = [float(row[column]) for row in rows[-5:]]
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["mAP"] == pytest.approx(np.mean(last), abs=2e-6)
    assert (report["epochs_from"], report["epoch"]) == (3, 7)
    about = Checkpoint.from_pretrained(tmp_path / "run" / "model").provenance
    assert about.evaluated_on == "Validation clips, mean of epochs 3 to 7."
    assert set(about.metrics) >= {"mAP"}
    assert not {name for name in about.metrics if name.startswith("epoch")}
    assert not (tmp_path / "run" / "epochs").exists()


def test_a_metric_that_one_epoch_lacks_has_no_mean():
    report = mean_report([{"epoch": 1, "mAP": 0.2}, {"epoch": 2, "mAP": 0.4, "d_prime": 1.0}])
    assert report == {"epochs_from": 1, "epoch": 2, "mAP": pytest.approx(0.3)}


def test_settings_that_cannot_be():
    for settings in (["select=averaged"], ["select=averaged", "keep_epochs=5", "optim.epochs=1"]):
        with pytest.raises(ConfigError, match="two or more keep_epochs"):
            load_recipe("folder", settings)


@pytest.mark.parametrize(("text", "epochs"), [("21-40", (21, 40)), (" 3 ", (3, 3))])
def test_epochs_are_written_as_a_range(text, epochs):
    assert parse_epochs(text) == epochs


@pytest.mark.parametrize("text", ["", "a-b", "4-2", "0-3", "1-2-3"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ConfigError, match="expected"):
        parse_epochs(text)


def test_epochs_that_were_not_kept_are_named(run, tmp_path):
    (run / "epochs" / "004 (copy)").mkdir(exist_ok=True)  # not ours
    assert list(chosen_epochs(run, (3, 4))) == [3, 4]
    with pytest.raises(ConfigError, match="has not kept epoch 1; it has 2-4"):
        chosen_epochs(run, (1, 3))
    with pytest.raises(ConfigError, match="keep_epochs=20"):
        chosen_epochs(tmp_path, None)
    with pytest.raises(ConfigError, match="not the folder of a run"):
        average(tmp_path, tmp_path / "out")


def test_the_recipes_are_the_papers():
    fsd, bal, full = (load_recipe(name) for name in ("fsd50k", "audioset20k", "audioset2m"))
    for recipe in (fsd, bal, full):
        assert recipe.optim.betas == (0.95, 0.999)
        assert (recipe.optim.weight_decay, recipe.optim.warmup_steps) == (5e-7, 1000)
        assert (recipe.augment.frequency_mask, recipe.augment.time_mask) == (48, 192)
        assert (recipe.augment.mixup_probability, recipe.augment.mixup_alpha) == (0.5, 10)
        front = recipe.front_end_config()
        assert (front.mean, front.std) == (-4.6476, 4.5699)
        samples = round(recipe.window_seconds * front.sample_rate)
        assert front.samples_to_frames(samples) == front.pad_to_frames
        assert not recipe.data.ontology
    assert (fsd.front_end_config().pad_to_frames, bal.front_end_config().pad_to_frames) == (
        1024,
        1056,
    )
    assert [r.optim.batch_size for r in (fsd, bal, full)] == [24, 24, 100]
    assert [r.optim.epochs for r in (fsd, bal, full)] == [50, 60, 30]
    assert [r.optim.learning_rate for r in (fsd, bal, full)] == [5e-4, 5e-4, 1e-4]
    assert [r.optim.milestones[0] for r in (fsd, bal, full)] == [10, 35, 10]
    assert [r.data.balanced for r in (fsd, bal, full)] == [True, False, True]
    assert [r.select for r in (fsd, bal, full)] == ["best", "last5", "last5"]


def test_fine_tuning_needs_something_to_start_from(sounds, tmp_path):
    recipe = load_recipe("esc50-finetune")
    assert recipe.optim.decay == 0.85
    shown = [f"data.clips={sounds}", "data.label_column=labels", "model={preset: mini}"]
    with pytest.raises(ConfigError, match="esc50-finetune starts from a trained model: add --set"):
        train(load_recipe("esc50-finetune", shown), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- ensembles


def scores(values, paths=("/a.wav", "/b.wav"), labels=("x", "y"), **more):
    nothing = np.full(len(paths), math.nan)
    return ScoreTable(paths, np.zeros(len(paths)), nothing, labels, values, **more)


def test_an_ensemble_is_the_mean_whatever_the_order():
    one = scores([[0.1, 0.2], [0.3, 0.4]])
    two = scores([[0.8, 0.7, 0.0], [0.6, 0.5, 0.0]], ("/b.wav", "/a.wav"), ("y", "x", "z"))
    mean = ScoreTable.mean([one, two])
    np.testing.assert_allclose(mean.values, [[0.3, 0.4], [0.5, 0.6]], atol=1e-6)
    assert (mean.paths, mean.labels) == (one.paths, one.labels)


def test_parts_that_do_not_fit():
    one = scores([[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(ScoresError, match=r"1 of 2 clips have no scores, the first is /b\.wav"):
        ScoreTable.mean([one, scores([[0, 0]], ("/a.wav",))])
    with pytest.raises(ScoresError, match=r"lack 1 of 2 labels, .*'y'"):
        ScoreTable.mean([one, scores([[0, 0], [0, 0]], labels=("x", "w"))])
    with pytest.raises(ScoresError, match="do not mix"):
        ScoreTable.mean([one, scores([[0, 0], [0, 0]], activation="softmax")])
    with pytest.raises(ScoresError, match="at least one"):
        ScoreTable.mean([])


def test_folds_are_joined_and_a_clip_in_two_is_an_error():
    one, two = scores([[0.1, 0.2]], ("/a.wav",)), scores([[0.4, 0.3]], ("/b.wav",), ("y", "x"))
    joined = ScoreTable.concat([one, two])
    np.testing.assert_allclose(joined.values, [[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(ScoresError, match=r"/a\.wav is in more than one file"):
        ScoreTable.concat([one, one])


def test_members_of_an_ensemble(run, tmp_path):
    (tmp_path / "s.parquet").write_text("")
    files, models = members([tmp_path / "s.parquet", run, run / "model"], clips=True)
    assert files == [tmp_path / "s.parquet"]
    assert models == [*kept_epochs(run).values(), run / "model"]
    with pytest.raises(ConfigError, match="--clips"):
        members([run], clips=False)
    assert members([Path("everyday-mini")], clips=True) == ([], [Path("everyday-mini")])
    with pytest.raises(ConfigError, match="no score file, checkpoint, run or shipped model"):
        members([tmp_path], clips=True)


def test_the_commands(run, sounds, tmp_path):
    def atgnn(*words, code=0):
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == code, result.output
        return result.output

    out = tmp_path / "mean"
    said = atgnn("average", run, "--epochs", "3-4", "--out", out, "--device", "cpu")
    assert "mAP" in said
    expected = average_weights(state(run / "epochs" / f"{epoch:03d}") for epoch in (3, 4))
    name = "encoder.stem.convs.0.conv.weight"
    torch.testing.assert_close(state(out)[name], expected[name], atol=1e-6, rtol=0)
    assert "--force" in atgnn("average", run, "--epochs", "3-4", "--out", out, code=2)
    assert "norms 'x'" in atgnn("average", run, "--norms", "x", code=2)

    clips = tmp_path / "c.csv"
    Clips.read(sounds).subset([0, 9]).write(clips)
    file = tmp_path / "e.parquet"
    said = atgnn("ensemble", run, "--clips", clips, "--out", file, "--device", "cpu")
    assert "3 models, 2 clips x 2 labels" in said
    parts = [
        ScoreTable.of(Tagger.from_pretrained(folder, "cpu"), Clips.read(clips)).values
        for folder in kept_epochs(run).values()
    ]
    np.testing.assert_allclose(ScoreTable.read(file).values, np.mean(parts, 0), atol=1e-6)
    assert "--force" in atgnn("ensemble", file, "--out", file, code=2)
    assert "1 model," in atgnn("ensemble", file, "--out", tmp_path / "f.parquet")
    said = atgnn("ensemble", file, "--clips", clips, "--out", tmp_path / "g.parquet", code=2)
    assert "leave out --clips" in said
