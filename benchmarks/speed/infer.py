"""Inference: ours, the published algorithm, AST and a MobileNet tagger, turn by turn.

python -m benchmarks.speed infer                                # pyr-s, batch 1 and 8
python -m benchmarks.speed infer --preset pyr-ti --precision bf16 --systems ours,mobilenet
"""

from dataclasses import replace
from typing import Any

from atgnn.errors import ConfigError

from .harness import (
    Case,
    case_text,
    default_precisions,
    finish,
    heading,
    machine,
    parser,
    threads,
    timed_case,
)
from .systems import Workshop, available

SYSTEMS = ("ours", "published", "ast", "mobilenet")


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    options = parser(
        __doc__.splitlines()[0],
        systems=list(SYSTEMS),
        preset=["pyr-s"],
        batch=[1, 8],
        seconds=[10.0],
        precision=None,
        compile=[],
    ).parse_args(argv)
    return measure("infer", SYSTEMS, options)


def measure(task: str, known: tuple[str, ...], options: Any) -> int:
    """Every preset, length and batch; all systems and precisions of one take turns."""
    systems, notes = available(options.systems, known)
    cases = []
    with threads(options.threads):
        for preset in options.preset:
            for seconds in options.seconds:
                for batch in options.batch:
                    base = Case(task, "", "", preset, batch, seconds, options.device)
                    cases.append(one(base, systems, options))
        facts = machine(options)
    report = {"command": task, "machine": facts, "options": vars(options), "notes": notes}
    text = [heading(task, facts), *notes]
    for case in cases:
        first = case["systems"][0]
        title = (
            f"{first['preset']}, batch {first['batch']}, {first['clip_seconds']:g} s "
            f"({first['frames']} frames), {options.rounds} rounds"
        )
        text.append(case_text(title, case))
    return finish({**report, "cases": cases}, "\n\n".join(text), options)


def one(base: Case, systems: list[str], options: Any) -> dict[str, Any]:
    """All systems in all precisions on one input."""
    workshop, kept = Workshop(), getattr(options, "keep", ["usual"])
    if "least" in kept and (len(kept) > 1 or systems != ["ours"]):
        raise ConfigError("--keep least changes a whole process: time it alone, --systems ours")
    contestants = [
        workshop.contestant(
            replace(
                base,
                system=system,
                precision=precision,
                compiled=system in options.compile,
                keep=keep,
            )
        )
        for precision in options.precision or default_precisions(options.device)
        for system in systems
        for keep in (kept if system == "ours" else ["usual"])
    ]
    return timed_case(contestants, options)
