"""What the documentation shows works: every command parses, every Python block runs."""

import re
import shlex
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import typer
from fences import NEEDS, NOT_RUN, PAGES, ROOT, Block, blocks, commands, lacking
from helpers import RATE, sound, tiny_checkpoint, write
from other_models import made_onnx, save_ast
from test_learn import few_sounds_by_rule  # noqa: F401  (in learn.md, for every page)
from typer.testing import CliRunner

from atgnn.cli import app
from atgnn.cli.base import Commands, UsageError
from atgnn.cli.overview import GROUPS

COMMANDS = typer.main.get_command(app)
SHELLS = {"", "sh", "bash", "shell", "console"}
SHELL_BLOCKS = [one for page in PAGES for one in blocks(page) if one.language in SHELLS]
PYTHON = {page: [one for one in blocks(page) if one.language == "python"] for page in PAGES}


def parse(arguments: list[str]) -> None:
    """Let the real command line read the arguments, to the end; nothing is run."""
    command, parent, name = COMMANDS, None, "atgnn"
    while True:
        # `Commands` would print an error and exit: what it inherits raises.
        ours = isinstance(command, Commands)
        make = super(Commands, command).make_context if ours else command.make_context
        context = make(name, list(arguments), parent=parent)
        if not hasattr(command, "resolve_command"):
            return
        rest = [*getattr(context, "_protected_args", []), *context.args]
        name, command, arguments = command.resolve_command(context, rest)
        parent = context


def problem_of(arguments: list[str]) -> str:
    """What the command line has against the arguments, or nothing."""
    try:
        parse(arguments)
    except UsageError as error:
        return error.format_message()
    except (typer.Exit, SystemExit) as end:  # --help, --version
        code = getattr(end, "exit_code", getattr(end, "code", 1))
        return f"exit code {code}" if code else ""
    return ""


def test_every_command_in_the_documentation_is_one():
    wrong, seen = [], 0
    for block in SHELL_BLOCKS:
        for arguments in commands(block):
            seen += 1
            problem = problem_of(arguments)
            if problem:
                wrong.append(f"{block}: atgnn {shlex.join(arguments)}: {problem}")
    assert not wrong, "\n".join(wrong)
    assert seen > 30


def test_commands_named_in_prose_exist():
    """`atgnn tag --top` in running text: the command, and every option of it."""
    wrong = []
    for page in PAGES:
        prose = re.sub(r"(?ms)^\s*```.*?^\s*```", "", page.read_text(encoding="utf-8"))
        for code in re.findall(r"`atgnn ([^`\n]+)`", prose):
            wrong += [f"{page.name}: atgnn {code}: {one}" for one in missing(code.split())]
    assert not wrong, "\n".join(wrong)


def missing(words: list[str]) -> list[str]:
    """Commands and options among the words which the command line does not have."""
    command = COMMANDS
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return [f"there is no command {words[0]}"]
        command, words = command.commands[words[0]], words[1:]
    known = {"-h", "--help"}.union(*(one.opts + one.secondary_opts for one in command.params))
    given = [word.split("=")[0] for word in words if word.startswith("--")]
    return [f"there is no option {option}" for option in given if option not in known]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("atgnn tag a.wav --no-such-option", "No such option"),
        ("atgnn tga a.wav", "No such command"),
        ("atgnn tag a.wav --top many", "Invalid value for '--top'"),
        ("atgnn evaluate --fold", "requires an argument"),
        ("X=1 .venv/bin/atgnn tag 'a b.wav' --top 3 > out.txt   # three", ""),
        ("pip install . && atgnn tga a.wav | head", "No such command"),
        ("torchrun --nproc-per-node 4 -m atgnn train fsd50k --otu RUN", "No such option"),
        ("for k in 1 2; do atgnn score M C --fold $k --ot x; done", "No such option"),
        ("atgnn tag a.wav \\\n  --jsno", "No such option"),
    ],
)
def test_the_check_sees_what_is_wrong(line, found):
    block = Block(ROOT / "README.md", 1, "sh", line, "")
    (arguments,) = commands(block)
    assert (found in problem_of(arguments)) if found else not problem_of(arguments)


def test_prose_is_checked_too():
    assert missing(["tag", "--top", "3"]) == []
    assert missing(["prepare", "scenes", "--colour"]) == ["there is no option --colour"]
    assert missing(["tga"]) == ["there is no command tga"]


def test_a_block_without_an_end_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```sh\natgnn doctor\n")
    with pytest.raises(ValueError, match=r"page\.md:1: this block does not end"):
        list(blocks(page))


def test_blocks_that_are_not_run_say_why():
    """A reason is a sentence, and it stands before a block of Python."""
    for page in PAGES:
        reasons = [one for one in PYTHON[page] if NOT_RUN.search(one.before)]
        assert len(reasons) == len(NOT_RUN.findall(page.read_text(encoding="utf-8"))), page.name


def test_packages_that_blocks_need_are_in_an_extra():
    extras = (ROOT / "pyproject.toml").read_text()
    for page in PAGES:
        marks = NEEDS.findall(page.read_text(encoding="utf-8"))
        assert len(marks) == sum(bool(NEEDS.search(one.before)) for one in PYTHON[page]), page.name
        for name in (name.strip() for mark in marks for name in mark.split(",")):
            assert re.search(rf'"{name}[>="]', extras), f"{page.name}: {name}"


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """A folder with all that the examples name, made by code: sounds, a run, a packed folder."""
    from atgnn.data.clips import Clips
    from atgnn.data.store import PackedWaveforms
    from atgnn.encoder import Encoder

    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "examples", desk / "examples")
    named = ["dog.wav", "night.flac", "new.wav", "pasture.wav", "a.wav", "b.wav", "c.wav"]
    for number, name in enumerate([*named, "recordings/20260601_050000.wav"]):
        write(desk / name, sound(3, seed=number), RATE)
    for number, label in enumerate(("Bark", "Bark", "Rain", "Rain")):
        write(desk / "SOUNDS" / label / f"{number}.wav", sound(1, seed=number), RATE)
    checkpoint = tiny_checkpoint()
    checkpoint.save_pretrained(desk / "RUN" / "model")
    Encoder(
        checkpoint.model.encoder,
        checkpoint.model.config,
        checkpoint.front_end,
        checkpoint.provenance,
    ).save_pretrained(desk / "RUN" / "encoder")
    places = [str(desk / name) for name in ("recordings", "RESULTS", "RUN/model")]
    tag = ["tag", places[0], "--out", places[1], "--model", places[2], "--events"]
    made = CliRunner().invoke(app, tag)
    assert made.exit_code == 0, made.output
    PackedWaveforms.write(Clips.read(desk / "SOUNDS"), desk / "fsd50k-16k", RATE)
    np.save(desk / "passt.npy", np.random.default_rng(0).normal(-2, 2, (4, 527)))
    (desk / "names.txt").write_text("0.wav\n1.wav\n2.wav\n3.wav\n")
    if find_spec("transformers"):
        save_ast(desk / "hf-model")
    if find_spec("onnx"):
        made_onnx(desk / "model.onnx", checkpoint)
    return desk


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if PYTHON[page]],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_in_the_documentation_runs(page, desk, monkeypatch, capsys):
    """The blocks of a page run one after another, as a reader would type them."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("XDG_CACHE_HOME", str(desk / "cache"))
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in PYTHON[page]:
        if NOT_RUN.search(block.before) or lacking(block):
            continue
        # Line numbers of a failure are those of the page.
        exec(compile("\n" * block.line + block.text, str(page), "exec"), names)


def test_every_command_is_in_a_group_and_its_help_has_examples_that_parse():
    prepare = COMMANDS.commands["prepare"].commands
    named = [((name,), one) for name, one in COMMANDS.commands.items()]
    named += [(("prepare", name), one) for name, one in prepare.items()]
    listed = COMMANDS.list_commands(None)
    assert [one for group in GROUPS.values() for one in group] == listed
    for words, command in named:
        title = " ".join(words)
        assert len(words) > 1 or command.rich_help_panel in GROUPS, title
        said, *examples = (command.epilog or "").split("\n\n")
        assert said.startswith("Example"), f"{title}: list it in atgnn/cli/overview.py"
        own = False
        for example in examples:
            (arguments,) = commands(Block(ROOT / "overview.py", 1, "sh", example, ""))
            assert problem_of(arguments) == "", example
            own |= arguments[: len(words)] == list(words)
        assert own, f"{title}: no example of it"
