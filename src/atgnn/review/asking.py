"""Review in a terminal: a segment is shown, a line is read, what it says is written down."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import soundfile

from atgnn import audio
from atgnn.errors import ConfigError, printable
from atgnn.review.session import ReviewSession, Segment

__all__ = ["HELP", "ask", "player"]

HELP = "y: yes, n: no, s: skip, u: take the last answer back, p: play, q: enough"

Player = Callable[[Segment], None]


def ask(
    session: ReviewSession,
    segments: Iterable[Segment],
    who: str,
    lines: Iterable[str],
    show: Callable[[str], None],
    play: Player | None = None,
) -> int:
    """Put every segment to a person; returns how many verdicts stand of those given.

    `lines` are the answers, in any number: their end is the end of the review.
    """
    waiting, answers = list(segments), iter(lines)
    given: list[Segment] = []
    show(f"Is it {session.label!r}? {HELP}")
    place = 0
    while place < len(waiting):
        segment = waiting[place]
        show(_line(segment, place + 1, len(waiting)))
        answer = next(answers, "q").strip().lower()[:1]
        if answer == "q":
            break
        if answer == "u" and given:
            last = given.pop()
            session.judge(last, "withdraw", who)
            place = waiting.index(last)
        elif answer in ("y", "n"):
            session.judge(segment, "accept" if answer == "y" else "reject", who)
            given.append(segment)
            place += 1
        elif answer == "s":
            place += 1
        elif answer == "p" and play is not None:
            play(segment)
        else:
            show(HELP if answer != "p" else "say how to play: --play 'aplay'")
    return len(given)


def player(command: str | None) -> Player | None:
    """Plays segments by a command that takes a file's name; None without one."""
    if command is None:
        return None
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"--play {command!r}: {error}") from None
    if not words:
        raise ConfigError("--play is empty: give a command that plays a file, such as aplay")

    def play(segment: Segment) -> None:
        heard = audio.load(segment.path, start=segment.start, end=segment.end)
        with tempfile.TemporaryDirectory(prefix="atgnn-") as folder:
            path = Path(folder) / "segment.wav"
            soundfile.write(path, heard.samples, heard.rate)
            try:
                subprocess.run([*words, str(path)], check=False, stdin=subprocess.DEVNULL)
            except OSError as error:
                raise ConfigError(
                    f"--play {command!r} cannot be run ({error.strerror or error})"
                ) from None

    return play


def _line(segment: Segment, number: int, count: int) -> str:
    where = f"{segment.start:.1f} to {segment.end:.1f} s"
    return f"[{number}/{count}] {printable(segment.path)}  {where}  score {segment.score:.2f}"
