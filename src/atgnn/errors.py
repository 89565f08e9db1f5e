"""Errors that a user can act on.

Every message says what came, what was expected and what to do, in one line. The command
line prints the message alone; from Python they are ordinary ``ValueError`` subclasses.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "AtgnnError",
    "AtgnnWarning",
    "AudioError",
    "CheckpointError",
    "ClipsError",
    "ConfigError",
    "DivergedError",
    "DownloadError",
    "KernelError",
    "LabelError",
    "MissingExtraError",
    "counted",
    "describe_error",
    "did_you_mean",
    "install_command",
    "is_text",
    "printable",
    "some_of",
]


class AtgnnError(ValueError):
    """Something the user gave is not what was expected."""


class AtgnnWarning(UserWarning):
    """What the user gave is used, but not quite as it was given; one line, like our errors."""


class AudioError(AtgnnError):
    """A recording cannot be read, or holds no usable sound."""


class ConfigError(AtgnnError):
    """A preset, recipe or setting is unknown or does not fit."""


class DivergedError(AtgnnError):
    """A training run whose loss or scores are no numbers any more."""


class LabelError(AtgnnError):
    """A label is not in the vocabulary, or two vocabularies disagree."""


class ClipsError(AtgnnError):
    """A table of clips is malformed or points to what is not there."""


class DownloadError(AtgnnError):
    """Something cannot be fetched from the network, or arrived damaged."""


class CheckpointError(AtgnnError):
    """A checkpoint is missing, damaged or made for something else."""


class KernelError(AtgnnError):
    """The compiled graph kernel cannot be built, or cannot be used as asked."""


class MissingExtraError(AtgnnError, ImportError):
    """An optional package is needed; the message names the extra to install."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> "MissingExtraError":
        """Name the package, what it is for, and the command that installs it."""
        return cls(
            f"{purpose} needs {package}: in your copy of the repository, run "
            f"`{install_command(extra)}`"
        )


def install_command(extra: str) -> str:
    """What installs an extra, in a copy of the repository: the package is in no index."""
    return f'pip install ".[{extra}]"'


def describe_error(error: "ValidationError", known: Iterable[str] = ()) -> str:
    """A pydantic error in one line: where, what was expected, what came.

    `known` names the settings there are, to suggest the nearest to an unknown one.
    """
    parts = []
    for entry in error.errors():
        where = ".".join(str(step) for step in entry["loc"])
        message = entry["msg"].removeprefix("Value error, ")
        if entry["type"] == "extra_forbidden":
            message = f"unknown setting{did_you_mean(where, known)}"
        came = f" (got {entry['input']!r})" if where and entry["type"] != "value_error" else ""
        parts.append(f"{where}: {message}{came}" if where else message)
    return "; ".join(parts)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'pyr-s'?`` or nothing, for the end of an error message."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 clip`` or ``3 clips``; `plural` where that is no mere s at the end."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def is_text(name: str) -> bool:
    """Whether a name is Unicode; one from a file system or a terminal may be bytes in disguise."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(path: str | os.PathLike[str]) -> str:
    """A path or label in one line that any terminal takes: what is no text becomes escapes."""
    text = os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text) or "''"


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names, for a line of text: ``a, b, c, ...``."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
