"""Published weights of AST: files of the Hugging Face Hub, and those of the original repository."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atgnn.baselines.ast import AST, AST_PRESETS, GATHERING, ASTConfig, hub_name, resize_positions
from atgnn.baselines.published import Piece, Told, fill, hub_activation
from atgnn.errors import CheckpointError
from atgnn.model.weights import Source, WeightsReport, read_state, source_name

__all__ = ["ast_layout", "is_published_ast", "load_ast", "told_by_ast"]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TYPE = "audio-spectrogram-transformer"
_POSITIONS = "backbone.embeddings.position_embeddings"
_PROJECTION = "backbone.embeddings.patch_embeddings.projection.weight"
_HEAD = ("norm.weight", "norm.bias", "classifier.weight", "classifier.bias")

# In the configuration of the Hub, and here; strides apart.
_SETTINGS = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "patch_size": "patch",
    "num_mel_bins": "n_mels",
    "max_length": "nominal_frames",
}

# Of the original's tensors: names there, and here. timm's ViT (DeiT, distilled) is its ``v``.
_ORIGINAL = {
    "v.cls_token": "embeddings.cls_token",
    "v.dist_token": "embeddings.distillation_token",
    "v.pos_embed": "embeddings.position_embeddings",
    "v.patch_embed.proj": "embeddings.patch_embeddings.projection",
    "v.norm": "layernorm",
}
_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_UNUSED = ("v.head.", "v.head_dist.")


def load_ast(model: AST, source: Source) -> WeightsReport:
    """Copy published weights into a model, in place.

    Positions are cut or interpolated to the model's grid, as the original does. The classifier is
    left new where it counts other classes, the whole head where the file has none. Of a DeiT, which
    the original begins with, the projection of a patch is summed over colours.

    Args:
        model: of the file's layout (`ast_layout`), but for labels, bins and frames.
        source: a folder of the Hub (config.json and weights), a file of the original repository
            (``audioset_10_10_0.4593.pth``) or of DeiT, distilled
            (``deit_base_distilled_patch16_384-d0272ac0.pth``), opened with ``weights_only=True``,
            or a state dict.

    Raises:
        CheckpointError: it cannot be read, or a tensor is unknown, missing or misshapen. The model
            is unchanged then.
    """
    state = _state(source)
    name = source_name(source)
    if "cls_token" in state:
        pieces = _from_pictures(model.config, state)
    else:
        pieces = _from_original(state) if "v.cls_token" in state else _from_hub(state)
    rows = _rows(model.config, source)
    fitted = (_placed(model.config, piece, rows, name) for piece in pieces)
    return fill(model, fitted, name, _HEAD)


def ast_layout(source: Source, **changes: Any) -> ASTConfig:
    """The layout of a folder of the Hub or of the original's weights, with some fields changed.

    Raises:
        CheckpointError: they cannot be read, or are of something else.
        ConfigError: the changes do not fit.
    """
    preset = AST_PRESETS["ast"]
    if not isinstance(source, Mapping) and Path(source).is_dir():
        return preset.replace(**{**_described(Path(source)), **changes})
    state = _state(source)
    if "v.cls_token" not in state:
        raise CheckpointError(
            "not the original weights of an AST: expected a key v.cls_token, got "
            f"{', '.join(list(state)[:3])} ... (weights of the Hub: give their folder)"
        )
    found: dict[str, Any] = {"width": state["v.cls_token"].shape[-1]}
    found["depth"] = len({key.split(".")[2] for key in state if key.startswith("v.blocks.")})
    found["heads"] = max(1, found["width"] // 64)  # in every size of DeiT
    if "mlp_head.1.bias" in state:
        found["num_labels"] = len(state["mlp_head.1.bias"])
    return preset.replace(**{**found, **changes})


def is_published_ast(path: Path) -> bool:
    """Whether a path that there is may be given to `load_ast`: a file, or a folder of the Hub."""
    if path.is_file():
        return True
    try:
        return bool(_description(path))
    except CheckpointError:
        return False


# ---------------------------------------------------------------------------- reading


def _state(source: Source) -> dict[str, Tensor]:
    if isinstance(source, Mapping) or not Path(source).is_dir():
        return read_state(source)
    folder = Path(source)
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return read_state(folder / name)
    raise CheckpointError(f"{folder} holds no weights: expected {' or '.join(_WEIGHTS)} in it")


def _description(folder: Path) -> dict[str, Any]:
    content = _json(folder / "config.json")
    if (kind := content.get("model_type")) != _TYPE:
        raise CheckpointError(
            f"{folder / 'config.json'} describes {kind!r}, expected model_type {_TYPE!r}"
        )
    return content


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from None
    return dict(content) if isinstance(content, dict) else {}


def told_by_ast(path: Path) -> Told:
    """What a path says of itself: a folder of the Hub in its JSON files, what these leave out being
    as published; a file of the original repository nothing.

    Raises:
        CheckpointError: the folder is of something else, or its files cannot be read.
    """
    if not path.is_dir():
        return Told()
    layout, content = _described(path), _description(path)
    labels = _labels(content.get("id2label", {}), path)
    activation = hub_activation(content.get("problem_type"), labels)
    front_end = {"n_mels": layout["n_mels"], "pad_to_frames": layout["nominal_frames"]}
    extractor = path / "preprocessor_config.json"
    return Told(layout, front_end | _heard(extractor), labels, activation)


def _labels(names: Any, folder: Path) -> tuple[str, ...]:
    try:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{folder / 'config.json'}: id2label is no table of labels by index"
        ) from None


def _heard(extractor: Path) -> dict[str, Any]:
    """Rate and statistics of a feature extractor; none where there is none."""
    if not extractor.is_file():
        return {}
    given = _json(extractor)
    found = {"sample_rate": given.get("sampling_rate", 16_000)}
    if not given.get("do_normalize", True):
        return {**found, "mean": 0.0, "std": 1.0}
    if "mean" in given and "std" in given:
        return {**found, "mean": given["mean"], "std": 2 * given["std"]}
    return found


def _described(folder: Path) -> dict[str, Any]:
    """Our settings out of a Hub folder's config.json; what it leaves out is as published."""
    content, preset = _description(folder), AST_PRESETS["ast"]
    found = {ours: content.get(theirs, getattr(preset, ours)) for theirs, ours in _SETTINGS.items()}
    strides = zip(("frequency_stride", "time_stride"), preset.strides, strict=True)
    found["strides"] = tuple(content.get(name, default) for name, default in strides)
    try:
        if "intermediate_size" in content:
            found["ffn_ratio"] = content["intermediate_size"] // found["width"]
        if "id2label" in content:
            found["num_labels"] = len(content["id2label"])
    except (TypeError, ZeroDivisionError):
        raise CheckpointError(
            f"{folder / 'config.json'}: intermediate_size, hidden_size or id2label is damaged"
        ) from None
    # transformers has one epsilon for all its norms, and this one where the file names none
    found["norm_eps"] = found["head_norm_eps"] = content.get("layer_norm_eps", 1e-12)
    return found


def _rows(config: ASTConfig, source: Source) -> int:
    """Rows of the file's grid of patches; the original repository has 128 bins throughout."""
    bins = AST_PRESETS["ast"].n_mels
    if not isinstance(source, Mapping) and Path(source).is_dir():
        bins = _description(Path(source)).get("num_mel_bins", bins)
    return config.replace(n_mels=bins).grid(config.nominal_frames)[0]


# ---------------------------------------------------------------------------- names


def _from_hub(state: Mapping[str, Tensor]) -> Iterator[Piece]:
    """Of ASTForAudioClassification, or of ASTModel alone."""
    heads = {"classifier.layernorm": "norm", "classifier.dense": "classifier"}
    for key, value in state.items():
        module, _, part = key.rpartition(".")
        if module in heads:
            yield Piece(key, f"{heads[module]}.{part}", value)
        else:
            inner = key.removeprefix("audio_spectrogram_transformer.")
            yield Piece(key, f"backbone.{hub_name(inner)}", value)


def _from_original(state: Mapping[str, Tensor]) -> Iterator[Piece]:
    heads = {"mlp_head.0": "norm", "mlp_head.1": "classifier"}
    for key, value in state.items():
        module, _, part = key.rpartition(".")
        if key.startswith(_UNUSED):
            yield Piece(key, "", value, "a classifier of ImageNet, which never computes")
        elif module in heads:
            yield Piece(key, f"{heads[module]}.{part}", value)
        elif (name := _ORIGINAL.get(key)) is not None:
            yield Piece(key, f"backbone.{name}", value)
        elif (name := _ORIGINAL.get(module)) is not None:
            yield Piece(key, f"backbone.{name}.{part}", value)
        else:
            yield from _of_block(key, value)


def _from_pictures(config: ASTConfig, state: Mapping[str, Tensor]) -> Iterator[Piece]:
    """Of DeiT, which the original has as its ``v``: for square pictures in three colours."""
    for piece in _from_original({f"v.{key}": value for key, value in state.items()}):
        piece, shape = piece._replace(key=piece.key.removeprefix("v.")), piece.value.shape
        if piece.target == _PROJECTION and len(shape) == 4 and shape[1] == 3:
            grey = piece.value.sum(1, keepdim=True)
            piece = piece._replace(value=grey, note="summed over colours", fate="converted")
        elif piece.target == _POSITIONS and len(shape) == 3:
            side = math.isqrt(max(0, shape[1] - GATHERING))
            if side * side + GATHERING == shape[1]:
                piece = _resized(config, piece, (side, side))
        yield piece


def _of_block(key: str, value: Tensor) -> Iterator[Piece]:
    found = re.fullmatch(r"v\.blocks\.(\d+)\.(.+)\.(weight|bias)", key)
    block, layer, part = found.groups() if found else ("", "", "")
    here = f"backbone.encoder.layer.{block}"
    if layer == "attn.qkv" and len(value) % 3 == 0:
        for name, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
            target = f"{here}.attention.attention.{name}.{part}"
            yield Piece(key, target, rows, "queries, keys and values apart", "converted")
    else:
        yield Piece(key, f"{here}.{_BLOCK.get(layer, layer)}.{part}", value)


def _placed(config: ASTConfig, piece: Piece, rows: int, source: str) -> Piece:
    """The same, positions for the model's own grid."""
    new = config.grid(config.nominal_frames)
    places = piece.value.shape[1] - GATHERING if piece.value.ndim == 3 else 0
    if piece.target != _POSITIONS or places == new[0] * new[1]:
        return piece
    columns, rest = divmod(places, rows)
    if rest or columns < 1:
        raise CheckpointError(
            f"{source}: {piece.key} is {tuple(piece.value.shape)}, expected {GATHERING} places and "
            f"a multiple of {rows}: are the model's strides, {config.strides}, the file's?"
        )
    return _resized(config, piece, (rows, columns))


def _resized(config: ASTConfig, piece: Piece, old: tuple[int, int]) -> Piece:
    new = config.grid(config.nominal_frames)
    value = resize_positions(piece.value.float(), old, new)
    note = f"{old[0]} x {old[1]} places to {new[0]} x {new[1]}"
    return piece._replace(value=value, note=note, fate="resized")
