"""Cold start: a whole process that tags one clip, from the command to its exit.

    python -m benchmarks.speed coldstart

`shipped` is `atgnn tag CLIP` with the model that comes with the package; `ours` the same with a
model of --preset. `published` and `ast` are processes that do as much with the published algorithm
and with transformers: import, read weights, decode, compute features and scores, print labels.
`torch` only imports PyTorch: what no such process can go below. `--phases` shows what the time of
`shipped` goes to.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch

from atgnn.checkpoint import Checkpoint
from atgnn.errors import ConfigError
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Vocabulary

from .harness import ROOT, Case, case_text, compare, finish, heading, machine, parser, quartiles
from .systems import Workshop, available, waveform

SYSTEMS = ("ours", "shipped", "published", "ast", "torch")

# Starts a command and prints how long it took, its peak memory and its output's size. A process
# inherits the peak of the one that starts it, so this one imports as little as it can.
LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
out, errors = child.stdout.read(), child.stderr.read()
_, status, usage = os.wait4(child.pid, 0)
seconds = time.perf_counter() - start
peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
said = (errors.decode().strip().splitlines() or [""])[-1]
print(json.dumps({"seconds": seconds, "peak_mb": peak, "status": status, "said": said}))
"""


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    options_parser = parser(
        __doc__.splitlines()[0],
        systems=list(SYSTEMS),
        preset=["pyr-s"],
        seconds=[10.0],
        rounds=5,
        memory=False,
    )
    options_parser.add_argument("--phases", action="store_true", help="break down `shipped`")
    options = options_parser.parse_args(argv)
    systems, notes = available(options.systems, SYSTEMS)
    cases, text = [], []
    for preset in options.preset:
        for seconds in options.seconds:
            with tempfile.TemporaryDirectory() as folder:
                commands = _commands(systems, preset, seconds, Path(folder))
                cases.append(_measure(commands, preset, seconds, options))
                text.append(case_text(f"{preset}, one clip of {seconds:g} s", cases[-1]))
                if options.phases:
                    cases[-1]["phases_ms"] = phases(Path(folder) / "clip.wav", options)
                    text.append(_phases_text(cases[-1]["phases_ms"]))
    facts = {**machine(options), "threads": options.threads}
    report = {"command": "coldstart", "machine": facts, "options": vars(options), "notes": notes}
    text = [heading("coldstart", facts), *notes, *text]
    return finish({**report, "cases": cases}, "\n\n".join(text), options)


def _measure(
    commands: dict[str, list[str]], preset: str, seconds: float, options: Any
) -> dict[str, Any]:
    """Every command in turn; the first round reads files into the system's cache."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(options.rounds + 1):
        for name, command in commands.items():
            found[name].append(_launch(command, options.threads))
    rows = []
    for name, calls in found.items():
        own = [call["seconds"] for call in calls[1:]]
        rows.append(
            {
                "system": name,
                "precision": "fp32",
                "preset": preset,
                "clip_seconds": seconds,
                "batch": 1,
                "median_ms": 1e3 * statistics.median(own),
                "quartiles_ms": [1e3 * value for value in quartiles(own)],
                "ms_per_clip": 1e3 * statistics.median(own),
                "peak_mb": max(call["peak_mb"] for call in calls),
                "seconds": own,
            }
        )
    return {"systems": rows, "ratios": compare(rows)}


def _launch(command: list[str], threads: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command],
        cwd=ROOT, env=_environment(threads), check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    if found["status"]:
        raise ConfigError(f"{' '.join(command[:6])} ... failed: {found['said']}")
    return found


def _environment(threads: int) -> dict[str, str]:
    """This process's, but Python keeps what it compiles: installed packages are compiled too."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


def phases(clip: Path, options: Any) -> dict[str, float]:
    """Median milliseconds of each step from the start of a process to its end."""
    found: dict[str, list[float]] = {}
    for number in range(options.rounds + 1):
        start = before = time.time()
        done = subprocess.run(
            [sys.executable, "-c", PHASES, str(clip)], cwd=ROOT, check=True, capture_output=True,
            env=_environment(options.threads), text=True,
        )  # fmt: skip
        stamps = {**json.loads(done.stdout), "end": time.time()}
        if number == 0:  # reads files into the system's cache
            continue
        for name, stamp in stamps.items():
            found.setdefault(name, []).append(1e3 * (stamp - before))
            before = stamp
        found.setdefault("whole", []).append(1e3 * (before - start))
    return {name: statistics.median(values) for name, values in found.items()}


def _phases_text(found: dict[str, float]) -> str:
    lines = ["where the time of `shipped` goes, in ms"]
    return "\n".join([*lines, *(f"  {name:<24} {value:8,.1f}" for name, value in found.items())])


# ---------------------------------------------------------------------------- what is started


def _commands(
    systems: list[str], preset: str, seconds: float, folder: Path
) -> dict[str, list[str]]:
    """The command of every system; what it reads lies in the folder."""
    clip = str(folder / "clip.wav")
    soundfile.write(clip, waveform(seconds)[0].numpy(), 16_000)
    case = Case("infer", "ours", preset=preset, seconds=seconds)
    makers: dict[str, Callable[[], list[str]]] = {
        "ours": lambda: ["-m", "atgnn", "tag", "--model", _save_ours(case, folder), clip],
        "shipped": lambda: ["-m", "atgnn", "tag", clip],
        "published": lambda: ["-c", PUBLISHED, _save_published(case, folder), clip],
        "ast": lambda: ["-c", AST, _save_ast(folder), clip],
        "torch": lambda: ["-c", "import torch"],
    }
    return {name: [sys.executable, *makers[name]()] for name in systems}


def _save_ours(case: Case, folder: Path) -> str:
    model: Any = Workshop().network(case)
    names = Vocabulary.from_names([f"label {i}" for i in range(model.config.num_labels)])
    Checkpoint(model, FrontEndConfig(), names).save_pretrained(folder / "ours")
    return str(folder / "ours")


def _save_published(case: Case, folder: Path) -> str:
    theirs: Any = Workshop().network(Case("infer", "published", preset=case.preset,
                                          seconds=case.seconds))  # fmt: skip
    about = {"config": theirs.config.model_dump(), "frames": case.frames}
    torch.save({**about, "state": theirs.state_dict()}, folder / "published.pth")
    return str(folder / "published.pth")


def _save_ast(folder: Path) -> str:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    ASTForAudioClassification(ASTConfig(num_labels=200)).save_pretrained(folder / "ast")
    ASTFeatureExtractor().save_pretrained(folder / "ast")
    return str(folder / "ast")


PUBLISHED = """
import sys, soundfile, torch
from atgnn.frontend import FrontEndConfig
from atgnn.model import ModelConfig
from benchmarks.speed.kaldi import fbank
from benchmarks.speed.published import Published
saved = torch.load(sys.argv[1])
model = Published(ModelConfig(**saved["config"]), saved["frames"])
model.load_state_dict(saved["state"])
samples, _ = soundfile.read(sys.argv[2], dtype="float32")
config = FrontEndConfig()
with torch.inference_mode():
    mel = fbank(torch.from_numpy(samples), config)[: saved["frames"]]
    mel = torch.nn.functional.pad(mel, (0, 0, 0, saved["frames"] - len(mel)))
    scores = model.eval()((mel[None] - config.mean) / config.std).sigmoid()[0]
print(scores.topk(5))
"""

AST = """
import sys, soundfile, torch
from transformers import ASTFeatureExtractor, ASTForAudioClassification
model = ASTForAudioClassification.from_pretrained(sys.argv[1])
extract = ASTFeatureExtractor.from_pretrained(sys.argv[1])
samples, rate = soundfile.read(sys.argv[2], dtype="float32")
with torch.inference_mode():
    scores = model(**extract(samples, sampling_rate=rate, return_tensors="pt")).logits.sigmoid()[0]
for value, index in zip(*scores.topk(5)):
    print(model.config.id2label[int(index)], float(value))
"""

# What `atgnn tag` does, one thing after the other, and when each was done.
PHASES = """
import json, sys, time
stamps = {"python": time.time()}
from atgnn.startup import quick_start
with quick_start():
    import numpy, soundfile, soxr
    stamps["numpy, soundfile, soxr"] = time.time()
    import torch
    stamps["torch"] = time.time()
    import pydantic, rich.console, typer
    stamps["pydantic, rich, typer"] = time.time()
    from atgnn import Tagger, audio, cli
    stamps["atgnn"] = time.time()
    tagger = Tagger.from_pretrained()
    stamps["model"] = time.time()
samples = audio.load(sys.argv[1], 16000).samples
stamps["decode"] = time.time()
tagger.tag((samples, 16000))
stamps["front end, network, tags"] = time.time()
print(json.dumps(stamps))
"""
