"""A whole comparison: the runs, their inference times, the table."""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen

from atgnn.comparison.plan import Places, Plan, claim
from atgnn.comparison.result import Result
from atgnn.comparison.table import Standings, read_standings
from atgnn.comparison.timing import FILE
from atgnn.comparison.work import Standing, slots_of, work_off
from atgnn.comparison.written import write_standings
from atgnn.errors import MissingExtraError

__all__ = ["compare_models"]

NEEDED = {"lightning": "training", "matplotlib": "the picture of a comparison"}


def compare_models(
    plan: Plan,
    out: Path,
    jobs: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
    show: Callable[[Standing], None] = lambda standing: None,
) -> Standings:
    """Do what is left of a comparison and write its table into `out`; see `work.work_off`.

    The table is written however far it came: after Ctrl-C too, of what is done.

    Raises:
        ConfigError: the folder is another comparison's, or another process is at work in it.
        MissingExtraError: what training and the picture need is not installed.
    """
    for package, purpose in NEEDED.items():  # now, not after hours of training
        if find_spec(package) is None:
            raise MissingExtraError.of(package, "train", purpose)
    plan = claim(plan, out)
    try:
        work_off(plan, out, jobs, tell, show)
        _time(plan, out, tell)
    finally:
        found = read_standings(plan, out)
        write_standings(found, out)
    return found


def _time(plan: Plan, out: Path, tell: Callable[[str], None]) -> None:
    """Inference times of the models that have a run, unless they are on record."""
    places = Places(out)
    results = [Result.read(places.beside(job, "json")) for job in plan.jobs()]
    done = {one.model for one in results if one is not None and one.done}
    if not done or done <= _timed(out):
        return
    tell(f"timing inference of {', '.join(sorted(done))}")
    command = [sys.executable, "-m", "atgnn.comparison.inference", str(out)]
    with (out / "runs" / "inference.log").open("wb") as log:
        process = Popen(
            command,
            env=slots_of(plan, 1)[0].environment(),
            stdin=DEVNULL,
            stdout=log,
            stderr=STDOUT,
        )
        code = process.wait()
    if code:
        tell(f"inference could not be timed: see {log.name}")


def _timed(out: Path) -> set[str]:
    try:
        found = json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {*found["milliseconds"], *found["problems"]}
