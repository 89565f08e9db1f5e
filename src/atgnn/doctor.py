"""What this installation runs on, and what would make it faster or more able."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
import time
import warnings
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import soundfile
import torch
from huggingface_hub.constants import HF_HUB_CACHE

from atgnn import __version__
from atgnn.errors import KernelError
from atgnn.graph import backend_in_use, knn_extremum, use_backend
from atgnn.graph.kernels import cpu
from atgnn.shipped import shipped_models

__all__ = ["Audio", "GraphKernel", "Graphics", "Processor", "Report", "examine", "processor"]

#: Instructions that matter to speed here, in the words of Linux; the last are ARM's.
INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")

#: Units that multiply matrices in bfloat16 faster than in float32.
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")

#: Where Linux describes the processor.
CPUINFO = Path("/proc/cpuinfo")

#: Extras of people who change this package.
DEVELOPMENT = ("dev", "test")


@dataclass(frozen=True)
class Processor:
    """The processor and how much of it PyTorch uses."""

    name: str
    instructions: tuple[str, ...]
    bfloat16: bool  # in hardware
    threads: int


@dataclass(frozen=True)
class GraphKernel:
    """What builds graphs on the processor."""

    in_use: str | None  # an instruction-set level, "plain", or None: see `problem`
    path: str | None  # the compiled library
    shares_threads: bool  # with PyTorch
    matrix_units: bool  # takes products of bfloat16 nodes from AMX
    speed_up: float | None  # how many times as fast as plain PyTorch on a small graph
    problem: str | None  # what to do for more speed


@dataclass(frozen=True)
class Graphics:
    """The GPU that PyTorch would use."""

    name: str
    graphs: str  # what builds graphs there: "triton" or "plain"
    triton: str | None
    bfloat16: bool


@dataclass(frozen=True)
class Audio:
    """What decodes and resamples."""

    soundfile: str
    libsndfile: str
    formats: tuple[str, ...]
    soxr: str
    av: str | None  # PyAV, for video containers


@dataclass(frozen=True)
class Report:
    """All of it. `extras` has, by name, the packages of the extra that are missing."""

    atgnn: str
    python: str
    torch: str
    system: str
    processor: Processor
    graph_kernel: GraphKernel
    graphics: Graphics | None
    audio: Audio
    extras: dict[str, tuple[str, ...]]
    models: tuple[str, ...]
    kernel_cache: str | None
    model_cache: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine() -> Report:
    """Look around; takes about a second."""
    return Report(
        atgnn=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        graph_kernel=_graph_kernel(),
        graphics=_graphics(),
        audio=_audio(),
        extras=_extras(),
        models=tuple(shipped_models()),
        kernel_cache=_kernel_cache(),
        model_cache=str(HF_HUB_CACHE),
    )


# ------------------------------------------------------------------ the processor


def processor() -> Processor:
    """What this machine computes on."""
    facts = _cpuinfo()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    known = tuple(flag for flag in INSTRUCTIONS if flag in flags)
    return Processor(
        name=facts.get("model name") or _processor_name(),
        instructions=known,
        bfloat16=any(flag in known for flag in BFLOAT16),
        threads=torch.get_num_threads(),
    )


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core; elsewhere nothing."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.split(":", 1) for line in text.partition("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in lines}


def _processor_name() -> str:
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------ graphs


def _graph_kernel() -> GraphKernel:
    in_use, problem = None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # we say it ourselves
            in_use = backend_in_use("cpu")
    except KernelError as error:
        problem = f"ATGNN_KERNEL: {error}"
    path = cpu.library_path()
    if in_use == "plain":
        problem = (
            "not built for this version: `atgnn doctor --build` does it"
            if path is None
            else "ATGNN_KERNEL=plain leaves the compiled kernel unused"
        )
    elif in_use and not cpu.has_threads():
        problem = "runs on one thread: this PyTorch has no OpenMP library to share threads with"
    compiled = in_use not in (None, "plain")
    return GraphKernel(
        in_use=in_use,
        path=None if path is None else str(path),
        shares_threads=compiled and cpu.has_threads(),
        matrix_units=compiled and cpu.has_half_products(),
        speed_up=_speed_up() if compiled else None,
        problem=problem,
    )


def _speed_up() -> float:
    """Against plain PyTorch, on a graph like those of a model's third stage."""
    generator = torch.Generator("cpu").manual_seed(0)
    query = torch.randn(1, 512, 160, generator=generator)
    candidates = torch.randn(1, 512, 160, generator=generator)

    def once() -> float:
        start = time.perf_counter()
        knn_extremum(query, candidates, 9, 2)
        return time.perf_counter() - start

    ours, plain = [], []
    with torch.inference_mode():
        for _ in range(8):  # in turn, and the best of each: others use the processor too
            ours.append(once())
            with use_backend("plain"):
                plain.append(once())
    return round(min(plain) / min(ours), 1)


def _graphics() -> Graphics | None:
    if torch.cuda.is_available():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graphs = backend_in_use("cuda")
        bfloat16 = torch.cuda.is_bf16_supported()
        return Graphics(torch.cuda.get_device_name(), graphs, _version("triton"), bfloat16)
    if torch.backends.mps.is_available():
        return Graphics("Apple GPU", "plain", None, True)
    return None


# ------------------------------------------------------------------ what is installed


def _audio() -> Audio:
    containers = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in _formats()]
    inside = soundfile.available_subtypes("OGG") if "OGG" in containers else {}
    return Audio(
        soundfile=soundfile.__version__,
        libsndfile=soundfile.__libsndfile_version__,
        formats=(*containers, *(name for name in ("VORBIS", "OPUS") if name in inside)),
        soxr=_version("soxr") or "",
        av=_version("av"),
    )


def _formats() -> dict[str, str]:
    formats: dict[str, str] = soundfile.available_formats()
    return formats


def _extras() -> dict[str, tuple[str, ...]]:
    """Packages that each extra still needs, by the package's own metadata."""
    try:
        required = metadata.requires("atgnn") or []
    except metadata.PackageNotFoundError:  # run from its source folder
        return {}
    missing: dict[str, list[str]] = {}
    for line in required:
        package = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if package is None or extra is None or extra[1] in DEVELOPMENT:
            continue
        packages = missing.setdefault(extra[1], [])
        if _version(package[0]) is None:
            packages.append(package[0])
    return {extra: tuple(packages) for extra, packages in missing.items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _kernel_cache() -> str | None:
    try:
        return str(cpu.built_path().parent)
    except RuntimeError:  # a user without a home
        return None
