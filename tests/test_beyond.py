"""Distillation, moving average, accumulation, compilation: right, refused where wrong."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from helpers import sound, tiny_checkpoint, write
from torch import nn
from torch.nn import functional

pytest.importorskip("lightning")
from atgnn.checkpoint import Checkpoint
from atgnn.data.clips import Clips
from atgnn.errors import AtgnnError
from atgnn.frontend import FrontEndConfig
from atgnn.scoring import ScoreTable
from atgnn.training.distill import Teacher, make_distillation, teacher_loss
from atgnn.training.division import divide
from atgnn.training.ema import MovingAverage, decay_at
from atgnn.training.loaders import make_loaders
from atgnn.training.module import TaggingModule
from atgnn.training.recipe import load_recipe
from atgnn.training.run import train
from atgnn.training.start import new_model

TINY = (
    "model={preset: mini, n_mels: 32, channels: [8, 16], stem_widths: [8, 8],"
    " stem_strides: [4, 4], blocks: [1, 1], reductions: [1, 1], label_blocks: [1, 1],"
    " head_width: 16, k: 3}"
)
LABELS = ("high", "low")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Six short clips of each of two labels: high and low tones in noise."""
    folder = tmp_path_factory.mktemp("sounds")
    time = np.arange(8000) / 16000
    for pitch, label in ((3000, "high"), (300, "low")):
        for number in range(6):
            tone = 0.3 * np.sin(2 * np.pi * pitch * (1 + number / 50) * time)
            write(folder / label / f"{number}.wav", tone + 0.2 * sound(0.5, seed=number))
    return folder


def recipe(sounds, *more):
    return load_recipe(
        "folder",
        [
            f"data.clips={sounds}",
            TINY,
            "front_end.n_mels=32",
            "data.ontology=false",
            "data.validation_share=0.34",
            "optim.batch_size=2",
            "optim.epochs=2",
            "optim.warmup_steps=2",
            "augment.crop_seconds=0.4",
            "workers=0",
            "save_half=false",
            *more,
        ],
    )


def one_line(call) -> str:
    with pytest.raises(AtgnnError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def weights(folder):
    return Checkpoint.from_pretrained(folder).model.state_dict()


def assert_same_weights(first, second):
    ours, theirs = weights(first), weights(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---------------------------------------------------------------------- the teacher's loss


def test_independent_labels_by_hand():
    logits, taught = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.9, 0.2]])
    for temperature in (1.0, 3.0):
        expected = 0.0
        for z, p in zip(logits[0].tolist(), taught[0].tolist(), strict=True):
            soft = 1 / (1 + math.exp(-math.log(p / (1 - p)) / temperature))
            q = 1 / (1 + math.exp(-z / temperature))
            expected -= (soft * math.log(q) + (1 - soft) * math.log(1 - q)) / 2
        loss = teacher_loss(logits, taught, "multi_label", temperature)
        assert float(loss) == pytest.approx(temperature**2 * expected, rel=1e-5)


def test_one_of_the_labels_by_hand():
    logits, taught = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.7, 0.2, 0.1]])
    for temperature in (1.0, 2.0):
        p = torch.softmax(taught.log() / temperature, 1)
        q = torch.softmax(logits / temperature, 1)
        expected = temperature**2 * float((p * (p.log() - q.log())).sum())
        loss = teacher_loss(logits, taught, "single_label", temperature)
        assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_least_where_the_student_agrees(task, temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    single = task == "single_label"
    taught = logits.detach().softmax(1) if single else logits.detach().sigmoid()
    teacher_loss(logits, taught, task, temperature).backward()
    assert logits.grad.abs().max() < 1e-5
    other = logits.detach() + torch.randn(5, 4, generator=generator)
    agreed, differing = (
        teacher_loss(one, taught, task, temperature) for one in (logits.detach(), other)
    )
    assert differing > agreed + 0.05


def test_sure_teachers_are_finite():
    logits = torch.tensor([[30.0, -30.0]], requires_grad=True)
    for task in ("multi_label", "single_label"):
        loss = teacher_loss(logits, torch.tensor([[0.0, 1.0]]), task, 0.5)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


# ---------------------------------------------------------------------- distillation in a run


def save_scores(sounds, path, value=lambda row, label: 0.25, labels=LABELS, **kinds):
    clips = Clips.read(sounds)
    table = ScoreTable(
        [str(path) for path in clips.paths],
        np.zeros(len(clips)),
        np.full(len(clips), np.nan),
        labels,
        np.array([[value(row, label) for label in labels] for row in range(len(clips))]),
        **kinds,
    )
    table.write(path)
    return table


def module_of(settings):
    division = divide(settings)
    training, _ = make_loaders(settings, division)
    distillation = make_distillation(settings, division)
    if distillation is not None:
        distillation.prepare(training.dataset)
    model = new_model(settings, division).model
    names = division.vocabulary.names
    return TaggingModule(settings, model, names, len(training), distillation), training


def test_scores_are_mixed_as_the_clips_are(sounds, tmp_path):
    file = tmp_path / "s.parquet"
    save_scores(sounds, file, lambda row, label: row / 20 + (label == "low") / 4)
    changes = (f"distill.scores={file}", "augment.mixup_probability=1")
    _, training = module_of(recipe(sounds, *changes))
    alone = training.dataset.targets
    training.set_epoch(0)
    batch = next(iter(training))
    assert len(batch.rows) == 2, "both clips of the batch are mixtures"
    assert batch.targets.shape == (2, 4)
    for row in batch.targets.numpy():
        # one share explains labels and scores: some pair of clips gives all four numbers
        errors = [
            np.abs(share * a + (1 - share) * b - row).max()
            for a in alone
            for b in alone
            for share in np.linspace(0, 1, 501)
        ]
        assert min(errors) < 2e-3


def test_the_loss_is_weighed(sounds, tmp_path, monkeypatch):
    file = tmp_path / "s.parquet"
    save_scores(sounds, file)
    _, training = module_of(recipe(sounds))
    training.set_epoch(0)
    batch = next(iter(training))
    monkeypatch.setattr(TaggingModule, "log", lambda *_, **__: None)

    def loss(*changes):
        module, loader = module_of(recipe(sounds, *changes))
        loader.set_epoch(0)
        torch.manual_seed(1)
        return module.training_step(next(iter(loader)), 0).item(), module

    by_labels, module = loss()
    both, module = loss(f"distill.scores={file}", "distill.weight=0.25", "distill.temperature=2")
    torch.manual_seed(1)
    logits = module.model(*module.features(batch, augmented=True))
    taught = torch.full((2, 2), 0.25)
    by_teacher = teacher_loss(logits, taught, "multi_label", 2.0).item()
    assert both == pytest.approx(0.75 * by_labels + 0.25 * by_teacher, rel=1e-5)


def test_teachers_hear_the_mixed_waveform_and_their_mean_counts(sounds, tmp_path):
    names = ("a", "b")
    for seed, name in enumerate(names):
        one = tiny_checkpoint(("low", "other", "high"))
        with torch.no_grad():
            one.model.patch_head.fc2.bias.add_(seed)
        one.save_pretrained(tmp_path / name)
    teachers = [str(tmp_path / name) for name in names]
    module, training = module_of(
        recipe(sounds, f"distill.teacher={teachers}", "augment.mixup_probability=1")
    )
    training.set_epoch(0)
    batch = next(iter(training))
    heard = module.distillation._hear(batch)
    expected = []
    for path in teachers:
        one = Checkpoint.from_pretrained(path)
        mel, lengths = one.make_front_end()(batch.wave(), batch.lengths)
        expected.append(one.model(mel, lengths).sigmoid()[:, [2, 0]])
    assert (expected[0] - expected[1]).abs().max() > 0.05
    torch.testing.assert_close(heard, torch.stack(expected).mean(0), atol=1e-4, rtol=1e-4)
    assert batch.targets.shape == (2, 2)
    assert not any("teacher" in name for name in module.state_dict()), "no part of saved states"


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_a_student_learns_from_a_teacher_alone(sounds, tmp_path, task):
    """With the labels' loss switched off, it takes the teacher's view, here the wrong one."""
    file, single = tmp_path / "s.parquet", task == "single_label"
    wrong = {True: 0.9, False: 0.1}
    high = [path.parent.name == "high" for path in Clips.read(sounds).paths]
    save_scores(
        sounds,
        file,
        lambda row, label: wrong[(label == "low") == high[row]],
        activation="softmax" if single else "sigmoid",
    )
    changes = ["optim.epochs=12", "optim.learning_rate=0.01", "augment.mixup_probability=0"]
    changes += ["optim.warmup_steps=0", "data.validation_share=0", f"task={task}", "select=last"]
    changes += ["optim.batch_size=6", "augment.masks=0", "augment.frequency_shift=0"]
    changes += ["distill.weight=1", f"distill.scores={file}"]
    out = train(recipe(sounds, *changes), tmp_path / "run")
    history = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])
    scores = ScoreTable.of(Checkpoint.from_pretrained(out), Clips.read(sounds)).values
    assert np.mean((scores[:, 0] < scores[:, 1]) == high) > 0.8
    assert "Taught by the scores of s.parquet." in (out / "README.md").read_text()


def test_the_card_names_teachers_and_what_stands_behind_them(sounds, tmp_path):
    from atgnn.checkpoint import Provenance

    about = Provenance(training_data="many sounds", lineage=("Initial weights: a legend.",))
    tiny_checkpoint(LABELS, provenance=about).save_pretrained(tmp_path / "old-master")
    settings = recipe(sounds, f"distill.teacher={tmp_path / 'old-master'}", "optim.epochs=1")
    card = (train(settings, tmp_path / "run") / "README.md").read_text()
    assert "Taught by: old-master, trained on: many sounds." in card
    assert "Initial weights: a legend." in card


# ---------------------------------------------------------------------- what does not fit


def test_a_teacher_with_another_vocabulary(sounds, tmp_path):
    tiny_checkpoint(("hihg", "rain")).save_pretrained(tmp_path / "t")
    settings = recipe(sounds, f"distill.teacher={tmp_path / 't'}")
    message = one_line(lambda: train(settings, tmp_path / "run"))
    assert "lacks 2 of 2 labels, the first is 'high'; did you mean 'hihg'?" in message
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_another_rate_or_task(sounds, tmp_path):
    other = FrontEndConfig(n_mels=32, sample_rate=8000)
    tiny_checkpoint(LABELS, front_end=other).save_pretrained(tmp_path / "slow")
    settings = recipe(sounds, f"distill.teacher={tmp_path / 'slow'}")
    message = one_line(lambda: make_distillation(settings, divide(settings)))
    assert "hears 8000 Hz, the run 16000 Hz" in message
    tiny_checkpoint(LABELS, activation="softmax").save_pretrained(tmp_path / "soft")
    settings = recipe(sounds, f"distill.teacher={tmp_path / 'soft'}")
    message = one_line(lambda: make_distillation(settings, divide(settings)))
    assert "gives softmax scores, task multi_label learns from sigmoid ones" in message


def test_a_teacher_that_is_not_there(sounds, tmp_path):
    settings = recipe(sounds, "distill.teacher=nowhere")
    assert "no model 'nowhere'" in one_line(lambda: train(settings, tmp_path / "run"))


def test_score_files_that_lack_something(sounds, tmp_path):
    whole = save_scores(sounds, tmp_path / "whole.parquet")
    few = ScoreTable(
        whole.paths[:3], whole.starts[:3], whole.ends[:3], whole.labels, whole.values[:3]
    )
    few.write(tmp_path / "few.parquet")
    save_scores(sounds, tmp_path / "labels.parquet", labels=("high", "lo"))
    (tmp_path / "text.parquet").write_text("no scores")
    for name, expected in (
        ("few", "clips have no scores"),
        ("labels", "lack 1 of 2 labels, the first is 'low'"),
        ("text", "not a readable Parquet file"),
        ("none", "no score file"),
    ):
        settings = recipe(sounds, f"distill.scores={tmp_path / name}.parquet")
        message = one_line(lambda settings=settings: train(settings, tmp_path / "run"))
        assert expected in message
    assert not (tmp_path / "run").exists()


def test_settings_that_do_not_go_together(sounds):
    both = ("distill.scores=a.parquet", "distill.teacher=b")
    assert "scores or teacher, not both" in one_line(lambda: recipe(sounds, *both))
    idle = one_line(lambda: recipe(sounds, "distill.temperature=2"))
    assert "temperature does nothing without a teacher" in idle
    assert "fill needs crop_seconds" in one_line(
        lambda: recipe(sounds, "augment.fill=0.5", "augment.crop_seconds=null")
    )
    assert "set ema.decay" in one_line(lambda: recipe(sounds, "select=ema"))
    assert "ema.decay" in one_line(lambda: recipe(sounds, "ema.decay=1"))
    assert "distill.weight" in one_line(lambda: recipe(sounds, "distill.weight=0"))
    assert "optim.accumulate" in one_line(lambda: recipe(sounds, "optim.accumulate=0"))


def test_a_label_without_clips_is_learned_from_the_teacher_alone(sounds, tmp_path):
    words = tmp_path / "labels.csv"
    words.write_text("index,mid,display_name\n0,,high\n1,,low\n2,,thunder\n")
    save_scores(sounds, tmp_path / "s.parquet", labels=("high", "low", "thunder"))
    changes = (f"data.vocabulary={words}", f"distill.scores={tmp_path / 's.parquet'}")
    train(recipe(sounds, *changes, "optim.epochs=1"), tmp_path / "run")
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= numbers["mAP"] <= 1
    assert len(Checkpoint.from_pretrained(tmp_path / "run" / "model").vocabulary) == 3


# ---------------------------------------------------------------------- moving average


def test_the_average_is_the_written_out_one():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = MovingAverage(model, 0.6)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for update in range(1, 8):
        with torch.no_grad():
            for value in (*model.parameters(), model[1].running_mean):
                value.add_(torch.randn(value.shape))
        model[1].num_batches_tracked.add_(1)
        average.update(model)
        share = decay_at(update, 0.6)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = share * expected[name] + (1 - share) * value
    assert decay_at(1, 0.6) == 2 / 11
    assert decay_at(7, 0.6) == 8 / 17
    assert decay_at(1000, 0.6) == 0.6
    for name, value in average.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
    assert int(average.network[1].num_batches_tracked) == 7
    assert not average.train().network.training


def test_what_two_layers_share_is_averaged_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    average = MovingAverage(model, 0.9)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    average.update(model)
    share = decay_at(1, 0.9)
    expected = share * before + (1 - share) * (before + 1)
    torch.testing.assert_close(average.network[0].weight.detach(), expected)


def test_the_average_is_validated_and_can_be_the_result(sounds, tmp_path):
    changes = ("ema.decay=0.9", "optim.learning_rate=0.02")
    last = train(recipe(sounds, *changes, "select=last"), tmp_path / "last")
    averaged = train(recipe(sounds, *changes, "select=ema"), tmp_path / "ema")
    rows = [list(csv.DictReader((tmp_path / n / "history.csv").open())) for n in ("last", "ema")]
    assert rows[0] == rows[1], "averaging leaves the run as it is"
    numbers = json.loads((tmp_path / "ema" / "metrics.json").read_text())
    assert numbers["mAP"] == pytest.approx(float(rows[1][-1]["ema_mAP"]), abs=1e-6)
    first, second = weights(last), weights(averaged)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    state = torch.load(tmp_path / "ema" / "resume" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in second.items():
        assert torch.equal(state[f"average.network.{name}"], value)


# ---------------------------------------------------------------------- accumulation


def test_added_gradients_are_those_of_the_whole(monkeypatch):
    """Three batches of two, and what is left of an epoch, weigh as one batch does."""
    module = TaggingModule.__new__(TaggingModule)
    nn.Module.__init__(module)
    module.recipe = load_recipe("folder", ["optim.accumulate=3"])
    module.batches_per_epoch = 5
    data = torch.randn(10, 4, generator=torch.Generator().manual_seed(2))
    truth = (data[:, :1] > 0).float()
    weight = torch.zeros(4, 1, requires_grad=True)

    def loss(rows):
        return functional.binary_cross_entropy_with_logits(data[rows] @ weight, truth[rows])

    for batches in ((0, 1, 2), (3, 4)):
        rows = slice(2 * batches[0], 2 * batches[-1] + 2)
        (whole,) = torch.autograd.grad(loss(rows), weight)
        parts = torch.zeros_like(weight)
        for number in batches:
            part = loss(slice(2 * number, 2 * number + 2)) * module._batches_to_update(number) / 3
            parts += torch.autograd.grad(part, weight)[0]
        torch.testing.assert_close(parts, whole)


def test_the_schedule_counts_updates(sounds, tmp_path):
    """8 clips in batches of 2 are 4 batches, with accumulate 3 two updates, an epoch."""
    changes = ("optim.accumulate=3", "optim.schedule=constant", "optim.warmup_steps=8")
    train(recipe(sounds, *changes), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "resume" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    (schedule,) = state["lr_schedulers"]
    assert schedule["last_epoch"] == 4
    settings = recipe(sounds, *changes).optim
    assert schedule["_last_lr"][0] == pytest.approx(settings.learning_rate * 5 / 8)


# ---------------------------------------------------------------------- resume


class _Stop(Exception):
    pass


@pytest.mark.parametrize("step", [0, 3])
def test_all_of_it_resumes_exactly(sounds, tmp_path, monkeypatch, step):
    """Stopped where the second epoch begins, and within it, between batches that go together."""
    tiny_checkpoint(LABELS).save_pretrained(tmp_path / "teacher")
    settings = recipe(
        sounds,
        "optim.epochs=2",
        "scale.checkpoint_steps=1",
        "ema.decay=0.9",
        "select=ema",
        "optim.accumulate=2",
        f"distill.teacher={tmp_path / 'teacher'}",
        "distill.temperature=2",
    )
    whole = train(settings, tmp_path / "whole")
    training_step = TaggingModule.training_step

    def stop_in_the_second(self, batch, number):
        if (self.current_epoch, number) == (1, step):
            raise _Stop
        return training_step(self, batch, number)

    monkeypatch.setattr(TaggingModule, "training_step", stop_in_the_second)
    with pytest.raises(_Stop):
        train(settings, tmp_path / "cut")
    monkeypatch.undo()
    again = train(settings, tmp_path / "cut", resume=True)
    assert_same_weights(whole, again)
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "cut")]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    "change", ["ema.decay=0.5", "distill.weight=0.9", "optim.accumulate=2", "compile=true"]
)
def test_a_resumed_run_keeps_its_settings(sounds, tmp_path, change):
    save_scores(sounds, tmp_path / "s.parquet")
    common = (f"distill.scores={tmp_path / 's.parquet'}", "ema.decay=0.9", "optim.epochs=1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe(sounds, *common).to_yaml())
    settings = recipe(sounds, *common, change)
    message = one_line(lambda: train(settings, tmp_path / "run", resume=True))
    assert "recipe" in message


def test_a_resumed_run_keeps_its_teacher(sounds, tmp_path):
    file = tmp_path / "s.parquet"
    table = save_scores(sounds, file)
    settings = recipe(sounds, f"distill.scores={file}", "optim.epochs=1")
    train(settings, tmp_path / "run")
    train(settings, tmp_path / "run", resume=True)  # nothing has changed
    dataclasses.replace(table, values=table.values / 2).write(file, force=True)
    message = one_line(lambda: train(settings, tmp_path / "run", resume=True))
    assert "the data are not those" in message
    assert "teachers differ" in message


# ---------------------------------------------------------------------- compilation, precision


def test_compile_is_asked_for(sounds, monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: asked.append(type(self)))
    module_of(recipe(sounds))
    assert not asked
    module, _ = module_of(recipe(sounds, "compile=true"))
    assert asked == [type(module.model)]


@pytest.mark.slow
def test_a_compiled_run_learns_the_same(sounds, tmp_path):
    """One epoch: the same losses as an eager run, but for rounding.

    Rounding turns near-ties among neighbours over, so losses differ by more than it (1.2e-3 seen).
    """
    common = ("optim.epochs=1", "ema.decay=0.9", "augment.crop_seconds=0.5")
    train(recipe(sounds, *common), tmp_path / "eager")
    train(recipe(sounds, *common, "compile=true"), tmp_path / "compiled")
    eager, compiled = (
        next(csv.DictReader((tmp_path / name / "history.csv").open()))
        for name in ("eager", "compiled")
    )
    for name in ("train_loss", "val_loss"):
        assert float(compiled[name]) == pytest.approx(float(eager[name]), rel=5e-3)


def test_teachers_in_float32_under_autocast(sounds, tmp_path):
    tiny_checkpoint(LABELS).save_pretrained(tmp_path / "t")
    teacher = Teacher(Checkpoint.from_pretrained(tmp_path / "t"), "t", LABELS)
    wave = torch.from_numpy(sound(0.5))[None]
    plain = teacher.hear(wave, None)
    with torch.autocast("cpu", torch.bfloat16):
        half = teacher.hear(wave, None)
    torch.testing.assert_close(half, plain)
