"""What follows a graph, in one pass of the kernel: as two products for each group, and a GELU."""

import pytest
import torch
from torch.nn import functional

from atgnn.graph.kernels import cpu, mix
from atgnn.model.fused import grouped_linear

pytestmark = pytest.mark.skipif(not cpu.loads(), reason="the compiled kernel is not there")

# rows, channels, outputs, groups: one row, less than a block, panels whole, half and nearly empty
SHAPES = [(1, 4, 4, 1), (77, 20, 44, 2), (100, 80, 160, 4), (200, 24, 66, 1), (13, 64, 64, 2)]


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", range(len(cpu.LEVELS)), ids=cpu.LEVELS)
@pytest.mark.parametrize(("rows", "channels", "outputs", "groups"), SHAPES)
def test_as_products_of_each_group(
    rows, channels, outputs, groups, level, dtype, gelu, monkeypatch
) -> None:
    if level > cpu.newest_level():
        pytest.skip("this processor lacks that level")
    monkeypatch.setattr(cpu, "best_level", lambda: level)
    generator = torch.Generator().manual_seed(rows)
    shapes = (
        (rows, channels),
        (rows, channels),
        (groups, outputs // groups, 2 * channels // groups),
        (outputs,),
    )
    x, m, weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    if not mix.serves(weight):
        assert dtype == torch.bfloat16
        assert cpu.LEVELS[level] != "avx512_bf16" or weight.shape[2] % 4
        return
    found = mix.mix(x, m, mix.pack(weight, bias), gelu)
    expected = grouped_linear(x.double(), m.double(), weight.double(), bias.double())
    if gelu:
        expected = functional.gelu(expected)
    assert found.dtype == dtype
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=rounding)


def test_what_it_does_not_serve() -> None:
    assert not mix.serves(torch.zeros(1, 4, 4, dtype=torch.float64))
    assert not mix.serves(torch.zeros(1, 4, 4, dtype=torch.float16))
    assert not mix.serves(torch.zeros(2, 4, 6, dtype=torch.bfloat16)), "three channels to a group"
    assert not mix.serves(torch.zeros(1, 4, 4, device="meta"))
