"""Where published tensors of EfficientNets go: the names of the package ``efficientnet_pytorch``.

Its sibling ``efficientnet_lite_pytorch`` and PSLA use the same.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor

from atgnn.baselines.efficientnet import EfficientNet
from atgnn.baselines.published import Piece
from atgnn.model.atgnn import ATGNN
from atgnn.model.inverted import InvertedBlock

__all__ = ["TRUNK", "as_linear", "picture_pieces", "trunk_pieces"]

#: What holds the blocks of an EfficientNet in an ATGNN, the first layer beside the first ones.
TRUNK = "encoder.stem.", "encoder.stages.1.entry."


def trunk_pieces(model: EfficientNet | ATGNN, state: Mapping[str, Tensor]) -> Iterator[Piece]:
    """Every tensor of `state`, for its place in the model before the classifier.

    An ATGNN has a place for those of Lite0's stages (`ModelConfig.trunk`), not for the last layer.
    """
    names = dict(_names(model))
    for key, value in state.items():
        target = names.get(key, key)  # no weight of ours has one of their names
        linear = target.endswith((".linear.weight", "reduce.weight", ".excite.expand.weight"))
        yield as_linear(key, target, value) if linear else Piece(key, target, value)


def picture_pieces(model: EfficientNet | ATGNN, state: Mapping[str, Tensor]) -> Iterator[Piece]:
    """The same for a network of ImageNet, whose classifier is not used.

    The first convolution is summed over red, green and blue where the model has one channel: to a
    grey picture it then answers exactly as published, while the mean would present it with a third
    of the contrast it was trained on.
    """
    for piece in trunk_pieces(model, state):
        if piece.key.startswith("_fc."):
            yield piece._replace(target="", note="the classifier of ImageNet")
        elif piece.key.startswith(("_conv_head.", "_bn1.")) and isinstance(model, ATGNN):
            yield piece._replace(target="", note="ImageNet's last layer before its classifier")
        elif piece.key == "_conv_stem.weight" and model.config.in_channels == 1:
            grey = piece.value.sum(1, keepdim=True)
            yield piece._replace(value=grey, note="summed over colours", fate="converted")
        else:
            yield piece


def as_linear(key: str, target: str, value: Tensor) -> Piece:
    """A 1x1 convolution ``(O, C, 1, 1)`` for a linear map ``(O, C)``."""
    if value.shape[2:] != (1, 1):
        return Piece(key, target, value)
    return Piece(key, target, value[:, :, 0, 0], "1x1 convolution to linear map", "converted")


def _names(model: EfficientNet | ATGNN) -> Iterator[tuple[str, str]]:
    """Pairs of their name and ours."""
    graph = isinstance(model, ATGNN)
    first, holders = (f"{TRUNK[0]}first", TRUNK) if graph else ("stem", ("",))
    yield from _pair("_conv_stem", "_bn0", first, "conv")
    blocks = (
        (f"{holder}blocks.{place}.", block)
        for holder in holders
        for place, block in enumerate(model.get_submodule(f"{holder}blocks").children())
    )
    for number, (here, block) in enumerate(blocks):
        assert isinstance(block, InvertedBlock)
        there = f"_blocks.{number}."
        if block.expand is not None:
            yield from _pair(f"{there}_expand_conv", f"{there}_bn0", f"{here}expand", "linear")
        yield from _pair(f"{there}_depthwise_conv", f"{there}_bn1", f"{here}depthwise", "conv")
        if block.excite is not None:
            for name in ("reduce", "expand"):
                for part in ("weight", "bias"):
                    yield f"{there}_se_{name}.{part}", f"{here}excite.{name}.{part}"
        yield from _pair(f"{there}_project_conv", f"{there}_bn2", f"{here}project", "linear")
    if not graph:
        yield from _pair("_conv_head", "_bn1", "head", "linear")


def _pair(conv: str, norm: str, ours: str, kind: str) -> Iterator[tuple[str, str]]:
    yield f"{conv}.weight", f"{ours}.{kind}.weight"
    for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{norm}.{part}", f"{ours}.norm.{part}"
