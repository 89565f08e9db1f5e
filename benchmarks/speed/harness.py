"""What every command shares: options, contestants timed turn by turn, ratios, memory, printing."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from atgnn.comparison.timing import turn_by_turn
from atgnn.errors import ConfigError

__all__ = [
    "Case",
    "Contestant",
    "compare",
    "default_precisions",
    "finish",
    "machine",
    "parser",
    "peak_memory",
    "table",
    "timed",
    "timed_case",
]

ROOT = Path(__file__).parents[2]
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
         "amx_bf16", "neon", "asimd", "sve", "bf16")  # fmt: skip
OURS = ("ours", "tagger", "shipped", "torch")  # no competitors
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Case:
    """One thing to time: who does what, on how much sound."""

    task: str  # "infer", "train", "frontend"
    system: str  # "ours", "published", "ast", "mobilenet", "tagger"
    precision: str = "fp32"
    preset: str = "pyr-s"
    batch: int = 1
    seconds: float = 10.0
    device: str = "cpu"
    compiled: bool = False
    keep: str = "usual"  # in training: `Recipe.memory`

    @property
    def name(self) -> str:
        """What to call it in a table."""
        return named(self.system, self.precision, self.keep)

    @property
    def frames(self) -> int:
        """Frames of the input: 1024 for 10 s, as published; a multiple of 32, so no grid is odd."""
        return max(32, -(-round(self.seconds * 102.4) // 32) * 32)


def named(system: str, precision: str, keep: str = "usual") -> str:
    """What to call a case."""
    return f"{system} {precision}" if keep == "usual" else f"{system} {precision} {keep}"


@dataclass(frozen=True)
class Contestant:
    """A case and one call of what it says."""

    case: Case
    run: Callable[[], object]


# ---------------------------------------------------------------------------- options


def parser(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """Options that commands have in common; `defaults` names those that a command takes."""
    out = argparse.ArgumentParser(description=description)
    options: dict[str, dict[str, Any]] = {
        "systems": {"type": _names, "metavar": "A,B", "help": "who takes part"},
        "preset": {"nargs": "+", "metavar": "NAME", "help": "of ours and the published model"},
        "batch": {"nargs": "+", "type": int, "metavar": "B", "help": "clips at once"},
        "seconds": {"nargs": "+", "type": float, "metavar": "S", "help": "length of a clip"},
        "precision": {"nargs": "+", "choices": list(DTYPES), "help": "by default fp32, and bf16 "
                      "where the machine computes in it"},
        "compile": {"nargs": "*", "metavar": "SYSTEM", "help": "who runs under torch.compile"},
        "keep": {"nargs": "+", "choices": ["usual", "lean", "least"], "help": "what ours keeps for "
                 "the backward pass: settings of a recipe's `memory`"},
    }  # fmt: skip
    for name, settings in options.items():
        if name in defaults:
            out.add_argument(f"--{name}", default=defaults[name], **settings)
    out.add_argument("--rounds", type=int, default=defaults.get("rounds", 9))
    out.add_argument("--threads", type=int, default=defaults.get("threads", 2))
    out.add_argument("--device", default="cpu", help="cpu or cuda")
    out.add_argument("--json", action="store_true", help="everything, for machines")
    if defaults.get("memory", True):
        out.add_argument("--no-memory", dest="memory", action="store_false",
                         help="leave out peak memory (a process of its own for each)")  # fmt: skip
    return out


def _names(text: str) -> list[str]:
    return [name for name in text.replace(" ", "").split(",") if name]


def default_precisions(device: str) -> list[str]:
    """fp32, and bf16 where the processor or GPU has instructions for it."""
    if torch.device(device).type == "cpu":
        fast = {"avx512_bf16", "amx_bf16", "bf16"} & set(_processor()[1])
    else:
        fast = {"bf16"}
    return ["fp32", "bf16"] if fast else ["fp32"]


# ---------------------------------------------------------------------------- timing


def timed(contestants: Sequence[Contestant], rounds: int, warm: int = 2) -> list[list[float]]:
    """Seconds of every call, A B C A B C: what disturbs the machine disturbs a whole round."""
    cuda = any(one.case.device.startswith("cuda") for one in contestants)
    settle = torch.cuda.synchronize if cuda else (lambda: None)
    return turn_by_turn([one.run for one in contestants], rounds, warm, settle)


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times faster each of our rows is than the others, and how much memory it needs.

    Others in the same precision; where ours is in half precision, others in every precision.
    """
    ratios = []
    for own in (row for row in rows if row["system"] == "ours"):
        for other in rows:
            same = other["precision"] == own["precision"] or own["precision"] != "fp32"
            if other["system"] in OURS or not same:
                continue
            by_round = [b / a for a, b in zip(own["seconds"], other["seconds"], strict=True)]
            ratio = {
                "ours": named("ours", own["precision"], own.get("keep", "usual")),
                "other": f"{other['system']} {other['precision']}",
                "of_medians": other["median_ms"] / own["median_ms"],
                "median_of_rounds": statistics.median(by_round),
                "quartiles_of_rounds": quartiles(by_round),
            }
            for key in ("peak_mb", "own_mb"):
                if own.get(key) and other.get(key):
                    ratio[key] = own[key] / other[key]
            ratios.append(ratio)
    return ratios


def timed_case(contestants: list[Contestant], options: argparse.Namespace) -> dict[str, Any]:
    """Time contestants against each other and measure the memory of each."""
    seconds = timed(contestants, options.rounds)
    rows = []
    for contestant, own in zip(contestants, seconds, strict=True):
        case = contestant.case
        median = 1e3 * statistics.median(own)
        rows.append(
            {
                **asdict(case),
                "clip_seconds": case.seconds,
                "frames": case.frames,
                "median_ms": median,
                "quartiles_ms": [1e3 * value for value in quartiles(own)],
                "ms_per_clip": median / case.batch,
                "seconds": own,
            }
        )
    if getattr(options, "memory", False):
        for contestant, row in zip(contestants, rows, strict=True):
            row.update(peak_memory(contestant.case, options.threads))
    return {"systems": rows, "ratios": compare(rows)}


def quartiles(values: Sequence[float]) -> list[float]:
    """The first and the third."""
    if len(values) < 2:
        return [values[0], values[0]]
    cuts = statistics.quantiles(values, n=4, method="inclusive")
    return [cuts[0], cuts[2]]


# ---------------------------------------------------------------------------- memory


def peak_memory(case: Case, threads: int) -> dict[str, float]:
    """Peak memory of a case in a fresh process, in MB (1e6 bytes).

    ``peak_mb`` is the whole process on a CPU; ``own_mb`` is that less what importing takes. On a
    GPU both are what PyTorch allocated.
    """
    command = [sys.executable, "-m", "benchmarks.speed.memory", json.dumps(asdict(case))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ConfigError(f"the memory of {case.name} could not be measured: {last}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------------------- machine


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures were taken on."""
    name, flags = _processor()
    facts: dict[str, Any] = {
        "processor": name,
        "flags": flags,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
        "kernel": _kernels(options.device),
        "device": options.device,
    }
    if hasattr(os, "getloadavg"):
        facts["load_average"] = os.getloadavg()[0]
    if options.device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(options.device)
        facts["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return facts


def _processor() -> tuple[str, list[str]]:
    """Model name, and those of `FLAGS` that it has."""
    name, flags = platform.processor() or platform.machine(), []
    about = Path("/proc/cpuinfo")
    if about.is_file():
        for line in about.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = [flag for flag in FLAGS if flag in value.split()]
    return name, flags


def _kernels(device: str) -> dict[str, str]:
    """What builds our graphs, by precision."""
    from atgnn.graph.operator import backend_in_use

    return {name: backend_in_use(device, dtype) for name, dtype in DTYPES.items()}


@contextmanager
def threads(count: int) -> Any:
    """`count` threads inside, as many as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------- printing


def finish(report: dict[str, Any], text: str, options: argparse.Namespace) -> int:
    """Print a report; the exit code."""
    print(json.dumps(report) if options.json else text)
    return 0


def heading(command: str, facts: dict[str, Any]) -> str:
    """One line about the machine."""
    where = facts.get("gpu") or f"{facts['processor']} ({' '.join(facts['flags'])})"
    kernels = ", ".join(f"{name} {kernel}" for name, kernel in facts["kernel"].items())
    return (
        f"{command}: {where}, {facts['threads']} of {facts['cores']} threads, "
        f"torch {facts['torch']}, graph kernel: {kernels}"
    )


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """Lines of a table; `columns` maps keys to formats, e.g. ``{"median_ms": ",.1f"}``."""
    cells = [[key.replace("_", " ") for key in columns]]
    for row in rows:
        values = [(row.get(key), form) for key, form in columns.items()]
        cells.append(["-" if value is None else format(value, form) for value, form in values])
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = [form[-1:] in tuple("fdg%") for form in columns.values()]
    return [
        "  " + "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, wide, numbers, strict=True)
        ).rstrip()
        for line in cells
    ]  # fmt: skip


SYSTEM_COLUMNS = {
    "system": "",
    "precision": "",
    "keep": "",
    "median_ms": ",.1f",
    "ms_per_clip": ",.1f",
    "peak_mb": ",.0f",
    "own_mb": ",.0f",
}


def case_text(title: str, case: dict[str, Any]) -> str:
    """A table of systems and one line for each ratio."""
    lines = [title, *table(case["systems"], SYSTEM_COLUMNS)]
    for ratio in case["ratios"]:
        low, high = ratio["quartiles_of_rounds"]
        memory = ""
        if "own_mb" in ratio:
            memory = f"; memory {ratio['own_mb']:.2f} (whole process {ratio['peak_mb']:.2f})"
        lines.append(
            f"  {ratio['ours']} against {ratio['other']}: {ratio['of_medians']:.2f} x faster "
            f"(by rounds {ratio['median_of_rounds']:.2f}, {low:.2f} to {high:.2f}){memory}"
        )
    return "\n".join(lines)


def with_precision(case: Case, precision: str) -> Case:
    """The same in another precision."""
    return replace(case, precision=precision)
