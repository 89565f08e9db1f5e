"""Tags from an exported model with ONNX Runtime alone: nothing of PyTorch is loaded.

B batch, S samples, T frames, L labels, W windows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atgnn import audio
from atgnn.errors import AudioError, CheckpointError, MissingExtraError
from atgnn.labels import Vocabulary
from atgnn.tags import Selector, Tagging

__all__ = ["METADATA", "OnnxModel", "OnnxTagger"]

METADATA = "atgnn"  # the key of the file's own description
VERSION = 1


class OnnxModel:
    """An exported file in ONNX Runtime, on the processor.

    Attributes:
        about: what the file says of itself (`atgnn.export.describe`).
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, threads: int | None = None) -> None:
        """`threads` that compute together; None: as many as there are processors.

        Raises:
            CheckpointError: no such file, or not one that `atgnn export` wrote.
            MissingExtraError: ONNX Runtime is not installed.
        """
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError.of("onnxruntime", "onnx", "an exported model") from None
        name = "the model" if isinstance(source, bytes) else os.fspath(source)
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise CheckpointError(f"no file {name}: `atgnn export MODEL --out {name}` writes one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else name, options, ["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base of their own
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{name} is not an ONNX file that runs here: {reason}") from None
        self.about = _description(name, self._session.get_modelmeta().custom_metadata_map)

    def run(self, sound: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Scores float32 (B, L) of waves (B, S) or features (B, T, n_mels) and their lengths (B,).

        What is too short for the graph is padded here.
        """
        short = self.about["least"] - sound.shape[1]
        if short > 0:
            sound = np.pad(sound, [(0, 0), (0, short), *[(0, 0)] * (sound.ndim - 2)])
        feed = {self.about["input"]: sound.astype(np.float32), "lengths": lengths.astype(np.int64)}
        (scores,) = self._session.run(["scores"], feed)
        out: np.ndarray = scores
        return out


def _description(name: str, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata[METADATA])
        version = about["format_version"]
    except (KeyError, ValueError, TypeError):
        raise CheckpointError(
            f"{name} is an ONNX file, but not one that `atgnn export` wrote"
        ) from None
    if version != VERSION:
        raise CheckpointError(
            f"{name} has version {version} of exported files, this atgnn reads {VERSION}: export "
            "the model again, or install a matching version"
        )
    found: dict[str, Any] = about
    return found


class OnnxTagger:
    """An exported model ready to tag recordings; scores are those of `atgnn.Tagger`.

    >>> tagger = OnnxTagger("model.onnx")  # doctest: +SKIP
    >>> print(tagger.tag("dog.wav"))  # doctest: +SKIP
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, threads: int | None = None) -> None:
        """Errors as `OnnxModel`; CheckpointError for a file without front end."""
        self.model = OnnxModel(source, threads)
        about = self.model.about
        if about["input"] != "wave":
            raise CheckpointError(
                "this file takes features, not sound: export it with its front end to tag with it"
            )
        self.rate, self.window_seconds = about["sample_rate"], about["window_seconds"]
        vocabulary = Vocabulary.from_dict({"labels": about["labels"]})
        thresholds = about["thresholds"]
        self.labels = vocabulary.names
        self.selector = Selector(vocabulary, None if thresholds is None else tuple(thresholds))

    def tag(
        self,
        source: audio.Source,
        top: int | None = None,
        threshold: float | None = None,
        ancestors: bool = False,
    ) -> Tagging:
        """As `Tagger.tag`; AudioError for what cannot be read."""
        windows, seconds = self._scored(source)
        mean = np.average(windows, axis=0, weights=seconds).astype(np.float32)
        path = os.fsdecode(source) if isinstance(source, str | os.PathLike) else None
        return self.selector.tagging(
            path,
            float(seconds.sum()),
            mean,
            top=top,
            threshold=threshold,
            ancestors=ancestors,
        )

    def scores(self, source: audio.Source) -> np.ndarray:
        """float32 (L,): the mean over windows, each counting by its length."""
        windows, seconds = self._scored(source)
        mean: np.ndarray = np.average(windows, axis=0, weights=seconds)
        return mean.astype(np.float32)

    def window_scores(self, source: audio.Source) -> np.ndarray:
        """float32 (W, L)."""
        return self._scored(source)[0]

    def _scored(self, source: audio.Source) -> tuple[np.ndarray, np.ndarray]:
        scores, sizes = [], []
        for wave in self._windows(source):
            found = self.model.run(wave[None], np.array([len(wave)]))[0]
            # Digital silence is no sound, as `Tagger` has it.
            scores.append(np.zeros_like(found) if wave.min() == wave.max() else found)
            sizes.append(len(wave) / self.rate)
        whole = np.stack(scores)
        if not np.isfinite(whole).all():
            raise AudioError("the scores are not finite: samples are far beyond [-1, 1]")
        return whole, np.array(sizes)

    def _windows(self, source: audio.Source) -> Iterator[np.ndarray]:
        return audio.stream(source, self.rate, block_seconds=self.window_seconds)
