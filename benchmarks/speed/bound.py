"""Where the time goes, against what the machine allows.

    python -m benchmarks.speed bound                         # pyr-s, batch 1, 10 s
    python -m benchmarks.speed bound --preset pyr-ti --precision bf16 --batch 8

The bound is the dense work at the rate measured for `linear` at the model's own shapes, plus the
scores of the graphs at the same rate, plus what fused graphs have to move at the measured memory
bandwidth: nodes and candidates read once, extrema and neighbours (16 bits) written once.
Element-wise passes count as nothing, as they could be part of the dense layers.

Beside it: the measured time of ours, and where ours and the published algorithm spend theirs.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from atgnn.graph import ceil_div
from atgnn.model import ModelConfig

from . import published
from .harness import (
    DTYPES,
    Case,
    default_precisions,
    finish,
    heading,
    machine,
    parser,
    table,
    threads,
    timed_case,
)
from .systems import Workshop, available, bare_network

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler talks

SYSTEMS = ("ours", "published", "ast", "mobilenet")
COPY_BYTES = 2**28
LEAST_CALLS, LEAST_SECONDS = 8, 0.1  # that each shape is timed for
PROFILED = 3  # calls


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    options = parser(
        __doc__.splitlines()[0],
        systems=["ours", "published"],
        preset=["pyr-s"],
        batch=[1],
        seconds=[10.0],
        precision=None,
        rounds=7,
        memory=False,
    ).parse_args(argv)
    systems, notes = available(options.systems, SYSTEMS)
    cases, text = [], []
    with threads(options.threads):
        bandwidth = memory_bandwidth(options.device)
        for preset in options.preset:
            for seconds in options.seconds:
                for batch in options.batch:
                    for precision in options.precision or default_precisions(options.device):
                        base = Case("infer", "ours", precision, preset, batch, seconds,
                                    options.device)  # fmt: skip
                        cases.append(_one(base, systems, bandwidth, options))
                        text.append(_text(cases[-1]))
        facts = machine(options)
    report = {"command": "bound", "machine": facts, "options": vars(options), "notes": notes}
    text = [heading("bound", facts), *notes, *text]
    return finish({**report, "cases": cases}, "\n\n".join(text), options)


def _one(case: Case, systems: list[str], bandwidth: float, options: Any) -> dict[str, Any]:
    """The bound, the measured times and the breakdowns of one case."""
    workshop = Workshop()
    contestants = [workshop.contestant(replace(case, system=system)) for system in systems]
    measured = timed_case(contestants, options)
    shapes = dense_shapes(case)
    config = bare_network(case).config
    out = bound(case, config, shapes, bandwidth)
    for row in measured["systems"]:
        row["times_the_bound"] = row["median_ms"] / out["bound_ms"]
    return {
        "case": vars(case),
        **out,
        **measured,
        "breakdown": {c.case.system: breakdown(c.run, case.device) for c in contestants},
    }


# ---------------------------------------------------------------------------- the bound


@dataclass(frozen=True)
class Dense:
    """One linear map, convolution or grouped linear map at its size."""

    kind: str  # "linear", "grouped", "conv"
    rows: int  # vectors that go through
    inputs: int  # of each group; of a convolution channels x kernel
    outputs: int  # of each group
    groups: int = 1
    image: tuple[int, ...] = ()  # of a convolution: (C, H, W), stride

    @property
    def gflop(self) -> float:
        """A multiplication and an addition for each weight and row."""
        return 2e-9 * self.rows * self.inputs * self.outputs * self.groups


def bound(case: Case, config: ModelConfig, shapes: list[Dense], bandwidth: float) -> dict[str, Any]:
    """Milliseconds that the dense work, the scores and the graphs' bytes take at best."""
    times = {shape: _best_seconds(shape, case) for shape in set(shapes)}
    linear = [shape for shape in shapes if shape.kind == "linear"]
    rate = sum(s.gflop for s in linear) / sum(times[s] for s in linear)
    dense = sum(shape.gflop for shape in shapes)
    scores = score_gflop(config, case.frames) * case.batch
    size = torch.finfo(DTYPES[case.precision]).bits // 8
    moved = graph_bytes(config, case.frames, size) * case.batch
    parts = {
        "dense_ms": 1e3 * dense / rate,
        "scores_ms": 1e3 * scores / rate,
        "graph_bytes_ms": 1e3 * moved / bandwidth,
    }
    return {
        "dense_gflop": dense,
        "scores_gflop": scores,
        "graph_mb": moved / 1e6,
        "linear_gflop_per_s": rate,
        "best_gflop_per_s": max(shape.gflop / seconds for shape, seconds in times.items()),
        "bandwidth_gb_per_s": bandwidth / 1e9,
        **parts,
        "bound_ms": sum(parts.values()),
        "dense_as_measured_ms": 1e3 * sum(times[shape] for shape in shapes),
        "shapes": [
            {**vars(shape), "times": shapes.count(shape), "gflop_per_s": shape.gflop / seconds}
            for shape, seconds in sorted(times.items(), key=lambda pair: -pair[0].gflop)
        ],
    }


@torch.inference_mode()
def dense_shapes(case: Case) -> list[Dense]:
    """Every dense layer at its size, from watching one clip go through the published layout."""
    config = bare_network(replace(case, system="ours")).config.replace(position="none")
    model = published.Published(config, case.frames).eval()
    shapes: list[Dense] = []

    def watch(conv: nn.Conv2d, inputs: tuple[Tensor], out: Tensor) -> None:
        rows = case.batch * out.shape[2] * out.shape[3]
        width, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        if conv.kernel_size != (1, 1):
            image = (*inputs[0].shape[1:], conv.stride[0])
            shapes.append(Dense("conv", rows, 9 * width, outputs, 1, image))
        else:
            kind = "grouped" if conv.groups > 1 else "linear"
            shapes.append(Dense(kind, rows, width, outputs, conv.groups))

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(watch)
    model(torch.randn(1, case.frames, config.n_mels))
    return shapes + _label_to_label(config, case.batch)


def _label_to_label(config: ModelConfig, batch: int) -> list[Dense]:
    """The products ``A l``, which are no modules: A goes through l."""
    count = config.num_labels
    return [
        Dense("linear", batch * width, count, count)
        for width, blocks in config.label_levels
        for _ in range(blocks)
    ]


def score_gflop(config: ModelConfig, frames: int) -> float:
    """Scores of all graphs of one clip: nodes x candidates x channels, twice."""
    return 2e-9 * sum(
        nodes * candidates * width for nodes, candidates, width in graphs(config, frames)
    )


def graph_bytes(config: ModelConfig, frames: int, size: int) -> float:
    """Bytes that fused graphs of one clip move at least; `size` is that of a feature."""
    neighbours = 2 * config.k
    return sum(
        (2 * nodes + candidates) * width * size + nodes * neighbours
        for nodes, candidates, width in graphs(config, frames)
    )


def graphs(config: ModelConfig, frames: int) -> Iterator[tuple[int, int, int]]:
    """(nodes, candidates, channels) of every graph: patches to patches, labels to patches."""
    for stage, blocks in enumerate(config.blocks):
        rows, columns = config.grid(frames, stage)
        ratio = config.reductions[stage]
        cells = ceil_div(rows, ratio) * ceil_div(columns, ratio)
        for _ in range(blocks):
            yield rows * columns, cells, config.channels[stage]
        if config.has_labels:
            each = blocks if config.label_placement == "after_block" else 1
            for _ in range(each * config.label_blocks[stage]):
                yield config.num_labels, rows * columns, config.channels[stage]


@torch.inference_mode()
def _best_seconds(shape: Dense, case: Case) -> float:
    """The best time of one layer, its weights and inputs at hand."""
    settings: dict[str, Any] = {"device": case.device, "dtype": DTYPES[case.precision]}
    if shape.kind == "linear":
        x = torch.randn(shape.rows, shape.inputs, **settings)
        weight = torch.randn(shape.outputs, shape.inputs, **settings)
        bias = torch.randn(shape.outputs, **settings)
        return _best(lambda: functional.linear(x, weight, bias), case.device)
    if shape.kind == "grouped":
        x = torch.randn(shape.groups, shape.rows, shape.inputs, **settings)
        weight = torch.randn(shape.groups, shape.inputs, shape.outputs, **settings)
        return _best(lambda: torch.bmm(x, weight), case.device)
    channels, rows, columns, stride = shape.image
    image = torch.randn(case.batch, channels, rows, columns, **settings)
    image = image.contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(shape.outputs, channels, 3, 3, **settings)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    return _best(lambda: functional.conv2d(image, kernel, None, stride, 1), case.device)


def _best(call: Callable[[], object], device: str) -> float:
    """The shortest of many calls, in seconds."""
    cuda = device.startswith("cuda")
    for _ in range(2):
        call()
    best, spent, calls = float("inf"), 0.0, 0
    while spent < LEAST_SECONDS or calls < LEAST_CALLS:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        best, spent, calls = min(best, seconds), spent + seconds, calls + 1
    return best


def memory_bandwidth(device: str) -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _best(lambda: target.copy_(source), device)


# ---------------------------------------------------------------------------- where the time goes

GROUPS = {
    "convolution": ("convolution", "conv2d"),
    "dense": ("mm", "linear", "matmul", "attention"),
    "normalisation": ("batch_norm", "layer_norm"),
    "gelu": ("gelu",),
    "copies": ("copy", "clone", "contiguous", "aten::cat", "aten::to", "constant_pad"),
}
GRAPH = "scores and graph"


def breakdown(run: Callable[[], object], device: str) -> dict[str, float]:
    """Milliseconds of one call by kind of operation, from PyTorch's profiler."""
    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _graph_recorded(), profile(activities=activities, record_shapes=True) as seen:
        for _ in range(PROFILED):
            run()
        if cuda:
            torch.cuda.synchronize()
    groups = dict.fromkeys([*GROUPS, GRAPH, "other element-wise and overhead"], 0.0)
    for event in seen.events():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        if event.name.startswith("cuda") or event.device_type != torch.autograd.DeviceType.CPU:
            continue  # counted with the operation that started it
        groups[_group(event)] += spent / 1e3 / PROFILED
    return {name: round(ms, 3) for name, ms in groups.items()}


def _group(event: Any) -> str:
    above = event
    while above is not None:
        if above.name == GRAPH or above.name.startswith("atgnn::knn"):
            return GRAPH
        above = above.cpu_parent
    weight = event.input_shapes[1] if len(event.input_shapes or ()) > 1 else ()
    if "conv" in event.name and list(weight[2:]) == [1, 1]:
        return "dense"  # a linear map by another name
    for group, names in GROUPS.items():
        if any(name in event.name for name in names):
            return group
    return "other element-wise and overhead"


@contextmanager
def _graph_recorded() -> Iterator[None]:
    """The published graph's functions leave their name in the profile."""
    before = published.nearest, published.relative_maximum

    def named(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*args: Any, **kwargs: Any) -> Tensor:
            with record_function(GRAPH):
                return function(*args, **kwargs)

        return wrapped

    published.nearest, published.relative_maximum = map(named, before)
    try:
        yield
    finally:
        published.nearest, published.relative_maximum = before


# ---------------------------------------------------------------------------- printing


def _text(out: dict[str, Any]) -> str:
    case = out["case"]
    lines = [
        f"{case['preset']}, {case['precision']}, batch {case['batch']}, {case['seconds']:g} s",
        f"  dense   {out['dense_gflop']:8.2f} GFLOP at {out['linear_gflop_per_s']:,.0f} GFLOP/s "
        f"(linear at the model's shapes; best shape {out['best_gflop_per_s']:,.0f})"
        f"  {out['dense_ms']:8.2f} ms",
        f"  scores  {out['scores_gflop']:8.2f} GFLOP at the same rate  {out['scores_ms']:8.2f} ms",
        f"  graphs  {out['graph_mb']:8.2f} MB at {out['bandwidth_gb_per_s']:.1f} GB/s  "
        f"{out['graph_bytes_ms']:8.2f} ms",
        f"  bound   {out['bound_ms']:8.2f} ms "
        f"(all dense layers one by one at their best: {out['dense_as_measured_ms']:.2f} ms)",
        *table(
            out["systems"],
            {"system": "", "precision": "", "median_ms": ",.1f", "times_the_bound": ".2f"},
        ),
        "  where the time goes, ms a call (under the profiler):",
    ]
    kinds = next(iter(out["breakdown"].values()))
    rows = [
        {"kind": kind, **{name: parts[kind] for name, parts in out["breakdown"].items()}}
        for kind in kinds
    ]
    return "\n".join(lines + table(rows, {"kind": "", **dict.fromkeys(out["breakdown"], ",.1f")}))
