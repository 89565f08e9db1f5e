"""Speed of the front end, in times real time, and statistics of a folder's log-mel cells.

    python -m benchmarks.speed frontend                    # one core, batches of 1, 8 and 32
    python -m benchmarks.speed frontend --preset wide-32k --statistics FOLDER_OF_SOUNDS

`published` is Kaldi's filter bank clip by clip, from torchaudio where that imports, else restated
(for presets that follow librosa: librosa); `ast` is the feature extractor of transformers. The
target is 2,500 times real time on one core.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from atgnn.audio import find_sounds, load
from atgnn.errors import ConfigError
from atgnn.frontend import FRONT_ENDS, FrontEndConfig, measure_statistics

from .harness import Case, case_text, finish, heading, machine, parser, threads, timed_case
from .systems import Workshop, available, torchaudio_fbank

SYSTEMS = ("ours", "published", "ast")


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    options_parser = parser(
        __doc__.splitlines()[0],
        systems=list(SYSTEMS),
        batch=[1, 8, 32],
        seconds=[10.0],
        rounds=20,
        threads=1,
    )
    options_parser.add_argument(
        "--preset", choices=FRONT_ENDS, default="paper", help="of the front end"
    )
    options_parser.add_argument(
        "--statistics", type=Path, metavar="FOLDER", help="measure mean and std, no speed"
    )
    options = options_parser.parse_args(argv)
    if options.statistics:
        found = folder_statistics(options.statistics, FRONT_ENDS[options.preset])
        text = ", ".join(f"{name} {value}" for name, value in found.items())
        return finish({"command": "frontend", "statistics": found}, text, options)
    return speed(options)


def speed(options: Namespace) -> int:
    """Times real time of every system for each batch size."""
    systems, notes = available(options.systems, SYSTEMS)
    notes += _narrowed(systems, FRONT_ENDS[options.preset])
    cases, text = [], []
    with threads(options.threads):
        for seconds in options.seconds:
            for batch in options.batch:
                base = Case("frontend", "", "fp32", options.preset, batch, seconds, options.device)
                contestants = [
                    Workshop().contestant(replace(base, system=name)) for name in systems
                ]
                cases.append(timed_case(contestants, options))
                text.append(_with_real_time(cases[-1], f"batch {batch}, {seconds:g} s"))
        facts = machine(options)
    report: dict[str, Any] = {"command": "frontend", "machine": facts, "notes": notes}
    report = {**report, "options": vars(options), "cases": cases}
    return finish(report, "\n\n".join([heading("frontend", facts), *notes, *text]), options)


def _narrowed(systems: list[str], config: FrontEndConfig) -> list[str]:
    """Leave out, in place, what has nothing to do with a preset; lines about who is who."""
    if config.kind == "waveform":
        raise ConfigError("a waveform is handed on as it is: there is nothing to time")
    if config.kind == "stft":
        systems[:] = [name for name in systems if name != "ast"]
        return ["published: librosa", "ast is left out: it has a filter bank of Kaldi's"]
    imports = torchaudio_fbank(config) is not None
    return [f"published: {'torchaudio' if imports else 'restated (torchaudio is not here)'}"]


def _with_real_time(case: dict[str, Any], title: str) -> str:
    lines = [case_text(title, case)]
    for row in case["systems"]:
        sound = row["clip_seconds"] * row["batch"]
        row["times_real_time"] = sound / (1e-3 * row["median_ms"])
        row["times_real_time_best"] = sound / min(row["seconds"])
        lines.append(
            f"  {row['system']}: {row['times_real_time']:,.0f} times real time "
            f"(best {row['times_real_time_best']:,.0f})"
        )
    return "\n".join(lines)


def folder_statistics(folder: Path, config: FrontEndConfig) -> dict[str, Any]:
    """Mean and std of the log-mel cells of every sound in a folder."""
    paths = find_sounds(folder)

    def waves() -> Iterator[np.ndarray]:
        for count, path in enumerate(paths, 1):
            if sys.stderr.isatty():
                print(f"\r{count} of {len(paths)}", end="", file=sys.stderr, flush=True)
            yield load(path, config.sample_rate).samples

    found = measure_statistics(waves(), config)
    return {
        "mean": round(found.mean, 4),
        "std": round(found.std, 4),
        "clips": found.clips,
        "frames": found.frames,
        "sample_rate": config.sample_rate,
    }
