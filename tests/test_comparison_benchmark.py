"""The small-data comparison: what is tried, what is chosen, what is on record."""

import csv

import numpy as np
import pytest

pytest.importorskip("sklearn")

from atgnn.comparison.result import Result
from atgnn.networks import network_names
from benchmarks.comparison import classical, run
from benchmarks.comparison.report import tables
from benchmarks.comparison.scenarios import FOLDS, SCENARIOS, SYSTEMS, after, trials


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(run, "LOOKS", tmp_path / "looks.csv")


def terms(tmp_path, **changes):
    given = {
        "scenario": SCENARIOS["esc10"],
        "data": tmp_path,
        "out": tmp_path,
        "systems": ("mini", "mfcc-svm"),
        "trials": 2,
        "tune": (1, 3),
        "tests": (1,),
        "minutes": 3.0,
        "seeds": 1,
        "jobs": None,
    }
    return run.Terms(**{**given, **changes})


def found(accuracy, seed=1, **more):
    return Result("mini", seed, metrics={"accuracy": accuracy, "mean_ap": 0.5}, **more)


def test_every_system_has_as_many_trials():
    for system in SYSTEMS.values():
        assert system.preset in network_names()
        tried = trials(system, 3)
        assert len(tried) == len(set(tried)) == 3
        assert [one[-1] for one in tried] == [one[-1] for one in trials(SYSTEMS["mini"], 3)]
    for name in classical.SPACES:
        assert len(classical.draw(name, 3, 0)) == 3


def test_the_fold_after_the_last_is_the_first():
    assert [after(fold) for fold in FOLDS] == [2, 3, 4, 5, 1]


def test_the_trial_with_the_best_mean_is_chosen(tmp_path):
    own = terms(tmp_path)
    for test, number, accuracy in ((1, 0, 0.9), (1, 1, 0.7), (3, 0, 0.5), (3, 1, 0.8)):
        run.record(run.row_of(own, "mini", "tune", test, number, found(accuracy)))
    assert run.chosen(own, "mini") == 1
    assert run.chosen(terms(tmp_path, tune=(1,)), "mini") == 0
    assert run.chosen(terms(tmp_path, trials=1), "mini") == 0
    assert not run.LOOKS.exists()  # validation folds are no looks


def test_a_run_is_recorded_once_and_a_test_fold_is_a_look(tmp_path):
    row = run.row_of(terms(tmp_path), "mini", "test", 1, 0, found(0.8))
    run.record(row)
    run.record(row)
    with run.RESULTS.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
    (look,) = run.LOOKS.read_text().splitlines()
    assert look.split(",")[1:3] == ["ESC-10", "1"]
    assert "0.8000" in look
    failed = run.row_of(
        terms(tmp_path), "ast", "test", 1, 0, found(0.0, problem="memory", message="full")
    )
    run.record(failed)
    assert len(run.LOOKS.read_text().splitlines()) == 1


def test_the_report_puts_systems_in_order_and_says_what_failed(tmp_path):
    own = terms(tmp_path)
    for system, test, accuracy in (("mini", 1, 0.7), ("mini", 2, 0.9), ("small-cnn", 1, 0.85)):
        more = {"parameters": 2_000_000, "epochs": 30, "cpu_seconds": 180.0}
        run.record(run.row_of(own, system, "test", test, 0, found(accuracy, **more)))
    run.record(run.row_of(own, "ast", "test", 1, 0, found(0.0, problem="memory", message="full")))
    run.record(run.row_of(own, "mini", "tune", 1, 0, found(0.6)))
    text = tables(SCENARIOS["esc10"], run.on_record())
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| small-cnn | 0.850 |")
    assert rows[2].startswith("| mini | 0.800 | 0.700 to 0.900 | 1 2 | 2 | 2.00 |")
    assert "- ast, fold 1: memory: full" in text
    assert "| mini 0 | 0.600 |" in text


def test_a_classical_system_is_judged_on_what_it_has_not_heard():
    random = np.random.default_rng(0)
    label = np.arange(40) % 2
    mels = [random.normal(size=(50, 64)) * (1 + 5 * one) + 20 * one for one in label]
    targets = label[:, None] == np.arange(2)
    folds = np.arange(40) // 8 + 1
    row = run.classical_run(
        "mfcc-svm", classical.draw("mfcc-svm", 1, 0)[0], mels, targets, folds == 2, folds == 1, 1,
        0.01,
    )  # fmt: skip
    assert row["accuracy"] == 1
    assert row["train_seconds"] >= 0.01 * 24  # of the three other folds
    assert row["inference_ms"] >= 10
    swapped = targets.copy()
    swapped[folds == 2] = ~swapped[folds == 2]
    wrong = run.classical_run(
        "mfcc-svm", classical.draw("mfcc-svm", 1, 0)[0], mels, swapped, folds == 2, folds == 1, 1,
        0.01,
    )  # fmt: skip
    assert wrong["accuracy"] == 0


def test_bad_input_is_one_line(tmp_path, capsys):
    words = ["run", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "o")]
    assert run.main([*words, "--scenario", "esc10", "--systems", "mini", "--trials", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
