"""An index: a folder with the vectors of recordings, and what finds the nearest of them.

`index.sqlite` holds the truth (`atgnn.search.store`); the files of FAISS beside it are made from it
and made anew when it has changed.

N windows of a recording, D width of a vector, F rows, T columns, C channels of nodes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor
from torch.nn import functional

from atgnn.embeddings import Embedder, Vectors
from atgnn.errors import AudioError, ConfigError, MissingExtraError, describe_error
from atgnn.files import content_digest, replacing
from atgnn.model.geometry import NodePlaces
from atgnn.model.layers import spread_of
from atgnn.search.regions import Box, label_node, nearest_region, nodes_inside
from atgnn.search.store import Entry, SearchError, Store
from atgnn.tagger import Excerpt, Reading
from atgnn.tags import Failure

__all__ = ["Index", "IndexSettings", "Match", "SearchError", "Update"]

SCALE = 127.0  # of a node's numbers in int8; nodes have length one
COMMIT_EVERY = 5.0  # s: what a power cut costs at most, beside the recording at hand
FEWEST = 100  # vectors whose mean and deviation are used
NODES_ASKED = 4096  # nearest nodes whose windows are looked at closely
SAME = 0.3  # overlap from which two regions are one
CELL = 16  # frames and mel bins of a node, at most, where a model has such a stage


class IndexSettings(BaseModel):
    """How recordings are cut and what of them is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    segment_s: float = Field(5.0, gt=0, description="s of sound behind each vector")
    hop_s: float = Field(2.5, gt=0, description="s from one vector to the next")
    regions: bool = Field(False, description="keep patch nodes, to search by time and frequency")

    @model_validator(mode="after")
    def _fits(self) -> IndexSettings:
        times = self.segment_s / self.hop_s
        if times < 1 or abs(times - round(times)) > 1e-6:
            raise ValueError(
                f"segments of {self.segment_s:g} s every {self.hop_s:g} s: the segment must be a "
                "whole number of steps, such as 5 and 2.5"
            )
        return self

    @classmethod
    def of(cls, **values: Any) -> IndexSettings:
        """Checked; `ConfigError` in one line where something does not fit."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"index: {describe_error(error, cls.model_fields)}") from None

    @property
    def every(self) -> int:
        """Of so many windows one has its nodes kept: those lie end to end."""
        return round(self.segment_s / self.hop_s)


@dataclass(frozen=True)
class Match:
    """A place in a recording that sounds like what was asked for.

    `similarity` is the cosine of two vectors, -1 to 1; `low_hz` and `high_hz` are None where the
    search was not by region.
    """

    path: str
    start: float
    end: float
    similarity: float
    low_hz: float | None = None
    high_hz: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        band = {} if self.low_hz is None else {"low_hz": self.low_hz, "high_hz": self.high_hz}
        numbers = {"start": self.start, "end": self.end, **band, "similarity": self.similarity}
        return {"path": self.path, **{k: round(float(v or 0), 4) for k, v in numbers.items()}}


@dataclass
class Update:
    """What one run of indexing did: numbers of recordings."""

    new: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    failed: int = 0


class Index:
    """The recordings that were indexed with one encoder.

    >>> index = Index.create("INDEX", embedder)  # doctest: +SKIP
    >>> index.update(["a.wav", "b.wav"])  # doctest: +SKIP
    >>> for match in index.search("query.wav"):  # doctest: +SKIP
    ...     print(match.path, match.start, match.similarity)
    """

    def __init__(self, folder: Path, store: Store, embedder: Embedder) -> None:
        self.folder, self.embedder = folder, embedder
        self._store = store
        self.settings = IndexSettings.model_validate(store.about["settings"])
        if store.about["digest"] != embedder.digest:
            store.close()
            raise SearchError(
                f"{folder} was made with another model ({store.about['model']}): give that with "
                "--model, or index the recordings anew with this one"
            )
        self._places = _places(embedder)
        self._nearest: _Nearest | None = None
        self._near_nodes: _Nearest | None = None

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        embedder: Embedder,
        settings: IndexSettings | None = None,
    ) -> Index:
        """Open the index in a folder, or begin one there.

        Raises `SearchError` where there is one of another model or with other settings, or where
        the folder holds something else.
        """
        folder, settings = Path(folder), settings or IndexSettings()
        if folder.is_file():
            raise SearchError(f"{folder} is a file: an index is a folder")
        begun = (folder / "index.sqlite").is_file()
        if not begun and folder.is_dir() and any(folder.iterdir()):
            raise SearchError(f"{folder} holds other files: give a new folder for the index")
        _faiss()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SearchError(f"{folder} cannot be made ({error.strerror or error})") from None
        about = {
            "model": _lasting(embedder.name),
            "digest": embedder.digest,
            "settings": settings.model_dump(),
        }
        index = cls(folder, Store(folder / "index.sqlite", about), embedder)
        if index.settings != settings:
            index.close()
            raise SearchError(
                f"{folder} was begun with {_described(index.settings)}, this asks for "
                f"{_described(settings)}: give the same, or a new folder"
            )
        return index

    @classmethod
    def open(cls, folder: str | os.PathLike[str], embedder: Embedder) -> Index:
        """Open an index that is there; `SearchError` where it is not, or is another model's."""
        _faiss()
        return cls(Path(folder), Store(Path(folder) / "index.sqlite"), embedder)

    @staticmethod
    def model_of(folder: str | os.PathLike[str]) -> str:
        """The name of the model that an index was made with."""
        with closing(Store(Path(folder) / "index.sqlite")) as store:
            return str(store.about["model"])

    def close(self) -> None:
        """Close its files."""
        self._store.close()

    def __len__(self) -> int:
        return len(self._store.entries())

    # ------------------------------------------------------------------ indexing

    def update(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        gone_below: Sequence[str | os.PathLike[str]] = (),
        batch_size: int | None = None,
        on_failure: Callable[[Failure], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Update:
        """Take recordings in: new and changed ones are embedded, the others are left as they are.

        A recording counts as changed when its content is. One that only moved or was copied is not
        embedded again. Recordings in the folders `gone_below` that are no longer there are taken
        out. What was done stays when this is stopped.

        Raises:
            AudioError: a recording cannot be read, and there is no `on_failure` to be told.
            KeyboardInterrupt: with how to go on.
        """
        done = Update()
        pending: dict[str, Entry] = {}
        wanted = self._wanted(paths, pending, done, on_failure)
        last = time.monotonic()
        try:
            for found in self._read(wanted, batch_size):
                self._take(found, pending, done, on_failure)
                if progress is not None:
                    progress(done.new + done.unchanged + done.moved + done.failed)
                if time.monotonic() - last > COMMIT_EVERY:
                    self._store.commit()
                    last = time.monotonic()
            self._drop_missing(gone_below, done)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{len(self)} recordings are in {self.folder}; the same command goes on"
            ) from None
        finally:
            self._store.commit()
            self._nearest = self._near_nodes = None
        return done

    def _wanted(
        self,
        paths: Iterable[str | os.PathLike[str]],
        pending: dict[str, Entry],
        done: Update,
        on_failure: Callable[[Failure], None] | None,
    ) -> Iterator[str]:
        """Those that have to be embedded; `pending` holds what is known of them."""
        for given in paths:
            path = os.path.abspath(os.fspath(given))
            try:
                about = os.stat(path)
                known = self._store.find(path)
                size, modified = about.st_size, about.st_mtime_ns
                if known and (known.size, known.modified) == (size, modified):
                    done.unchanged += 1
                    continue
                digest = content_digest(path)
            except OSError as error:
                reason = f"{path}: cannot be read ({error.strerror or error})"
                done.failed += 1
                _told(Failure(path, AudioError(reason)), on_failure)
                continue
            entry = Entry(0, path, digest, size, modified, 0.0, 0)
            if known and known.digest == digest:
                self._store.touched(known, size, modified)
                done.unchanged += 1
            elif (same := self._store.same_content(digest)) is not None:
                self._store.copy(same, _as(entry, same.duration, same.windows))
                done.moved += 1
            else:
                pending[path] = entry
                yield path

    def _read(self, paths: Iterator[str], batch_size: int | None) -> Iterator[Vectors | Failure]:
        settings, embedder = self.settings, self.embedder
        reading = Reading(self._segment, embedder.size + self._node_width)
        return embedder.read(paths, reading, settings.segment_s, settings.hop_s, on_error="collect")

    def _take(
        self,
        found: Vectors | Failure,
        pending: dict[str, Entry],
        done: Update,
        on_failure: Callable[[Failure], None] | None,
    ) -> None:
        entry = pending.pop(str(found.path))
        if isinstance(found, Failure):
            done.failed += 1
            self._store.drop(entry.path)  # what was there before has changed
            _told(found, on_failure)
            return
        values, width = found.values, self.embedder.size
        vectors = np.ascontiguousarray(values[:, :width], np.float32)
        duration = float(found.starts[-1] + found.seconds[-1])
        nodes = self._kept_nodes(values[:, width:]) if self.settings.regions else None
        self._store.put(_as(entry, duration, len(values)), vectors.tobytes(), nodes)
        done.new += 1

    def _drop_missing(self, folders: Sequence[str | os.PathLike[str]], done: Update) -> None:
        roots = [os.path.join(os.path.abspath(folder), "") for folder in folders]
        for entry in self._store.entries() if roots else ():
            if any(entry.path.startswith(root) for root in roots) and not os.path.exists(
                entry.path
            ):
                self._store.drop(entry.path)
                done.removed += 1

    # ------------------------------------------------------------------ nodes

    @property
    def _columns(self) -> int:
        """T of a whole segment."""
        return self._places.columns(round(self.settings.segment_s * self.embedder.rate))

    @property
    def _grid(self) -> tuple[int, int, int]:
        """F, T, C of a whole segment's nodes."""
        channels = self.embedder.config.channels[self._places.stage]
        return self._places.rows, self._columns, channels

    @property
    def _node_width(self) -> int:
        return int(np.prod(self._grid)) if self.settings.regions else 0

    def _segment(self, mel: Tensor, frames: Tensor | None) -> Tensor:
        """Features (B, T, n_mels) to vectors and, for regions, nodes: (B, D + F T C)."""
        stages = self.embedder.network(mel, frames)
        vector = spread_of(stages[-1][-1])
        if not self.settings.regions:
            return vector
        x = functional.normalize(stages[self._places.stage][-1].x, dim=-1)
        missing = self._columns - x.shape[2]
        x = functional.pad(x, (0, 0, 0, missing))
        return torch.cat([vector, x.flatten(1)], 1)

    def _kept_nodes(self, rows: np.ndarray) -> bytes:
        """int8 nodes of the windows that lie end to end, (N, F, T, C)."""
        kept = rows[:: self.settings.every]
        return np.round(kept * SCALE).astype(np.int8).tobytes()

    # ------------------------------------------------------------------ searching

    def search(
        self, source: Any, top: int = 10, *, start: float = 0.0, end: float | None = None
    ) -> list[Match]:
        """The places most like a recording, or like its excerpt, best first.

        Of places that overlap only the best one is given; the excerpt itself, where it is in the
        index, is none.

        Raises:
            AudioError: the recording cannot be read.
            SearchError: nothing is in the index.
        """
        query = self.embedder.clip(Excerpt(source, start, end))
        own = self._own(source)
        seconds, hop = self.settings.segment_s, self.settings.hop_s
        found: list[Match] = []
        segments = self._segments()
        near = segments.near(segments.scale(query[None])[0], 20 * top + 100)
        for entry, number, similarity in near:
            begin = number * hop
            match = Match(entry.path, begin, min(begin + seconds, entry.duration), similarity)
            until = np.inf if end is None else end
            itself = entry.digest == own and match.start < until and match.end > start
            if itself or any(_overlap(match, better) for better in found):
                continue
            found.append(match)
            if len(found) == top:
                break
        return found

    def search_region(self, source: Any, box: Box, top: int = 10) -> list[Match]:
        """The regions of time and frequency most like what is in a box, best first.

        Raises as `search`; `SearchError` also where the index has no regions.
        """
        if not self.settings.regions:
            raise SearchError(
                f"{self.folder} keeps no patch nodes to search by region: index the recordings "
                "with --regions"
            )
        seed, k = self._seed(source, box)
        own = self._own(source)
        found: list[Match] = []
        for match, digest in sorted(self._regions(seed, k), key=lambda pair: -pair[0].similarity):
            region = _box(match)
            itself = digest == own and region.overlap(box) > 0
            same = (b for b in found if b.path == match.path)
            if itself or any(region.overlap(_box(better)) > SAME for better in same):
                continue
            found.append(match)
            if len(found) == top:
                break
        return found

    def _seed(self, source: Any, box: Box) -> tuple[np.ndarray, int]:
        """The label node of a box, and how many patches it draws on."""
        length = self.settings.segment_s
        if box.end - box.start > length:
            raise ConfigError(
                f"a box of {box.end - box.start:g} s: the index knows segments of {length:g} s, "
                "give a shorter one"
            )
        begin = max(0.0, (box.start + box.end - length) / 2)
        excerpt = Excerpt(source, begin, begin + length)
        reading = Reading(self._segment, self.embedder.size + self._node_width)
        try:
            (vectors,) = self.embedder.read([excerpt], reading, length, length)
        except AudioError:  # the recording ends before the excerpt does
            excerpt = Excerpt(source, begin, None)
            (vectors,) = self.embedder.read([excerpt], reading, length, length)
        assert isinstance(vectors, Vectors)
        sound = round(float(vectors.seconds[0]) * self.embedder.rate)
        if begin + vectors.seconds[0] <= box.start:
            raise AudioError(f"the recording ends before the box begins, at {box.start:g} s")
        columns = min(self._columns, self._places.columns(sound))
        nodes = vectors.values[0, self.embedder.size :].reshape(self._grid)[:, :columns]
        nodes = self._nodes().scale(nodes)
        inside = nodes_inside(self._places, columns, box, begin)
        return label_node(nodes, inside), int(inside.sum())

    def _regions(self, seed: np.ndarray, k: int) -> Iterator[tuple[Match, str]]:
        """The best region of every window that has one of the nearest nodes, and its content."""
        grid, every = self._grid, self.settings.every
        cells = grid[0] * grid[1]
        windows: dict[Entry, set[int]] = {}
        near = self._nodes()
        for entry, number, _ in near.near(seed * SCALE, NODES_ASKED):
            windows.setdefault(entry, set()).add(number // cells)
        for entry, numbers in windows.items():
            nodes = np.frombuffer(next(self._store.nodes(entry.id)), np.int8)
            nodes = nodes.reshape(-1, *grid)
            for number in sorted(numbers):
                begin = number * every * self.settings.hop_s
                end = min(begin + self.settings.segment_s, entry.duration)
                sound = round((end - begin) * self.embedder.rate)
                columns = min(grid[1], self._places.columns(sound))
                likeness = near.scale(nodes[number, :, :columns] / np.float32(SCALE)) @ seed
                region = nearest_region(likeness, k, self._places, begin, end)
                box = region.box
                yield (
                    Match(
                        entry.path,
                        box.start,
                        box.end,
                        region.similarity,
                        box.low_hz,
                        box.high_hz,
                    ),
                    entry.digest,
                )

    def _own(self, source: Any) -> str | None:
        """The content of the query's file, to know it again."""
        if not isinstance(source, str | os.PathLike):
            return None
        try:
            return content_digest(source)
        except OSError:
            return None

    def _segments(self) -> _Nearest:
        if self._nearest is None:
            self._nearest = _Nearest.of(self, "segments", self.embedder.size, exact=True)
        return self._nearest

    def _nodes(self) -> _Nearest:
        if self._near_nodes is None:
            self._near_nodes = _Nearest.of(self, "nodes", self._grid[2], exact=False)
        return self._near_nodes


class _Nearest:
    """What FAISS finds among all vectors of one kind, and whose they are.

    `scale` brings what is asked for to the scale of the vectors.
    """

    def __init__(
        self, vectors: Any, scale: _Scale, entries: list[Entry], counts: list[int]
    ) -> None:
        self.scale = scale
        self._vectors, self._entries = vectors, entries
        self._ends = np.cumsum(counts)

    @classmethod
    def of(cls, index: Index, kind: str, width: int, exact: bool) -> _Nearest:
        """From the file of this state of the index, which is made where it is missing."""
        faiss, store = _faiss(), index._store
        entries = store.entries()
        if not entries:
            raise SearchError(f"nothing is in {index.folder}: `atgnn index` puts recordings there")
        path = index.folder / f"{kind}-{store.generation}.faiss"
        scale = _Scale.read(path) if path.is_file() else None
        try:
            if scale is None:
                scale = _Scale.of(_parts(store, width, exact), width)
                _make(faiss, path, map(scale, _parts(store, width, exact)), scale, exact)
            vectors = faiss.read_index(str(path))
        except (OSError, RuntimeError) as error:  # FAISS has no errors of its own
            with suppress(OSError):
                path.unlink()
            detail = (str(error).splitlines() or ["no reason"])[-1]
            raise SearchError(
                f"{path} cannot be made or read ({detail}): search again, in a folder that can be "
                "written"
            ) from None
        cells, every = int(np.prod(index._grid[:2])), index.settings.every
        counts = [e.windows if exact else -(-e.windows // every) * cells for e in entries]
        if vectors.ntotal != sum(counts):
            path.unlink()
            raise SearchError(f"{path} did not fit its index and was removed: search again")
        return cls(vectors, scale, entries, counts)

    def near(self, query: np.ndarray, count: int) -> Iterator[tuple[Entry, int, float]]:
        """The nearest, best first: whose vector it is, its number there, and the likeness.

        `query` (D,) is on the scale.
        """
        count = min(count, self._vectors.ntotal)
        likeness, places = self._vectors.search(query[None], count)
        owners = np.searchsorted(self._ends, places[0], side="right")
        for owner, place, value in zip(owners, places[0], likeness[0], strict=True):
            before = 0 if owner == 0 else self._ends[owner - 1]
            yield self._entries[owner], int(place - before), float(value)


@dataclass(frozen=True)
class _Scale:
    """Brings vectors (..., D) to one scale, and length one, before their cosine is taken.

    What all sounds have in common tells none from another: the mean is taken off, and every number
    is divided by its deviation. Vectors of zeros alone pad short segments, and stay so.
    """

    mean: np.ndarray  # float32 (D,)
    spread: np.ndarray  # float32 (D,)

    @classmethod
    def of(cls, parts: Iterable[np.ndarray], width: int) -> _Scale:
        """That of all vectors in an index.

        Of fewer than `FEWEST` their means would say more of these than of sound: they stay as
        they are, but of length one.
        """
        count, total, squares = 0, np.zeros(width), np.zeros(width)
        for part in parts:
            wide = part[part.any(1)].astype(np.float64)
            count, total, squares = (
                count + len(wide),
                total + wide.sum(0),
                squares + (wide**2).sum(0),
            )
        if count < FEWEST:
            return cls(np.zeros(width, np.float32), np.ones(width, np.float32))
        mean = total / count
        spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return cls(
            mean.astype(np.float32), (spread + 1e-6 + 1e-3 * spread.max()).astype(np.float32)
        )

    @classmethod
    def read(cls, faiss_file: Path) -> _Scale | None:
        """That with which a file of FAISS was made; None where it is missing or damaged."""
        try:
            mean, spread = np.load(_beside(faiss_file), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return cls(mean, spread)

    def write(self, faiss_file: Path) -> None:
        """Beside a file of FAISS."""
        with replacing(_beside(faiss_file)) as scratch, scratch.open("wb") as file:
            np.save(file, np.stack([self.mean, self.spread]))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """float32 (..., D), each of length one, or zero."""
        scaled = (rows - self.mean) / self.spread * rows.any(-1, keepdims=True)
        lengths = np.linalg.norm(scaled, axis=-1, keepdims=True)
        return np.ascontiguousarray(scaled / np.maximum(lengths, 1e-12), np.float32)


def _beside(faiss_file: Path) -> Path:
    """Where the scale of a file of FAISS is kept."""
    return faiss_file.with_suffix(".npy")


def _parts(store: Store, width: int, exact: bool) -> Iterator[np.ndarray]:
    """float32 (n, D) of every recording."""
    if exact:
        yield from store.vectors(width)
    else:
        for data in store.nodes():
            yield np.frombuffer(data, np.int8).reshape(-1, width) / np.float32(SCALE)


def _make(faiss: Any, path: Path, parts: Iterable[np.ndarray], scale: _Scale, exact: bool) -> None:
    """Write a file of FAISS with vectors on a scale, in place of those of earlier states."""
    width = len(scale.mean)
    if exact:
        vectors = faiss.IndexFlatIP(width)
    else:
        kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
        vectors = faiss.IndexScalarQuantizer(width, kind, faiss.METRIC_INNER_PRODUCT)
    for part in parts:
        if len(part):
            vectors.add(part if exact else np.round(part * np.float32(SCALE)))
    scale.write(path)
    with replacing(path) as scratch:
        faiss.write_index(vectors, str(scratch))
    for old in path.parent.glob(f"{path.name.split('-')[0]}-*"):
        if old.stem != path.stem:
            old.unlink(missing_ok=True)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtraError.of("faiss", "search", "an index") from None
    return faiss


def _as(entry: Entry, duration: float, windows: int) -> Entry:
    return Entry(0, entry.path, entry.digest, entry.size, entry.modified, duration, windows)


def _places(embedder: Embedder) -> NodePlaces:
    """Of the nodes of regions: the last stage whose cells are small enough, or else the first."""
    config, front_end = embedder.config, embedder.front_end
    stages = [NodePlaces(config, front_end, stage) for stage in range(len(config.channels))]
    return [stages[0], *(one for one in stages if one.stride <= CELL)][-1]


def _told(failure: Failure, on_failure: Callable[[Failure], None] | None) -> None:
    if on_failure is None:
        raise failure.error
    on_failure(failure)


def _overlap(one: Match, other: Match) -> bool:
    return one.path == other.path and one.start < other.end and other.start < one.end


def _box(match: Match) -> Box:
    assert match.low_hz is not None
    assert match.high_hz is not None
    return Box(match.start, match.end, match.low_hz, match.high_hz)


def _described(settings: IndexSettings) -> str:
    nodes = "with" if settings.regions else "without"
    return f"segments of {settings.segment_s:g} s every {settings.hop_s:g} s, {nodes} regions"


def _lasting(name: str) -> str:
    """A model's name that means the same from another folder."""
    return os.path.abspath(name) if os.path.isdir(name) else name
