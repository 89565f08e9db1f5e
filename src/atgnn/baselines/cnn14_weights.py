"""The published weights of CNN14, such as ``Cnn14_mAP=0.431.pth`` of Zenodo record 3987831."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from atgnn.baselines.cnn14 import CNN14
from atgnn.baselines.published import Piece, fill
from atgnn.frontend import FRONT_ENDS
from atgnn.frontend.filters import mel_filters
from atgnn.model.weights import Source, WeightsReport, read_state, source_name

__all__ = ["cnn14_front_end", "load_cnn14"]

#: What the published network computes its input with. Our front end does, and stores nothing.
STFT = (
    "spectrogram_extractor.stft.conv_real.weight",
    "spectrogram_extractor.stft.conv_imag.weight",
)
FILTERS = "logmel_extractor.melW"

HEAD = {"fc_audioset.weight": "classifier.weight", "fc_audioset.bias": "classifier.bias"}


def load_cnn14(model: CNN14, source: Source) -> WeightsReport:
    """Copy published weights into a network, in place.

    Args:
        model: of the published layout; its classifier stays new where it has other labels.
        source: a file, opened with ``weights_only=True``, or a state dict.

    Returns:
        What was loaded, left new and dropped. The front end to use is named beside its filters.

    Raises:
        CheckpointError: the file cannot be read, or a key is unknown, missing or misshapen. The
            network is unchanged then.
    """
    return fill(model, _pieces(read_state(source)), source_name(source))


def _pieces(state: Mapping[str, Tensor]) -> Iterator[Piece]:
    for key, value in state.items():
        if key in STFT:
            yield Piece(key, "", value, "computed by the front end")
        elif key == FILTERS:
            name = _front_end(value)
            note = f"mel filters of front end {name or 'unknown to us'}"
            yield Piece(key, "", value, note)
        else:
            target = re.sub(r"^conv_block(\d+)", lambda m: f"blocks.{int(m[1]) - 1}", key)
            yield Piece(key, HEAD.get(key, target), value)


def cnn14_front_end(source: Source) -> str | None:
    """The name of our front end with the mel filters of a file; None where there is none.

    Raises:
        CheckpointError: the file cannot be read.
    """
    filters = read_state(source).get(FILTERS)
    return None if filters is None else _front_end(filters)


def _front_end(filters: Tensor) -> str | None:
    """Which of our front ends has these filters (K, F)."""
    for name in ("cnn14", "cnn14-16k"):
        ours = mel_filters(FRONT_ENDS[name])
        if ours.shape == filters.shape and torch.allclose(ours, filters.float(), atol=1e-5):
            return name
    return None
