"""The kernel with a product of bfloat16 matrices from outside, as AMX gives it.

Few machines have AMX, so a stand-in of the same interface multiplies here; what is tested is all
that surrounds it: the layout it is given, lengths, edges, its release.
"""

import ctypes

import pytest
import torch
from torch import Tensor

from atgnn.graph.kernels import cpu, plain

pytestmark = pytest.mark.skipif(not cpu.loads(), reason="the compiled kernel is not there")

_Int, _Pointer, _Bool = ctypes.c_int64, ctypes.c_void_p, ctypes.c_bool
_calls: list[tuple[int, int, int]] = []
_released: list[bool] = []


def _array(address: int, count: int, kind: type, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer((kind * count).from_address(address), dtype=dtype)


@ctypes.CFUNCTYPE(
    None, _Int, _Int, _Int, _Int, _Int, _Int, _Bool, _Pointer, _Pointer, _Pointer, _Bool
)
def stand_in(m, n, k, ld_a, ld_b, ld_c, add, a, b, c, paired):  # type: ignore[no-untyped-def]
    """at::native::cpublas::brgemm for bfloat16, in PyTorch."""
    _calls.append((m, n, k))
    assert paired
    assert not add
    left = _array(a, m * ld_a, ctypes.c_uint16, torch.bfloat16).view(m, ld_a)[:, :k].float()
    pairs = _array(b, k * ld_b, ctypes.c_uint16, torch.bfloat16).view(k // 2, ld_b, 2)[:, :n]
    right = pairs.permute(0, 2, 1).reshape(k, n).float()
    _array(c, m * ld_c, ctypes.c_float, torch.float32).view(m, ld_c)[:, :n] = left @ right


@ctypes.CFUNCTYPE(None, _Bool)
def release(paired):  # type: ignore[no-untyped-def]
    _released.append(paired)


HALF = tuple(ctypes.cast(function, _Pointer).value for function in (stand_in, release))


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize(("nodes", "count", "channels"), [(1, 1, 2), (70, 45, 20), (64, 130, 80)])
def test_as_the_plain_path(nodes: int, count: int, channels: int, cosine: bool) -> None:
    _calls.clear(), _released.clear()
    generator = torch.Generator().manual_seed(nodes)
    query = torch.randn(2, nodes, channels, generator=generator).bfloat16()
    candidates = torch.randn(2, count, channels, generator=generator).bfloat16()
    lengths = torch.tensor([count, max(1, count // 2)])
    rest = (None, None, None, lengths, count, 4, 2, True, cosine)
    expected, near = plain.forward(query, candidates, *rest)
    found, neighbours = cpu.forward(query, candidates, *rest, half=HALF)
    differ = (near != neighbours).any(-1).float().mean()
    assert differ < 0.02, "but for near-ties"
    same = (near == neighbours).all(-1)
    assert torch.equal(expected[same], found[same])
    assert sum(rows for rows, _, _ in _calls) == 2 * nodes
    assert {k for _, _, k in _calls} == {channels}
    assert _released
    assert all(_released)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("level", range(len(cpu.LEVELS)), ids=cpu.LEVELS)
@pytest.mark.parametrize(
    ("nodes", "count", "channels"), [(1, 1, 2), (70, 45, 20), (64, 130, 80), (50, 40, 7)]
)
def test_products_of_each_level(
    nodes: int, count: int, channels: int, level: int, cosine: bool
) -> None:
    """Without AMX; avx512_bf16 has instructions of its own for them, where channels are even."""
    if level > cpu.newest_level():
        pytest.skip("this processor lacks that level")
    generator = torch.Generator().manual_seed(nodes)
    query = torch.randn(2, nodes, channels, generator=generator).bfloat16()
    candidates = torch.randn(2, count, channels, generator=generator).bfloat16()
    lengths = torch.tensor([count, max(1, count // 2)])
    rest = (None, None, None, lengths, count, 4, 2, False, cosine)
    expected, near = plain.forward(query, candidates, *rest)
    found, neighbours = cpu.forward(query, candidates, *rest, level=level, half=cpu.NO_HALF)
    same = (near == neighbours).all(-1)
    assert same.float().mean() > 0.98, "but for near-ties"
    assert torch.equal(expected[same], found[same])


def test_float32_and_odd_channels_do_without() -> None:
    _calls.clear()
    for dtype, channels in ((torch.float32, 8), (torch.bfloat16, 7)):
        x, y = torch.randn(1, 9, channels).to(dtype), torch.randn(1, 12, channels).to(dtype)
        cpu.forward(x, y, None, None, None, None, 12, 3, 1, True, True, half=HALF)
    assert not _calls


def test_it_is_checked_before_it_is_used() -> None:
    assert cpu._agrees_in_half(HALF)

    @ctypes.CFUNCTYPE(
        None, _Int, _Int, _Int, _Int, _Int, _Int, _Bool, _Pointer, _Pointer, _Pointer, _Bool
    )
    def wrong(m, n, k, ld_a, ld_b, ld_c, add, a, b, c, paired):  # type: ignore[no-untyped-def]
        _array(c, m * ld_c, ctypes.c_float, torch.float32).zero_()

    address = ctypes.cast(wrong, _Pointer).value
    assert address is not None
    assert not cpu._agrees_in_half((address, HALF[1]))
