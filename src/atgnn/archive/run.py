"""A folder of recordings into a table, in shards, and on where it was interrupted."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from atgnn.archive.listing import Shard, Sound, find
from atgnn.archive.plan import make_plan
from atgnn.archive.rows import moved, removed
from atgnn.archive.settings import ArchiveSettings, describe
from atgnn.archive.store import Store, shards_in
from atgnn.archive.work import make_rows
from atgnn.audio import AudioWarning
from atgnn.errors import AtgnnError, ConfigError, printable
from atgnn.tagger import Tagger

__all__ = ["Done", "Report", "Worker", "tag_archive"]

#: Turns recordings into rows, in any order.
Worker: TypeAlias = "Callable[[Sequence[Sound]], Generator[Any, None, None]]"


@dataclass(frozen=True)
class Done:
    """How far a run has come: of the recordings that it has to tag, and of their bytes."""

    files: int
    of_files: int
    bytes: int
    of_bytes: int


@dataclass(frozen=True)
class Report:
    """What became of an archive, or of one shard of it.

    Attributes:
        table: the Parquet file.
        log: what could not be read, and why, line by line.
        recordings: how many there are.
        tagged: how many were tagged now.
        known: how many had been tagged before.
        moved: of these, how many have another name since.
        failed: how many could not be tagged.
        gone: rows of recordings that are no longer there; they are kept.
        seconds: of sound, tagged now.
    """

    table: Path
    log: Path
    recordings: int
    tagged: int
    known: int
    moved: int
    failed: int
    gone: int
    seconds: float


def tag_archive(
    tagger: Tagger,
    folder: str | os.PathLike[str],
    results: str | os.PathLike[str],
    settings: ArchiveSettings | None = None,
    *,
    shard: Shard | None = None,
    resume: bool = False,
    force: bool = False,
    verify: bool = False,
    batch_size: int | None = None,
    worker: Worker | None = None,
    looked: Callable[[int, int], None] | None = None,
    progress: Callable[[Done], None] | None = None,
    on_failure: Callable[[str], None] | None = None,
) -> Report:
    """Tag every sound in a folder; the results are one Parquet table for each shard.

    Every recording is on the disk as soon as it is done. Interrupted in whatever way, the same call
    with `resume` goes on, and ends with the table of a run that was not. Files that are new or have
    other content since are tagged then, those that have moved are recognised. One that cannot be
    read is passed over; its row says why.

    Args:
        tagger: the model.
        folder: the archive; its subfolders are searched.
        results: a folder, which may lie inside the archive.
        settings: which tags are kept, and whether events are.
        shard: of all the recordings, those to tag here; together the shards make the whole.
        resume: go on with what is there.
        force: throw away what is there.
        verify: with `resume`, read all files again rather than trust their size and time of change.
        batch_size: windows that go through the network together.
        worker: tags the recordings elsewhere, see `atgnn.archive.cluster`.
        looked: is told how many recordings have been compared with what is known, and of how many.
        progress: is told how far the run has come.
        on_failure: is told, in one line, of a recording that could not be tagged.

    Raises:
        ConfigError: of `resume`, `force` and `verify` one makes no sense with the others.
        AudioError, ClipsError: no sounds are in the folder; there is no such folder.
        AtgnnError: `results` holds this shard already, or was made with another model or other
            settings or in another number of shards; or the disk is full.
    """
    if resume and force:
        raise ConfigError("resume keeps what is there and force throws it away: give one of them")
    if verify and not resume:
        raise ConfigError("verify reads again what resume would trust: give resume as well")
    folder, results = Path(folder), Path(results)
    settings, shard = settings or ArchiveSettings(), shard or Shard()
    about = describe(tagger, settings)
    sounds = find(folder, shard, leave_out=results)
    _check_count(results, shard)
    with _writing(results):
        store = Store(results, shard, about, resume=resume, force=force)
        with store, _Log(results / f"{shard.name}.log") as log:
            plan = make_plan(
                store,
                sounds,
                os.fspath(folder),
                verify=verify,
                looked=looked and (lambda done: looked(done, len(sounds))),
            )
            for path in plan.left:
                store.add(removed(path))
            renamed = 0
            for sound, shelf, row in plan.moved:
                store.add(moved(shelf.row(row), sound))
                renamed += sound.path not in store.known
            log.write(f"{len(plan.todo)} of {len(sounds)} recordings of shard {shard} to tag")
            tally = _Tally(plan.todo)
            work = worker or (lambda some: make_rows(tagger, some, settings, batch_size))
            with _interrupted(tally), closing(work(plan.todo)) as rows:
                for row in rows:
                    store.add(row)
                    reason = tally.count(row)
                    if reason is not None:
                        log.write(reason)
                        if on_failure is not None:
                            on_failure(reason)
                    if progress is not None:
                        progress(tally.done)
            table = store.finish()
            log.write(f"{tally.tagged} tagged, {tally.failed} could not be; all is in {table.name}")
    return Report(
        table=table,
        log=log.path,
        recordings=len(sounds),
        tagged=tally.tagged,
        known=plan.known + len(plan.moved),
        moved=renamed,
        failed=tally.failed,
        gone=plan.gone,
        seconds=tally.seconds,
    )


class _Tally:
    """What has been done of what was to do."""

    def __init__(self, todo: Sequence[Sound]) -> None:
        self.of_files, self.of_bytes = len(todo), sum(sound.bytes for sound in todo)
        self.tagged, self.failed, self.bytes, self.seconds = 0, 0, 0, 0.0

    def count(self, row: Any) -> str | None:
        """One more row; why it could not be tagged, if so."""
        values = {name: row.column(name)[0].as_py() for name in ("bytes", "duration", "error")}
        self.bytes += values["bytes"]
        if values["error"] is not None:
            self.failed += 1
            return str(values["error"])
        self.tagged += 1
        self.seconds += values["duration"]
        return None

    @property
    def done(self) -> Done:
        return Done(self.tagged + self.failed, self.of_files, self.bytes, self.of_bytes)


def _check_count(results: Path, shard: Shard) -> None:
    """Shards of different divisions would hold the same recordings twice."""
    others = sorted({other.count for other in shards_in(results)} - {shard.count})
    if others:
        raise AtgnnError(
            f"{results} holds shards of {others[0]}, not of {shard.count}: divide the archive as "
            "before, or give another --out"
        )


@contextmanager
def _interrupted(tally: _Tally) -> Iterator[None]:
    """Ctrl-C says what is done and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        done = tally.done
        raise KeyboardInterrupt(
            f"{done.files} of {done.of_files} recordings are done and kept, --resume goes on"
        ) from None


@contextmanager
def _writing(results: Path) -> Iterator[None]:
    """A disk that is full in one line; what is written by then is whole."""
    try:
        yield
    except OSError as error:
        raise AtgnnError(
            f"{results} cannot be written ({error.strerror or error}); what is done is kept: set "
            "it right, and --resume goes on"
        ) from None


class _Log:
    """A file of lines, each with its time; damaged recordings are entered as well."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Log:
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._show = warnings.showwarning
        warnings.showwarning = self._heard
        return self

    def __exit__(self, *error: object) -> None:
        warnings.showwarning = self._show
        self._file.close()

    def write(self, line: str) -> None:
        """One line."""
        self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {printable(line)}\n")

    def _heard(self, message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, AudioWarning):
            self.write(f"warning: {message}")
        self._show(message, category, *rest, **more)
