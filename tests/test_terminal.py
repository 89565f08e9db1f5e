"""What a terminal shows: tables whose cells are whole, bars that are there when something moves."""

import io
import sys

import pytest
from rich.console import Console

from atgnn import terminal
from atgnn.grids import figures_grid
from atgnn.tags import Event, Timeline

COLUMNS = ("system", "M par.", "ms", "mAP", "95 %", "elsewhere")
ROW = ("ATGNN-pyr-s (-MLG)", "35.43", "12345", "0.550 (0.500-0.600, 2 runs)", "", "0.312")


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_no_cell_is_cut_whatever_the_width(width):
    console = Console(file=io.StringIO(), width=width)
    console.print(figures_grid(COLUMNS, [ROW, ROW]), crop=False)
    text = console.file.getvalue()
    assert "…" not in text
    for word in " ".join((*COLUMNS[1:], *ROW[1:])).split():
        assert word in text
    if width >= 80:
        assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_a_pipe_has_the_whole_table_in_lines_of_its_own(capsys):
    terminal.show(figures_grid(COLUMNS, [ROW]))
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "35.43" in one]
    assert all(cell in line for cell in ROW)


class Screen(io.StringIO):
    """A stderr that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


def screen(monkeypatch) -> Screen:
    """The screen of a test; no fixture, for pytest takes stderr back before the test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Screen())
    return sys.stderr


@pytest.mark.parametrize("bar", [terminal.standing, terminal.looking, terminal.pace])
def test_a_bar_that_nothing_moves_is_not_shown(bar, monkeypatch):
    shown = screen(monkeypatch)
    with bar():
        pass
    assert shown.getvalue() == ""


def test_a_bar_is_there_from_the_first_move_on(monkeypatch):
    shown = screen(monkeypatch)
    with terminal.looking() as move:
        move(1, 3)
        move(3, 3)
    assert "3/3" in shown.getvalue()
    assert "100" not in shown.getvalue()


@pytest.mark.parametrize("seconds", [4.0369375, 59.996, 61.2349, 3599.999, 7200.0])
def test_no_event_ends_after_its_recording_on_the_screen(seconds):
    console = Console(file=io.StringIO(), width=100)
    console.print(Timeline("a.wav", seconds, (), (Event("Rain", 0.0, seconds, 0.5),)))
    title, line = console.file.getvalue().splitlines()
    assert title.split()[1] == line.split()[2]
