"""Draw the figures of docs/model.md from the project's own modules.

    python docs/figures.py [--model MODEL] [--out docs/figures]

`model.svg`: Fig. 1 of the paper, read off the modules of pyr-s, and `blocks.svg`: what is in its
blocks. `neighbours.png`: one node and its
nearest neighbours in each stage, on a sound made here. `labels.svg`: the label adjacency.
`position.png`: the two geometries of relative position.
"""

import argparse
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from picture import recorded
from PIL import Image
from torch import nn

from atgnn.checkpoint import Checkpoint
from atgnn.graph import grid_position, legacy_table
from atgnn.model import ModelConfig
from atgnn.model.config import preset
from atgnn.model.empty import empty_model
from atgnn.model.geometry import NodePlaces

ROOT = Path(__file__).parents[1]
INK, PATCH, LABEL, OUT = "#333333", "#d7e8f7", "#fbe3cf", "#e3f1dc"

plt.rcParams.update({"svg.hashsalt": "atgnn", "svg.fonttype": "none", "font.size": 9})


def save(figure: plt.Figure, path: Path, dpi: int = 100) -> None:
    """Write a figure; the same figure gives the same bytes."""
    if path.suffix == ".svg":
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    else:  # 160 colours are enough, and half of the size
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=dpi, bbox_inches="tight")
        Image.open(drawn).convert("RGB").quantize(160).save(path, optimize=True)
    plt.close(figure)


# ---------------------------------------------------------------- Fig. 1


def box(axis: Axes, x: float, y: float, text: str, colour: str, width: float = 2.5) -> None:
    """A box of height 1.3 centred on (x, y)."""
    style = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "ec": INK, "fc": colour, "lw": 0.8}
    corner = (x - width / 2, y - 0.65)
    axis.add_patch(matplotlib.patches.FancyBboxPatch(corner, width, 1.3, **style))
    axis.text(x, y, text, ha="center", va="center", fontsize=7, color="black")


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From here to there."""
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.9})


def layout(config: ModelConfig, frames: int, out: Path) -> None:
    """Fig. 1: names and counts from the modules, shapes from the configuration."""
    model = empty_model(config)
    size = {name: sum(p.numel() for p in m.parameters()) for name, m in model.named_modules()}
    stages = model.encoder.stages
    figure, axis = plt.subplots(figsize=(11.5, 3.6))
    axis.set_axis_off()
    step, top, middle = 3.1, 6.0, 3.4
    box(axis, 0, top, f"log-mel\n{config.n_mels} x {frames}", OUT)
    f, t = config.grid(frames)
    stem = f"{type(model.encoder.stem).__name__}\n+ position\n{f} x {t} nodes"
    box(axis, step, top, stem, PATCH)
    arrow(axis, (1.25, top), (step - 1.25, top))
    box(axis, step, middle, f"label\nembeddings\n{config.num_labels} x {config.channels[0]}", LABEL)
    for number, stage in enumerate(stages):
        x = (number + 2) * step
        f, t = config.grid(frames, number)
        name = type(stage.blocks[0]).__name__
        text = f"stage {number + 1}\n{len(stage.blocks)} x {name}\n{f} x {t}, C = "
        box(axis, x, top, f"{text}{config.channels[number]}", PATCH, 2.7)
        arrow(axis, (x - step + 1.3, top), (x - 1.4, top))
        level = model.label_branch.levels[number]
        text = f"{len(level.blocks)} x {type(level.blocks[0]).__name__}\nPLG, then LLG"
        box(axis, x, middle, text, LABEL, 2.7)
        arrow(axis, (x, top - 0.65), (x, middle + 0.65))
        arrow(axis, (x - step + 1.3, middle), (x - 1.4, middle))
        million = (
            size[f"encoder.stages.{number}"] / 1e6,
            size[f"label_branch.levels.{number}"] / 1e6,
        )
        axis.text(x, top + 0.8, f"{million[0]:.2f} M", ha="center", fontsize=7)
        axis.text(x, middle - 1.0, f"{million[1]:.2f} M", ha="center", fontsize=7)
    x = (len(stages) + 2) * step
    box(axis, x, top, f"{type(model.patch_head).__name__}\nmean, then\ntwo linear maps", PATCH)
    box(axis, x, middle, f"readout\n$w_s \\cdot l_s$, S = {config.num_labels}", LABEL)
    for y in (top, middle):
        arrow(axis, (x - step + 1.4, y), (x - 1.3, y))
    centre = (top + middle) / 2
    box(axis, x + 2.4, centre, "sigmoid\nof the sum", OUT, 1.7)
    arrow(axis, (x + 1.25, top - 0.2), (x + 2.1, centre + 0.55))
    arrow(axis, (x + 1.25, middle + 0.2), (x + 2.1, centre - 0.55))
    axis.set_xlim(-1.5, x + 3.4)
    axis.set_ylim(middle - 1.3, top + 1.1)
    save(figure, out)


def blocks(config: ModelConfig, out: Path) -> None:
    """What Fig. 1 calls PGN, PLG and LLG, on a grid: steps and widths from the last stage."""
    model = empty_model(config)
    patch, label = model.encoder.stages[-1].blocks[-1], model.label_branch.levels[-1].blocks[-1]
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 5.2), width_ratios=(1.25, 1, 1))
    for axis in axes:
        axis.set_axis_off()
    patch_graph(axes[0], config)
    names = f"stage {len(config.channels)} of the figure above"
    chain(axes[1], f"patch block (PGN), {names}", patch_steps(patch), PATCH)
    chain(axes[2], "label block: PLG, then LLG", label_steps(label), LABEL)
    figure.subplots_adjust(left=0.01, right=0.99, wspace=0.03)
    save(figure, out)


def patch_steps(block: nn.Module) -> list[str]:
    """A patch block as lines: linear maps by their weights, choices by their fields."""
    graph, ffn = block.grapher, block.ffn
    width = graph.fc1.linear.in_features
    return [
        f"patch nodes x\nC = {width}",
        f"$W_{{in}}$: {_shape(graph.fc1)}",
        f"k = {graph.k} neighbours: of the {graph.k * graph.dilation} nearest\n"
        f"one in {graph.dilation}",
        "$m_i = \\max_j (x_j - x_i)$",
        f"$W_{{update}}$ of [x, m]: {_update(graph.update)}",
        f"GELU, $W_{{out}}$: {_shape(graph.fc2)}\n+ x",
        f"feed-forward: {_shape(ffn.fc1)}, {_shape(ffn.fc2)}\n+ x",
    ]


def label_steps(block: nn.Module) -> list[str]:
    """A label block as lines."""
    plg, count = block.plg, len(block.llg.adjacency)
    width = plg.update.bias.numel()
    steps = [
        f"label nodes l, patches x\nS = {count}, C = {width}",
        f"k = {plg.k} neighbours: the nearest patches",
        "$m_s = \\max_j (l_s - x_j)$",
        f"$W_{{update}}$ of [l, m]: {_update(plg.update)}\nGELU, + l",
    ]
    if hasattr(plg, "ffn"):
        steps.append(f"feed-forward: {_shape(plg.ffn.fc1)}, {_shape(plg.ffn.fc2)}\n+ l")
    return [*steps, f"A l, A learned: {count} x {count}\n+ l"]


def _shape(pair: nn.Module) -> str:
    linear = pair.linear
    return f"{linear.in_features} to {linear.out_features}"


def _update(update: nn.Module) -> str:
    groups, outputs, inputs = update.weight.shape
    return f"{groups * inputs} to {groups * outputs}, {groups} groups"


def chain(axis: Axes, title: str, steps: list[str], colour: str) -> None:
    """Boxes from top to bottom."""
    gap = 1.75
    axis.set_title(title, fontsize=8)
    for number, text in enumerate(steps):
        y = -number * gap
        box(axis, 0, y, text, colour, 5.4)
        if number:
            arrow(axis, (0, y + gap - 0.65), (0, y + 0.65))
    axis.set_xlim(-3.2, 3.2)
    axis.set_ylim(-6 * gap - 1.0, 1.0)


def patch_graph(axis: Axes, config: ModelConfig) -> None:
    """Nodes on a grid of frequency and time, and the k neighbours of one, by likeness alone.

    The grid is the last stage's, what a node is like is made up: two sounds in noise.
    """
    rows, columns = config.grid(config.nominal_frames, len(config.channels) - 1)
    columns = min(columns, 16)
    random = np.random.default_rng(3)
    like = random.normal(0, 0.35, (rows, columns, 2))
    shown = [(1, t) for t in range(2, 7)] + [(2, t) for t in range(9, 14)]
    for row, column in shown:
        like[row % rows, column % columns] += (3.0, 0.5)
    at = (1 % rows, 4 % columns)
    distance = ((like - like[at]) ** 2).sum(-1)
    near = np.argsort(distance, axis=None)[: config.k]
    axis.imshow(like[..., 0], origin="lower", cmap="Blues", aspect=1.6, alpha=0.75, zorder=0)
    for index in near:
        row, column = divmod(int(index), columns)
        axis.plot([at[1], column], [at[0], row], color=INK, lw=0.9, zorder=1)
    y, x = np.mgrid[:rows, :columns]
    axis.scatter(x, y, s=14, color="white", edgecolors=INK, linewidths=0.6, zorder=2)
    axis.scatter(at[1], at[0], s=46, color="#d1495b", edgecolors="white", zorder=3)
    axis.set_title(f"patch graph: one node and the {config.k} most like it", fontsize=8)
    axis.text((columns - 1) / 2, -1.0, "time", ha="center", fontsize=7)
    axis.text(-1.0, (rows - 1) / 2, "frequency", va="center", rotation=90, fontsize=7)


# ---------------------------------------------------------------- neighbours


def made_sound(rate: int, seed: int = 0) -> np.ndarray:
    """Four seconds, float32 (T,): rising calls, a click before each, faint noise all the time."""
    random = np.random.default_rng(seed)
    time = np.arange(4 * rate) / rate
    samples = 0.002 * random.standard_normal(len(time))
    for start in (0.4, 1.5, 2.6):
        inside = (time - start).clip(0, 0.6)
        envelope = np.sin(np.pi * inside / 0.6) ** 2
        for harmonic, level in ((1, 0.3), (2, 0.15), (3, 0.08)):
            phase = 2 * np.pi * harmonic * (500 * inside + 600 * inside**2)
            samples += level * envelope * np.sin(phase)
        click = int((start - 0.15) * rate)
        samples[click : click + 40] += 0.5 * random.standard_normal(40)
    return samples.astype(np.float32)


def neighbours(checkpoint: Checkpoint, out: Path) -> None:
    """A panel for each stage: the log-mel, one node, and whom it takes from in the first block."""
    config, front_end = checkpoint.model.config, checkpoint.front_end
    samples = made_sound(front_end.sample_rate)
    mel, _ = checkpoint.make_front_end()(torch.from_numpy(samples)[None])
    graphs, _, _ = recorded(checkpoint, mel)
    first = {grid: (cells, near) for grid, cells, near in reversed(graphs)}
    grids = list(dict.fromkeys(grid for grid, _, _ in graphs))
    frames, bins = mel.shape[1:]
    seconds = front_end.frames_to_seconds(frames)
    figure, axes = plt.subplots(1, len(grids), figsize=(11, 3.1), sharey=True, layout="constrained")
    for stage, (axis, grid) in enumerate(zip(np.atleast_1d(axes), grids, strict=True)):
        cells, near = first[grid]
        places = NodePlaces(config, front_end, stage)
        extent = (0, seconds, -0.5, bins - 0.5)
        axis.imshow(mel[0].T, origin="lower", aspect="auto", cmap="magma", extent=extent)
        row = round(_loudest_bin(mel[0], seconds) / places.stride)
        column = min(grid[1] - 1, max(0, round(float(places.column_at(1.8)))))
        ratio = grid[0] // cells[0]
        x, y = places.times(grid[1])[column], row * places.stride
        for index in near[row * grid[1] + column].tolist():
            r, c = divmod(index, cells[1])
            at = (c * ratio + (ratio - 1) / 2, r * ratio + (ratio - 1) / 2)
            to_x = float(np.interp(at[0], np.arange(grid[1]), places.times(grid[1])))
            axis.plot([x, to_x], [y, at[1] * places.stride], color="cyan", lw=1, marker="o", ms=4)
        axis.plot(x, y, "o", ms=9, color="white", mec="black")
        axis.set_title(f"stage {stage + 1}: {grid[0]} x {grid[1]} nodes", fontsize=10)
        axis.set_xlabel("time, s")
    np.atleast_1d(axes)[0].set_ylabel("mel bin")
    save(figure, out, dpi=72)


def _loudest_bin(mel: torch.Tensor, seconds: float) -> int:
    """The loudest mel bin at 1.8 s: ``(T, n_mels)`` over so many seconds."""
    return int(mel[int(1.8 / seconds * len(mel))].argmax())


# ---------------------------------------------------------------- labels, positions


def labels(checkpoint: Checkpoint, out: Path) -> None:
    """The adjacency of each label block: what a row takes from a column, before features."""
    blocks = [block for level in checkpoint.model.label_branch.levels for block in level.blocks]
    names = [name.replace("_", " ") for name in checkpoint.vocabulary.names]
    matrices = [block.llg.adjacency.detach().numpy() for block in blocks]
    largest = max(np.abs(matrix).max() for matrix in matrices)
    height = max(2.5, 0.16 * len(names) + 1.8)
    size = (2.6 + 2.9 * len(blocks), height)
    figure, axes = plt.subplots(1, len(blocks), figsize=size, sharey=True, layout="constrained")
    for number, (axis, matrix) in enumerate(zip(np.atleast_1d(axes), matrices, strict=True)):
        shown = axis.imshow(matrix, cmap="RdBu_r", vmin=-largest, vmax=largest)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axis.set_yticks(range(len(names)), names, fontsize=6)
        axis.set_title(f"label block {number + 1}", fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.7)
    save(figure, out)


def positions(rows: int, columns: int, ratio: int, channels: int, out: Path) -> None:
    """The term that one node adds to the distance of every candidate, in both geometries."""
    node = (rows // 2) * columns + columns // 2
    cells = rows // ratio, columns // ratio
    tables = {
        'position="grid": the true grid': grid_position(rows, columns, ratio, channels).dense(),
        'position="legacy": the published table': legacy_table(rows * columns, ratio, channels),
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 2.2), layout="constrained", sharey=True)
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        extent = (-0.5, columns - 0.5, -0.5, rows - 0.5)
        term = table[node].view(cells)
        shown = axis.imshow(term, origin="lower", extent=extent, aspect="auto", vmin=-1, vmax=0)
        axis.plot(columns // 2, rows // 2, "o", color="red", mec="white", ms=7)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("column (time)")
    axes[0].set_ylabel("row (frequency)")
    figure.colorbar(shown, ax=axes)
    save(figure, out, dpi=80)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="everyday-mini")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint.from_pretrained(args.model)
    config = preset("pyr-s", num_labels=200)
    layout(config, 1024, args.out / "model.svg")
    blocks(config, args.out / "blocks.svg")
    neighbours(checkpoint, args.out / "neighbours.png")
    labels(checkpoint, args.out / "labels.svg")
    positions(
        *config.grid(1024), config.reductions[0], config.channels[0], args.out / "position.png"
    )


if __name__ == "__main__":
    main()
