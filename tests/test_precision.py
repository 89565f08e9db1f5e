"""Half precision: label blocks that neither overflow nor stop learning, and scores that hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from atgnn import audio
from atgnn.checkpoint import Checkpoint
from atgnn.data import Clips
from atgnn.labels import Ontology
from atgnn.metrics import evaluate_scores
from atgnn.model import ATGNN, ModelConfig
from atgnn.model import label as label_side
from atgnn.model.inference import for_inference
from atgnn.model.label import LabelBranch, LabelGraph, LabelUpdate, wide_linear
from atgnn.model.layers import GraphUpdate
from atgnn.shipped import shipped_models

HALF = [torch.bfloat16, torch.float16]
LARGEST = torch.finfo(torch.float16).max  # 65,504
STEPS = 200

# Four label blocks on one grid, as in the third stage of larger pyramids; many labels.
CONFIG = ModelConfig(
    num_labels=200,
    n_mels=16,
    nominal_frames=32,
    stem_widths=(8, 8),
    stem_strides=(2, 2),
    channels=(8, 16),
    blocks=(1, 1),
    reductions=(1, 1),
    k=3,
    k_plg=3,
    head_width=16,
    update_groups=1,
    label_blocks=(4, 0),
    label_update_groups=1,
    label_ffn_ratio=2,
    drop_path=0.0,
    label_drop_path=0.0,
)


def clips() -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in which all labels hold or none does.

    So all cells of A l are pushed the same way, and a projection's normalisation hides from the
    loss how large they have become.
    """
    generator = torch.Generator().manual_seed(1)
    mel = torch.randn(16, 32, 16, generator=generator)
    targets = (torch.rand(16, 1, generator=generator) < 0.5).float().expand(16, 200)
    while True:
        yield from zip(mel.split(4), targets.split(4), strict=True)


def train(dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """Train; the losses, up to the first that is not finite, and the scaler's scales."""
    torch.manual_seed(0)
    model = ATGNN(CONFIG).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.04, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    losses: list[float] = []
    scales = [scaler.get_scale()]
    for mel, targets in islice(clips(), STEPS):
        with torch.autocast("cpu", dtype=dtype):
            logits = model(mel)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), targets)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        schedule.step()
        scales.append(scaler.get_scale())
    return losses, scales


# ---------------------------------------------------------------------------- 200 steps


@contextmanager
def published_layout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The label side without any guard: autocast decides about every product."""

    def graph(self: LabelGraph, labels: Tensor) -> Tensor:
        return labels + torch.matmul(self.adjacency, labels)

    def branch(self: LabelBranch, stages: Any, seen: None = None) -> Tensor:
        levels = self.looks_at(stages)
        labels = self.embedding.expand(levels[0].x.shape[0], -1, -1)
        for level, patches in zip(self.levels, levels, strict=True):
            labels = level(labels, patches)
        return torch.matmul(labels[:, :, None], self.readout[:, :, None]).flatten(1)

    with monkeypatch.context() as patch:
        patch.setattr(LabelGraph, "forward", graph)
        patch.setattr(LabelBranch, "forward", branch)
        patch.setattr(label_side, "in_fp16", lambda x: False)
        yield


class Watch:
    """While it is open: dtypes of linear maps and convolutions, and the largest label value."""

    def __init__(self) -> None:
        self.dtypes: dict[str, set[torch.dtype]] = {}
        self.largest = 0.0

    def __enter__(self) -> Watch:
        self._hook = nn.modules.module.register_module_forward_hook(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _see(self, module: nn.Module, _: Any, out: Any) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            self.dtypes.setdefault(type(module).__name__, set()).add(out.dtype)
        if isinstance(module, LabelGraph):
            self.largest = max(self.largest, out.detach().abs().nan_to_num(0).max().item())


def test_the_published_layout_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same clips, from the same weights."""
    with published_layout(monkeypatch), Watch() as watch:
        losses, _ = train(torch.float16)
    assert math.isnan(losses[-1])
    assert len(losses) < STEPS
    assert watch.largest > LARGEST / 4  # a linear map of these leaves fp16


class Products(TorchFunctionMode):
    """Notes the dtype of every linear map and convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("linear", "conv2d", "matmul"):
            self.dtypes.setdefault(name, set()).add(out.dtype)
        return out


@pytest.mark.parametrize("dtype", HALF)
def test_two_hundred_steps(dtype: torch.dtype) -> None:
    with Watch() as watch:
        losses, scales = train(dtype)
    assert watch.dtypes["Conv2d"] == watch.dtypes["Linear"] == {dtype}
    assert watch.largest > LARGEST  # beyond the end of fp16
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    assert np.mean(losses[-20:]) < 0.1 * losses[0]
    assert dtype == torch.bfloat16 or scales[-1] >= 256
    assert sum(after < before for before, after in pairwise(scales)) <= 10  # steps left out


@pytest.mark.parametrize("dtype", HALF)
def test_maps_of_labels_run_in_half_precision(dtype: torch.dtype) -> None:
    """Only the product A l does not."""
    model = ATGNN(CONFIG).train()
    mel, _ = next(clips())
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype), Products() as products:
        model(mel)
    assert products.dtypes["linear"] == products.dtypes["conv2d"] == {dtype}
    assert torch.float32 in products.dtypes["matmul"]


# ---------------------------------------------------------------------------- the guard


def large(*shape: int) -> Tensor:
    """Rows of very different sizes, up to a million."""
    torch.manual_seed(0)
    return torch.randn(shape) * torch.logspace(-2, 6, shape[-2])[:, None]


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the row's largest value."""
    return ((a - b).abs().amax(-1) / b.abs().amax(-1)).max().item()


def test_linear_maps_of_large_values() -> None:
    x, linear = large(2, 9, 32), nn.Linear(32, 48)
    with torch.autocast("cpu", dtype=torch.float16):
        out = wide_linear(x, linear)
        assert not linear(x).isfinite().all()
    assert out.dtype == torch.float32
    assert relative(out, linear(x)) < 2e-3


@pytest.mark.parametrize("groups", [1, 4])
def test_updates_of_large_values(groups: int) -> None:
    x, extremum = large(2, 9, 32), torch.randn(2, 9, 32)
    update = LabelUpdate(32, 48, groups, sign=-1)
    nn.init.normal_(update.weight), nn.init.normal_(update.bias)
    with torch.autocast("cpu", dtype=torch.float16):
        out = update.mix(x, extremum)
        assert not GraphUpdate.mix(update, x, extremum).isfinite().all()
    assert relative(out, update.mix(x, extremum)) < 2e-3


def test_gradients_of_large_values() -> None:
    """Behind a normalisation they are as small as the values are large."""
    linear = nn.Linear(32, 48)
    nn.init.zeros_(linear.bias)

    def gradients(half: bool) -> list[Tensor]:
        x = large(2, 9, 32).mul(100).requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16, enabled=half):
            out = wide_linear(x, linear)
        out = functional.normalize(out, dim=-1)
        return list(
            torch.autograd.grad(out.square().mul(torch.arange(48)).sum(), [x, linear.weight])
        )

    for mine, wanted in zip(gradients(True), gradients(False), strict=True):
        assert relative(mine, wanted) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_guard_is_for_fp16_alone(dtype: torch.dtype) -> None:
    x, linear, update = large(2, 9, 32), nn.Linear(32, 48), LabelUpdate(32, 48, 4, sign=-1)
    nn.init.normal_(update.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert wide_linear(x, linear).equal(linear(x))
        assert update.mix(x, -x).equal(GraphUpdate.mix(update, x, -x))


def test_a_row_does_not_depend_on_others() -> None:
    x, linear = large(1, 9, 32), nn.Linear(32, 48)
    with torch.autocast("cpu", dtype=torch.float16):
        torch.testing.assert_close(wide_linear(x, linear)[:, 2:3], wide_linear(x[:, 2:3], linear))


@torch.no_grad()
def test_inference_with_large_labels() -> None:
    """Folded norms or not, fp16 follows float32."""
    torch.manual_seed(0)
    model = ATGNN(CONFIG).train()
    mel = torch.randn(8, 32, 16)
    for block in model.label_branch.levels[0].blocks:
        block.llg.adjacency.mul_(60)
    for _ in range(40):
        model(mel)
    model.eval()
    wanted, spread = model(mel), model(mel).std()
    with torch.autocast("cpu", dtype=torch.float16), Watch() as watch:
        outs = [model(mel), for_inference(model, torch.float16)(mel)]
    assert watch.largest > LARGEST
    for out in outs:
        assert (out - wanted).abs().mean() < 0.25 * spread


# ---------------------------------------------------------------------------- real clips


SHIPPED = pytest.mark.parametrize("name", shipped_models())


def score(name: str, dtype: torch.dtype, sounds: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a shipped model for each sound by itself, in float32 and in half precision."""
    checkpoint = Checkpoint.from_pretrained(name)
    front_end, results = checkpoint.make_front_end(), []
    half = for_inference(checkpoint.model, dtype)
    for path in sounds:
        wave = audio.load(path, 16_000).samples[:160_000]
        with torch.inference_mode():
            mel, _ = front_end(torch.from_numpy(wave)[None])
            results.append(torch.cat([checkpoint.model(mel), half(mel)]).sigmoid())
    both = torch.stack(results).numpy().astype(np.float64)
    return both[:, 0], both[:, 1]


@SHIPPED
def test_scores_of_real_clips(name: str, shared_data: Path) -> None:
    """Most within 0.01; where a near-tie among neighbours falls otherwise, some differ by more."""
    sounds = [
        path
        for folder in ("esc10", "cc_sounds", "ambient", "sonicpi")
        for path in Clips.read(shared_data / folder).paths[::50]
    ]
    plain, half = score(name, torch.bfloat16, sounds)
    differences = np.abs(plain - half)
    assert 0 < np.median(differences.max(1)) < 0.015
    assert (differences < 0.01).mean() > 0.9
    assert differences.max() < 0.2


@pytest.mark.slow
@SHIPPED
def test_precision_of_real_clips(name: str, shared_data: Path) -> None:
    """mAP within 0.1 point, of all clips: of a third, one swap of two ranks can make 0.2."""
    folders = ("esc10", "cc_sounds", "ambient", "sonicpi")
    table = Clips.concat([Clips.read(shared_data / folder) for folder in folders])
    vocabulary = Checkpoint.from_pretrained(name).vocabulary
    targets = table.targets(vocabulary, Ontology.audioset(), outside="drop")
    a, b = (
        evaluate_scores(targets, scores, vocabulary.names).mean_ap
        for scores in score(name, torch.bfloat16, table.paths)
    )
    assert b == pytest.approx(a, abs=0.001)
