"""What a clip costs by its length, and what a batch costs by its size.

    python -m benchmarks.speed length                              # 5 to 60 s, batch 1 to 16
    python -m benchmarks.speed length --systems ours,tagger --seconds 10 60 --batch 1

`ours`, `published` and `ast` hear the whole clip at once, through a network made for that length.
`tagger` is `atgnn.Tagger` on the waveform, in windows of 10 s: its time should grow no faster than
the clip. Growth of 1.0 is linear: the time against that of the 10 s clip (or the single clip of a
batch) over how much longer the sound is.
"""

from typing import Any

from atgnn.checkpoint import Checkpoint
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.tagger import Tagger

from .harness import (
    Case,
    Contestant,
    case_text,
    default_precisions,
    finish,
    heading,
    machine,
    parser,
    table,
    threads,
    timed_case,
)
from .systems import Workshop, available, waveform

SYSTEMS = ("ours", "published", "ast", "mobilenet", "tagger")
BASE = 10.0  # seconds


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    options = parser(
        __doc__.splitlines()[0],
        systems=["ours", "published", "ast", "tagger"],
        preset=["pyr-s"],
        seconds=[5.0, 10.0, 20.0, 30.0, 60.0],
        batch=[1, 2, 4, 8, 16],
        precision=None,
        rounds=3,
    ).parse_args(argv)
    systems, notes = available(options.systems, SYSTEMS)
    precisions = options.precision or default_precisions(options.device)
    cases, text = [], []
    with threads(options.threads):
        for preset in options.preset:
            sizes = [(seconds, 1) for seconds in options.seconds]
            sizes += [(BASE, batch) for batch in options.batch if (BASE, batch) not in sizes]
            for seconds, batch in sizes:
                contestants = [
                    contestant
                    for precision in precisions
                    for contestant in _contestants(
                        systems, Case("infer", "", precision, preset, batch, seconds,
                                      options.device)
                    )
                ]  # fmt: skip
                cases.append(timed_case(contestants, options))
                text.append(case_text(f"{preset}, batch {batch}, {seconds:g} s", cases[-1]))
        facts = machine(options)
    growth = _growth(cases)
    text.append("\n".join(["growth of time with sound (1.0: linear)", *_growth_table(growth)]))
    report = {"command": "length", "machine": facts, "options": vars(options), "notes": notes}
    text = [heading("length", facts), *notes, *text]
    return finish({**report, "cases": cases, "growth": growth}, "\n\n".join(text), options)


def _contestants(systems: list[str], base: Case) -> list[Contestant]:
    workshop, out = Workshop(), []
    for system in systems:
        case = Case(**{**vars(base), "system": system})
        if system != "tagger":
            out.append(workshop.contestant(case))
        elif case.precision == "fp32":  # windows of a recording are its batch
            out.append(_tagger(case, workshop))
    return out


def _tagger(case: Case, workshop: Workshop) -> Contestant:
    """Our tagger on recordings of the case's length that are in memory already."""
    model: Any = workshop.network(Case("infer", "ours", preset=case.preset, seconds=BASE))
    names = Vocabulary.from_names([f"label {i}" for i in range(model.config.num_labels)])
    checkpoint = Checkpoint(model, FrontEndConfig(), names, window_seconds=BASE)
    tagger = Tagger(checkpoint, case.device)
    clips = [(clip.numpy(), 16_000) for clip in waveform(case.seconds, case.batch)]
    return Contestant(case, lambda: list(tagger.score_many(clips)))


def _growth(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time over that of one clip of `BASE` seconds (else the least sound), by how much sound."""
    rows = [row for case in cases for row in case["systems"]]
    out = []
    for row in rows:
        alike = [
            other for other in rows
            if all(other[key] == row[key] for key in ("system", "precision", "preset"))
        ]  # fmt: skip
        first = min(alike, key=lambda other: (abs(_sound(other) - BASE), other["batch"]))
        sound = _sound(row) / _sound(first)
        out.append(
            {
                "system": row["system"],
                "precision": row["precision"],
                "clip_seconds": row["clip_seconds"],
                "batch": row["batch"],
                "median_ms": row["median_ms"],
                "own_mb": row.get("own_mb"),
                "growth": row["median_ms"] / first["median_ms"] / sound,
            }
        )
    return sorted(out, key=lambda r: (r["system"], r["precision"], r["batch"], r["clip_seconds"]))


def _sound(row: dict[str, Any]) -> float:
    return row["clip_seconds"] * row["batch"]


def _growth_table(growth: list[dict[str, Any]]) -> list[str]:
    columns = {"system": "", "precision": "", "clip_seconds": "g", "batch": "d"}
    return table(growth, {**columns, "median_ms": ",.1f", "own_mb": ",.0f", "growth": ".2f"})
