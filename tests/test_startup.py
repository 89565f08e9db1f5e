"""Nothing is collected while a command starts, and everything made later is."""

import gc
import subprocess
import sys
import textwrap

import torch

from atgnn.startup import without_collections


def python(code, *arguments):
    """What a fresh process prints."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def test_collections_stop_inside_and_go_on_after():
    said = python("""
        import gc, weakref
        from atgnn.startup import without_collections
        class Circle:
            def __init__(self):
                self.self = self
        try:
            with without_collections():
                kept = Circle()
                print(gc.isenabled())
                raise KeyError
        except KeyError:
            print(gc.isenabled(), gc.get_freeze_count() > 1000)
        inside, later = weakref.ref(kept), weakref.ref(Circle())
        del kept
        gc.collect()
        print(inside() is None, later() is None)
    """)
    assert said == ["False", "True", "True", "False", "True"]


def test_a_process_that_is_not_a_command_s_is_left_alone():
    assert torch
    frozen = gc.get_freeze_count()
    with without_collections():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_the_command_starts_that_way(tmp_path):
    code = """
        import gc, sys
        from atgnn.cli import app
        runs = []
        gc.callbacks.append(lambda phase, info: runs.append("torch" in sys.modules))
        app(["tag", sys.argv[1]], standalone_mode=False)
        print(sum(runs), gc.isenabled(), gc.get_freeze_count() > 100_000)
    """
    collections, enabled, frozen = python(code, tmp_path / "missing.wav")
    assert int(collections) < 20  # 700, else
    assert (enabled, frozen) == ("True", "True")
