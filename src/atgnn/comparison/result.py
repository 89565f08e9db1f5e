"""What is on record of one run of a comparison."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from atgnn.files import write_text
from atgnn.metrics.resampling import jsonable

__all__ = ["Problem", "Result"]

Problem = Literal["", "memory", "diverged", "error"]


@dataclass(frozen=True)
class Result:
    """One run: how well it does and what it cost, or why it came to nothing.

    Attributes:
        model, seed, settings: the run; `settings` are those of this model alone.
        problem, message: "" for a run that is done, else what went wrong and in which words.
        device: what computed.
        labels, frames: of the model's output, and of its input in a whole window.
        epochs: of the run.
        parameters: those that learn.
        gmacs: 1e9 multiply-accumulates for a window.
        metrics: figures on the rows that models are judged on, by their names in `Metrics`.
        intervals: ends of the 95 % intervals of some of them, from resampling authors.
        clips: how many clips it was judged on.
        cautions: what has to be known of the intervals, as `atgnn evaluate` says it.
        train_seconds, cpu_seconds: of training, on the clock and of the processor's threads.
        peak_mb: most memory in training, 1e6 bytes: of the process, on a GPU what PyTorch took.
    """

    model: str
    seed: int
    settings: tuple[str, ...] = ()
    problem: Problem = ""
    message: str = ""
    device: str = ""
    labels: int = 0
    frames: int = 0
    epochs: int = 0
    parameters: int = 0
    gmacs: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    clips: int = 0
    cautions: tuple[str, ...] = ()
    train_seconds: float = math.nan
    cpu_seconds: float = math.nan
    peak_mb: float = math.nan

    @property
    def done(self) -> bool:
        """Whether there is something to put into a table."""
        return not self.problem

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = jsonable(asdict(self))
        return data

    def write(self, path: Path) -> None:
        """Put it on record."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Result | None":
        """What is on record, if anything readable is."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{name: _read(name, value) for name, value in data.items()})
        except (OSError, ValueError, TypeError):
            return None


def _read(name: str, value: Any) -> Any:
    if name in ("settings", "cautions"):
        return tuple(value)
    if name == "metrics":
        return {figure: _number(one) for figure, one in value.items()}
    if name == "intervals":
        return {figure: (_number(ends[0]), _number(ends[1])) for figure, ends in value.items()}
    return _number(value)


def _number(value: Any) -> Any:
    """JSON has None where there is no number."""
    return math.nan if value is None else value
