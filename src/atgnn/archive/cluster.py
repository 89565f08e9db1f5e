"""The same work on several machines, through Ray Data.

Recordings go out in small blocks to workers that each hold the model; rows come back and are kept
by the machine that asked, as if it had made them itself. So resuming, shards and the table are
those of a single machine. All machines must see the archive under the same path.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from atgnn.archive.arrow import pa
from atgnn.archive.listing import Sound
from atgnn.archive.rows import SCHEMA
from atgnn.archive.settings import ArchiveSettings
from atgnn.archive.work import make_rows
from atgnn.errors import AtgnnError, ConfigError, MissingExtraError
from atgnn.tagger import Tagger

__all__ = ["RayWorkers"]

BLOCK = 16  # recordings handed out at a time


@dataclass(frozen=True)
class RayWorkers:
    """A worker for `tag_archive` that hands recordings to a Ray cluster.

    Attributes:
        model: what `Tagger.from_pretrained` takes; a folder must be there on every machine.
        settings: as given to `tag_archive`.
        address: of the cluster, "auto" for the one that this machine belongs to, "local" to start
            one here.
        workers: how many; None is one on each machine.
        device, precision, batch_size: of every worker.
        packs: files of label packs; they must be there on every machine.
    """

    model: str
    settings: ArchiveSettings
    address: str = "auto"
    workers: int | None = None
    device: str | None = None
    precision: str = "float32"
    batch_size: int | None = None
    packs: tuple[str, ...] = ()

    def __call__(self, sounds: Sequence[Sound]) -> Generator[Any, None, None]:
        """A row (a record batch of one) for every recording, as they come.

        ConfigError where there is no such cluster, AtgnnError where its work fails.
        """
        if not sounds:
            return
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            yield from self._rows(ray, sounds)
        except ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or ["no reason"]
            raise AtgnnError(
                f"the Ray cluster could not go on ({lines[-1].strip()}); what came of it is kept: "
                "set it right, and --resume goes on"
            ) from None
        finally:
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone unasked
        try:
            ray.init(
                address=None if self.address == "local" else self.address,
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=False if self.address == "local" else None,
            )
        except Exception as error:  # Ray has no exception of its own for this
            detail = (str(error).splitlines() or ["no answer"])[0]
            raise ConfigError(
                f"no Ray cluster at {self.address!r} ({detail}): start one with `ray start --head`,"
                " or give --ray local"
            ) from None

    def _rows(self, ray: Any, sounds: Sequence[Sound]) -> Iterator[Any]:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are told in one line
        machines = [node for node in ray.nodes() if node["Alive"]]
        workers = min(self.workers or len(machines), -(-len(sounds) // BLOCK))
        graphics = ray.cluster_resources().get("GPU", 0) >= workers
        rows = (
            # A table for each block: dividing one would be work for which no processor may be left.
            ray.data.from_arrow(
                [_table(sounds[at : at + BLOCK]) for at in range(0, len(sounds), BLOCK)]
            ).map_batches(
                _Worker,
                fn_constructor_args=(self,),
                batch_format="pyarrow",
                batch_size=None,
                concurrency=workers,
                num_cpus=1,
                num_gpus=1 if graphics else 0,
            )
        )
        for table in rows.iter_batches(batch_format="pyarrow", batch_size=None):
            for batch in table.select(SCHEMA.names).cast(SCHEMA).to_batches():
                yield from (batch.slice(row, 1) for row in range(len(batch)))


class _Worker:
    """One process of the cluster, which keeps its model."""

    def __init__(self, task: RayWorkers) -> None:
        self.task = task
        self.tagger = Tagger.from_pretrained(
            task.model, task.device, task.precision, packs=task.packs
        )

    def __call__(self, table: Any) -> Any:
        sounds = [
            Sound(row["path"], os.fsdecode(row["file"]), row["bytes"], row["modified"])
            for row in table.to_pylist()
        ]
        rows = make_rows(self.tagger, sounds, self.task.settings, self.task.batch_size)
        return pa.Table.from_batches(rows, SCHEMA)


def _table(sounds: Sequence[Sound]) -> Any:
    """The recordings as a table; files are bytes, as their names need not be text."""
    return pa.table(
        {
            "path": [sound.path for sound in sounds],
            "file": [os.fsencode(os.path.abspath(sound.file)) for sound in sounds],
            "bytes": [sound.bytes for sound in sounds],
            "modified": [sound.modified for sound in sounds],
        }
    )


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError.of("Ray", "ray", "tagging on a cluster") from None
    return ray
