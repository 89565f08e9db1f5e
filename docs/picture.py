"""Draw docs/graph.png: a sound, and the graph that the model saw in it.

    python docs/picture.py [SOUND] [--model MODEL] [--out docs/graph.png]

Left: one patch node and its nearest neighbours in the first block of each stage. Right: the patches
that the best label drew on in each label block.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from atgnn import audio
from atgnn.checkpoint import Checkpoint
from atgnn.graph import nearest_neighbours, pool_nodes
from atgnn.model.label import PatchLabelGraph
from atgnn.model.patch import Grapher

ROOT = Path(__file__).parents[1]


def recorded(checkpoint: Checkpoint, mel: torch.Tensor) -> tuple[list, list, torch.Tensor]:
    """Run the model; note each patch graph's grid and each label graph's neighbours."""
    graphs, labels = [], []

    def on_patches(module: Grapher, args: tuple, output: object) -> None:
        patches, position = args
        x = module.fc1(patches.x)
        rows, columns = x.shape[1:3]
        pooled, _ = pool_nodes(x, module.ratio)
        near = nearest_neighbours(
            x.flatten(1, 2), pooled.flatten(1, 2), module.k, module.dilation, bias=position.dense()
        )
        graphs.append(((rows, columns), pooled.shape[1:3], near[0]))

    def on_labels(module: PatchLabelGraph, args: tuple, output: object) -> None:
        labels.append(module.drawn(*args)[1][0])

    hooks = [
        module.register_forward_hook(on_patches if isinstance(module, Grapher) else on_labels)
        for module in checkpoint.model.modules()
        if isinstance(module, Grapher | PatchLabelGraph)
    ]
    with torch.no_grad():
        scores = checkpoint.model(mel)[0].sigmoid()
    for hook in hooks:
        hook.remove()
    return graphs, labels, scores


def centre(index: int, grid: tuple[int, int], bins: int) -> tuple[float, float]:
    """Frame and bin on which a node is centred (see `atgnn.model.geometry`)."""
    row, column = divmod(index, grid[1])
    stride = bins / grid[0]
    return column * stride, row * stride


def draw(checkpoint: Checkpoint, sound: Path, out: Path) -> None:
    """The picture."""
    recording = audio.load(sound, checkpoint.front_end.sample_rate)
    mel, _ = checkpoint.make_front_end()(torch.from_numpy(recording.samples)[None])
    graphs, labels, scores = recorded(checkpoint, mel)
    frames, bins = mel.shape[1:]
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis in axes:
        extent = (0, frames, 0, bins)
        axis.imshow(mel[0].T, origin="lower", aspect="auto", cmap="magma", extent=extent)
        ticks = np.arange(0, frames, 50)
        hop = checkpoint.front_end.hop_ms / 1000
        axis.set_xticks(ticks, [f"{tick * hop:.1f}" for tick in ticks])
        axis.set_xlabel("time, s")
    axes[0].set_ylabel("mel bin")
    stages = {grid: (cells, near) for grid, cells, near in reversed(graphs)}  # the first of each
    colours = plt.get_cmap("cool")(np.linspace(0, 1, len(stages)))
    loudest = divmod(int(mel[0].argmax()), bins)
    best = int(scores.argmax())
    grids = list(dict.fromkeys(grid for grid, _, _ in graphs))
    for number, grid in enumerate(grids):
        (cells, near), colour = stages[grid], colours[number]
        row, column = (round(place * grid[0] / bins) for place in loudest[::-1])
        node = min(row, grid[0] - 1) * grid[1] + min(column, grid[1] - 1)
        x, y = centre(node, grid, bins)
        for index in near[node].tolist():
            to = centre(index, cells, bins)
            axes[0].plot([x, to[0]], [y, to[1]], color=colour, lw=1.3, marker="o", ms=4)
        axes[0].plot(x, y, "o", ms=9, color=colour, mec="white", label=f"stage {number + 1}")
        height, width = bins / grid[0], frames / grid[1]
        for index in labels[number][best].tolist():
            x, y = centre(index, grid, bins)
            box = (x - width / 2, y - height / 2)
            axes[1].add_patch(plt.Rectangle(box, width, height, fill=False, ec=colour, lw=1.5))
    for axis in axes:
        axis.set_xlim(0, frames)
        axis.set_ylim(0, bins)
    axes[0].legend(loc="upper right", framealpha=0.6)
    axes[0].set_title("a patch and its neighbours, first block of each stage", fontsize=11)
    name = checkpoint.vocabulary.names[best]
    axes[1].set_title(f"drawn on by {name} ({scores[best]:.2f})", fontsize=11)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sound", nargs="?", type=Path, default=ROOT / "examples" / "rooster.ogg")
    parser.add_argument("--model", default="everyday-mini")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "graph.png")
    args = parser.parse_args()
    draw(Checkpoint.from_pretrained(args.model), args.sound, args.out)


if __name__ == "__main__":
    main()
