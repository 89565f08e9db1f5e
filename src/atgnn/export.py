"""A checkpoint for other runtimes: one ONNX file that carries all that is needed to use it.

The graph is that of plain PyTorch (`atgnn.graph.kernels.plain`) with batch normalisations folded
away; none of our operators is in it. With the front end it takes waveforms, without it normalised
log-mel; batch and time are free. It gives scores: calibration and activation are inside. Labels,
thresholds, rates and sizes are in the file's metadata under the key ``atgnn``, as JSON.

No file is left that does not compute what our own model computes: see `check_parity`.

B batch, S samples, T frames, L labels.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atgnn import __version__
from atgnn.baselines.base import Baseline
from atgnn.checkpoint import Checkpoint
from atgnn.errors import AtgnnError, MissingExtraError
from atgnn.files import new_file
from atgnn.graph import ceil_div, use_backend
from atgnn.model import ATGNN, ModelConfig, inference
from atgnn.model.beside import LabelsBeside
from atgnn.model.config import LayoutConfig
from atgnn.networks import for_inference
from atgnn.onnx_tagger import METADATA, OnnxModel

__all__ = ["Difference", "ExportError", "check_parity", "export_onnx", "least_frames"]

OPSET = 20  # the first with GELU
FEW = 32  # frames: one cell of the last grid of networks that halve theirs five times
#: Scores of float32 files differ by no more than this in the mean, none by more than `FARTHEST`.
#: Rounding in another order changes features in the last bits; two neighbours that are equally near
#: but for such a bit may change places, and then a maximum moves.
MEAN, FARTHEST = 1e-3, 0.03
#: The mean change of a score that int8 may make in the sounds of the check.
INT8_MEAN = 0.05
#: Batch sizes and lengths (in windows of the checkpoint) that are compared, padded to each other.
CHECKED = ((1,), (0.3,), (0.02,), (1, 0.5, 0.13), (0.8, 0.8), (1.7,))


class ExportError(AtgnnError):
    """A model cannot be written for another runtime, or the result is not the same model."""


@dataclass(frozen=True)
class Difference:
    """How far the scores of a file are from the model's."""

    mean: float
    largest: float
    scores: int

    def __str__(self) -> str:
        return f"{self.mean:.2g} in the mean, {self.largest:.2g} at most, of {self.scores} scores"


class Portable(nn.Module):
    """From waveforms (or features) to scores, in operations that every runtime has."""

    def __init__(self, checkpoint: Checkpoint, front_end: bool) -> None:
        super().__init__()
        self.front_end = checkpoint.make_front_end() if front_end else None
        if isinstance(checkpoint.model, ATGNN):
            self.network = inference.for_inference(checkpoint.model, portable=True).folded
        else:
            self.network = for_inference(checkpoint.model).folded
        self.calibrated = checkpoint.calibrated
        self.softmax = checkpoint.activation == "softmax"
        self.eval()

    def forward(self, sound: Tensor, lengths: Tensor) -> Tensor:
        """``(B, S)`` and samples ``(B,)``, or ``(B, T, n_mels)`` and frames, to ``(B, L)``."""
        if self.front_end is not None:
            sound, lengths = self.front_end(sound, lengths)
        logits = self.calibrated(self.network(sound, lengths))
        return logits.softmax(-1) if self.softmax else logits.sigmoid()


def export_onnx(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    front_end: bool = True,
    int8: bool = False,
    force: bool = False,
) -> Difference:
    """Write an ONNX file and return how far its scores are from the model's.

    Args:
        checkpoint: an ATGNN whose relative positions are not the published tables, or a baseline
            that knows which cells of a padded batch are sound (`Baseline.one_graph`).
        path: where to; nothing is left there when the check fails.
        front_end: whether the file takes waveforms (B, samples) or features (B, frames, mels).
        int8: store and multiply the weights of linear maps in 8 bits.
        force: replace what is there.

    Raises:
        ExportError: the model cannot be exported, or the file does not compute the same.
        MissingExtraError: the extra ``onnx`` is not installed.
        AtgnnError: something is at `path` already.
    """
    _need_packages()
    _check_exportable(checkpoint)
    with new_file(path, force) as scratch:
        with _quiet():
            program = _traced(checkpoint, front_end)
            model = program.model_proto
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA, json.dumps(describe(checkpoint, front_end, int8))
        data = _in_int8(model) if int8 else model.SerializeToString()
        difference = check_parity(checkpoint, data, int8)
        scratch.write_bytes(data)
    return difference


def describe(checkpoint: Checkpoint, front_end: bool, int8: bool) -> dict[str, Any]:
    """What the file says of itself."""
    config = checkpoint.front_end
    frames = least_frames(checkpoint.model.config)
    return {
        "format_version": 1,
        "atgnn_version": __version__,
        "input": "wave" if front_end else "features",
        "labels": checkpoint.vocabulary.to_dict()["labels"],
        "thresholds": checkpoint.thresholds,
        "activation": checkpoint.activation,
        "sample_rate": config.sample_rate,
        "window_seconds": checkpoint.window_seconds,
        "front_end": config.model_dump(mode="json"),
        "least": config.frames_to_samples(frames) if front_end else frames,
        "int8": int8,
        "digest": checkpoint.digest(),
        "licence": checkpoint.provenance.licence,
    }


def least_frames(config: LayoutConfig) -> int:
    """Frames from which every graph of a model has all the neighbours that its blocks ask for.

    Shorter clips are padded up to it by whoever uses the file; their `lengths` say what is sound.
    Networks without graphs are happy with any length: few will do to follow them with.
    """
    if not isinstance(config, ModelConfig):
        return FEW
    frames = 1
    while not _enough(config, frames):
        frames += 1
    return frames


def _enough(config: ModelConfig, frames: int) -> bool:
    block = 0
    for stage, count in enumerate(config.blocks):
        rows, columns = config.grid(frames, stage)
        ratio = config.reductions[stage]
        cells = ceil_div(rows, ratio) * ceil_div(columns, ratio)
        for index in range(block, block + count):
            if cells < (config.neighbours[index] - 1) * config.dilations[index] + 1:
                return False
        if config.has_labels and rows * columns < config.k_plg:
            return False
        block += count
    return True


def _check_exportable(checkpoint: Checkpoint) -> None:
    model, config = checkpoint.model, checkpoint.model.config
    if isinstance(model, Baseline) and not model.one_graph:
        raise ExportError(
            f"networks of kind {config.kind} are not exported, as they score clips of unequal "
            "length one by one: use this checkpoint where atgnn is installed"
        )
    if isinstance(model, LabelsBeside):
        raise ExportError("a model with label packs is not exported: export it without them")
    if isinstance(config, ModelConfig) and config.position == "legacy":
        raise ExportError(
            "this model has the published tables of relative position, which are made anew for "
            "every length: only models with position grid or none are exported"
        )
    if config.in_channels != 1:
        raise ExportError(
            f"this model takes {config.in_channels} spectrograms a clip, expected one: its input "
            "does not come from our front end"
        )
    if checkpoint.front_end.pad_to_frames is not None:
        raise ExportError(
            f"this model pads every clip to {checkpoint.front_end.pad_to_frames} frames: only "
            "models that take clips of any length are exported"
        )


def _need_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of(error.name or "onnx", "onnx", "an ONNX file") from None
    if not hasattr(torch.compiler, "is_exporting"):
        raise ExportError(f"torch {torch.__version__} cannot export models: 2.7 or newer can")


# ------------------------------------------------------------------ tracing


def _traced(checkpoint: Checkpoint, front_end: bool) -> Any:
    """The model as a program in ONNX; batch and time are free in it."""
    portable, config = Portable(checkpoint, front_end), checkpoint.front_end
    least = least_frames(checkpoint.model.config)
    frames = 2 * least + 7
    dim = torch.export.Dim
    if front_end:
        sound = torch.zeros(2, config.frames_to_samples(frames))
        smallest = config.frames_to_samples(least)
        sound += 0.1 * torch.linspace(-1, 1, sound.shape[1])
    else:
        sound, smallest = torch.linspace(-1, 1, 2 * frames * config.n_mels), least
        sound = sound.view(2, frames, config.n_mels)
    lengths = torch.tensor([sound.shape[1], sound.shape[1] - 1])
    with use_backend("plain"), torch.no_grad():
        program = torch.export.export(
            portable,
            (sound, lengths),
            dynamic_shapes=({0: dim.AUTO, 1: dim.AUTO(min=smallest)}, {0: dim.AUTO}),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        name = "wave" if front_end else "features"
        return torch.onnx.export(
            program,
            input_names=[name, "lengths"],
            output_names=["scores"],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporter prints its progress and what it misses; ours is one line at the end."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


# ------------------------------------------------------------------ int8


def _in_int8(model: Any) -> bytes:
    """Linear maps with weights in 8 bits; activations are scaled as they come.

    The front end stays as it is, and so do maps of channels in groups, which the runtime lacks.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    deep = {one.name for one in model.graph.initializer if len(one.dims) > 2}  # of groups
    keep = [
        node.name
        for node in model.graph.node
        if "front_end" in _scope(node) or deep.intersection(node.input)
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        small = Path(folder) / "int8.onnx"
        logging.disable(logging.WARNING)
        try:
            quantize_dynamic(
                model,
                small,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=keep,
            )
        finally:
            logging.disable(logging.NOTSET)
        return small.read_bytes()


def _scope(node: Any) -> str:
    """The modules that a node of the graph comes from."""
    return " ".join(prop.value for prop in node.metadata_props)


# ------------------------------------------------------------------ the check


def check_parity(checkpoint: Checkpoint, data: bytes, int8: bool = False) -> Difference:
    """Compare a file's scores with the model's, in several lengths and batch sizes.

    The sounds are made here: tones that glide, clicks, and noise whose colour changes.

    Raises:
        ExportError: the file cannot be run, or its scores are not those of the model.
    """
    model = OnnxModel(data)
    features = model.about["input"] == "features"
    theirs, ours = [], []
    for number, shares in enumerate(CHECKED):
        waves = [_sound(checkpoint, share, number) for share in shares]
        sound, lengths = _batch(waves)
        expected = _scores(checkpoint, sound, lengths)
        if features:
            sound, lengths = checkpoint.make_front_end()(sound, lengths)
        try:
            found = model.run(sound.numpy(), lengths.numpy())
        except Exception as error:  # whatever a runtime says of a graph that it cannot run
            reason = str(error).splitlines()[0]
            raise ExportError(f"the exported file cannot be run: {reason}") from None
        theirs.append(found.ravel())
        ours.append(expected.ravel())
    gap = np.abs(np.concatenate(theirs) - np.concatenate(ours))
    off = Difference(float(gap.mean()), float(gap.max()), gap.size)
    good = off.mean <= INT8_MEAN if int8 else off.mean <= MEAN and off.largest <= FARTHEST
    if not good:  # nor where it is NaN
        raise ExportError(f"the exported file is not the same model: its scores are off by {off}")
    return off


def _sound(checkpoint: Checkpoint, share: float, seed: int) -> Tensor:
    """A sound of `share` windows: what changes in time and frequency, and some noise."""
    rate = checkpoint.front_end.sample_rate
    samples = max(1, round(share * checkpoint.window_seconds * rate))
    random = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / rate
    tone = torch.sin(2 * torch.pi * (200 + 150 * seed + 300 * time) * time)
    noise = torch.randn(samples, generator=random) * (0.5 + 0.5 * torch.sin(7 * time + seed))
    clicks = (torch.rand(samples, generator=random) > 0.9995) * 0.5
    return (0.2 * tone + 0.05 * noise + clicks).float()


def _batch(waves: list[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(wave) for wave in waves])
    return nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths


@torch.inference_mode()
def _scores(checkpoint: Checkpoint, sound: Tensor, lengths: Tensor) -> np.ndarray:
    """The model's own scores, by the way that is not exported."""
    model = checkpoint.model.cpu().eval()
    scores = checkpoint.scores(model(*checkpoint.make_front_end()(sound, lengths)))
    return scores.numpy()
