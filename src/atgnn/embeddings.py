"""Recordings as vectors: of a clip, of windows, of moments.

A clip's vector is the mean and the standard deviation of the last stage's patch nodes
(`atgnn.encoder.embed`): what the sound is, and how much it changes. A moment's vector is the mean
over frequency of the nodes of every stage, between the two columns next to it: the first stages
say when, the last one what.

B batch, S samples, T frames or columns, C channels, D width, N vectors of a recording.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from atgnn.checkpoint import DEFAULT_MODEL, Checkpoint
from atgnn.encoder import Encoder, embed, is_encoder
from atgnn.errors import AtgnnError, AudioError, CheckpointError, ConfigError, MissingExtraError
from atgnn.files import new_file
from atgnn.frontend import FrontEndConfig
from atgnn.labels import Vocabulary
from atgnn.model import ATGNN, ModelConfig
from atgnn.model.beside import LabelsBeside
from atgnn.model.digest import weights_digest
from atgnn.model.geometry import NodePlaces
from atgnn.model.inference import for_inference
from atgnn.model.patch import PatchEncoder
from atgnn.tagger import Reading, Scores, Taggable, Tagger
from atgnn.tags import Failure

__all__ = ["Embedder", "Vectors", "write_vectors"]

MOMENT = 0.05  # s from one moment to the next
SHORTEST = 0.001  # s: nodes are far apart beside this
ROWS = 8192  # written at a time
KEY = b"atgnn_embeddings"  # of the Parquet file's own description


@dataclass(frozen=True)
class Vectors:
    """The vectors of one recording.

    Attributes:
        path: what was given; None for samples and bytes.
        values: float32 (N, D).
        starts: float64 (N,), seconds at which what a vector stands for begins; its moment.
        seconds: float64 (N,), how long that lasts.
    """

    path: str | None
    values: np.ndarray
    starts: np.ndarray
    seconds: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """float32 (D,): the mean of the vectors, each counting by its length."""
        mean: np.ndarray = np.average(self.values, axis=0, weights=self.seconds)
        return mean.astype(np.float32)

    def whole(self) -> Vectors:
        """One vector for the recording, its `mean`."""
        end = float(self.starts[-1] + self.seconds[-1])
        return Vectors(self.path, self.mean[None], np.zeros(1), np.array([end]))


class Embedder:
    """A trained encoder, with or without labels, ready to turn recordings into vectors.

    >>> embedder = Embedder.from_pretrained()  # doctest: +SKIP
    >>> embedder.clip("dog.wav").shape  # doctest: +SKIP
    (384,)

    What recordings may be, and how they are decoded and batched, is as in `atgnn.Tagger`.

    Attributes:
        network: stem and patch blocks, norms folded away, on the device.
        config: the layout.
        digest: which encoder and front end this is; vectors of different ones do not compare.
    """

    def __init__(
        self, model: Checkpoint | Encoder, device: str | torch.device | None = None, name: str = ""
    ) -> None:
        """CheckpointError for a network without patch nodes."""
        checkpoint = _as_checkpoint(model) if isinstance(model, Encoder) else model
        network = checkpoint.model
        if isinstance(network, LabelsBeside):
            network = network.network
        if not isinstance(network, ATGNN):
            raise CheckpointError(
                f"a network of kind {network.config.kind} has no patch nodes to make embeddings "
                "from: give an ATGNN checkpoint or encoder"
            )
        self.name = name
        self.config: ModelConfig = network.config
        self.digest = _digest(network.encoder, network.config, checkpoint.front_end)
        self.tagger = Tagger(checkpoint.changed(model=network), device)
        folded = for_inference(network).folded
        assert isinstance(folded, ATGNN)
        self.network: PatchEncoder = folded.encoder

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
        device: str | torch.device | None = None,
        **hub: Any,
    ) -> Embedder:
        """From a shipped model, a folder (of a tagger, or of an encoder without labels), the hub.

        Raises `CheckpointError` for what is none of these, `ConfigError` for no such device.
        """
        model: Checkpoint | Encoder
        if is_encoder(name_or_path):
            model = Encoder.from_pretrained(name_or_path)
        else:
            model = Checkpoint.from_pretrained(name_or_path, **hub)
        return cls(model, device, str(name_or_path))

    # ------------------------------------------------------------------ what it makes

    @property
    def rate(self) -> int:
        """Samples a second that the network hears."""
        return self.front_end.sample_rate

    @property
    def front_end(self) -> FrontEndConfig:
        """Settings of the front end."""
        return self.tagger.checkpoint.front_end

    @property
    def window_seconds(self) -> float:
        """Longer recordings are embedded in windows of this length."""
        return self.tagger.checkpoint.window_seconds

    @property
    def size(self) -> int:
        """Width of a clip's vector."""
        return 2 * self.config.channels[-1]

    @property
    def moment_size(self) -> int:
        """Width of a moment's vector."""
        return sum(self.config.channels)

    # ------------------------------------------------------------------ recordings

    def clip(self, source: Taggable) -> np.ndarray:
        """float32 (size,): one vector for a recording; AudioError where it cannot be read.

        Of a recording longer than `window_seconds`, the mean of its windows' vectors.
        """
        (vectors,) = self.windows([source])
        assert isinstance(vectors, Vectors)
        return vectors.mean

    def windows(
        self,
        sources: Iterable[Taggable],
        window: float | None = None,
        hop: float | None = None,
        *,
        batch_size: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> Iterator[Vectors | Failure]:
        """The vectors of every recording's windows, (N, size), in order.

        Arguments as in `Tagger.score_many`.
        """
        return self.read(sources, Reading(self._clip, self.size), window, hop, batch_size, on_error)

    def moments(
        self,
        sources: Iterable[Taggable],
        every: float = MOMENT,
        *,
        batch_size: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> Iterator[Vectors | Failure]:
        """The vectors of moments, one every `every` seconds from 0 on: (N, moment_size).

        ConfigError where a window is not a whole number of such steps.
        """
        window = self.window_seconds
        count = window / every if every >= SHORTEST else 0.5
        if count < 1 or abs(count - round(count)) > 1e-6:
            near = window / max(1, round(window / MOMENT))
            raise ConfigError(
                f"an embedding every {every:g} s: give a step of {SHORTEST:g} s or more of which "
                f"the model's window of {window:g} s is a whole number, such as {near:.10g}"
            )
        steps = round(count)
        times = np.arange(steps) * every
        reading = Reading(
            lambda mel, frames: self.at_moments(mel, frames, times).flatten(1),
            steps * self.moment_size,
        )
        for found in self.read(sources, reading, None, None, batch_size, on_error):
            yield found if isinstance(found, Failure) else self._unrolled(found, every)

    def _unrolled(self, rows: Vectors, every: float) -> Vectors:
        """A row a moment from a row a window."""
        values = rows.values.reshape(len(rows.values), -1, self.moment_size)
        counts = np.ceil(np.round(rows.seconds / every, 6)).astype(int).clip(1)
        kept = [value[:count] for value, count in zip(values, counts, strict=True)]
        starts = [
            start + np.arange(count) * every
            for start, count in zip(rows.starts, counts, strict=True)
        ]
        length = float(rows.starts[-1] + rows.seconds[-1])
        begun = np.concatenate(starts)
        return Vectors(rows.path, np.concatenate(kept), begun, np.minimum(every, length - begun))

    def read(
        self,
        sources: Iterable[Taggable],
        reading: Reading,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int | None = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> Iterator[Vectors | Failure]:
        """What `reading` takes from every recording's windows: (N, reading.width), in order."""
        found = self.tagger.score_many(
            sources,
            window=window,
            hop=hop,
            batch_size=batch_size,
            on_error=on_error,
            reading=reading,
        )
        for one in found:
            if isinstance(one, Scores):
                yield Vectors(one.path, one.windows, one.starts, one.seconds)
            else:
                yield one

    # ------------------------------------------------------------------ features

    def _clip(self, mel: Tensor, frames: Tensor | None) -> Tensor:
        return embed(self.network, mel, frames)

    def at_moments(self, mel: Tensor, frames: Tensor | None, times: np.ndarray) -> Tensor:
        """Features (B, T, n_mels) to the vectors (B, N, moment_size) at `times` (N,) seconds.

        A moment before the first column of nodes, or past a clip's last one, has its vector.
        """
        parts = []
        for stage, nodes in enumerate(self.network(mel, frames)):
            patches = nodes[-1]
            x = patches.x.mean(1)  # (B, T, C)
            places = NodePlaces(self.config, self.front_end, stage).column_at(times)
            at = torch.as_tensor(places, dtype=torch.float32, device=x.device)
            ends = patches.lengths
            if ends is None:
                ends = torch.full((len(x),), x.shape[1], device=x.device)
            parts.append(_between(x, at, ends))
        return torch.cat(parts, -1)


def _between(x: Tensor, at: Tensor, ends: Tensor) -> Tensor:
    """Columns ``(B, T, C)`` at places ``(N,)`` among them, none from `ends` ``(B,)`` on."""
    place = torch.minimum(at.clamp(min=0)[None], (ends - 1)[:, None].to(at.dtype))  # (B, N)
    low = place.floor().long()
    high = torch.minimum(low + 1, ends[:, None] - 1)
    share = (place - low)[..., None].to(x.dtype)

    def pick(columns: Tensor) -> Tensor:
        return x.gather(1, columns[..., None].expand(-1, -1, x.shape[-1]))

    return pick(low) * (1 - share) + pick(high) * share


def _as_checkpoint(encoder: Encoder) -> Checkpoint:
    """An encoder in the frame that decodes and batches; its one label means nothing."""
    with torch.random.fork_rng():
        model = ATGNN(encoder.config)
    model.encoder = encoder.network
    return Checkpoint(model.eval(), encoder.front_end, Vocabulary.from_names(["none"]))


def _digest(network: nn.Module, config: ModelConfig, front_end: FrontEndConfig) -> str:
    """Of the encoder alone: a model that learns new labels keeps its vectors."""
    layout = config.replace(num_labels=1, label_blocks=())
    return weights_digest(network, layout, front_end)


# ------------------------------------------------------------------ files


def write_vectors(
    path: str | os.PathLike[str],
    vectors: Iterable[Vectors],
    about: dict[str, Any],
    force: bool = False,
) -> int:
    """Write a Parquet file with a row for each vector; returns the number of rows.

    Columns are path, start and end (seconds) and embedding (float32, all of one width). `about`
    becomes JSON in the schema's metadata, under ``atgnn_embeddings``. Rows are written as they
    come; the file is there when all of them are.

    Raises:
        AtgnnError: something is there already, or no vectors came.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError.of("pyarrow", "train", "a Parquet file") from None
    if Path(path).suffix != ".parquet":
        raise AtgnnError(f"{path}: embeddings are written as Parquet, name it FILE.parquet")
    with new_file(path, force) as scratch, _Rows(pyarrow, parquet, scratch, about) as rows:
        for one in vectors:
            rows.add(one)
        rows.flush()
        if not rows.count:
            raise AudioError(f"no recording could be embedded: {path} was not written")
    return rows.count


class _Rows:
    """Rows on their way into a Parquet file, `ROWS` at a time."""

    def __init__(self, pyarrow: Any, parquet: Any, path: Path, about: dict[str, Any]) -> None:
        self.pyarrow, self.parquet, self.path = pyarrow, parquet, path
        self.metadata = {KEY: json.dumps(about).encode()}
        self.count, self.waiting = 0, 0
        self.tables: list[Any] = []
        self.writer: Any = None

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def add(self, one: Vectors) -> None:
        """The vectors of a recording."""
        self.tables.append(self._table(one))
        self.count += len(one.values)
        self.waiting += len(one.values)
        if self.waiting >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self.tables:
            return
        table = self.pyarrow.concat_tables(self.tables)
        if self.writer is None:
            self.writer = self.parquet.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)
        self.waiting, self.tables = 0, []

    def _table(self, one: Vectors) -> Any:
        pyarrow, count = self.pyarrow, len(one.values)
        name = None if one.path is None else _text(one.path)
        flat = pyarrow.array(np.ascontiguousarray(one.values, np.float32).ravel())
        columns = {
            "path": pyarrow.array([name] * count, pyarrow.string()),
            "start": pyarrow.array(one.starts, pyarrow.float64()),
            "end": pyarrow.array(one.starts + one.seconds, pyarrow.float64()),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, one.values.shape[1]),
        }
        return pyarrow.table(columns).replace_schema_metadata(self.metadata)


def _text(path: str) -> str:
    """A path as Unicode; what is no text in it becomes escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
