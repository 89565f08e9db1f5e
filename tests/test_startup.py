"""How a command starts: nothing is collected meanwhile, and idle threads soon sleep."""

import gc
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from atgnn.startup import quick_start


def python(code, *arguments, **environment):
    """What a fresh process prints."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = subprocess.run(command, capture_output=True, text=True, env={**kept, **environment})
    return run.stdout.split()


def test_collections_stop_inside_and_go_on_after():
    said = python("""
        import gc, weakref
        from atgnn.startup import quick_start
        class Circle:
            def __init__(self):
                self.self = self
        try:
            with quick_start():
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
    with quick_start():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),  # the user has said how threads wait
    ],
)
def test_idle_threads_soon_sleep(given, expected):
    code = """
        import os
        from atgnn.startup import quick_start
        with quick_start():
            pass
        print(os.environ.get("GOMP_SPINCOUNT"))
    """
    assert python(code, **given) == [expected]


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
