"""The published algorithm of ATGNN, stated plainly: what ours is timed against, and its oracle.

Channels-first 1x1 convolutions; the full distance matrix with all its terms and a stored position
table in every block; `topk` of k x dilation, every dilation-th kept; nodes and neighbours both
gathered to (B, C, N, K); the pair interleaved before a grouped convolution. Source: Vision GNN and
the ATGNN author's code. Nothing here is fast on purpose.

B batch, C channels, H frequency, W time, N = H x W patches, M candidates, K neighbours, S labels.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from atgnn.errors import ConfigError
from atgnn.model import ATGNN, ModelConfig

__all__ = ["Published", "converted", "published_from"]


class Published(nn.Module):
    """The published model for clips of one length; it takes and gives what `atgnn.ATGNN` does."""

    def __init__(self, config: ModelConfig, frames: int | None = None) -> None:
        super().__init__()
        if config.trunk != "plain" or config.pooling != "mean":
            raise ConfigError(
                "the published layout has plain convolutions and reads the mean of all patches, "
                f"this one has trunk {config.trunk} and pooling {config.pooling}: measure it with "
                "--systems ours, by any command but bound"
            )
        if config.label_width is not None or config.shared_adjacency or config.in_channels != 1:
            raise ValueError("the published layout has stage-wide labels and one input channel")
        self.config = config
        frames = frames or config.nominal_frames
        self.encoder = Encoder(config, frames)
        self.patch_head = Head(config)
        self.label_branch = Labels(config) if config.has_labels else None

    def forward(self, mel: Tensor) -> Tensor:
        """``(B, T, n_mels)`` to logits ``(B, S)``; T is the length the model was built for."""
        stages = self.encoder(mel.transpose(1, 2).unsqueeze(1))
        logits = self.patch_head(stages[-1][-1])
        if self.label_branch is not None:
            logits = logits + self.label_branch(stages)
        return logits


class ConvNorm(nn.Module):
    """Convolution, batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Encoder(nn.Module):
    """Stem, absolute position, stages of blocks."""

    def __init__(self, config: ModelConfig, frames: int) -> None:
        super().__init__()
        self.stem = Stem(config)
        rows, columns = config.grid(frames)
        self.absolute = None
        if config.absolute_position:
            self.absolute = nn.Parameter(torch.zeros(1, config.channels[0], rows, columns))
        self.stages = nn.ModuleList(
            Stage(config, stage, frames) for stage in range(len(config.channels))
        )

    def forward(self, image: Tensor) -> list[list[Tensor]]:
        x = self.stem(image)
        if self.absolute is not None:
            x = x + self.absolute
        stages = []
        for stage in self.stages:
            stages.append(stage(x))
            x = stages[-1][-1]
        return stages


class Stem(nn.Module):
    """3x3 convolutions, GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inputs = (1, *config.stem_widths[:-1])
        self.convs = nn.ModuleList(
            ConvNorm(a, b, 3, stride)
            for a, b, stride in zip(inputs, config.stem_widths, config.stem_strides, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        for index, conv in enumerate(self.convs):
            x = conv(functional.gelu(x) if index else x)
        return x


class Stage(nn.Module):
    """Blocks on one grid."""

    def __init__(self, config: ModelConfig, stage: int, frames: int) -> None:
        super().__init__()
        self.entry = None
        if stage:
            self.entry = ConvNorm(config.channels[stage - 1], config.channels[stage], 3, 2)
        first = sum(config.blocks[:stage])
        self.blocks = nn.ModuleList(
            Block(config, stage, first + index, frames) for index in range(config.blocks[stage])
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.entry is not None:
            x = self.entry(x)
        after = []
        for block in self.blocks:
            x = block(x)
            after.append(x)
        return after


class Block(nn.Module):
    """Graph convolution, then feed-forward network."""

    def __init__(self, config: ModelConfig, stage: int, index: int, frames: int) -> None:
        super().__init__()
        self.grapher = Grapher(config, stage, index, frames)
        width, rate = config.channels[stage], config.drop_paths[index]
        self.ffn = FeedForward(width, config.ffn_ratio, rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(self.grapher(x))


class Grapher(nn.Module):
    """Max-relative graph convolution between two 1x1 convolutions, around a residual."""

    def __init__(self, config: ModelConfig, stage: int, index: int, frames: int) -> None:
        super().__init__()
        width = config.channels[stage]
        self.fc1 = ConvNorm(width, width)
        self.update = Update(width, 2 * width, config.update_groups)
        self.fc2 = ConvNorm(2 * width, width)
        self.rate = config.drop_paths[index]
        self.ratio = config.reductions[stage]
        self.k, self.dilation = config.neighbours[index], config.dilations[index]
        self.cosine = config.distance == "cosine"
        rows, columns = config.grid(frames, stage)
        table = position_table(config.position, rows, columns, self.ratio, width)
        self.relative = None if table is None else nn.Parameter(table, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.fc1(x)
        y = functional.avg_pool2d(x, self.ratio, self.ratio) if self.ratio > 1 else None
        batch, channels, rows, columns = x.shape
        x = x.reshape(batch, channels, -1, 1)
        y = x if y is None else y.reshape(batch, channels, -1, 1)
        neighbours = nearest(x, y, self.k, self.dilation, self.relative, self.cosine)
        taken = relative_maximum(x, y, neighbours)
        out = self.fc2(self.update(x, taken)).reshape(batch, channels, rows, columns)
        return drop_path(out, self.rate, self.training) + shortcut


class Update(nn.Module):
    """Node and neighbourhood interleaved, grouped 1x1 convolution, batch norm, GELU."""

    def __init__(self, channels: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, outputs, 1, groups=groups)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, taken: Tensor) -> Tensor:
        batch, channels, nodes, _ = x.shape
        pair = torch.cat([x.unsqueeze(2), taken.unsqueeze(2)], dim=2)  # x0, m0, x1, m1, ...
        pair = pair.reshape(batch, 2 * channels, nodes, 1)
        return functional.gelu(self.norm(self.conv(pair)))


class FeedForward(nn.Module):
    """Two 1x1 convolutions with a GELU between, around a residual."""

    def __init__(self, channels: int, ratio: int, rate: float) -> None:
        super().__init__()
        self.fc1 = ConvNorm(channels, ratio * channels)
        self.fc2 = ConvNorm(ratio * channels, channels)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        out = self.fc2(functional.gelu(self.fc1(x)))
        return drop_path(out, self.rate, self.training) + x


class Head(nn.Module):
    """Global average pool and two 1x1 convolutions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = ConvNorm(config.channels[-1], config.head_width)
        self.dropout = nn.Dropout(config.head_dropout)
        self.fc2 = nn.Conv2d(config.head_width, config.num_labels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(x, 1)
        x = self.fc2(self.dropout(functional.gelu(self.fc1(x))))
        return x.flatten(1)


class Labels(nn.Module):
    """Label nodes: their blocks along the encoder, and the readout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.after_stage = config.label_placement == "after_stage"
        count, width = config.num_labels, config.channels[0]
        self.embedding = nn.Parameter(torch.zeros(1, width, count, 1))
        self.levels = nn.ModuleList()
        for channels, blocks in config.label_levels:
            self.levels.append(LabelLevel(config, width, channels, blocks))
            width = channels
        self.readout = nn.Parameter(torch.zeros(width, count))

    def forward(self, stages: list[list[Tensor]]) -> Tensor:
        patches = [x for stage in stages for x in (stage[-1:] if self.after_stage else stage)]
        labels = self.embedding.expand(patches[0].shape[0], -1, -1, -1)
        for level, x in zip(self.levels, patches, strict=True):
            labels = level(labels, x.flatten(2).unsqueeze(-1))
        return (labels.squeeze(-1) * self.readout).sum(1)


class LabelLevel(nn.Module):
    """Label blocks on one grid of patches."""

    def __init__(self, config: ModelConfig, inputs: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.projection = ConvNorm(inputs, channels) if inputs != channels else nn.Identity()
        self.blocks = nn.ModuleList(LabelBlock(config, channels) for _ in range(blocks))

    def forward(self, labels: Tensor, patches: Tensor) -> Tensor:
        labels = self.projection(labels)
        for block in self.blocks:
            labels = block(labels, patches)
        return labels


class LabelBlock(nn.Module):
    """Labels hear from patches (PLG), then from one another (LLG)."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.update = Update(width, width, config.label_update_groups)
        self.ffn: nn.Module = nn.Identity()
        if config.label_ffn_ratio:
            self.ffn = FeedForward(width, config.label_ffn_ratio, config.label_drop_path)
        self.adjacency = nn.Parameter(torch.zeros(config.num_labels, config.num_labels))
        self.k, self.rate = config.k_plg, config.label_drop_path
        self.cosine = config.distance == "cosine"

    def forward(self, labels: Tensor, patches: Tensor) -> Tensor:
        """``(B, C, S, 1)`` and ``(B, C, N, 1)`` to ``(B, C, S, 1)``."""
        neighbours = nearest(labels, patches, self.k, 1, None, self.cosine)
        taken = relative_maximum(labels, patches, neighbours, sign=-1)
        labels = labels + drop_path(self.update(labels, taken), self.rate, self.training)
        labels = self.ffn(labels)
        heard = torch.matmul(labels.squeeze(-1), self.adjacency.T)  # (B, C, S)
        return labels + heard.unsqueeze(-1)


# ---------------------------------------------------------------------------- the graph


@torch.no_grad()
def nearest(
    x: Tensor, y: Tensor, k: int, dilation: int, relative: Tensor | None, cosine: bool
) -> Tensor:
    """``(B, C, N, 1)`` and ``(B, C, M, 1)`` to neighbours ``(B, N, K)``, nearest first."""
    same = x is y
    if cosine:
        x = functional.normalize(x, dim=1)
        y = x if same else functional.normalize(y, dim=1)
    x = x.squeeze(-1).transpose(1, 2)  # (B, N, C)
    y = x if same else y.squeeze(-1).transpose(1, 2)
    inner = -2 * torch.matmul(x, y.transpose(1, 2))
    x_square = (x * x).sum(-1, keepdim=True)
    y_square = x_square if same else (y * y).sum(-1, keepdim=True)
    distance = x_square + inner + y_square.transpose(1, 2)
    if relative is not None:
        distance = distance + relative
    return torch.topk(-distance, k * dilation).indices[..., ::dilation]


def relative_maximum(x: Tensor, y: Tensor, neighbours: Tensor, sign: int = 1) -> Tensor:
    """``max_j sign (y_j - x_i)``: both gathered, subtracted, reduced, to ``(B, C, N, 1)``."""
    batch, nodes, k = neighbours.shape
    own = torch.arange(nodes, device=x.device).view(1, nodes, 1).expand(batch, -1, k)
    x_i, y_j = gather(x, own), gather(y, neighbours)  # (B, C, N, K)
    difference = y_j - x_i if sign > 0 else x_i - y_j
    return difference.max(-1, keepdim=True).values


def gather(features: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, N, K)`` of ``(B, C, M, 1)`` as a tensor of its own, ``(B, C, N, K)``."""
    batch, channels, count, _ = features.shape
    offset = torch.arange(batch, device=index.device).view(-1, 1, 1) * count
    rows = features.transpose(1, 2).reshape(batch * count, channels)
    picked = rows[(index + offset).reshape(-1)]
    return picked.view(*index.shape, channels).permute(0, 3, 1, 2).contiguous()


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Drop whole clips of a batch."""
    if not training or rate == 0:
        return x
    keep = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - rate)
    return x.div(1 - rate) * keep


def position_table(kind: str, rows: int, columns: int, ratio: int, width: int) -> Tensor | None:
    """What is added to squared distances, ``(1, N, M)``; one is stored in every block."""
    nodes = rows * columns
    if kind == "none":
        return None
    if kind == "legacy":  # a square grid, stretched over the flattened index
        side = int(nodes**0.5)
        steps = torch.arange(side, dtype=torch.float64)
        square = embedding(steps, steps, width)
        table = 2 / width * (square @ square.T).float()
        size = (nodes, max(1, nodes // ratio**2))
        if table.shape != size:
            table = functional.interpolate(table[None, None], size=size, mode="bicubic")[0]
        return -table.view(1, *size)
    high, wide = (torch.arange(size, dtype=torch.float64) for size in (rows, columns))
    centre = (ratio - 1) / 2
    at_nodes = embedding(high, wide, width)
    at_cells = embedding(high[::ratio] + centre, wide[::ratio] + centre, width)
    return (-2 / width * at_nodes.float() @ at_cells.float().T)[None]


def embedding(high: Tensor, wide: Tensor, width: int) -> Tensor:
    """Sine-cosine embedding of every point of a grid: ``(H x W, width)``, float64."""
    quarter = width // 4
    rates = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    by_axis = [
        torch.cat([(p[:, None] * rates).sin(), (p[:, None] * rates).cos()], 1) for p in (wide, high)
    ]
    by_width = by_axis[0][None].expand(len(high), -1, -1)
    by_height = by_axis[1][:, None].expand(-1, len(wide), -1)
    return torch.cat([by_width, by_height], -1).reshape(-1, width)


# ---------------------------------------------------------------------------- weights


def published_from(model: ATGNN, frames: int | None = None) -> Published:
    """The published model with the weights of ours, for clips of `frames` (the nominal) frames."""
    if model.config.position == "legacy" and frames not in (None, model.config.nominal_frames):
        raise ValueError("legacy tables are made for the nominal length: set nominal_frames")
    theirs = Published(model.config, frames).train(model.training)
    state = theirs.state_dict()
    for key, value in model.state_dict().items():
        if key.endswith("position.table") and key != "encoder.position.table":
            continue  # a relative table: each block here has made its own
        name, tensor = converted(key, value)
        if name == "encoder.absolute":
            tensor = tensor[..., : state[name].shape[-1]]
        state[name] = tensor.reshape(state[name].shape)
    theirs.load_state_dict(state)
    return theirs


def converted(key: str, value: Tensor) -> tuple[str, Tensor]:
    """Our key and tensor as the published layout has them, up to axes of size one."""
    if key == "encoder.position.table":  # (H, W, C)
        return "encoder.absolute", value.permute(2, 0, 1)
    if key in ("label_branch.embedding", "label_branch.readout"):  # (S, C)
        return key, value.T
    name = re.sub(r"\.(plg|llg)\.", ".", key).replace(".linear.", ".conv.")
    if name.endswith(("update.weight", "update.bias")):
        name = name.replace("update.", "update.conv.")
        if value.ndim == 3:  # (G, O/G, 2C/G), x columns then m columns: interleave them
            groups, outputs, inputs = value.shape
            pair = value.view(groups, outputs, 2, inputs // 2)
            value = pair.transpose(2, 3).reshape(groups * outputs, inputs)
    return name, value
