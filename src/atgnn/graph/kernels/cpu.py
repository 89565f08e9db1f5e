"""The graph operator in C++ for processors: where it comes from, and how it is called.

`cpu.cpp` is free of Python's and PyTorch's headers, so that installing needs neither. It is built
by setuptools where there is a compiler when the package is installed; otherwise
``atgnn doctor --build`` builds it into the user's cache. A library says what sources it was made
from, and one of other sources than those beside this file is not used. Its threads are those of
PyTorch.

B batch, N query nodes, M candidates, K neighbours, C channels.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atgnn.errors import KernelError
from atgnn.files import cache_folder
from atgnn.graph.kernels import plain
from atgnn.graph.kernels.source import SOURCES, compile_flags, digest

__all__ = [
    "LEVELS",
    "backward",
    "best_level",
    "build",
    "extremum",
    "forward",
    "library_path",
    "loads",
]

LEVELS = ("base", "avx2", "avx512", "avx512_bf16")  # by their number in cpu.cpp

NO_HALF: tuple[int | None, int | None] = (None, None)  # products of bfloat16 by the level itself

_BESIDE = [Path(__file__).with_name("_cpu" + suffix) for suffix in EXTENSION_SUFFIXES]
_Int, _Pointer = ctypes.c_int64, ctypes.c_void_p

# at::native::cpublas::brgemm(long x 6, bool, BFloat16 const*, BFloat16 const*, float*, bool) and
# brgemm_release(bool)
_BRGEMM = (
    "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb",
    "_ZN2at6native7cpublas14brgemm_releaseEb",
)


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("batch", "query_count", "candidate_count", "channels")),
        *((name, _Int) for name in ("query_columns", "columns")),
        *((name, _Int) for name in ("k", "dilation", "neighbour_count", "ranks")),
        *((name, _Int) for name in ("largest", "cosine", "query_bf16", "candidates_bf16")),
        *((name, _Pointer) for name in ("query", "query_half")),
        *((name, _Pointer) for name in ("rows_of_candidates", "candidates_half")),
        *((name, _Pointer) for name in ("by_frequency", "by_time", "table")),
        ("table_stride", _Int),
        *((name, _Pointer) for name in ("lengths", "half_product", "release")),
        ("as_pairs", _Int),
        *((name, _Pointer) for name in ("extremum", "extremum_half", "neighbours")),
        *((name, _Pointer) for name in ("panels", "offset", "inverse")),
        *((name, _Int) for name in ("panel_count", "padded")),
    ]


class _Extremum(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("batch", "query_count", "candidate_count", "channels")),
        *((name, _Int) for name in ("neighbour_count", "largest", "half")),
        *((name, _Pointer) for name in ("candidates", "neighbours", "out")),
    ]


class _Gradient(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("batch", "query_count", "candidate_count", "channels")),
        *((name, _Int) for name in ("neighbour_count", "largest", "half")),
        *((name, _Pointer) for name in ("upstream", "candidates", "neighbours", "out")),
    ]


# ------------------------------------------------------------------ the operator


def forward(
    query: Tensor,
    candidates: Tensor,
    by_frequency: Tensor | None,
    by_time: Tensor | None,
    table: Tensor | None,
    lengths: Tensor | None,
    columns: int,
    k: int,
    dilation: int,
    largest: bool,
    cosine: bool,
    level: int | None = None,
    half: tuple[int | None, int | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """See `atgnn.graph.operator.knn_extremum`. Any floating dtype but float64.

    `level` and `half` are for tests: the instruction set (a number in `LEVELS`), and the addresses
    of a product of bfloat16 matrices and of what ends its use on a thread, or `NO_HALF`.
    """
    (batch, nodes, channels), count = query.shape, candidates.shape[1]
    kept: list[Tensor] = []  # what the pointers below point into

    def pointer(tensor: Tensor | None, dtype: torch.dtype) -> int | None:
        if tensor is None:
            return None
        kept.append(tensor.detach().to(dtype).contiguous())
        return kept[-1].data_ptr()

    def half_or_float(tensor: Tensor) -> tuple[int | None, int | None]:
        if tensor.dtype == torch.bfloat16:
            return None, pointer(tensor, torch.bfloat16)
        return pointer(tensor, torch.float32), None

    neighbour_count = min(k, count)
    both_half = query.dtype == candidates.dtype == torch.bfloat16 and channels % 2 == 0
    half_product, release = NO_HALF
    if both_half:
        half_product, release = half or _half_products() or NO_HALF
    x, x_half = half_or_float(query)
    y, y_half = half_or_float(candidates)
    exact = torch.bfloat16 if y_half is not None else torch.float32
    extremum = query.new_empty(query.shape, dtype=exact)
    neighbours = query.new_empty((batch, nodes, neighbour_count), dtype=torch.int32)
    if not batch or not nodes:
        return extremum.to(candidates.dtype), neighbours
    problem = _Problem(
        batch=batch,
        query_count=nodes,
        candidate_count=count,
        channels=channels,
        query_columns=nodes if by_time is None else by_time.shape[0],
        columns=columns,
        k=k,
        dilation=dilation,
        neighbour_count=neighbour_count,
        ranks=min(count, (k - 1) * dilation + 1),
        largest=largest,
        cosine=cosine,
        query_bf16=x_half is not None,
        candidates_bf16=y_half is not None,
        query=x,
        query_half=x_half,
        rows_of_candidates=y,
        candidates_half=y_half,
        by_frequency=pointer(by_frequency, torch.float32),
        by_time=pointer(by_time, torch.float32),
        table=pointer(table, torch.float32),
        table_stride=nodes * count if table is not None and table.ndim == 3 else 0,
        lengths=pointer(lengths, torch.int64),
        half_product=half_product,
        release=release,
        extremum=None if y_half is not None else extremum.data_ptr(),
        extremum_half=None if y_half is None else extremum.data_ptr(),
        neighbours=neighbours.data_ptr(),
    )
    _call("atgnn_forward", problem, level)
    return extremum.to(candidates.dtype), neighbours


def extremum(
    candidates: Tensor, neighbours: Tensor, largest: bool, level: int | None = None
) -> Tensor:
    """Over neighbours ``(B, N, K)`` that `forward` found: what it gave with them, ``(B, N, C)``."""
    half = candidates.dtype == torch.bfloat16
    y = (candidates.detach() if half else candidates.detach().float()).contiguous()
    near = neighbours.contiguous()
    out = y.new_empty(*near.shape[:2], y.shape[2])
    arguments = _Extremum(
        batch=y.shape[0],
        query_count=near.shape[1],
        candidate_count=y.shape[1],
        channels=y.shape[2],
        neighbour_count=near.shape[2],
        largest=largest,
        half=half,
        candidates=y.data_ptr(),
        neighbours=near.data_ptr(),
        out=out.data_ptr(),
    )
    _call("atgnn_extremum", arguments, level)
    return out.to(candidates.dtype)


def backward(
    grad: Tensor, candidates: Tensor, neighbours: Tensor, largest: bool, level: int | None = None
) -> Tensor:
    """Gradient of the candidates: each channel's goes to the nearest neighbour that won."""
    half = grad.dtype == candidates.dtype == torch.bfloat16
    upstream, y = (
        (t.detach() if half else t.detach().float()).contiguous() for t in (grad, candidates)
    )
    near = neighbours.contiguous()
    out = torch.zeros(y.shape, dtype=torch.float32, device=y.device)
    gradient = _Gradient(
        batch=y.shape[0],
        query_count=near.shape[1],
        candidate_count=y.shape[1],
        channels=y.shape[2],
        neighbour_count=near.shape[2],
        largest=largest,
        half=half,
        upstream=upstream.data_ptr(),
        candidates=y.data_ptr(),
        neighbours=near.data_ptr(),
        out=out.data_ptr(),
    )
    _call("atgnn_backward", gradient, level)
    return out.to(candidates.dtype)


def _call(name: str, arguments: ctypes.Structure, level: int | None) -> None:
    library = _library()
    assert library is not None, "ask loads() first"
    chosen = best_level() if level is None else level
    assert 0 <= chosen <= newest_level(), "this processor lacks that level"
    done = getattr(library, name)(
        ctypes.byref(arguments), chosen, _threads_of_torch(), torch.get_num_threads()
    )
    if done != 0:
        raise MemoryError("the graph kernel could not get the memory it needs")


def call_norm(arguments: ctypes.Structure, which: int) -> None:
    """One pass of `kernels.norm`."""
    library = _library()
    assert library is not None, "ask loads() first"
    library.atgnn_norm(
        ctypes.byref(arguments), which, best_level(), _threads_of_torch(), torch.get_num_threads()
    )


def call_mix(arguments: ctypes.Structure, level: int) -> None:
    """See `kernels.mix`."""
    library = _library()
    assert library is not None, "ask loads() first"
    library.atgnn_mix(ctypes.byref(arguments), level, _threads_of_torch(), torch.get_num_threads())


def panel_width(level: int) -> int:
    """Outputs that a level computes at once."""
    library = _library()
    assert library is not None, "ask loads() first"
    return int(library.atgnn_wide(level))


# ------------------------------------------------------------------ the library


def loads() -> bool:
    """Whether the compiled kernel is there."""
    return _library() is not None


def library_path() -> Path | None:
    """The file in use, or None."""
    library = _library()
    return None if library is None else Path(library._name)


def newest_level() -> int:
    """The number in `LEVELS` of the newest that this processor runs."""
    library = _library()
    return 0 if library is None else int(library.atgnn_best_level())


@cache
def best_level() -> int:
    """The newest level that this processor runs and that agrees with the plain path."""
    return next((level for level in range(newest_level(), 0, -1) if _agrees(level)), 0)


def _found() -> Path | None:
    """What was built with the package, else what was built on demand."""
    places = list(_BESIDE)
    with suppress(RuntimeError):  # a user without a home has no cache
        places.append(built_path())
    return next(filter(_fits, places), None)


def _fits(path: Path) -> bool:
    try:
        answer = ctypes.CDLL(str(path)).atgnn_digest
    except (OSError, AttributeError):  # not there, not for this system, or not ours
        return False
    answer.restype = ctypes.c_uint64
    return bool(answer() == int(digest(), 16))


@cache
def _library() -> ctypes.CDLL | None:
    path = _found()
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    for name in ("atgnn_forward", "atgnn_extremum", "atgnn_backward"):
        function = getattr(library, name)
        function.argtypes = [_Pointer, _Int, _Pointer, _Int]
        function.restype = _Int
    library.atgnn_mix.argtypes = [_Pointer, _Int, _Pointer, _Int]
    library.atgnn_mix.restype = _Int
    library.atgnn_wide.argtypes = [_Int]
    library.atgnn_wide.restype = _Int
    library.atgnn_norm.argtypes = [_Pointer, _Int, _Int, _Pointer, _Int]
    library.atgnn_norm.restype = _Int
    library.atgnn_best_level.restype = _Int
    return library


@cache
def _threads_of_torch() -> int | None:
    """Address of `GOMP_parallel` in the OpenMP library that PyTorch runs on.

    With it our loops run on PyTorch's own threads. Where PyTorch has none (some builds for macOS
    and Windows), the kernel runs on one thread.
    """
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = ctypes.CDLL(str(path)).GOMP_parallel  # looked up in what it is linked to
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, _Pointer).value


@cache
def _half_products() -> tuple[int, int] | None:
    """Addresses of PyTorch's own product of bfloat16 matrices, where the processor has AMX.

    The function is not part of PyTorch's interface: its symbol spells out the types of its
    arguments, and it is used only if the kernel with it agrees with the plain path.
    """
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    start = getattr(torch.cpu, "_init_amx", None)
    if supported is None or start is None or not supported() or not start():
        return None
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        library = ctypes.CDLL(str(path))
        functions = [ctypes.cast(getattr(library, name), _Pointer).value for name in _BRGEMM]
    except (OSError, AttributeError):
        return None
    product, release = functions
    if not product or not release or not _agrees_in_half((product, release)):
        return None
    return product, release


def has_half_products() -> bool:
    """Whether scores of bfloat16 nodes are computed by AMX.

    Without it the level avx512_bf16 multiplies them with the vector instructions of its name, the
    levels below after widening them.
    """
    return _half_products() is not None


def has_threads() -> bool:
    """Whether the kernel shares PyTorch's threads."""
    return _threads_of_torch() is not None


def _agrees(level: int) -> bool:
    """Whether a level finds what the plain path finds."""
    dtypes = torch.float32, torch.bfloat16
    return all(_finds(dtype, level=level, half=NO_HALF) for dtype in dtypes)


def _agrees_in_half(half: tuple[int, int]) -> bool:
    return _finds(torch.bfloat16, half=half)


def _finds(dtype: torch.dtype, **how: Any) -> bool:
    """Whether the kernel finds what the plain path finds, whatever autocast is on around it."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        expected, near = plain.forward(**_example(dtype))
        found, neighbours = forward(**_example(dtype), **how)
        return torch.equal(expected, found) and torch.equal(near, neighbours)


def _example(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Arguments of `forward` in whole numbers, so that no score is rounded."""
    generator = torch.Generator("cpu").manual_seed(0)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-8, 9, shape, generator=generator, device="cpu").to(dtype)

    nodes = {"query": whole(1, 70, 20), "candidates": whole(1, 45, 20), "columns": 45}
    position = {"by_frequency": None, "by_time": None, "table": whole(70, 45).float()}
    options = {"k": 4, "dilation": 2, "largest": True, "cosine": False, "lengths": None}
    return {**nodes, **position, **options}


# ------------------------------------------------------------------ building it


def built_path() -> Path:
    """Where `build` puts the library: named by what it was made from."""
    return cache_folder("kernels") / f"graph-{digest()}-{sys.platform}-{platform.machine()}.so"


def build() -> Path:
    """Compile the kernel into the user's cache (seconds) and use it from now on.

    Safe when several processes build at once: each compiles beside and moves its result into
    place whole.

    Raises:
        KernelError: there is no C++ compiler, it failed, or the cache cannot be written.
    """
    compiler = _compiler()
    try:
        target = built_path()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            scratch = Path(folder) / "graph.so"
            _compile(compiler, scratch)
            os.replace(scratch, target)
    except (OSError, RuntimeError) as error:  # Path.home() knows no home: RuntimeError
        raise KernelError(f"cannot write the compiled graph kernel: {error}") from error
    for cached in (_library, best_level, _half_products):
        cached.cache_clear()
    if not loads():
        raise KernelError(f"the graph kernel was built but does not load here: {target}")
    return target


def _compiler() -> list[str]:
    """The C++ compiler's command: the one in the variable CXX, or one that is found."""
    asked = shlex.split(os.environ.get("CXX", ""))
    names = asked[:1] or ["c++", "g++", "clang++"]
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise KernelError(
            f"no C++ compiler found ({', '.join(names)}): install one (Debian: `apt install g++`, "
            "macOS: `xcode-select --install`); until then plain PyTorch serves"
        )
    return [path, *asked[1:]]


def _compile(compiler: list[str], target: Path) -> None:
    command = [*compiler, *compile_flags(), "-shared", str(SOURCES[0]), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        line = next((line for line in lines if "error" in line), lines[0])
        raise KernelError(f"{compiler[0]} could not build the graph kernel: {line}")
