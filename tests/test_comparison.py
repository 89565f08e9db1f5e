"""`atgnn compare RECIPE --models`: plans, the queue, what fails, the budget, the table."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from rich.console import Console
from run_helpers import RATE, tone_folders
from typer.testing import CliRunner

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from atgnn.cli import app
from atgnn.comparison import budget, inference, one, timing, work
from atgnn.comparison import run as whole
from atgnn.comparison.plan import Places, alone, claim, make_plan, read_plan
from atgnn.comparison.result import Result
from atgnn.comparison.table import read_standings, spread_of, student
from atgnn.comparison.written import COLUMNS, cost_picture, render, write_standings
from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms
from atgnn.errors import AtgnnError, ConfigError, DivergedError, MissingExtraError
from atgnn.scoring import ScoreTable
from atgnn.terminal import show
from atgnn.training.cluster import Cluster
from atgnn.training.division import divide
from atgnn.training.environment import describe_environment

SMALL = (
    "model={preset: mini, channels: [8, 16], stem_widths: [8, 8], stem_strides: [4, 4],"
    " blocks: [1, 1], reductions: [1, 1], label_blocks: [1, 1], head_width: 16, k: 3}"
)
RECIPE = """
name: tones
task: single_label
front_end: {{preset: paper, n_mels: 32}}
window_seconds: 1
workers: 0
data: {{clips: {sounds}, ontology: false, validation_share: 0.25}}
augment: {{crop_seconds: 0.4}}
optim: {{batch_size: 4, epochs: 2, warmup_steps: 2}}
loggers: []
scale: {{accelerator: cpu}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    path = folder / "tones.yaml"
    path.write_text(RECIPE.format(sounds=tone_folders(folder / "sounds")))
    return str(path)


def planned(recipe, *models, settings=(), **terms):
    models = models or ("mini",)
    own = [f"{name.partition('=')[0]}:{SMALL}" for name in models]
    return make_plan(recipe, models, settings=[*own, *settings], **terms)


def result(model="mini", seed=42, **more):
    known = {
        "epochs": 2,
        "parameters": 1000,
        "gmacs": 0.1,
        "metrics": {"mean_ap": 0.8, "accuracy": 0.7},
        "train_seconds": 90.0,
        "cpu_seconds": 80.0,
        "peak_mb": 300.0,
        "labels": 2,
        "frames": 98,
        "device": "a processor",
    }
    return Result(model, seed, **{**known, **more})


# ---------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("models", "more", "words"),
    [
        (["pyr-x"], {}, ["unknown preset 'pyr-x'", "did you mean 'pyr-"]),
        (["mini", "mini"], {}, ["mini is named twice", "other=mini"]),
        (["a/b=mini"], {}, ["'a/b' cannot name a folder"]),
        ([], {}, ["no models: --models A,B"]),
        (["mini"], {"settings": ["ast:seed=1"]}, ["'ast' is none of the models mini"]),
        (["mini"], {"settings": ["optim.epoch=1"]}, ["unknown key optim.epoch", "epochs"]),
        (["mini"], {"settings": ["mini:optim.epoch=1"]}, ["recipe mini: unknown key optim.epoch"]),
        (["mini"], {"rows": "test"}, ["names no test rows", "data.test={fold: 1}"]),
        (["mini"], {"settings": ["data.validation_share=0"]}, ["has nothing to judge on"]),
        (["mini"], {"settings": ["data.clips=[]"]}, ["names no clips to compare on", "--clips"]),
        (["mini"], {"clips": ["nowhere"]}, ["no table of clips at nowhere"]),
        (["mini"], {"settings": ["data.test={fold: 9}"]}, ["these clips have no column 'fold'"]),
    ],
)
def test_bad_plans_are_one_line(recipe, models, more, words):
    with pytest.raises(AtgnnError) as error:
        make_plan(recipe, models, **more)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("front_ends", ["recipe", "own"])
def test_a_waveform_does_without_what_changes_mel_bins(recipe, front_ends, tmp_path):
    changes = ["augment.noise=0.3", "augment.masks=1", "augment.frequency_mask=8"]
    models = ("mini", "audio-transformer")
    plan = make_plan(recipe, models, settings=[f"mini:{SMALL}", *changes], front_ends=front_ends)
    first, second = (plan.recipe_of(entry, 1) for entry in plan.entries)
    assert (first.augment.noise, first.augment.frequency_mask) == (0.3, 8)
    assert (second.augment.noise, second.augment.frequency_mask) == (0, 0)
    assert second.augment.crop_seconds == first.augment.crop_seconds
    write_standings(read_standings(plan, tmp_path), tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["waveforms"] == ["audio-transformer"]
    assert found["left_out"] == ["frequency_mask", "noise"]
    said = "the waveform for audio-transformer, without the recipe's frequency_mask, noise"
    assert said in (tmp_path / "report.md").read_text().replace("\\", "")


def test_models_differ_in_what_is_set_for_them_alone(recipe):
    plan = planned(
        recipe, "a=mini", "b=mini", settings=["optim.epochs=5", "b:optim.learning_rate=0.1"],
        seeds=2,
    )  # fmt: skip
    first, second = (plan.recipe_of(entry, 7) for entry in plan.entries)
    assert first.optim.epochs == second.optim.epochs == 5
    assert (first.optim.learning_rate, second.optim.learning_rate) == (5e-4, 0.1)
    assert first.data == second.data == plan.recipe.data
    assert first.augment == second.augment
    assert [job.name for job in plan.jobs()] == ["a-42", "b-42", "a-43", "b-43"]
    assert plan.recipe_of(plan.entries[0], 9).seed == 9


def test_a_setting_may_hold_a_colon(recipe):
    plan = make_plan(recipe, ["mini"], settings=["name=a:b"])
    assert plan.recipe.name == "a:b"


def test_a_folder_takes_more_models_and_seeds_but_no_other_terms(recipe, tmp_path):
    out = tmp_path / "out"
    assert claim(planned(recipe, "a=mini"), out) == read_plan(out)
    joined = claim(planned(recipe, "b=mini", seeds=3), out)
    assert [entry.name for entry in joined.entries] == ["a", "b"]
    assert claim(planned(recipe, "a=mini"), out).seeds == 3
    for plan, words in (
        (planned(recipe, "a=mini", settings=["optim.epochs=9"]), "optim.epochs=2 (now 9)"),
        (planned(recipe, "a=mini", minutes=1), "minutes=None (now 1.0)"),
        (make_plan(recipe, ["a=lite0"]), "a is mini in"),
    ):
        with pytest.raises(ConfigError) as error:
            claim(plan, out)
        assert words in str(error.value)


def test_a_folder_that_another_process_works_in_keeps_its_plan(recipe, tmp_path):
    out = tmp_path / "out"
    before = claim(planned(recipe, "a=mini"), out)
    with alone(out), pytest.raises(ConfigError, match="another `atgnn compare` is at work"):
        claim(planned(recipe, "b=mini"), out)
    assert read_plan(out) == before


def test_a_folder_with_something_else_is_left_alone(recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(ConfigError, match="holds something else than a comparison"):
        claim(planned(recipe), tmp_path)
    with pytest.raises(ConfigError, match="is no folder of `atgnn compare`"):
        read_plan(tmp_path)


# ---------------------------------------------------------------------- one run


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory):
    """A comparison of one model, whose run has been made in this process."""
    out = tmp_path_factory.mktemp("done") / "out"
    plan = claim(planned(recipe), out)
    assert one.main([str(out), plan.jobs()[0].name]) == 0
    return out


def test_a_run_is_put_on_record(done):
    plan, places = read_plan(done), Places(done)
    (job,) = plan.jobs()
    found = Result.read(places.beside(job, "json"))
    assert found.done
    assert found.epochs == 2
    assert (found.labels, found.frames) == (2, 98)
    assert 0 <= found.metrics["accuracy"] <= 1
    assert found.metrics["mean_ap"] > 0
    assert found.train_seconds > 0
    assert found.peak_mb > 50
    assert found.clips == 4
    assert any("intervals are rough" in caution for caution in found.cautions)
    assert (places.run(job) / "model").is_dir()
    scores = ScoreTable.read(places.scores(job))
    assert len(scores) == len(divide(plan.recipe_of(job.entry, job.seed)).validation)


def test_packed_clips_are_judged_without_their_files(recipe, tmp_path):
    sounds = tone_folders(tmp_path / "sounds")
    packed = PackedWaveforms.write(Clips.read(sounds), tmp_path / "packed", RATE)
    shutil.rmtree(sounds)
    plan = planned(recipe, clips=[str(packed.folder)], settings=["mini:optim.epochs=1"])
    found = one.attempt(plan, plan.jobs()[0], Places(tmp_path / "out"))
    assert found.done, found.message
    assert len(ScoreTable.read(Places(tmp_path / "out").scores(plan.jobs()[0]))) == 4


def test_what_is_missing_is_said_before_anything_runs(recipe, tmp_path, monkeypatch):
    plan = planned(recipe)
    monkeypatch.setattr(whole, "find_spec", lambda name: None if name == "matplotlib" else 1)
    with pytest.raises(MissingExtraError, match=r"picture of a comparison needs matplotlib"):
        whole.compare_models(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_not_repeated(done, monkeypatch):
    monkeypatch.setattr(work, "Popen", lambda *_, **__: pytest.fail("ran again"))
    lines = []
    work.work_off(read_plan(done), done, tell=lines.append)
    assert lines == ["1 of 1 run are on record"]


def test_a_run_with_other_settings_needs_another_name(recipe, done):
    plan = planned(recipe, "mini", settings=["mini:optim.learning_rate=0.1"])
    with pytest.raises(ConfigError, match=r"is done with other settings.*other=mini"):
        work.settled(Places(done), plan.jobs()[0])


def test_a_diverged_run_says_so(recipe, tmp_path):
    plan = planned(recipe, settings=["mini:optim.learning_rate=1e30", "mini:optim.epochs=1"])
    found = one.attempt(plan, plan.jobs()[0], Places(tmp_path))
    assert found.problem == "diverged"
    assert "lower optim.learning_rate" in found.message
    assert "\n" not in found.message


def test_weights_that_are_no_numbers_end_a_run_without_validation(recipe, tmp_path):
    from atgnn.training.run import train

    plan = planned(
        recipe, settings=["mini:optim.learning_rate=1e30", "mini:data.validation_share=0"]
    )
    with pytest.raises(DivergedError, match="weights are not finite in epoch 1"):
        train(plan.recipe_of(plan.entries[0], 1), tmp_path / "run")
    assert "ended with an error: the weights are" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "error"),
        (ConfigError("memory: lean is for ATGNN's own presets"), "error"),
    ],
)
def test_what_goes_wrong_has_a_name(recipe, tmp_path, monkeypatch, error, problem):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(one, "train", fails)
    plan = planned(recipe)
    found = one.attempt(plan, plan.jobs()[0], Places(tmp_path))
    assert found.problem == problem
    assert found.message


def test_time_and_memory_add_up_over_interruptions(tmp_path):
    path = tmp_path / "clock"
    one.Spent(10, 5, 1e9).write(path)

    def stopped():
        time.sleep(0.05)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), one.stopwatch(path):
        stopped()
    spent = one.Spent.read(path)
    assert 10.05 <= spent.clock < 15
    assert spent.processor >= 5
    assert spent.peak == 1e9


# ---------------------------------------------------------------------- the queue


def processes(monkeypatch, script):
    """Runs execute this instead; it is given OUT and NAME."""
    real = subprocess.Popen

    def start(command, **options):
        return real([sys.executable, "-S", "-c", script, *command[3:]], **options)

    monkeypatch.setattr(work, "Popen", start)


WRITES = """
import os, sys, time
out, name = sys.argv[1:]
open(f"{out}/runs/{name}.began", "w").write(f"{time.time()} {os.environ['OMP_NUM_THREADS']}")
time.sleep(0.4)
model, seed = name.split("-")
text = '{"model": "%s", "seed": %s, "metrics": {"mean_ap": 0.5}}' % (model, seed)
if model == "killed":
    os.kill(os.getpid(), 9)
if model == "broken":
    sys.exit("no such layer")
open(f"{out}/runs/{name}.json", "w").write(text)
"""


def test_a_run_that_fails_does_not_stop_the_others(recipe, tmp_path, monkeypatch):
    processes(monkeypatch, WRITES)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = ("killed=mini", "broken=mini", "good=mini")
    plan = make_plan(recipe, names)
    plan, lines, seen = claim(plan, tmp_path / "out"), [], []
    work.work_off(plan, tmp_path / "out", 3, lines.append, seen.append)
    places = Places(tmp_path / "out")
    killed, broken, good = (Result.read(places.beside(job, "json")) for job in plan.jobs())
    assert killed.problem == "memory"
    assert "signal 9" in killed.message
    assert broken.problem == "error"
    assert "no such layer" in broken.message
    assert good.done
    assert seen[-1].done == seen[-1].of == 3
    assert sum("begins on processor" in line for line in lines) == 3
    began = [places.beside(job, "began").read_text().split() for job in plan.jobs()]
    times = [float(when) for when, _ in began]
    assert max(times) - min(times) < 0.4  # side by side
    assert all(int(threads) >= 1 for _, threads in began)
    # the failed ones are tried again, the good one is not
    run_of_broken = places.run(plan.jobs()[1])
    run_of_broken.mkdir()
    (run_of_broken / "recipe.yaml").touch()
    lines.clear()
    work.work_off(plan, tmp_path / "out", 2, lines.append)
    assert lines[0] == "1 of 3 runs are on record"
    assert sum("killed-42 begins on" in line for line in lines) == 1
    assert sum("broken-42 goes on, on" in line for line in lines) == 1


def test_ctrl_c_ends_the_runs_and_keeps_what_is_done(recipe, tmp_path, monkeypatch):
    processes(monkeypatch, WRITES.replace("time.sleep(0.4)", "time.sleep(60 * (name[0] == 'b'))"))
    monkeypatch.setattr(work, "GRACE", (0.05, 5.0))
    plan = claim(make_plan(recipe, ["a=mini", "b=mini"]), tmp_path / "out")
    started = []

    def show(standing):
        if standing.done == 1 and "b-42" in standing.text:
            started.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.work_off(plan, tmp_path / "out", None, show=show)
    assert time.monotonic() - started[0] < 5
    first, second = plan.jobs()
    places = Places(tmp_path / "out")
    assert Result.read(places.beside(first, "json")).done
    assert Result.read(places.beside(second, "json")) is None
    found = read_standings(plan, tmp_path / "out")
    assert [(row.model, row.runs) for row in found.rows] == [("a", 1), ("b", 0)]


def test_sigterm_ends_the_runs_too(recipe, tmp_path, monkeypatch):
    processes(monkeypatch, "import time; time.sleep(60)")
    plan, children = claim(make_plan(recipe, ["a=mini"]), tmp_path / "out"), []
    before = signal.getsignal(signal.SIGTERM)
    start = work.Popen
    monkeypatch.setattr(
        work, "Popen", lambda *a, **k: children.append(start(*a, **k)) or children[0]
    )
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work.work_off(
            plan, tmp_path / "out", None, show=lambda standing: os.kill(os.getpid(), signal.SIGTERM)
        )
    assert time.monotonic() - begun < 8  # nobody waited for the grace of ten seconds
    assert children[0].returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_knows_the_command_that_began_it(recipe, tmp_path, monkeypatch):
    plan, given = claim(planned(recipe), tmp_path), []

    def start(command, env, **_):
        given.append(env["ATGNN_COMMAND"])
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "Popen", start)
    monkeypatch.setattr(sys, "argv", ["atgnn", "compare", "tones", "--models", "mini"])
    with pytest.raises(KeyboardInterrupt):
        work.work_off(plan, tmp_path)
    assert given == ["atgnn compare tones --models mini"]
    monkeypatch.setenv("ATGNN_COMMAND", given[0])
    monkeypatch.setattr(sys, "argv", ["one.py", "OUT", "mini-42"])
    assert describe_environment(Cluster(), "cpu")["command"] == given[0]


def test_two_calls_do_not_work_in_one_folder(recipe, tmp_path):
    plan = claim(planned(recipe), tmp_path)
    with (
        alone(tmp_path),
        pytest.raises(ConfigError, match="another `atgnn compare` is at work"),
    ):
        work.work_off(plan, tmp_path)


def test_failed_runs_begin_anew_when_their_settings_change(recipe, tmp_path, monkeypatch):
    processes(monkeypatch, WRITES)
    plan = claim(planned(recipe, "a=mini"), tmp_path)
    (job,) = plan.jobs()
    places = Places(tmp_path)
    result("a", problem="diverged", settings=job.entry.settings).write(places.beside(job, "json"))
    places.run(job).mkdir()
    assert work.settled(places, job)
    plan = claim(planned(recipe, "a=mini", settings=["a:optim.learning_rate=1e-5"]), tmp_path)
    work.work_off(plan, tmp_path)
    assert not places.run(job).exists()
    assert Result.read(places.beside(job, "json")).done


def test_every_gpu_has_a_run_of_its_own(recipe, monkeypatch):
    plan = planned(recipe)
    assert [slot.gpu for slot in work.slots_of(plan, 2)] == [None, None]
    monkeypatch.setattr(work, "accelerator", lambda scale: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot.gpu for slot in work.slots_of(plan, None)] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    slots = work.slots_of(plan, 2)
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["4", "6"]


# ---------------------------------------------------------------------- budget


def test_epochs_are_chosen_to_fit(recipe):
    plan = planned(recipe, settings=["optim.epochs=40", "optim.milestones=[10, 20]"])
    own = plan.recipe_of(plan.entries[0], 1)
    seconds = budget.seconds_an_epoch(own, divide(own))
    assert 0 < seconds < 10
    assert budget.fitted(own, 1e-9).optim.epochs == 1
    fitted = budget.with_epochs(own, 80, 3)
    assert fitted.optim.epochs == 80
    assert fitted.optim.milestones == (20, 40)
    assert fitted.optim.warmup_steps == own.optim.warmup_steps == 2
    short = budget.with_epochs(own.model_copy(update={"keep_epochs": 9}), 4, 10)
    assert short.optim.milestones == (1, 2)
    assert short.optim.warmup_steps == 1  # a fortieth and a tenth of the run, one at least
    assert short.keep_epochs == 4


def test_a_budget_without_room_for_an_average_says_so(recipe):
    plan = planned(recipe, settings=["select=averaged", "keep_epochs=2", "optim.epochs=4"])
    with pytest.raises(ConfigError, match="needs two epochs, the budget has room for one"):
        budget.with_epochs(plan.recipe_of(plan.entries[0], 1), 1, 3)


# ---------------------------------------------------------------------- the table


def test_students_t_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 5, 10, 11, 19, 99):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


def test_intervals_come_from_seeds_or_of_a_single_run_from_authors():
    runs = [result(seed=seed, metrics={"mean_ap": ap}) for seed, ap in ((1, 0.6), (2, 0.7))]
    runs.append(result(seed=3, metrics={"mean_ap": 0.8}))
    found = spread_of("mean_ap", runs)
    assert found.source == "seeds"
    assert found.mean == pytest.approx(0.7)
    assert found.high - found.mean == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    alone = spread_of("mean_ap", [result(intervals={"mean_ap": (0.7, 0.9)})])
    assert (alone.low, alone.high, alone.source) == (0.7, 0.9, "authors")
    assert spread_of("mean_ap", [result()]).source == ""


def test_a_result_survives_a_round_trip(tmp_path):
    given = result(settings=("a=1",), intervals={"mean_ap": (0.5, 1.0)}, peak_mb=math.nan)
    given.write(tmp_path / "r.json")
    read = Result.read(tmp_path / "r.json")
    assert math.isnan(read.peak_mb)
    assert read.to_dict() == given.to_dict()
    (tmp_path / "r.json").write_text("{")
    assert Result.read(tmp_path / "r.json") is None


def test_the_table_is_written_in_every_form(recipe, tmp_path):
    names = ("good=mini", "large=lite0", "late=mini")
    plan = claim(make_plan(recipe, names, minutes=3, seeds=2), tmp_path)
    places = Places(tmp_path)
    for job in plan.jobs():
        if job.entry.name == "good":
            found = result("good", job.seed, metrics={"mean_ap": 0.8, "accuracy": 0.7})
        elif job.entry.name == "large":
            words = "CUDA out of memory"
            found = result("large", job.seed, problem="memory", message=words, metrics={})
        else:
            continue
        found.write(places.beside(job, "json"))
    found = read_standings(plan, tmp_path)
    assert write_standings(found, tmp_path) == tmp_path / "report.html"
    text = (tmp_path / "report.md").read_text()
    assert "large: seed 42: out of memory: CUDA out of memory" in text
    assert "late: not run" in text
    assert "budget: 3 min a run" in text
    assert "| good | 0.800 | 0.80-0.80 | 0.700 |" in text
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1].startswith("good,mini,,2,,,1000,0.1,2,0.8,")
    assert len(lines) == 4
    assert (tmp_path / "cost.png").read_bytes()[1:4] == b"PNG"
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["rows"][0]["metrics"]["accuracy"]["mean"] == 0.7
    assert data["rows"][0]["inference_ms"] is None


@pytest.fixture
def wide(recipe, tmp_path):
    """Standings of one run of a model with a long name, perfect, of few authors."""
    plan = claim(make_plan(recipe, ["a-model-with-quite-a-long-name=mini"]), tmp_path)
    ends = {"mean_ap": (0.9, 1.0), "accuracy": (4.93038e-32, 1.0)}
    cautions = ("only 2 authors or recordings: intervals are rough",)
    figures = {"mean_ap": 1.0, "accuracy": 1.0}
    (job,) = plan.jobs()
    result(job.entry.name, metrics=figures, intervals=ends, clips=24, cautions=cautions).write(
        Places(tmp_path).beside(job, "json")
    )
    return read_standings(plan, tmp_path)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_figure_is_cut_in_a_narrow_terminal(wide, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(render(wide, width))
    text = console.file.getvalue()
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert text.count("1.000") == 2
    assert ("0.90-1.00" in text) == (width > 40)
    assert ("GMAC" in text.splitlines()[1]) == (width == 200)
    assert ("no room here for GMAC" in " ".join(text.split())) == (width < 200)


def test_a_pipe_has_every_column(wide, capsys):
    show(partial(render, wide))
    text = capsys.readouterr().out
    assert "…" not in text
    for word in ("GMAC", "1.5 min", "300", "a-model-with-quite-a-long-name"):
        assert word in text


def test_the_table_says_how_many_clips_and_what_intervals_are_worth(wide, tmp_path):
    write_standings(wide, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "- judged on 24 clips" in text
    assert "only 2 authors or recordings: intervals are rough" in text
    assert "e-32" not in (tmp_path / "report.json").read_text()
    row = (tmp_path / "table.csv").read_text().splitlines()[1].split(",")
    assert row[COLUMNS.index("accuracy_low")] == "0"
    assert row[COLUMNS.index("clips")] == "24"


def test_the_axis_of_map_ends_at_one(wide, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    cost_picture(wide, "mean_ap")
    assert 1 < drawn[0].axes[0].get_ylim()[1] < 1.01


def test_calls_take_turns():
    order, settled = [], []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    seconds = timing.turn_by_turn(calls, 3, 1, settle=lambda: settled.append(1))
    assert "".join(order) == "abababab"
    assert [len(row) for row in seconds] == [3, 3]
    assert len(settled) == 16


# ---------------------------------------------------------------------- the command


class InProcess:
    """A process that is none: what it would do is done at once, here."""

    def __init__(self, command, **_):
        main = {"atgnn.comparison.one": one.main, "atgnn.comparison.inference": inference.main}
        self.returncode = main[command[2]](command[3:])

    def poll(self):
        return self.returncode

    wait = poll


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_a_comparison_from_the_command_line(recipe, done, tmp_path, monkeypatch):
    out = shutil.copytree(done, tmp_path / "out")
    monkeypatch.setattr(work, "Popen", InProcess)
    monkeypatch.setattr(whole, "Popen", InProcess)
    words = ("compare", recipe, "--models", "mini,again=mini", "--out", out)
    own = ("--set", f"mini:{SMALL}", "--set", f"again:{SMALL}")
    first = run(*words, *own)
    assert first.exit_code == 0, first.output
    assert "1 of 2 runs are on record" in first.output
    assert "again-42 is done" in first.output
    assert "timing inference of again, mini" in first.output
    table = (out / "table.csv").read_text().splitlines()
    assert len(table) == 3
    times = json.loads((out / "inference.json").read_text())["milliseconds"]
    assert all(0 < times[name] < 10_000 for name in ("mini", "again"))
    second = run(*words, *own, "--json")
    assert second.exit_code == 0, second.output
    rows = json.loads(second.stdout.strip().splitlines()[-1])["rows"]
    assert {row["model"] for row in rows} == {"mini", "again"}
    assert rows[0]["metrics"] == rows[1]["metrics"]  # the same seed, the same model


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "folder"], "expected RECIPE --models A,B --out OUT"),
        (["compare", "folder", "b", "--models", "mini", "--out", "o"], "expected RECIPE --models"),
        (["compare", "folder", "--models", "mini"], "--models needs --out"),
        (["compare", "folder", "--models", "mini", "--out", "o"], "names no clips to compare on"),
        (["compare", "none", "--models", "mini", "--out", "o"], "unknown recipe 'none'"),
        (["compare", "folder", "--models", "minni", "--out", "o"], "did you mean 'mini'"),
        (
            ["compare", "folder", "--models", "mini", "--out", "o", "--fold", "1"],
            "--fold does nothing with --models",
        ),
        (["compare", "a", "b", "c", "--seeds", "2"], "--seeds does nothing without --models"),
        (["compare", "a", "b", "c", "--out", "o"], "--out does nothing without --models"),
    ],
)
def test_wrong_calls_are_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run(*words)
    assert found.exit_code == 2
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
