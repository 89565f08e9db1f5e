"""Published checkpoints in: Vision GNN (pyramid, isotropic) and the author's ATGNN.

The published models are stacks of 1x1 convolutions on ``[1, C, H, W]`` images; ours are linear maps
on channels-last nodes. Every published key has one rule here that says where it goes and how; a key
without a rule, or of another shape than its rule expects, is an error, never a silent skip.

C channels, O outputs, G groups, N nodes, M candidates, S labels.
"""

import itertools
import math
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from atgnn.errors import CheckpointError
from atgnn.graph import resize_table
from atgnn.model.atgnn import ATGNN
from atgnn.model.config import PRESETS, ModelConfig

__all__ = [
    "Fate",
    "Source",
    "WeightsReport",
    "load_published",
    "published_config",
    "read_state",
    "source_name",
]

Source = str | os.PathLike[str] | Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
Group = Literal["body", "position", "tables", "head", "labels"]

_PREFIXES = ("module.", "_orig_mod.", "net.")
_WRAPPERS = ("state_dict", "model")


# ---------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Fate:
    """What became of one tensor."""

    key: str  # as in the file; for what is left new, as in our model
    note: str


@dataclass(frozen=True)
class WeightsReport:
    """Where every tensor of a published file went, and what of the model is still new."""

    source: str
    loaded: tuple[Fate, ...]
    converted: tuple[Fate, ...]
    resized: tuple[Fate, ...]
    left_new: tuple[Fate, ...]
    dropped: tuple[Fate, ...]

    def __str__(self) -> str:
        """One line for each kind of fate and reason."""
        lines = [f"published weights from {self.source}"]
        for name in ("loaded", "converted", "resized", "left_new", "dropped"):
            by_note: dict[str, list[str]] = {}
            for fate in getattr(self, name):
                by_note.setdefault(fate.note, []).append(fate.key)
            for note, keys in by_note.items():
                shown = ", ".join(keys) if len(keys) <= 3 else f"{keys[0]} ... {keys[-1]}"
                label = name.replace("_", " ")
                lines.append(f"  {label:<9} {len(keys):>4}  {note}: {shown}")
        return "\n".join(lines)


# ---------------------------------------------------------------------------- public functions


def load_published(source: Source, model: ATGNN) -> WeightsReport:
    """Copy published weights into a model, in place.

    Pyramid and isotropic Vision GNN state dicts and the author's Lightning checkpoint; wrappers
    ("state_dict", "model") and prefixes ("module.", "net.") are taken off. The first convolution
    is averaged to one channel where the model has one, the absolute embedding is resized to the
    model's grid, and so are relative tables where the model's position is "legacy" (else they are
    dropped). What counts classes is left new where the number of labels differs, and so are a head
    or label blocks that the file does not have.

    Args:
        source: a file, opened with ``weights_only=True``, or a state dict.
        model: its layout must fit the file; `published_config` reads it off the file.

    Returns:
        What was loaded, converted, resized, left new and dropped.

    Raises:
        CheckpointError: the file cannot be read, or a key is unknown, missing or misshapen. The
            model is unchanged then.
    """
    if model.config.trunk != "plain":
        raise CheckpointError(
            f"the published weights are those of plain convolutions, this model has the trunk "
            f"{model.config.trunk}: start it with init: imagenet"
        )
    state = read_state(source)
    rules = dict(_rules(model.config))
    ours = model.state_dict()
    fates: dict[str, list[Fate]] = {
        name: [] for name in ("loaded", "converted", "resized", "left_new", "dropped")
    }
    new: dict[str, Tensor] = {}
    for key, came in state.items():
        if (reason := _unused(key, model.config)) is not None:
            fates["dropped"].append(Fate(key, reason))
            continue
        rule = _rule_for(key, rules, model.config)
        target = ours[rule.target]
        if _other_classes(came, rule, target):
            fates["dropped"].append(Fate(key, "for other classes"))
            continue
        tensor, fate, note = _converted(key, came, rule, target)
        if rule.target in new and not torch.equal(new[rule.target], tensor):
            raise CheckpointError(
                f"{key} differs from the other keys that share our {rule.target}: the file has "
                "one for each block, this model one for all"
            )
        new[rule.target] = tensor
        fates[fate].append(Fate(key, note))
    fates["left_new"] = list(_left_new(state, rules, ours, new))
    with torch.no_grad():
        for name, tensor in new.items():
            ours[name].copy_(tensor)
    return WeightsReport(source_name(source), **{key: tuple(value) for key, value in fates.items()})


def published_config(source: Source, **changes: Any) -> ModelConfig:
    """The layout of a published file, with some fields changed.

    As it stands the result reproduces the published model, input size and channels included. To
    start training on sound from an image model, change what is about the input, e.g.
    ``published_config(path, in_channels=1, n_mels=128, nominal_frames=1024, num_labels=50,
    label_blocks=(1, 1, 3, 1), position="grid")``.

    What no tensor tells comes from the published settings of the family: k (9; isotropic 9 to 18),
    the dilation cap (49 or 196 over k) and, for label blocks, k_plg.

    Raises:
        CheckpointError: the file cannot be read or is of neither family.
        ConfigError: the changes do not fit.
    """
    shapes = {key: tuple(value.shape) for key, value in read_state(source).items()}
    if "stem.convs.0.weight" not in shapes or "backbone.0.0.fc1.0.weight" not in shapes:
        raise CheckpointError(
            "not a Vision GNN or ATGNN checkpoint: expected keys stem.convs.0.weight and "
            f"backbone.0.0.fc1.0.weight, got {', '.join(list(shapes)[:3])} ..."
        )
    try:
        base, found = _layout(shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"incomplete checkpoint: cannot tell its layout ({error})") from None
    return base.replace(**{**found, **changes})


# ---------------------------------------------------------------------------- reading


def read_state(source: Source) -> dict[str, Tensor]:
    """The bare state dict of a file or of what was read from one: no wrapper, no prefix.

    Raises:
        CheckpointError: the file cannot be read, or holds something else than named tensors.
    """
    content = source if isinstance(source, Mapping) else _open(Path(source))
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"expected a state dict of named tensors, got {type(content).__name__}"
            + (" without entries" if isinstance(content, Mapping) else "")
        )
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{key} is {type(value).__name__}, expected a tensor: give the model's state dict"
            )
        name = _without_prefix(str(key))
        if name in state:
            raise CheckpointError(f"{key}: the file has {name} twice, with and without a prefix")
        state[name] = value
    return state


def source_name(source: Source) -> str:
    """What a report or an error calls a source."""
    return "a state dict" if isinstance(source, Mapping) else Path(source).name


def _without_prefix(key: str) -> str:
    while (prefix := next((p for p in _PREFIXES if key.startswith(p)), None)) is not None:
        key = key.removeprefix(prefix)
    return key


def _open(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint file: {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL\s+([\w.]+)", str(error))
        if refused is None:
            raise CheckpointError(f"{path} is not a PyTorch checkpoint") from None
        raise CheckpointError(
            f"{path} holds {refused[1]} beside its weights, which is not safe to load; if you "
            'trust the file, save its weights alone: python -c "import torch; '
            f"c = torch.load('{path}', map_location='cpu', weights_only=False); "
            "torch.save(c.get('state_dict', c), 'weights.pth')\" and give weights.pth"
        ) from None
    except (RuntimeError, OSError, EOFError) as error:
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise CheckpointError(f"{path} is not a PyTorch checkpoint: {first[0]}") from None
    except Exception:  # of other bytes the unpickler raises almost anything, which explains nothing
        raise CheckpointError(f"{path} is not a PyTorch checkpoint") from None


# ---------------------------------------------------------------------------- layout of a file


def _layout(shapes: Shapes) -> tuple[ModelConfig, dict[str, Any]]:
    """The preset that stands for the family, and what the file says."""
    stages = _stages(shapes)
    channels = tuple(width for width, _ in stages)
    base = PRESETS["iso-s" if len(stages) == 1 else "pyr-s"]
    stem = list(_numbered(shapes, "stem.convs.{}.weight", step=3))
    strides = (2,) * (len(stem) - 1) + (1,)
    tables = [shapes.get(f"backbone.{slots[0]}.0.relative_pos") for _, slots in stages]
    found = {
        "in_channels": stem[0][1],
        "stem_widths": tuple(shape[0] for shape in stem),
        "stem_strides": strides,
        "channels": channels,
        "blocks": tuple(len(slots) for _, slots in stages),
        "reductions": _reductions(tables, base),
        "update_groups": _groups(shapes, "backbone.0.0.graph_conv.gconv.nn.0.weight", channels[0]),
        "ffn_ratio": shapes["backbone.0.1.fc1.0.weight"][0] // channels[0],
        "absolute_position": "pos_embed" in shapes,
        "position": "legacy" if all(tables) else "none",
        **_input_size(shapes, strides),
        **_head(shapes),
        **_label_layout(shapes, channels),
    }
    return base, found


def _numbered(shapes: Shapes, key: str, step: int = 1) -> Iterator[tuple[int, ...]]:
    """Shapes of a key with 0, step, 2 step, ... filled in, until one is missing."""
    for number in itertools.count(0, step):
        if key.format(number) not in shapes:
            return
        yield shapes[key.format(number)]


def _stages(shapes: Shapes) -> list[tuple[int, list[int]]]:
    """(channels, slots of the blocks in ``backbone``) of each stage."""
    stages: list[tuple[int, list[int]]] = [(shapes["backbone.0.0.fc1.0.weight"][0], [])]
    for slot in itertools.count():
        if (entry := shapes.get(f"backbone.{slot}.conv.0.weight")) is not None:
            stages.append((entry[0], []))
        elif f"backbone.{slot}.0.fc1.0.weight" in shapes:
            stages[-1][1].append(slot)
        else:
            break
    return stages


def _reductions(tables: Sequence[tuple[int, ...] | None], base: ModelConfig) -> tuple[int, ...]:
    """Read off the relative tables (N nodes, N / r^2 candidates), or the family's."""
    known = [table for table in tables if table is not None]
    if len(known) == len(tables):
        return tuple(round((nodes / candidates) ** 0.5) for _, nodes, candidates in known)
    return base.reductions if len(tables) == len(base.reductions) else (1,) * len(tables)


def _groups(shapes: Shapes, key: str, channels: int) -> int:
    return 2 * channels // shapes[key][1] if key in shapes else 1


def _input_size(shapes: Shapes, strides: tuple[int, ...]) -> dict[str, int]:
    """The image the absolute embedding is made for; height is frequency."""
    if "pos_embed" not in shapes:
        return {}
    stride = math.prod(strides)
    _, _, rows, columns = shapes["pos_embed"]
    return {"n_mels": rows * stride, "nominal_frames": columns * stride}


def _head(shapes: Shapes) -> dict[str, int]:
    if "prediction.0.weight" not in shapes or "prediction.4.weight" not in shapes:
        return {}
    return {
        "head_width": shapes["prediction.0.weight"][0],
        "num_labels": shapes["prediction.4.weight"][0],
    }


def _label_layout(shapes: Shapes, channels: tuple[int, ...]) -> dict[str, Any]:
    blocks = tuple(
        len(list(_numbered(shapes, f"mlg_stages.{stage}.{{}}.adj")))
        for stage in range(len(channels))
    )
    if not any(blocks):
        return {"label_blocks": ()}
    first = next(stage for stage, count in enumerate(blocks) if count)
    width, block = channels[first], f"mlg_stages.{first}.0"
    ffn = shapes.get(f"{block}.ffn.fc1.0.weight", (0,))
    return {
        "label_blocks": blocks,
        "label_placement": "after_stage",
        "label_update_groups": _groups(shapes, f"{block}.plg.nn.0.weight", width),
        "label_ffn_ratio": ffn[0] // width,
    }


# ---------------------------------------------------------------------------- rules


def _as_is(came: Tensor, ours: Tensor) -> tuple[Tensor, str, str]:
    return came, "loaded", "as it is"


def _linear(came: Tensor, ours: Tensor) -> tuple[Tensor, str, str]:
    """(O, C, 1, 1) to (O, C)."""
    return came[:, :, 0, 0], "converted", "1x1 convolution to linear map"


def _update(came: Tensor, ours: Tensor) -> tuple[Tensor, str, str]:
    """(O, 2C/G, 1, 1) to (G, O/G, 2C/G).

    The published layer reads its input interleaved, x_0, m_0, x_1, m_1, ...; ours reads the x
    columns of its group first, then the m columns.
    """
    grouped = came[:, :, 0, 0].reshape(ours.shape)
    split = torch.cat([grouped[..., 0::2], grouped[..., 1::2]], dim=-1)
    return split, "converted", "interleaved grouped convolution to x columns, m columns"


def _first_convolution(came: Tensor, ours: Tensor) -> tuple[Tensor, str, str]:
    """(O, 3, 3, 3) to (O, 1, 3, 3) by the mean over the input channels."""
    if came.shape == ours.shape:
        return _as_is(came, ours)
    averaged = came.float().mean(1, keepdim=True)
    return averaged, "converted", f"mean over {came.shape[1]} input channels"


def _embedding(came: Tensor, ours: Tensor) -> tuple[Tensor, str, str]:
    """(1, C, H, W) to (H', W', C), bicubic."""
    rows, columns = ours.shape[:2]
    if tuple(came.shape[2:]) == (rows, columns):
        return came[0].permute(1, 2, 0), "converted", "to channels-last"
    image = functional.interpolate(
        came.float(), size=(rows, columns), mode="bicubic", align_corners=False
    )
    height, width = came.shape[2:]
    return image[0].permute(1, 2, 0), "resized", f"{height} x {width} to {rows} x {columns}"


def _table(came: Tensor, ours: Tensor) -> tuple[Tensor, str, str]:
    """(1, N, M) to (N', M'), bicubic over the flattened indices."""
    n, m = ours.shape
    if tuple(came.shape[1:]) == (n, m):
        return came[0], "loaded", "as it is, one table for the whole stage"
    note = f"{came.shape[1]} x {came.shape[2]} to {n} x {m}"
    return resize_table(came[0], n, m), "resized", note


def _label_table(came: Tensor, ours: Tensor) -> tuple[Tensor, str, str]:
    """(1, C, S, 1) to (S, C)."""
    return came[0, :, :, 0].T, "converted", "to channels-last"


@dataclass(frozen=True)
class _Kind:
    """A way from their tensor to ours."""

    # Our shape to the shape in the file; None where any size will do.
    expected: Callable[[tuple[int, ...]], tuple[int | None, ...]]
    # (theirs, ours) to (theirs as ours, list of the report, what was done)
    convert: Callable[[Tensor, Tensor], tuple[Tensor, str, str]]


_AS_IS = _Kind(lambda ours: ours, _as_is)
_LINEAR = _Kind(lambda ours: (*ours, 1, 1), _linear)
_UPDATE = _Kind(lambda ours: (ours[0] * ours[1], ours[2], 1, 1), _update)
_FIRST = _Kind(lambda ours: (ours[0], None, *ours[2:]), _first_convolution)
_EMBEDDING = _Kind(lambda ours: (1, ours[2], None, None), _embedding)
_TABLE = _Kind(lambda ours: (1, None, None), _table)
_LABEL_TABLE = _Kind(lambda ours: (1, ours[1], ours[0], 1), _label_table)


@dataclass(frozen=True)
class _Rule:
    """Where a published key goes, and how."""

    target: str
    group: Group
    kind: _Kind = _AS_IS
    class_axes: tuple[int, ...] = ()  # axes of the file's tensor that count classes


def _rules(config: ModelConfig) -> Iterator[tuple[str, _Rule]]:
    """Every key that a published file of this layout has."""
    for i in range(len(config.stem_widths)):
        ours = f"encoder.stem.convs.{i}"
        for key, rule in _pair(f"stem.convs.{3 * i}", f"stem.convs.{3 * i + 1}", ours, "conv"):
            if key == "stem.convs.0.weight" and config.in_channels == 1:
                rule = _Rule(rule.target, "body", _FIRST)
            yield key, rule
    if config.absolute_position:
        target = "encoder.position.table"
        yield "pos_embed", _Rule(target, "position", _EMBEDDING)
    slot = 0
    for stage, blocks in enumerate(config.blocks):
        ours = f"encoder.stages.{stage}"
        if stage:
            yield from _pair(f"backbone.{slot}.conv.0", f"backbone.{slot}.conv.1", f"{ours}.entry")
            slot += 1
        for block in range(blocks):
            yield from _block(f"backbone.{slot}", f"{ours}.blocks.{block}")
            if config.position == "legacy":
                rule = _Rule(f"{ours}.position.table", "tables", _TABLE)
                yield f"backbone.{slot}.0.relative_pos", rule
            slot += 1
    yield from _pair("prediction.0", "prediction.1", "patch_head.fc1", "linear", "head")
    fc2 = "patch_head.fc2"
    yield "prediction.4.weight", _Rule(f"{fc2}.weight", "head", _LINEAR, (0,))
    yield "prediction.4.bias", _Rule(f"{fc2}.bias", "head", class_axes=(0,))
    if config.has_labels and config.label_placement == "after_stage":
        yield from _label_rules(config)


def _block(theirs: str, ours: str) -> Iterator[tuple[str, _Rule]]:
    grapher = f"{theirs}.0"
    yield from _linears(f"{grapher}.fc1", f"{ours}.grapher.fc1")
    yield from _updates(f"{grapher}.graph_conv.gconv.nn", f"{ours}.grapher.update")
    yield from _linears(f"{grapher}.fc2", f"{ours}.grapher.fc2")
    for layer in ("fc1", "fc2"):
        yield from _linears(f"{theirs}.1.{layer}", f"{ours}.ffn.{layer}")


def _label_rules(config: ModelConfig) -> Iterator[tuple[str, _Rule]]:
    branch = "label_branch"
    yield "label_embed", _Rule(f"{branch}.embedding", "labels", _LABEL_TABLE, (2,))
    for stage, count in enumerate(config.label_blocks):
        level = f"{branch}.levels.{stage}"
        before = config.channels[max(0, stage - 1)]
        if config.label_width is None and config.channels[stage] != before:
            yield from _linears(f"label_proj.{stage}", f"{level}.projection", "labels")
        for block in range(count):
            theirs, ours = f"mlg_stages.{stage}.{block}", f"{level}.blocks.{block}"
            yield from _updates(f"{theirs}.plg.nn", f"{ours}.plg.update", "labels")
            if config.label_ffn_ratio:
                for layer in ("fc1", "fc2"):
                    yield from _linears(
                        f"{theirs}.ffn.{layer}", f"{ours}.plg.ffn.{layer}", "labels"
                    )
            adjacency = f"{ours}.llg.adjacency"
            yield f"{theirs}.adj", _Rule(adjacency, "labels", class_axes=(0, 1))
    yield "label_readout", _Rule(f"{branch}.readout", "labels", class_axes=(0,))


def _linears(theirs: str, ours: str, group: Group = "body") -> Iterator[tuple[str, _Rule]]:
    return _pair(f"{theirs}.0", f"{theirs}.1", ours, "linear", group)


def _updates(theirs: str, ours: str, group: Group = "body") -> Iterator[tuple[str, _Rule]]:
    yield f"{theirs}.0.weight", _Rule(f"{ours}.weight", group, _UPDATE)
    yield f"{theirs}.0.bias", _Rule(f"{ours}.bias", group)
    yield from _norm(f"{theirs}.1", f"{ours}.norm", group)


def _pair(
    conv: str, norm: str, ours: str, kind: str = "conv", group: Group = "body"
) -> Iterator[tuple[str, _Rule]]:
    """A convolution and its batch normalisation."""
    if kind == "linear":
        yield f"{conv}.weight", _Rule(f"{ours}.linear.weight", group, _LINEAR)
    else:
        yield f"{conv}.weight", _Rule(f"{ours}.conv.weight", group)
    yield f"{conv}.bias", _Rule(f"{ours}.{kind}.bias", group)
    yield from _norm(norm, f"{ours}.norm", group)


def _norm(theirs: str, ours: str, group: Group) -> Iterator[tuple[str, _Rule]]:
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{theirs}.{name}", _Rule(f"{ours}.{name}", group)


# ---------------------------------------------------------------------------- applying the rules

_LABEL_KEY = re.compile(r"label_embed$|label_readout$|label_proj\.\d|mlg_stages\.\d")
_TABLE_KEY = re.compile(r"backbone\.\d+\.0\.relative_pos$")


def _unused(key: str, config: ModelConfig) -> str | None:
    """Why this model has no place for a published key that it knows; None where it has one."""
    if _TABLE_KEY.match(key) and config.position != "legacy":
        return f'relative tables, as position is "{config.position}"'
    if _LABEL_KEY.match(key) and not config.has_labels:
        return "label blocks, as the model has none"
    if key == "pos_embed" and not config.absolute_position:
        return "absolute embedding, as the model has none"
    return None


def _rule_for(key: str, rules: Mapping[str, _Rule], config: ModelConfig) -> _Rule:
    if key in rules:
        return rules[key]
    raise CheckpointError(
        f"unknown key {key}: expected a Vision GNN or ATGNN with {len(config.stem_widths)} stem "
        f"convolutions, blocks {config.blocks} and label blocks {config.label_blocks or 'none'}; "
        "use published_config to get the layout of the file"
    )


def _other_classes(came: Tensor, rule: _Rule, ours: Tensor) -> bool:
    """Whether the file's tensor is right but for the number of classes."""
    expected = rule.kind.expected(tuple(ours.shape))
    if not rule.class_axes or came.ndim != len(expected) or tuple(came.shape) == expected:
        return False
    return all(
        axis in rule.class_axes or size == came.shape[axis] for axis, size in enumerate(expected)
    )


def _converted(key: str, came: Tensor, rule: _Rule, ours: Tensor) -> tuple[Tensor, str, str]:
    expected = rule.kind.expected(tuple(ours.shape))
    fits = len(expected) == came.ndim and all(
        size is None or size == other for size, other in zip(expected, came.shape, strict=True)
    )
    if not fits or not came.numel():
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise CheckpointError(
            f"misshapen key {key}: got {tuple(came.shape)}, expected ({wanted}) for our "
            f"{rule.target}"
        )
    return rule.kind.convert(came, ours)


def _left_new(
    state: Mapping[str, Tensor],
    rules: Mapping[str, _Rule],
    ours: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
) -> Iterator[Fate]:
    """What of ours keeps its initial value; an error where the file should have had it."""
    present = {rules[key].group for key in state if key in rules}
    optional = {"tables", "head", "labels"}
    sources = {rule.target: (key, rule) for key, rule in rules.items()}
    for target in ours:
        if target in new:
            continue
        key, rule = sources.get(target, ("", None))
        if rule is None:
            yield Fate(target, "not in published models")
        elif key in state:
            yield Fate(target, "for other classes")
        elif rule.group in optional - present or target.endswith("num_batches_tracked"):
            yield Fate(target, "not in the file")
        else:
            raise CheckpointError(
                f"the file has no {key}, which the model needs for {target}; use published_config "
                "to get the layout of the file"
            )
