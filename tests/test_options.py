"""Options that several commands share, options without effect, and what is wrong usage."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from helpers import sound, write
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.cli.base import grouped, refuse_idle
from atgnn.errors import ConfigError

CALIBRATE = ("calibrate", "m", "--scores", "s", "--clips", "c", "--out", "o")


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


# ---------------------------------------------------------------------- shared options


@dataclass(frozen=True)
class Shared:
    out: Annotated[str, typer.Option(help="Where to.")]
    names: Annotated[list[str] | None, typer.Option("--name")] = None
    loud: Annotated[bool, typer.Option("--loud")] = False


@pytest.fixture
def two():
    """Two commands that share options, and what they were called with."""
    small, calls = typer.Typer(), []

    @small.command()
    @grouped
    def first(context: typer.Context, word: str, shared: Shared, count: int = 1) -> None:
        """The first."""
        calls.append((word, shared, count))
        if not shared.loud:
            refuse_idle(context, "without --loud", "count", "names")

    @small.command()
    @grouped
    def second(shared: Shared) -> None:
        """The second."""
        calls.append(shared)

    return small, calls


def test_a_group_of_options_arrives_as_one_argument(two):
    small, calls = two
    words = ["first", "w", "--out", "o", "--name", "a", "--name", "b", "--loud", "--count", "3"]
    assert CliRunner().invoke(small, words).exit_code == 0
    assert calls.pop() == ("w", Shared("o", ["a", "b"], True), 3)
    assert CliRunner().invoke(small, ["second", "--out", "o"]).exit_code == 0
    assert calls.pop() == Shared("o")
    shown = CliRunner().invoke(small, ["second", "--help"]).output
    assert "Where to." in shown
    assert "The second." in shown
    assert CliRunner().invoke(small, ["second"]).exit_code != 0  # what has no default is required


def test_idle_options_are_refused_as_they_are_spelled(two):
    small, _ = two
    for words, said in (
        (["--count", "1"], "--count does nothing without --loud: leave it out"),
        (["--name", "a", "--count", "2"], "--count and --name do nothing without --loud"),
    ):
        result = CliRunner().invoke(small, ["first", "w", "--out", "o", *words])
        assert isinstance(result.exception, ConfigError)
        assert said in str(result.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "c", "--scores", "s", "--device", "cpu"], "--device does nothing with --sco"),
        (
            ["evaluate", "c", "--scores", "s", "--precision", "float32", "--batch-size", "2"],
            "--precision and --batch-size do nothing with --scores",
        ),
        (["evaluate", "m", "c", "--force"], "--force does nothing without --report"),
        (["compare", "a", "b", "c", "--force"], "--force does nothing without --report"),
        (["recipes", "--yaml"], "--yaml does nothing without a recipe"),
        (["recipes", "esc10", "--yaml", "--markdown"], "--markdown does nothing with --yaml"),
        (["models", "--classes", "100000000000"], "'--classes': Input should be less than"),
        (["packs", "p", "--force"], "--force does nothing without --out"),
        (["tag", "a.wav", "--events", "--top", "2"], "--top does nothing with --events in a form"),
        (
            ["tag", "a.wav", "--events", "--on", "0.5", "--threshold", "0.4", "--format", "csv"],
            "--threshold does nothing beside --on",
        ),
        (
            [*CALIBRATE, "--one-threshold", "--shrink", "2"],
            "--shrink does nothing with --one-threshold",
        ),
        (
            [*CALIBRATE, "--no-thresholds", "--one-threshold"],
            "--one-threshold does nothing with --no-thresholds",
        ),
        (["prepare", "esc50", "r", "--out", "o", "--mirror", "x"], "--mirror does nothing without"),
    ],
)
def test_options_without_effect_are_refused_in_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_ensemble_of_score_files_needs_no_device(tmp_path):
    write(tmp_path / "s.parquet", sound(0.1), format="WAV")
    result = run(
        "ensemble", tmp_path / "s.parquet", "--out", tmp_path / "o.parquet", "--device=cpu"
    )
    assert result.exit_code == 2
    assert "--device does nothing with score files alone" in result.stderr


def test_no_help_has_brackets_which_would_be_taken_for_markup():
    """What stands where nothing is given is `show_default`."""

    def helps(command):
        yield command.help
        yield from (getattr(one, "help", None) for one in command.params)
        for below in getattr(command, "commands", {}).values():
            yield from helps(below)

    found = [text for text in helps(typer.main.get_command(app)) if text]
    assert len(found) > 200
    assert not [text for text in found if "[" in text]


# ---------------------------------------------------------------------- wrong usage


COMMANDS = (
    "prepare folder NO --out OUT",
    "prepare folder FILE --out OUT",
    "prepare folder EMPTY --out OUT",
    "prepare table NO --out OUT",
    "prepare fsd50k NO --out OUT",
    "prepare audioset NO --out OUT",
    "prepare audioset NO --list LIST --out OUT",
    "prepare esc50 NO --out OUT",
    "prepare manifest NO --out OUT",
    "prepare manifest MANIFEST --audio NO --out OUT",
    "prepare scenes NO --out OUT",
    "prepare check NO",
    "train folder --clips NO --out OUT",
    "pretrain NO --out OUT",
    "pretrain EMPTY --out OUT",
    "score everyday-mini NO --out OUT.parquet",
    "evaluate everyday-mini NO",
    "evaluate everyday-mini EMPTY",
    "average NO",
    "ensemble NO --out OUT.parquet",
    "enhance --clips NO --scores NO --out OUT.csv",
    "calibrate everyday-mini --scores NO --clips NO --out OUT",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_there_is_exit_code_2_for_every_command(command, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("text")
    (tmp_path / "LIST").write_text('x, 0.000, 10.000, "/m/09x0r"\n')
    (tmp_path / "MANIFEST").write_text('{"data": [{"wav": "a.wav", "labels": "x"}]}')
    words = command.split()
    words = [str(tmp_path / word) if word.split(".")[0].isupper() else word for word in words]
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("atgnn: ")
    assert result.stderr.count("\n") == 1


LISTENING = (
    "tag SOUNDS",
    "tag SOUNDS --events",
    "tag SOUNDS --out OUT",
    "explain SOUNDS --out OUT.json",
    "learn word SOUNDS --out OUT.pack",
    "learn word GOOD --not SOUNDS --out OUT.pack",
    "embed SOUNDS --out OUT.parquet",
    "index SOUNDS --out OUT",
)


@pytest.mark.parametrize("command", LISTENING)
@pytest.mark.parametrize("sounds", ["NO", "EMPTY"])
def test_sound_that_is_not_there_is_exit_code_1_for_every_command(command, sounds, tmp_path):
    if command.startswith("index"):
        pytest.importorskip("faiss")
    (tmp_path / "EMPTY").mkdir()
    write(tmp_path / "GOOD" / "a.wav", sound(0.5))
    words = command.replace("SOUNDS", sounds).split()
    words = [str(tmp_path / word) if word.split(".")[0].isupper() else word for word in words]
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("atgnn: ")
