"""What the documentation tells readers to type: its fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
]

#: A line before a Python block that a test cannot run, with the reason: <!-- not run: why -->
NOT_RUN = re.compile(r"(?m)^<!-- not run: (.+) -->$")

#: A line before a Python block that needs packages of another extra than the tests':
#: <!-- needs: transformers -->. Where they are installed it is run.
NEEDS = re.compile(r"(?m)^<!-- needs: (.+) -->$")

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*([\w+-]*)")
_SEPARATORS = {"&&", "||", ";", "|", "&", "(", ")"}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language ("" for none), and what stands before it."""

    page: Path
    line: int
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page; ValueError where one does not end."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        start = number
        while number < len(lines) and not lines[number].strip().startswith(opening[1]):
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start}: this block does not end")
        before = lines[start - 2] if start > 1 else ""
        yield Block(page, start, opening[2], "\n".join(lines[start:number]), before)
        number += 1


def lacking(block: Block) -> list[str]:
    """The packages that a block needs and that are not installed."""
    match = NEEDS.search(block.before)
    names = [name.strip() for name in match[1].split(",")] if match else []
    return [name for name in names if find_spec(name) is None]


def commands(block: Block) -> Iterator[list[str]]:
    """The arguments of every `atgnn` command in a block of shell, however it is started."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    joined = re.sub(r"\$\{?\w+\}?", "1", joined)  # a shell variable: some number
    for line in joined.splitlines():
        for words in _simple(line):
            arguments = _arguments(words)
            if arguments is not None:
                yield arguments


def _simple(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, redirections left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    try:
        tokens = list(lexer)
    except ValueError:  # a quote that does not end: output or prose, not a command
        tokens = []
    skip = False
    for token in tokens:
        if skip:
            skip = False
        elif token in _SEPARATORS:
            yield words
            words = []
        elif set(token) <= {"<", ">"}:
            skip = True
        else:
            words.append(token)
    yield words


def _arguments(words: list[str]) -> list[str] | None:
    """What follows `atgnn` where it is what the words start, directly or through a launcher."""
    while words and ("=" in words[0] or words[0] in ("do", "time", "$")):
        words = words[1:]
    if not words:
        return None
    names = [word.rsplit("/", 1)[-1] for word in words]
    if names[0] == "atgnn":
        return words[1:]
    if names[0] in ("srun", "nice", "xargs") and "atgnn" in names:
        return words[names.index("atgnn") + 1 :]
    if names[0] in ("torchrun", "python", "python3"):
        for place in range(1, len(words)):
            if words[place - 1 : place + 1] == ["-m", "atgnn"]:
                return words[place + 1 :]
    return None
