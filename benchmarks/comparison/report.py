"""Tables of the small-data comparison, from results.csv."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from .scenarios import Scenario

__all__ = ["tables"]

HEAD = (
    "system", "figure", "least and most", "folds", "trials", "M parameters", "GMAC", "epochs",
    "training, min", "ms a clip", "MB",
)  # fmt: skip


def tables(scenario: Scenario, rows: Sequence[dict[str, str]]) -> str:
    """Test folds and trials of a scenario, as Markdown; a table for each budget."""
    own = [row for row in rows if row["scenario"] == scenario.name]
    parts = [f"# {scenario.name}: {scenario.figure}"]
    for minutes in sorted({row["minutes"] for row in own}, key=float):
        some = [row for row in own if row["minutes"] == minutes]
        parts.append(f"## Test folds, {minutes} minutes a run\n\n{tested(scenario, some)}")
        parts.append(f"## Trials on validation folds, {minutes} minutes\n\n{tried(scenario, some)}")
    return "\n\n".join(parts) + "\n"


def tested(scenario: Scenario, rows: Sequence[dict[str, str]]) -> str:
    """A row for each system: mean over the test folds, and what it costs."""
    found = _by_system([row for row in rows if row["stage"] == "test" and not row["problem"]])
    lines = []
    for system, own in found.items():
        scores = [float(row[scenario.figure]) for row in own]
        lines.append(
            (
                np.mean(scores),
                (
                    system,
                    f"{np.mean(scores):.3f}",
                    f"{min(scores):.3f} to {max(scores):.3f}",
                    " ".join(sorted({row["test"] for row in own})),
                    own[0]["trials"],
                    _mean(own, "parameters", 1e-6, 2),
                    _mean(own, "gmacs", 1, 2),
                    _mean(own, "epochs", 1, 0),
                    _mean(own, "cpu_seconds", 1 / 60, 1),
                    _mean(own, "inference_ms", 1, 1),
                    _mean(own, "peak_mb", 1, 0),
                ),
            )
        )
    lines.sort(key=lambda line: -line[0])
    failed = [row for row in rows if row["problem"]]
    notes = [f"- {row['system']}, fold {row['test']}: {row['problem']}" for row in failed]
    head = tuple(scenario.figure if name == "figure" else name for name in HEAD)
    return "\n".join([*_markdown(head, [line for _, line in lines]), *([""] * bool(notes)), *notes])


def tried(scenario: Scenario, rows: Sequence[dict[str, str]]) -> str:
    """A row for each trial."""
    found = _by_system([row for row in rows if row["stage"] == "tune"])
    lines = []
    for system, own in found.items():
        by_trial: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in own:
            by_trial[row["trial"]].append(row)
        for trial, some in sorted(by_trial.items()):
            scores = [float(row[scenario.figure] or "nan") for row in some]
            epochs = _mean(some, "epochs", 1, 0)
            lines.append(
                (f"{system} {trial}", f"{np.mean(scores):.3f}", epochs, some[0]["settings"])
            )
    return "\n".join(_markdown(("trial", scenario.figure, "epochs", "settings"), lines))


def _by_system(rows: Sequence[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        found[row["system"]].append(row)
    return found


def _mean(rows: Sequence[dict[str, str]], name: str, factor: float, digits: int) -> str:
    values = [float(row[name]) for row in rows if row[name]]
    return f"{factor * np.mean(values):.{digits}f}" if values else ""


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
