"""What the milliseconds buy: accuracy on ESC-10 beside time a clip, for every preset.

    python -m benchmarks.speed accuracy

Accuracy is that of the predictions kept under `benchmarks/esc10` (five folds, each scored once);
a preset that has not been trained there shows "-".
"""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from atgnn.model import PRESETS, preset_names
from atgnn.model.cost import measure_cost

from .harness import (
    Case,
    default_precisions,
    finish,
    heading,
    machine,
    parser,
    table,
    threads,
    timed_case,
)
from .systems import Workshop, available

KEPT = Path(__file__).parents[1] / "esc10"
SYSTEMS = ("ours", "published", "ast", "mobilenet")


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    options = parser(
        __doc__.splitlines()[0],
        systems=["ours"],
        preset=[name for name in preset_names() if not name.endswith("-encoder")],
        batch=[1],
        seconds=[10.0],
        precision=None,
        rounds=5,
        memory=False,
    ).parse_args(argv)
    systems, notes = available(options.systems, SYSTEMS)
    known = accuracies()
    rows = []
    with threads(options.threads):
        for preset in options.preset:
            for seconds in options.seconds:
                for batch in options.batch:
                    base = Case("infer", "", "", preset, batch, seconds, options.device)
                    rows += _rows(base, systems, options, known)
        facts = machine(options)
    columns = {"preset": "", "system": "", "precision": "", "batch": "d", "clip_seconds": "g",
               "ms_per_clip": ",.1f", "million_parameters": ".1f", "gmacs": ".2f",
               "esc10_accuracy": ".2%", "esc10_clips": "d"}  # fmt: skip
    text = [heading("accuracy", facts), *notes, "\n".join(table(rows, columns))]
    report = {"command": "accuracy", "machine": facts, "options": vars(options), "notes": notes}
    return finish({**report, "rows": rows}, "\n\n".join(text), options)


def _rows(
    base: Case, systems: list[str], options: Any, known: dict[str, tuple[float, int]]
) -> list[dict[str, Any]]:
    """All systems and precisions at one preset. The label count is that of the other commands."""
    workshop = Workshop()
    cases = [
        replace(base, system=system, precision=precision)
        for precision in options.precision or default_precisions(options.device)
        for system in systems
    ]
    found = timed_case([workshop.contestant(case) for case in cases], options)
    cost = measure_cost(PRESETS[base.preset], base.frames)
    accuracy, clips = known.get(base.preset, (None, None))
    for row in found["systems"]:
        if row["system"] in ("ours", "published"):
            row["million_parameters"] = cost.trainable_parameters / 1e6
            row["gmacs"] = cost.gmacs
        if row["system"] == "ours":
            row["esc10_accuracy"], row["esc10_clips"] = accuracy, clips
    return found["systems"]


def accuracies(folder: Path = KEPT) -> dict[str, tuple[float, int]]:
    """Accuracy over all folds of a preset's best row with kept weights, and clips, by preset."""
    found = []
    for row in sorted(folder.glob("*/seed*")):
        if not (configs := sorted(row.glob("fold*/config.json"))):
            continue
        preset, right = _preset_of(json.loads(configs[0].read_text())["model"]), []
        for predictions in sorted(row.glob("fold*.csv")):
            with open(predictions, newline="", encoding="utf-8") as file:
                right += [one["category"] == one["predicted"] for one in csv.DictReader(file)]
        found.append((sum(right) / len(right), len(right), preset))
    return {preset: (accuracy, clips) for accuracy, clips, preset in sorted(found)}


def _preset_of(model: dict[str, Any]) -> str:
    """The preset of a configuration, whatever its labels and rates of dropping out are."""
    size = ("channels", "blocks", "stem_widths", "label_blocks", "reductions", "k", "head_width")
    for name, config in PRESETS.items():
        ours = json.loads(config.model_dump_json())
        if all(ours[key] == model[key] for key in size):
            return name
    return "another layout"
