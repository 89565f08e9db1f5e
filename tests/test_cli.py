"""The command line: what it prints where, and its exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import LABELS, RATE, sound, tiny_checkpoint, write
from typer.testing import CliRunner

import atgnn
from atgnn.cli import app
from atgnn.costs import CLASSES, FRAMES, kept_costs
from atgnn.model import PRESETS
from atgnn.networks import network_names, preset_costs
from atgnn.shipped import shipped_models
from atgnn.tagger import Tagger

ATGNN = [sys.executable, "-c", "from atgnn.cli import main; main()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_checkpoint().save_pretrained(tmp_path_factory.mktemp("m") / "model"))


@pytest.fixture
def sounds(tmp_path) -> Path:
    folder = tmp_path / "sounds"
    write(folder / "b.wav", sound(3, seed=1))
    write(folder / "deep" / "a.flac", sound(1, seed=2))
    write(folder / "deep" / "c.ogg", sound(1, seed=3))
    (folder / "notes.txt").write_text("not a sound")
    return folder


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    shown = f"{result.output}\n{result.exception!r}"
    assert result.exit_code == code, shown
    assert "Traceback" not in shown
    return result


def objects(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_json_lines(model, sounds):
    result = run("tag", sounds / "b.wav", "--model", model, "--json", "--top", 2, "--ancestors")
    (one,) = objects(result)
    assert list(one) == ["path", "duration", "tags"]
    assert one["path"] == str(sounds / "b.wav")
    assert one["duration"] == 3
    scores = Tagger.from_pretrained(model, "cpu").scores(sounds / "b.wav")
    best = np.argsort(-scores)[:2]
    assert [tag["label"] for tag in one["tags"]] == [LABELS[i] for i in best]
    np.testing.assert_allclose([tag["score"] for tag in one["tags"]], scores[best], atol=1e-5)
    assert result.stderr == ""


def test_silence_at_the_ends_is_left_out_where_asked_for(model, tmp_path):
    part = sound(2, seed=5)
    bare = write(tmp_path / "bare.wav", part)
    padded = write(tmp_path / "padded.wav", np.pad(part, (20_000, 40_000)))
    options = ("--model", model, "--json", "--threshold", 0)
    (expected,) = objects(run("tag", bare, *options))
    (found,) = objects(run("tag", padded, *options, "--trim-silence", 60))
    assert found["duration"] == pytest.approx(2, abs=0.011)
    for tag, other in zip(found["tags"], expected["tags"], strict=True):
        assert tag["score"] == pytest.approx(other["score"], abs=1e-4)
    result = run("tag", padded, "--model", model, "--trim-silence", "nan", code=2)
    assert "greater than or equal to 1" in result.stderr
    for more in (("--events",), ("--out", tmp_path / "out")):
        result = run("tag", padded, "--model", model, "--trim-silence", 60, *more, code=2)
        assert "--trim-silence is for the tags of whole files" in result.stderr


def test_folders_give_paths_below_the_argument_as_given(model, sounds, monkeypatch):
    monkeypatch.chdir(sounds.parent)
    for given in ("sounds", "./sounds", "sounds/", str(sounds)):
        result = run("tag", given, "--model", model, "--json")
        expected = [os.path.join(given, name) for name in ("b.wav", "deep/a.flac", "deep/c.ogg")]
        assert [one["path"] for one in objects(result)] == expected


def test_thresholds_and_ancestors(model, sounds):
    everything = ("tag", sounds / "b.wav", "--model", model, "--json", "--threshold", 0)
    (one,) = objects(run(*everything, "--ancestors"))
    assert len(one["tags"]) == len(LABELS)
    scores = [tag["score"] for tag in one["tags"]]
    assert scores == sorted(scores, reverse=True)
    (one,) = objects(run(*everything))
    assert {tag["label"] for tag in one["tags"]} == {"Bark", "Rain", "Siren"}
    (one,) = objects(run("tag", sounds / "b.wav", "--model", model, "--json", "--threshold", 1))
    assert one["tags"] == []


def test_a_table_for_few_and_lines_for_many(model, sounds):
    result = run("tag", sounds, "--model", model, "--top", 2)
    assert "notes.txt" not in result.stdout
    assert result.stdout.count("deep/a.flac") == 1
    assert "3.0 s" in result.stdout
    many = [sounds / "b.wav"] * 12
    lines = run("tag", *many, "--model", model, "--top", 1).stdout.splitlines()
    assert len(lines) == 12
    assert all("b.wav" in line and any(label in line for label in LABELS) for line in lines)


def test_an_empty_result_says_so(model, sounds):
    result = run("tag", sounds / "b.wav", "--model", model, "--threshold", 1)
    assert "no label reached its threshold; the nearest" in result.stdout


def test_bad_files_are_reported_and_the_rest_go_on(model, sounds):
    (sounds / "broken.wav").write_text("this is text")
    (sounds / "none").mkdir()
    result = run(
        *("tag", "missing.wav", sounds, sounds / "none", sounds / "b.wav"),
        *("--model", model, "--json", "--batch-size", 2),
        code=1,
    )
    assert [Path(one["path"]).name for one in objects(result)] == [
        "b.wav",
        "a.flac",
        "c.ogg",
        "b.wav",
    ]
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("atgnn: ") for line in lines)
    for part in ("missing.wav: no such file", "broken.wav: holds text", "none: no sounds"):
        assert sum(part in line for line in lines) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tag"], "PATH"),
        (["tag", "x.wav", "--nonsense"], "--nonsense"),
        (["tag", "x.wav", "--top", "0"], "--top"),
        (["tag", "x.wav", "--threshold", "2"], "--threshold"),
        (["tag", "x.wav", "--batch-size", "0"], "--batch-size"),
        (["tag", "x.wav", "--model", "nonsense"], "atgnn: no model 'nonsense'"),
        (["tag", "x.wav", "--device", "abacus"], "atgnn: device 'abacus'"),
        (["nonsense"], "nonsense"),
        (["train", "nonsense", "--out", "run"], "atgnn: unknown recipe 'nonsense'"),
        (["evaluate", "nonsense", "clips.csv"], "atgnn: no model"),
    ],
)
def test_wrong_usage_is_code_2_and_says_what(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, code=2)
    assert expected in result.stderr
    assert result.stdout == ""
    if expected.startswith("atgnn:"):
        assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback():
    result = CliRunner().invoke(app, ["--debug", "tag", "x.wav", "--model", "nonsense"])
    assert isinstance(result.exception, ValueError)


def test_version_and_help():
    assert run("--version").stdout == f"atgnn {atgnn.__version__}\n"
    text = run("--help").stdout
    assert all(command in text for command in ("tag", "models", "train", "evaluate", "recipes"))


def test_warns_once_of_the_band(model, tmp_path):
    seconds = np.arange(48_000) / 48_000
    whistle = np.sin(2 * np.pi * 15_000 * seconds).astype(np.float32)
    paths = [write(tmp_path / f"{name}.wav", whistle, 48_000) for name in "abc"]
    result = run("tag", *paths, "--model", model, "--json")
    (line,) = result.stderr.splitlines()
    assert line.startswith("atgnn: warning: ")
    assert "20 and 8000 Hz" in line
    assert len(objects(result)) == 3


def test_models_json_has_the_paper_s_figures():
    figures = {"pyr-s-encoder": 26.84, "pyr-s": 35.43, "pyr-m-encoder": 49.19, "pyr-m": 63.10}
    assert set(figures) < set(PRESETS)
    listed = {one["name"]: one for one in json.loads(run("models", "--json").stdout)}
    assert set(listed["pyr-s"]) == {"name", "trainable_parameters", "stored_parameters", "gmacs"}
    for name, millions in figures.items():
        assert isinstance(listed[name]["trainable_parameters"], int)
        assert listed[name]["trainable_parameters"] == pytest.approx(millions * 1e6, rel=0.005)
        assert listed[name]["stored_parameters"] >= listed[name]["trainable_parameters"]
    assert listed["pyr-s-encoder"]["gmacs"] == pytest.approx(12.88, rel=0.005)
    assert listed["pyr-m-encoder"]["gmacs"] == pytest.approx(24.83, rel=0.005)


def test_kept_figures_are_those_that_are_measured():
    kept = kept_costs()
    assert list(kept) == network_names()
    measured, _ = preset_costs(FRAMES, num_labels=CLASSES)
    for name, cost in measured.items():
        assert kept[name].trainable_parameters == cost.trainable_parameters
        assert kept[name].stored_parameters == cost.stored_parameters
        assert kept[name].gmacs == pytest.approx(cost.gmacs, rel=1e-12)


def test_models_are_listed_without_pytorch():
    code = "import sys; sys.modules['torch'] = None; from atgnn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "models"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "everyday-mini" in done.stdout


def test_models_table_shows_ours_beside_the_paper_s():
    text = run("models", "--classes", 200).stdout
    (row,) = [line for line in text.splitlines() if line.split()[:1] == ["pyr-s"]]
    for figure in ("35.43 M", "36.4 M", "14.72"):
        assert figure in row
    assert "Models that ship" in text
    smaller = run("models", "--classes", 10, "--frames", 100, "--json").stdout
    assert json.loads(smaller)[1]["trainable_parameters"] < 35_000_000


def test_recipes_are_listed():
    assert "esc10" in run("recipes").stdout


def test_train_hands_the_recipe_over(monkeypatch, tmp_path):
    from atgnn.training import run as training

    calls = []

    def train(recipe, out, *, resume=False):
        calls.append((recipe, out, resume))
        return out / "model"

    monkeypatch.setattr(training, "train", train)
    result = run(
        *("train", "esc10", "--out", tmp_path / "run", "--resume"),
        *("--clips", "some: folder", "--clips", "b.csv", "--set", "optim.epochs=3"),
    )
    ((recipe, out, resume),) = calls
    assert recipe.data.clips == ("some: folder", "b.csv")
    assert recipe.optim.epochs == 3
    assert (out, resume) == (tmp_path / "run", True)
    assert str(tmp_path / "run" / "model") in result.stdout


def clips_table(folder: Path) -> Path:
    lines = ["path,labels,fold"]
    for index, label in enumerate(["Bark", "Rain", "Siren", "Rain"]):
        write(folder / f"{index}.wav", sound(1, seed=index))
        lines.append(f"{index}.wav,{label},{index % 2}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def test_evaluate(model, tmp_path):
    table = clips_table(tmp_path)
    data = json.loads(run("evaluate", model, table, "--json").stdout)
    assert data["clips"] == 4
    assert 0 < data["mean_ap"] <= 1
    assert "accuracy" in data
    assert len(data["per_class"]) == len(LABELS)
    folds = json.loads(run("evaluate", model, table, "--json", "--fold", 1).stdout)
    assert folds["clips"] == 2
    text = run("evaluate", model, table, "--per-class").stdout
    for part in ("mAP", "AUC", "d'", f"{data['mean_ap']:.3f}", *LABELS):
        assert part in text
    assert "fold 9" in run("evaluate", model, table, "--fold", 9, code=2).stderr
    assert "no column 'split'" in run("evaluate", model, table, "--split", "x", code=2).stderr


def test_evaluate_refuses_foreign_labels(model, tmp_path):
    table = clips_table(tmp_path)
    table.write_text(table.read_text().replace("Siren", "Cello"))
    result = run("evaluate", model, table, code=2)
    assert "Cello" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    ignored = run("evaluate", model, table, "--json", "--ignore-unknown-labels")
    assert json.loads(ignored.stdout)["ignored_labels"] == ["Cello"]


# --- as a process


def test_a_closed_pipe_is_quiet(model, tmp_path):
    path = write(tmp_path / "a.wav")
    command = [*ATGNN, "tag", *[str(path)] * 400, "--model", model, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["path"] == str(path)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_ctrl_c_is_code_130(model, tmp_path):
    path = write(tmp_path / "a.wav", sound(20), RATE)
    command = [*ATGNN, "tag", *[str(path)] * 2000, "--model", model, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().strip() == "atgnn: stopped"


def test_names_that_are_not_text(model, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\n.wav"
    Path(os.fsdecode(path)).write_bytes(write(tmp_path / "a.wav").read_bytes())
    for more in ([], ["--json"]):
        command = [*map(os.fsencode, [*ATGNN, "tag", "--model", model, *more]), path]
        done = subprocess.run(command, capture_output=True, check=True)
        assert done.stderr == b""
    assert os.fsencode(json.loads(done.stdout)["path"]) == path


# --- with the model that ships


@pytest.fixture
def shipped() -> str:
    return shipped_models()[0]


def test_the_shipped_model_is_the_default(shipped, sounds):
    (one,) = objects(run("tag", sounds / "b.wav", "--json", "--top", 1))
    (same,) = objects(run("tag", sounds / "b.wav", "--json", "--top", 1, "--model", shipped))
    assert one == same
    assert shipped in run("models").stdout


@pytest.mark.slow
def test_a_cold_call_takes_under_five_seconds(shipped, tmp_path):
    path = write(tmp_path / "a.wav", sound(10))
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([*ATGNN, "tag", str(path)], check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    assert min(times) < 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tag", "a.wav", "--tpo", "3"], "--tpo"),
        (["tga"], "tga"),
        (["tag", "a.wav", "--top", "0"], "--top"),
        (["train", "folder"], "--out"),
        (["tag"], "PATH"),
        (["--nothing"], "--nothing"),
    ],
)
def test_wrong_usage_is_one_line(arguments, said):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("atgnn: ")
    assert said in line
    assert "--help" in line
