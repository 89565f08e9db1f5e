"""Recipes, augmentation, loss, schedule, and a run that survives being killed."""

import itertools
import json
import math
import shutil
import signal

import numpy as np
import pytest
import soundfile
import torch
from run_helpers import RATE, start, tiny_recipe, tone_folders, wait_for_epochs, weights
from torch.nn import functional

from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.data.store import SCALE
from atgnn.errors import AtgnnError, ClipsError, ConfigError
from atgnn.training import augment
from atgnn.training.recipe import AugmentSettings, OptimSettings, Recipe, load_recipe, recipe_names
from atgnn.training.resumable import ResumableModule

pytest.importorskip("lightning")
from atgnn.data.waveforms import Waveforms
from atgnn.training.bar import EpochBar
from atgnn.training.division import divide
from atgnn.training.loading import ClipDataset, EpochSampler, collate
from atgnn.training.module import masked_loss, metrics_of
from atgnn.training.optimizing import learning_rate_factor, scheduled_optimizer
from atgnn.training.run import train


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return tone_folders(tmp_path_factory.mktemp("sounds"))


# ---------------------------------------------------------------------- recipes


def test_finetuning_differs_from_training_by_its_start_alone():
    scratch, tuned = (load_recipe(name).model_dump() for name in ("folder", "folder-finetune"))
    differ = {key for key in scratch if scratch[key] != tuned[key]}
    assert differ == {"name", "description", "model", "init"}


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_survive_a_round_trip(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "r.yaml") == recipe


def test_defaults_are_the_papers():
    recipe = Recipe(name="x")
    assert recipe.optim.learning_rate == 5e-4
    assert recipe.optim.betas == (0.95, 0.999)
    assert (recipe.augment.frequency_mask, recipe.augment.time_mask) == (48, 192)
    assert recipe.model_config_for(200).channels == (80, 160, 400, 640)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.epoch=3"], ["unknown key optim.epoch ", "did you mean 'epochs'"]),
        (["sede=3"], ["unknown key sede", "did you mean 'seed'"]),
        (["optim.epochs=many"], ["optim.epochs", "integer", "many"]),
        (["model.preset=pyr-x"], ["unknown preset 'pyr-x'", "did you mean"]),
        (["model.depth=3"], ["unknown model setting 'depth'"]),
        (
            ["model={preset: mini, pooling: mean_std}", "model.preset=lite0"],
            ["model.pooling is no setting of lite0", "set model={preset: lite0}"],
        ),
        (["front_end.preset=nope"], ["unknown front end 'nope'"]),
        (["front_end.n_mel=3"], ["n_mel", "did you mean 'n_mels'"]),
        (["model.n_mels=64"], ["model.n_mels is 64", "the front end makes 128"]),
        (["model.num_labels=5"], ["model.num_labels follows from the clips"]),
        (["model.blocks=[2, 0, 2]"], ["blocks.1", "greater than 0"]),
        (["seed=-1"], ["seed", "greater than or equal to 0"]),
        (["optim.betas=[2, 3]"], ["optim.betas.0", "less than 1"]),
        ([f"seed={2**70}"], ["seed", "less than"]),
        (["window_seconds=.inf"], ["window_seconds", "finite"]),
        (["optim.learning_rate=.inf"], ["optim.learning_rate", "finite"]),
        (["augment.crop_seconds=1e-9"], ["augment.crop_seconds", "0.01"]),
        (["front_end={preset: 3}"], ["unknown front end '3'"]),
        (["seed"], ["expected key=value", "'seed'"]),
        (["name.x=1"], ["cannot set name.x"]),
        (["seed={"], ["not readable YAML"]),
    ],
)
def test_bad_settings_give_one_clear_line(overrides, words):
    with pytest.raises(ConfigError) as error:
        load_recipe("folder", overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_unknown_recipe_suggests_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'esc10'"):
        load_recipe("esc-10")
    with pytest.raises(ConfigError, match="no recipe file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "sound.yaml").write_bytes(b"RIFF\xff")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        load_recipe(tmp_path / "sound.yaml")


# ---------------------------------------------------------------------- loss and schedule


def test_unknown_cells_take_no_part_in_the_loss():
    logits = torch.randn(4, 3, generator=torch.manual_seed(0), requires_grad=True)
    targets = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=torch.float32)
    whole = masked_loss(logits, targets, "multi_label")
    assert whole.item() == pytest.approx(
        functional.binary_cross_entropy_with_logits(logits, targets).item()
    )
    targets[1, 2] = math.nan
    loss = masked_loss(logits, targets, "multi_label")
    known = ~targets.isnan()
    expected = functional.binary_cross_entropy_with_logits(logits[known], targets[known])
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert logits.grad[1, 2] == 0
    assert (logits.grad[known] != 0).all()


def test_single_label_loss_is_cross_entropy_over_known_clips():
    logits = torch.randn(3, 4, generator=torch.manual_seed(0))
    targets = functional.one_hot(torch.tensor([1, 3, 0]), 4).float()
    expected = functional.cross_entropy(logits[:2], torch.tensor([1, 3]))
    targets[2, 1] = math.nan
    assert masked_loss(logits, targets, "single_label").item() == pytest.approx(expected.item())


def test_halving_schedule_is_the_papers():
    settings = OptimSettings(milestones=tuple(range(10, 50, 5)), warmup_steps=100)
    steps = 50  # per epoch

    def at(epoch):  # 1-based, as in the paper
        return learning_rate_factor((epoch - 1) * steps, steps, settings)

    assert at(10) == 1
    assert at(11) == at(15) == 0.5
    assert at(50) == 1 / 256
    assert learning_rate_factor(0, steps, settings) == pytest.approx(0.01)
    assert learning_rate_factor(49, steps, settings) == pytest.approx(0.5)


def test_the_published_warm_up_climbs_stairs():
    settings = OptimSettings(warmup="staircase", schedule="constant")
    at = [learning_rate_factor(step, 100, settings) for step in (0, 49, 50, 99, 100, 999, 1000)]
    assert at == [0, 0, 0.05, 0.05, 0.1, 0.95, 1]


def test_cosine_ends_near_zero():
    settings = OptimSettings(schedule="cosine", warmup_steps=10, epochs=10)
    factors = [learning_rate_factor(step, 10, settings) for step in range(100)]
    assert max(factors) == factors[9] == 1
    assert factors[-1] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))


# ---------------------------------------------------------------------- augmentation


def test_targets_of_a_mixture_add_up():
    first = np.array([1, 0, 1, 0], np.float32)
    second = np.array([1, 1, np.nan, 0], np.float32)
    np.testing.assert_allclose(augment.mix_targets(first, second, 0.7), [1, 0.3, np.nan, 0])


def test_masks_cover_with_zero_inside_the_clip_only():
    features = torch.ones(64, 50, 20)
    lengths = torch.full((64,), 30)
    settings = AugmentSettings(frequency_mask=8, time_mask=10, masks=1)
    out = augment.mask_features(features, lengths, settings, torch.manual_seed(0))
    rows = (out == 0).all(2)  # (B, T)
    columns = (out == 0).all(1)  # (B, F)
    assert rows.sum(1).max() in range(5, 11)
    assert columns.sum(1).max() in range(5, 9)
    assert not rows[:, 30:].any()
    again = augment.mask_features(features, lengths, settings, torch.manual_seed(0))
    assert torch.equal(out, again)
    assert torch.equal(features, torch.ones_like(features))


def test_frequency_shift_moves_and_repeats_edges():
    features = torch.arange(10.0).expand(50, 3, 10)
    out = augment.shift_frequency(features, 2, torch.manual_seed(0))
    seen = {tuple(row) for row in out[:, 0].tolist()}
    assert (0, 0, 0, 1, 2, 3, 4, 5, 6, 7) in seen
    assert (2, 3, 4, 5, 6, 7, 8, 9, 9, 9) in seen
    assert len(seen) == 5


def test_crops_are_excerpts_and_avoid_silence():
    wave = np.zeros(1000, np.int16)
    wave[700:800] = np.arange(1, 101)
    heard = 0
    for seed in range(50):
        piece = augment.crop(wave, 300, np.random.default_rng(seed))
        assert len(piece) == 300
        heard += bool(piece.any())
    assert heard > 35  # a single draw hears it in some 57 % of cases
    assert augment.crop(wave, 2000, np.random.default_rng(0)) is wave


def test_a_short_excerpt_holds_the_event():
    wave = np.zeros(10_000, np.int16)
    wave[7000:7100] = 1
    starts = set()
    for seed in range(50):
        piece = augment.moment(wave, 300, np.random.default_rng(seed))
        assert len(piece) == 300
        assert piece.any()
        starts.add(int(np.flatnonzero(piece)[0]))
    assert len(starts) > 20  # the event is anywhere in it
    assert len(augment.moment(wave * 0, 300, np.random.default_rng(0))) == 300
    assert augment.moment(wave, 20_000, np.random.default_rng(0)) is wave


def test_half_of_the_clips_are_cut_to_random_lengths(sounds):
    division = divide(tiny_recipe(sounds))
    waves = Waveforms(division.train, RATE, 1.0, 10.0)
    settings = AugmentSettings(crop_seconds=0.4, crop_shortest=0.1, mixup_probability=0)
    dataset = ClipDataset(waves, division.train_targets, settings, 1)
    lengths = []
    for epoch in range(20):
        dataset.set_epoch(epoch)
        lengths += [len(dataset[i].sound.samples) / RATE for i in range(len(dataset))]
    assert 0.35 < np.mean(np.isclose(lengths, 0.4)) < 0.65
    assert 0.1 <= min(lengths) < 0.15
    with pytest.raises(ConfigError, match="crop_shortest needs"):
        load_recipe("folder", ["augment.crop_shortest=9"])


def test_fill_repeats_or_surrounds_with_silence():
    wave = np.arange(1, 101, dtype=np.int16)
    kinds = set()
    for seed in range(20):
        out = augment.fill(wave, 250, np.random.default_rng(seed))
        assert len(out) == 250
        repeated = (out != 0).all()
        kinds.add(repeated)
        np.testing.assert_array_equal(
            np.resize(wave, 250) if repeated else out[out != 0], out if repeated else wave
        )
    assert kinds == {True, False}
    assert augment.fill(wave, 50, np.random.default_rng(0)) is wave


# ---------------------------------------------------------------------- loading


def test_items_are_a_function_of_seed_epoch_and_place(sounds):
    division = divide(tiny_recipe(sounds))
    waves = Waveforms(division.train, RATE, 1.0, 10.0)
    settings = AugmentSettings(crop_seconds=0.3, gain_db=6, roll=0.5)

    def item(seed, epoch, index):
        dataset = ClipDataset(waves, division.train_targets, settings, seed)
        dataset.set_epoch(epoch)
        return collate([dataset[index]]).wave()[0].numpy()

    np.testing.assert_array_equal(item(1, 2, 3), item(1, 2, 3))
    assert len(item(1, 2, 3)) == 0.3 * RATE
    assert not np.array_equal(item(1, 2, 3), item(1, 3, 3))
    assert not np.array_equal(item(1, 2, 3), item(2, 2, 3))


def test_sampler_visits_every_clip_once_in_a_new_order():
    sampler = EpochSampler(20, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_division_respects_rows_and_authors(sounds, tmp_path):
    rows = [
        f"{sounds}/{label}/{i}.wav,{label},{i % 4},author{i % 3}"
        for label in ("high", "low")
        for i in range(8)
    ]
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(["path,labels,fold,author", *rows]))
    by_fold = divide(tiny_recipe(table, "data.validation={fold: 2}", "data.test={fold: [0, 1]}"))
    assert {clip.fold for clip in by_fold.train} == {3}
    assert {clip.fold for clip in by_fold.validation} == {2}
    by_author = divide(tiny_recipe(table, "data.validation_share=0.3"))
    authors = [{clip.group for clip in part} for part in (by_author.train, by_author.validation)]
    assert len(authors[1]) == 1
    assert not authors[0] & authors[1]
    with pytest.raises(ConfigError, match="names clips that"):
        divide(tiny_recipe(table, "data.validation={fold: 2}", "data.train={fold: [2, 3]}"))
    with pytest.raises(ClipsError, match="no clip has"):
        divide(tiny_recipe(table, "data.validation={fold: 9}"))


def test_a_header_that_promises_more_than_there_is_does_not_stop_training(tmp_path):
    folder = tmp_path / "noise"
    folder.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE * 3)
    soundfile.write(folder / "a.mp3", noise, RATE)
    whole = (folder / "a.mp3").read_bytes()
    (folder / "a.mp3").write_bytes(whole[: len(whole) // 2])
    waves = Waveforms(Clips.read(tmp_path), RATE, 1.0, 10.0)
    with pytest.warns(UserWarning, match=r"a\.mp3"):
        assert 0.5 * RATE < len(waves[0]) < 2.5 * RATE


def test_waveforms_are_cut_to_the_longest_and_to_the_row(sounds, tmp_path):
    path = sounds / "high" / "0.wav"
    table = tmp_path / "clips.csv"
    table.write_text(f"path,labels,start,end\n{path},high,0.1,0.3\n{path},high,,\n")
    waves = Waveforms(Clips.read(table), RATE, 1.0, 0.25)
    whole = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_array_equal(waves[0] * np.float32(SCALE), whole[1600:4800])
    np.testing.assert_array_equal(waves[1] * np.float32(SCALE), whole[:4000])


def test_single_label_runs_have_one_label_a_clip(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("Bark", "Dog"):
        (tmp_path / label).mkdir()
        for i in range(3):
            soundfile.write(tmp_path / label / f"{i}.wav", rng.uniform(-0.1, 0.1, 8000), RATE)

    def single(clips):
        settings = [f"data.clips={clips}", "task=single_label", "data.validation_share=0"]
        return load_recipe("folder", settings)

    one = single(tmp_path)
    assert (divide(one).train_targets.sum(1) == 1).all()  # a bark is not also a dog here
    table = tmp_path / "clips.csv"
    table.write_text("path,labels\nBark/0.wav,Bark;Dog\nDog/0.wav,Dog\n")
    with pytest.raises(ClipsError, match=r"1 of 2 clips differ, the first is 0\.wav"):
        divide(
            one.model_copy(update={"data": one.data.model_copy(update={"clips": (str(table),)})})
        )


# ---------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def finished(sounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_recipe(sounds, "select=last"), out)
    return out


def test_a_run_leaves_a_folder_that_explains_itself(finished):
    for name in ("recipe.yaml", "environment.json", "metrics.json", "history.csv"):
        assert (finished / name).is_file(), name
    checkpoint = Checkpoint.from_pretrained(finished / "model")
    assert checkpoint.vocabulary.names == ("high", "low")
    assert checkpoint.provenance.metrics["mAP"] <= 1
    history = [line.split(",") for line in (finished / "history.csv").read_text().split()]
    assert [row[0] for row in history] == ["epoch", "1", "2", "3"]
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in history[1:])


def test_the_bar_counts_epochs_from_one(sounds, tmp_path, monkeypatch):
    shown = []

    def look(self, trainer, *rest):
        shown.append(self.progress.tasks[self.train_progress_bar_id].description)

    monkeypatch.setattr(EpochBar, "on_train_batch_start", look)
    train(tiny_recipe(sounds, "optim.epochs=2"), tmp_path / "run")
    assert list(dict.fromkeys(shown)) == ["Epoch 1 of 2", "Epoch 2 of 2"]


def test_the_best_epoch_is_kept_and_reported(sounds, tmp_path):
    recipe = tiny_recipe(sounds, "optim.epochs=2")
    train(recipe, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = [line.split(",") for line in (tmp_path / "run" / "history.csv").read_text().split()]
    by_epoch = {int(row[0]): float(row[3]) for row in rows[1:]}
    assert report["mAP"] == pytest.approx(max(by_epoch.values()), abs=1e-5)
    assert by_epoch[report["epoch"]] == max(by_epoch.values())
    best = Checkpoint.from_pretrained(tmp_path / "run" / "model")
    assert best.provenance.metrics["mAP"] == report["mAP"]
    train(recipe, tmp_path / "run", resume=True)  # finished: nothing changes, nothing is lost
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == report


def test_an_undefined_metric_is_never_the_best():
    from types import SimpleNamespace as Record

    from atgnn.training.keeper import headline_of

    def headline(accuracy, mean_ap):
        return headline_of(Record(metrics=Record(accuracy=accuracy, mean_ap=mean_ap)))

    assert headline(None, math.nan) is None
    assert headline(None, 0.5) == 0.5
    assert headline(0.25, 0.5) == 0.25


def test_of_epochs_that_validate_alike_the_later_one_is_kept(monkeypatch, tmp_path):
    from types import SimpleNamespace as Record

    from atgnn.training import keeper

    monkeypatch.setattr(keeper, "numbers_of", lambda metrics: {"mAP": metrics.mean_ap})
    kept = keeper.Keeper(load_recipe("folder"), None, Record(path=tmp_path))
    for epoch, value in enumerate((0.5, 1.0, 1.0, 0.75)):
        trainer = Record(current_epoch=epoch, is_global_zero=False)
        metrics = Record(accuracy=None, mean_ap=value)
        kept.on_validation_end(trainer, Record(metrics=metrics))
    assert kept.best == {"epoch": 3, "mAP": 1.0}


def test_a_start_that_does_not_fit_says_what_would(sounds, tmp_path):
    """The recipe that starts from the model that ships, and what people change in it."""

    def said(*more):
        with pytest.raises(ConfigError) as caught:
            train(load_recipe("folder-finetune", [f"data.clips={sounds}", *more]), tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    found = said("model.preset=mini")
    assert "everyday-lite0 does not fit this run's model: set model.preset=mini-lite0" in found
    assert "init=null" in found
    found = said("front_end.hop_ms=10")
    assert "(hop_ms 20.0, here 10.0): --set front_end.hop_ms=20.0" in found
    assert said("init=nonsense").startswith("init: no model 'nonsense'")


def test_a_run_in_bfloat16(sounds, tmp_path):
    recipe = tiny_recipe(sounds, "optim.epochs=1", "precision=bf16-mixed")
    train(recipe, tmp_path / "run")
    state = weights(tmp_path / "run" / "model")
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_by_the_norm_of_all(precision):
    module = ResumableModule(seed=1)
    module.first, module.second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = scheduled_optimizer(module, OptimSettings(), 1, precision)["optimizer"]
    assert optimizer.defaults["fused"] == (precision != "16-mixed")  # the scaler's own
    for weights_of in module.parameters():
        weights_of.grad = torch.full_like(weights_of, 3.0)
    module.configure_gradient_clipping(optimizer)
    assert module.first.weight.grad[0, 0] == 3
    module.configure_gradient_clipping(optimizer, 0.5, "norm")
    norm = sum(one.grad.square().sum() for one in module.parameters()).sqrt()
    assert norm.item() == pytest.approx(0.5, rel=1e-4)
    optimizer.step()


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_after_an_interruption_ends_with_the_same_weights(
    sounds, finished, tmp_path, workers
):
    recipe = tiny_recipe(sounds, "select=last", f"workers={workers}")

    class Killed(Exception):
        pass

    from atgnn.training.module import TaggingModule

    original = TaggingModule.training_step

    def dies(self, batch, step):
        if self.current_epoch == 1 and step == 1:
            raise Killed
        return original(self, batch, step)

    TaggingModule.training_step = dies
    try:
        with pytest.raises(Killed):
            train(recipe, tmp_path / "run")
    finally:
        TaggingModule.training_step = original
    train(recipe, tmp_path / "run", resume=True)
    histories = [(run / "history.csv").read_text() for run in (finished, tmp_path / "run")]
    assert histories[0] == histories[1]
    whole, resumed = weights(finished / "model"), weights(tmp_path / "run" / "model")
    assert whole.keys() == resumed.keys()
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


def test_a_run_learns(sounds, tmp_path):
    recipe = tiny_recipe(
        sounds, "optim.epochs=12", "optim.learning_rate=0.01", "augment.mixup_probability=0"
    )
    train(recipe, tmp_path / "run")
    assert Checkpoint.from_pretrained(tmp_path / "run" / "model").provenance.metrics["mAP"] == 1


def test_a_run_starts_from_a_checkpoint(sounds, finished, tmp_path):
    named = shutil.copytree(finished / "model", tmp_path / "owl.v2")  # no ending of a file
    recipe = tiny_recipe(
        sounds,
        f"init={named}",
        "optim.epochs=1",
        "select=last",
        "optim.learning_rate=1e-12",
        "optim.optimizer=adam",
    )
    train(recipe, tmp_path / "run")
    then, now = weights(finished / "model"), weights(tmp_path / "run" / "model")
    name = "encoder.stem.convs.0.conv.weight"
    torch.testing.assert_close(now[name], then[name], rtol=0, atol=1e-6)


def test_a_run_keeps_the_encoder_and_the_labels_it_shares(sounds, finished, tmp_path):
    """One more label: the encoder stays in every bit, shared labels start from their weights."""
    table = tmp_path / "more.csv"
    clips = Clips.read(sounds)
    more = clips.table.copy()
    more["labels"] = [
        (*labels, "Whistle") if n % 2 else labels for n, labels in enumerate(more["labels"])
    ]
    Clips(more).write(table)
    recipe = tiny_recipe(
        table,
        f"init={finished / 'model'}",
        "keep_encoder=true",
        "optim.epochs=2",
        "optim.learning_rate=0.01",
        "select=last",
    )
    train(recipe, tmp_path / "run")
    then, now = weights(finished / "model"), weights(tmp_path / "run" / "model")
    assert all(torch.equal(now[name], then[name]) for name in then if name.startswith("encoder."))
    assert not torch.equal(
        now["patch_head.fc1.linear.weight"], then["patch_head.fc1.linear.weight"]
    )
    report = (tmp_path / "run" / "init.txt").read_text()
    names = Checkpoint.from_pretrained(finished / "model").vocabulary.names
    assert f"{len(names)} labels keep their weights, 1 are new" in report


def test_keep_encoder_needs_one(sounds):
    for changes, message in (
        (["keep_encoder=true"], "set init"),
        (["keep_encoder=true", "init=imagenet", "model={preset: lite0}"], "no encoder of patches"),
        (["keep_encoder=true", "init=x", "select=averaged", "keep_epochs=2"], "average_norms"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny_recipe(sounds, *changes)


def test_folders_in_use_are_refused(sounds, finished, tmp_path):
    recipe = tiny_recipe(sounds, "select=last")
    with pytest.raises(ConfigError, match="is not empty"):
        train(recipe, finished)
    with pytest.raises(ConfigError, match="nothing to resume"):
        train(recipe, tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"another recipe: .*seed=1 \(now 9\)"):
        train(tiny_recipe(sounds, "seed=9"), finished, resume=True)


def test_bad_clips_leave_no_folder_behind(tmp_path):
    for clips in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(AtgnnError):
            train(tiny_recipe(clips), tmp_path / "out" / "run")
        assert not (tmp_path / "out" / "run").exists()
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "a.wav", np.zeros(8000), RATE)
    lost = tiny_recipe(tmp_path, "init=missing.pth", "data.validation_share=0")
    with pytest.raises(ConfigError, match=r"no file missing\.pth"):
        train(lost, tmp_path / "out")
    with pytest.raises(ConfigError, match="names no clips"):
        train(load_recipe("folder"), tmp_path / "run")


def test_a_run_starts_from_published_weights(sounds, fixtures, tmp_path):
    model = (
        "model={preset: pyr-ti-encoder, channels: [16, 24, 32, 48], stem_widths: [8, 16, 16],"
        " k: 3, head_width: 48, n_mels: 64, nominal_frames: 50}"
    )
    recipe = tiny_recipe(
        sounds,
        model,
        "front_end.n_mels=64",
        f"init={fixtures / 'pyramid_tiny.pth.tar'}",
        "optim.epochs=1",
        "optim.learning_rate=1e-12",
        "optim.optimizer=adam",
        "select=last",
    )
    train(recipe, tmp_path / "run")
    report = (tmp_path / "run" / "init.txt").read_text()
    assert "pyramid_tiny" in report
    assert "patch_head.fc2" in report  # left new: other classes
    published = torch.load(fixtures / "pyramid_tiny.pth.tar", weights_only=True)
    published = published.get("state_dict", published)
    ours = weights(tmp_path / "run" / "model")
    expected = published["stem.convs.3.weight"]
    torch.testing.assert_close(
        ours["encoder.stem.convs.1.conv.weight"], expected, atol=1e-6, rtol=0
    )


# ---------------------------------------------------------------------- from outside


@pytest.mark.slow
def test_kill_9_and_resume_end_with_the_same_weights(sounds, tmp_path):
    assert start(sounds, tmp_path / "whole").wait() == 0
    killed = start(sounds, tmp_path / "killed")
    wait_for_epochs(killed, tmp_path / "killed", 3)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert start(sounds, tmp_path / "killed", "--resume").wait() == 0
    whole, resumed = (weights(tmp_path / name / "model") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(sounds, tmp_path):
    process = start(sounds, tmp_path / "run")
    wait_for_epochs(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1].startswith("atgnn: stopped: `atgnn train --out")


def test_an_unknown_cell_in_validation_leaves_out_accuracy_alone():
    recipe = load_recipe("folder", ["task=single_label"])
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 2.0, -1.0], [-1.0, 0.0, 2.0]])
    targets = torch.eye(3)
    assert metrics_of(logits, targets, recipe, tuple("abc")).accuracy == 1
    targets[0, 1] = torch.nan
    found = metrics_of(logits, targets, recipe, tuple("abc"))
    assert (found.accuracy, found.mean_ap) == (None, 1)
