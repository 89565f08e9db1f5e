"""The Triton backend against the plain functions: in triton's interpreter, or on a GPU.

triton decides at import whether it interprets, so the tests marked `kernel` run in a process of
their own, started by `test_in_the_interpreter`; where there is a GPU, on that too.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from atgnn.graph import nearest_neighbours, neighbour_extremum

triton = pytest.importorskip("triton")
gpu = pytest.importorskip("atgnn.graph.kernels.gpu")

INTERPRETED = gpu._interpreted()
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"


def kernel(test):
    """Marks what runs a kernel, and hides it from pytest where none can run."""
    return test if INTERPRETED or DEVICE == "cuda" else None


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 30, run.stdout[-2000:]


# ------------------------------------------------------------------------- against the functions


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """The interpreter takes its time for every program: more to do in each."""
    if INTERPRETED:
        monkeypatch.setattr(gpu, "TILE_N", 64)
        monkeypatch.setattr(gpu, "GATHERED", 8192)
        monkeypatch.setattr(gpu, "MEASURED", 256)


def normal(generator, *shape, dtype=torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def whole(generator, *shape, dtype=torch.float32) -> Tensor:
    """-1, 0 and 1, with which every score is exact and ties are everywhere."""
    return torch.randint(-1, 2, shape, generator=generator).to(dtype).to(DEVICE)


def forward(x, y, k, dilation, **how) -> tuple[Tensor, Tensor]:
    given = dict.fromkeys(["by_frequency", "by_time", "table", "lengths"])
    given |= {"columns": y.shape[1], "largest": True, "cosine": True} | how
    return gpu.forward(x, y, k=k, dilation=dilation, **given)


def dense(x, y, by_frequency=None, by_time=None, table=None, lengths=None, columns=1, **_):
    """Position (.., N, M) and mask (B, M) as the plain functions take them."""
    if by_time is not None:
        separate = by_frequency[:, None, :, None] + by_time[None, :, None, :]
        table = separate.reshape(x.shape[1], y.shape[1])
    mask = None
    if lengths is not None:
        mask = torch.arange(y.shape[1], device=y.device)[None, :] % columns < lengths[:, None]
    return table, mask


def exact_scores(x, y, bias, cosine) -> Tensor:
    x, y = x.double(), y.double()
    if cosine:
        x, y = (torch.nn.functional.normalize(v, dim=-1) for v in (x, y))
    scores = y.square().sum(-1)[:, None, :] - 2 * x @ y.transpose(1, 2)
    return scores if bias is None else scores + bias.double()


def check(x, y, k, dilation, exact=False, **how) -> Tensor:
    """Neighbours score as the oracle's do (are the oracle's, if `exact`); then both directions.

    Returns the neighbours.
    """
    extremum, neighbours = forward(x, y, k, dilation, **how)
    assert neighbours.dtype == torch.int32
    assert extremum.dtype == y.dtype
    assert extremum.shape == x.shape
    bias, mask = dense(x, y, **how)
    cosine, largest = how.get("cosine", True), how.get("largest", True)
    expected = nearest_neighbours(
        x, y, k, dilation, bias=bias, candidate_mask=mask,
        distance="cosine" if cosine else "euclidean",
    )  # fmt: skip
    assert neighbours.shape == expected.shape
    if exact:
        assert torch.equal(neighbours.long(), expected)
    elif y.dtype != torch.float64:
        scores = exact_scores(x, y, bias, cosine)
        ours, best = (scores.gather(2, n.long()) for n in (neighbours, expected))
        assert torch.allclose(ours, best, rtol=1e-5, atol=2e-6)

    z = y.double().requires_grad_()
    reduced = neighbour_extremum(z, neighbours.long(), "max" if largest else "min")
    assert torch.equal(extremum.double(), reduced)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    reduced.backward(grad.double())
    ours = gpu.backward(grad, y, neighbours, largest)
    assert ours.dtype == y.dtype
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 1e-3}.get(y.dtype, 1e-5)
    assert torch.allclose(ours.double(), z.grad, rtol=tolerance, atol=tolerance)
    return neighbours


@kernel
@pytest.mark.parametrize(
    ("batch", "n", "m", "c", "k", "dilation"),
    [
        (2, 37, 53, 24, 9, 1),
        (1, 1, 1, 1, 9, 2),
        (2, 3, 7, 5, 9, 3),
        (1, 70, 130, 33, 4, 5),
        (2, 16, 64, 16, 9, 4),
        (1, 9, 600, 16, 5, 3),
        (1, 9, 3072, 8, 4, 3),
    ],
)
def test_odd_sizes(generator, batch, n, m, c, k, dilation):
    x, y = normal(generator, batch, n, c), normal(generator, batch, m, c)
    check(x, y, k, dilation)


@kernel
@pytest.mark.parametrize(("dtype", "cosine"), [(torch.bfloat16, True), (torch.float16, False)])
def test_half_precision_is_ranked_in_full(generator, dtype, cosine):
    x, y = normal(generator, 1, 33, 40, dtype=dtype), normal(generator, 1, 90, 40, dtype=dtype)
    check(x, y, 9, 2, cosine=cosine, largest=cosine)


@kernel
def test_two_dtypes(generator):
    x, y = normal(generator, 1, 20, 12), normal(generator, 1, 40, 12, dtype=torch.bfloat16)
    extremum, neighbours = forward(x, y, 5, 1)
    assert extremum.dtype == torch.bfloat16
    expected = nearest_neighbours(x, y.float(), 5)
    assert torch.equal(neighbours.long(), expected)


@kernel
@pytest.mark.parametrize(("largest", "cosine"), [(True, False), (False, True)])
def test_largest_and_smallest(generator, largest, cosine):
    x, y = 3 * normal(generator, 2, 20, 17), 3 * normal(generator, 2, 45, 17)
    check(x, y, 6, 3, largest=largest, cosine=cosine)


@kernel
@pytest.mark.parametrize("how", ["separable", "table", "table per clip"])
def test_position(generator, how):
    """41 and 47 are among the numbers whose rounded inverse is too small."""
    x, y = normal(generator, 2, 2 * 41, 12), normal(generator, 2, 2 * 47, 12)
    if how == "separable":
        position = {"by_frequency": normal(generator, 2, 2), "by_time": normal(generator, 41, 47)}
        position["columns"] = 47
    else:
        shape = (82, 94) if how == "table" else (2, 82, 94)
        position = {"table": normal(generator, *shape)}
    near = check(x, y, 4, 2, **position)
    assert not torch.equal(near, forward(x, y, 4, 2)[1])


@kernel
@pytest.mark.parametrize("rows", [3, 60])
def test_lengths(generator, rows):
    """Clips of one column to all; with 60 rows in more than one tile."""
    columns = 12
    lengths = torch.tensor([1, 5, 12], device=DEVICE)
    x, y = normal(generator, 3, 10, 8), normal(generator, 3, rows * columns, 8)
    near = check(x, y, 6, 3, lengths=lengths, columns=columns)
    assert (near % columns < lengths[:, None, None]).all()


@kernel
def test_lengths_with_position(generator):
    """The first clip has ten valid candidates in each of its tiles, and needs 17 ranks."""
    check(
        normal(generator, 2, 2 * 10, 8),
        normal(generator, 2, 3 * 600, 8),
        5,
        4,
        lengths=torch.tensor([10, 600], device=DEVICE),
        columns=600,
        by_frequency=normal(generator, 2, 3),
        by_time=normal(generator, 10, 600),
    )


# ------------------------------------------------------------------------------ ties and oddities


@kernel
@pytest.mark.parametrize(("value", "cosine"), [(0.0, False), (0.5, True)])
def test_silence_takes_the_lowest_indices(value, cosine):
    x = torch.full((1, 20, 24), value, device=DEVICE)
    y = torch.full((1, 600, 24), value, device=DEVICE)
    near = check(x, y, 5, 3, cosine=cosine)
    assert near.unique(dim=1).tolist() == [[[0, 3, 6, 9, 12]]]
    grad = torch.ones_like(x)
    assert gpu.backward(grad, y, near, True)[0, :, 0].nonzero().tolist() == [[0]]


@kernel
@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float32, True), (torch.bfloat16, False), (torch.float16, True)]
)
def test_ties_go_to_the_lowest_index(generator, dtype, largest):
    x, y = whole(generator, 2, 20, 5, dtype=dtype), whole(generator, 2, 520, 5, dtype=dtype)
    y[:, ::7] = 0.0
    y[:, ::14] = -0.0
    check(x, y, 5, 2, exact=True, largest=largest, cosine=False)


@kernel
def test_zero_vectors_under_the_cosine(generator):
    x, y = normal(generator, 1, 20, 9), normal(generator, 1, 50, 9)
    x[:, ::3], y[:, ::4] = 0.0, -0.0
    check(x, y, 9, 2)


@kernel
def test_not_contiguous(generator):
    x, y = (normal(generator, 2, 11, n).transpose(1, 2) for n in (20, 30))
    neighbours = check(x, y, 4, 2)
    grad = torch.ones(2, 1, 1, device=DEVICE).expand(2, 20, 11)
    ours = gpu.backward(grad, y, neighbours, True)
    assert torch.equal(ours, gpu.backward(grad.contiguous(), y.contiguous(), neighbours, True))


@kernel
def test_default_tiles(generator, monkeypatch):
    for name, size in {"TILE_N": 16, "GATHERED": 1024, "MEASURED": 16}.items():
        monkeypatch.setattr(gpu, name, size)
    check(normal(generator, 2, 21, 12), normal(generator, 2, 40, 12), 4, 2)


@kernel
def test_nan_shows(generator):
    x, y = normal(generator, 1, 8, 6), normal(generator, 1, 12, 6)
    y[0, 5, 2] = torch.nan
    extremum, near = forward(x, y, 12, 1)  # all are neighbours
    assert near.sort(dim=2).values[0, 0].tolist() == list(range(12))
    assert extremum.isnan().all(1).tolist() == [[False, False, True, False, False, False]]


@kernel
def test_infinite_scores_stay_inside(generator):
    y = torch.full((1, 20, 4), 1e30, device=DEVICE)
    _, near = forward(y, y, 5, 2, cosine=False)
    assert ((near >= 0) & (near < 20)).all()


# ------------------------------------------------------------------------------------- backward


@pytest.fixture
def deterministic(monkeypatch):
    """As after `torch.use_deterministic_algorithms`, which takes seconds to import much else."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)


@kernel
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e-12), (torch.float32, 1e9), (torch.bfloat16, 1.0)],
)
def test_deterministic_backward(generator, deterministic, dtype, size):
    x, y = (normal(generator, 2, n, 24, dtype=dtype) for n in (70, 20))
    near = nearest_neighbours(x, y, 5).int()
    grad = normal(generator, 2, 70, 24, dtype=dtype) * size
    z = y.double().requires_grad_()
    neighbour_extremum(z, near.long(), "max").backward(grad.double())
    ours = gpu.backward(grad, y, near, True)
    close = 2e-7 if dtype == torch.float32 else 5e-3
    assert torch.allclose(ours.double(), z.grad, rtol=close, atol=close * size)
    assert torch.equal(ours, gpu.backward(grad, y, near, True))


@kernel
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_deterministic_backward_shows_overflow(generator, deterministic, bad):
    y, near = normal(generator, 1, 10, 8), torch.zeros(1, 6, 3, dtype=torch.int32, device=DEVICE)
    grad = normal(generator, 1, 6, 8)
    grad[0, 2, 3] = bad
    assert not gpu.backward(grad, y, near, True)[0, 0, 3].isfinite()


@kernel
def test_backward_of_no_gradient(deterministic):
    y, near = torch.ones(1, 4, 8), torch.zeros(1, 6, 3, dtype=torch.int32)
    out = gpu.backward(torch.zeros(1, 6, 8, device=DEVICE), y.to(DEVICE), near.to(DEVICE), True)
    assert torch.equal(out.cpu(), torch.zeros(1, 4, 8))


# -------------------------------------------------------------------------- compiling, without GPU


TRITON_NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
}


class Recorder:
    """Stands in for a kernel and keeps what it would have been launched with."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **kwargs):
        options = {"num_warps", "num_stages", "maxnreg"} & kwargs.keys()
        self.options = {name: kwargs.pop(name) for name in options}
        self.given = dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs

    def source(self):
        """What triton compiles: as its launcher specialises the arguments."""
        signature, constants, attributes = {}, {}, {}
        for place, parameter in enumerate(self.kernel.params):
            value = self.given[parameter.name]
            fixed = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
            if parameter.is_constexpr or fixed:
                signature[parameter.name] = "constexpr"
                constants[parameter.name] = value
                continue
            if isinstance(value, Tensor):
                signature[parameter.name] = "*" + TRITON_NAMES[value.dtype]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            number = value.data_ptr() if isinstance(value, Tensor) else value
            if number % 16 == 0 and not parameter.do_not_specialize:
                attributes[(place,)] = [["tt.divisibility", 16]]
        return triton.compiler.ASTSource(
            fn=self.kernel, signature=signature, constexprs=constants, attrs=attributes
        )


def stack_bytes(cubin: bytes, folder: Path) -> int:
    """Stack of one thread, which is where registers are spilled to."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this triton brings no cuobjdump")
    (folder / "kernel.cubin").write_bytes(cubin)
    command = [str(tool), "-res-usage", str(folder / "kernel.cubin")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", out)[1])


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("names", "dtype", "n", "m", "c", "dilation", "capability"),
    [
        (["_measure", "_nearest", "_extremum", "_scatter"], torch.bfloat16, 2048, 512, 160, 1, 90),
        (["_nearest"], torch.float32, 128, 128, 640, 3, 80),
    ],
    ids=["bfloat16-sm90", "float32-sm80"],
)
def test_compiles_for_real_chips(
    tmp_path, monkeypatch, names, dtype, n, m, c, dilation, capability
):
    """Within 99 KB of shared memory, as much as a small chip has, and with little spilling."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    recorders = record(monkeypatch, dtype, n, m, c, dilation)
    for name in names:
        recorder = recorders[name]
        try:
            target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
            source = recorder.source()
        except (AttributeError, TypeError) as error:
            pytest.skip(f"triton {triton.__version__} takes its sources otherwise: {error}")
        compiled = triton.compile(source, target=target, options=recorder.options)
        assert compiled.metadata.shared <= 99 * 1024, name
        assert stack_bytes(compiled.asm["cubin"], tmp_path) <= 256, name


def record(monkeypatch, dtype, n, m, c, dilation) -> dict[str, Recorder]:
    """Every kernel as one block of a network would launch it, forward and backward."""
    names = ["_measure", "_nearest", "_extremum", "_scatter"]
    recorders = {name: Recorder(getattr(gpu, name)) for name in names}
    for name, recorder in recorders.items():
        monkeypatch.setattr(gpu, name, recorder)
    x, y = torch.zeros(1, n, c, dtype=dtype), torch.zeros(1, m, c, dtype=dtype)
    position = {"by_frequency": torch.zeros(8, 8), "by_time": torch.zeros(n // 8, m // 8)}
    lengths = torch.tensor([1])
    _, near = forward(x, y, 9, dilation, **position, lengths=lengths, columns=m // 8)
    gpu.backward(x, y, near, True)
    return recorders
