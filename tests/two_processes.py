"""What two processes compute together: run by test_distributed.py, once for each of them.

python two_processes.py CLIPS.csv OUT PORT RANK
"""

import os
import sys
from pathlib import Path

import torch
from run_helpers import tiny_recipe
from torch import distributed, nn

from atgnn.baselines.base import ImageNorm
from atgnn.distributed import (
    Part,
    gather_rows,
    largest_over_processes,
    leave_processes,
    mean_over_processes,
    part,
    uniform,
)
from atgnn.model.layers import BatchNorm, gelu_linear
from atgnn.model.together import share_norms
from atgnn.training.module import TaggingModule
from atgnn.training.run import train

#: All candidates are neighbours: no near-tie among them can magnify rounding.
SMOOTH = ("model.k=200", "model.k_plg=200", "model.drop_path=0.2")


def recipe(clips: str, *more: str):
    return tiny_recipe(
        clips,
        *SMOOTH,
        # Not stretch: how far a clip may grow depends on the longest one beside it.
        "augment={crop_seconds: 0.4, crop_shortest: 0.15, equalise_db: 3,"
        " band_limit: 0.5, frequency_shift: 2, gain_db: 3}",
        "data.validation_share=0",
        "data.validation={split: val}",
        "data.balanced=true",
        "scale.accelerator=cpu",
        # Adam makes whole steps of gradients that are zero but for rounding: runs drift apart.
        "optim.learning_rate=2e-5",
        "loggers=[]",
        "select=last",
        *more,
    )


def train_recording(recipe, out: Path):
    """Train, and write down the first update's gradients, as they are after all processes met."""
    original, first = TaggingModule.on_before_optimizer_step, {}

    def record(self, optimizer):
        if not first:
            first.update({k: p.grad.clone() for k, p in self.model.named_parameters()})
        return original(self, optimizer)

    TaggingModule.on_before_optimizer_step = record
    try:
        result = train(recipe, out)
    finally:
        TaggingModule.on_before_optimizer_step = original
    if result is not None:
        torch.save(first, out / "gradients.pt")
    return result


def norm_and_linear(x, mask, upstream, together):
    """Output, gradients and statistics of a norm followed by GELU and a linear map, float64."""
    torch.manual_seed(1)
    norm, linear = BatchNorm(4).double(), nn.Linear(4, 3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1, 5))
        norm.bias.copy_(torch.arange(4) / 2)
    if together:
        assert share_norms(norm) == 1
    x = x.clone().requires_grad_()
    out = gelu_linear(x, norm, linear, mask)
    out = out if mask is None else out * mask[..., None]
    (out * upstream).sum().backward()
    weights = [norm.weight.grad, norm.bias.grad, linear.weight.grad]
    return out, x.grad, weights, [norm.running_mean, norm.running_var]


def check_norms(rank: int) -> None:
    generator = torch.manual_seed(0)
    x = 3 * torch.randn(6, 10, 4, dtype=torch.float64, generator=generator) + 1
    upstream = torch.randn(6, 10, 3, dtype=torch.float64, generator=generator)
    ragged = torch.rand(6, 10, generator=generator) > 0.4
    own = slice(0, 2) if rank == 0 else slice(2, 6)  # not as many here as there
    for mask in (None, ragged):
        here = None if mask is None else mask[own]
        out, dx, weights, running = norm_and_linear(x, mask, upstream, False)
        out2, dx2, weights2, running2 = norm_and_linear(x[own], here, upstream[own], True)
        torch.testing.assert_close(out2, out[own])
        torch.testing.assert_close(dx2, dx[own])
        for one, whole in zip(weights2, weights, strict=True):
            torch.testing.assert_close(2 * mean_over_processes(one), whole)
        torch.testing.assert_close(running2, running)
    empty = norm_and_linear(x[:1], torch.zeros(1, 10, dtype=torch.bool), upstream[:1], True)
    assert not empty[0].any()  # all padding here and there: zeros, not NaN


def check_image_norms(rank: int) -> None:
    """Of channels before the grid, as baselines have them."""
    generator = torch.manual_seed(0)
    x = 3 * torch.randn(6, 4, 5, 2, dtype=torch.float64, generator=generator) + 1
    own = slice(0, 2) if rank == 0 else slice(2, 6)
    alone, together = ImageNorm(4).double(), ImageNorm(4).double()
    assert share_norms(together) == 1
    torch.testing.assert_close(together(x[own]), alone(x)[own])
    torch.testing.assert_close(together.running_mean, alone.running_mean)
    torch.testing.assert_close(together.running_var, alone.running_var)
    torch.testing.assert_close(together.eval()(x), alone.eval()(x))


def check_messages(rank: int) -> None:
    assert part() == Part(rank, 2)
    rows = torch.arange(6).view(3, 2)[: 3 * rank]
    assert gather_rows(rows).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert largest_over_processes(rank + 4) == 5
    assert mean_over_processes(torch.tensor(3 * rank)) == 1.5
    whole = torch.rand(3, 8, 2, generator=torch.manual_seed(5))
    here = uniform(3, 4, 2, clips=1, generator=torch.manual_seed(5))
    assert torch.equal(here, whole[:, 4 * rank : 4 * rank + 4])


def main() -> None:
    clips, out, port, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        TORCHELASTIC_RUN_ID="test",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    check_messages(rank)
    check_norms(rank)
    check_image_norms(rank)
    leave_processes()
    for number, (name, more) in enumerate(
        (("together", ["memory=lean"]), ("apart", ["scale.sync_norms=false"])), start=1
    ):
        os.environ["MASTER_PORT"] = str(port + number)
        result = train_recording(recipe(clips, *more), out / name)
        assert (result is None) == (rank > 0)
        assert part() == Part()


if __name__ == "__main__":
    main()
