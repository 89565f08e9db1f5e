"""The results of one shard on disk: written piece by piece, at last one Parquet file.

    RESULTS/shard-1-of-4.parquet    a row for each recording, in order of their paths
    RESULTS/shard-1-of-4.parts/     while the work goes on: parts of it, and a journal

Every recording is written when it is done; of the same path the later row counts. The order of the
pieces is: the whole table of an earlier time, the parts by number, the journal.
"""

from __future__ import annotations

import json
import shutil
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

from atgnn.archive.arrow import pa, pq
from atgnn.archive.journal import Journal, read_journal
from atgnn.archive.listing import Shard
from atgnn.archive.rows import INDEX, REMOVED, SCHEMA
from atgnn.errors import AtgnnError
from atgnn.files import replacing

__all__ = ["About", "Known", "Shelf", "Store", "differences", "shards_in"]

KEY, FORMAT, VERSION = b"atgnn_archive", "atgnn archive", 1
PART_ROWS, PART_BYTES = 1000, 32 << 20  # of a part, and of what is in memory
GROUPS_HELD = 8  # row groups in memory while rows are gathered

#: What all rows of an archive have in common, as plain data.
About = dict[str, Any]


class Known(NamedTuple):
    """Where the row of a recording is, and what tells whether it is still right."""

    digest: str | None
    bytes: int
    modified: int
    windows: int
    failed: bool
    piece: int
    row: int


class Shelf:
    """All pieces of one shard, to read."""

    def __init__(self, results: Path, shard: Shard) -> None:
        """Look at what is there. AtgnnError for files that are damaged or of another kind."""
        self.shard = shard
        self.final, self.folder = _places(results, shard)
        # First the journal: its rows may be moving into a part right now.
        head, rows = read_journal(self.folder / "journal")
        parts = sorted(self.folder.glob("part-*.parquet"))
        files = ([self.final] if self.final.is_file() else []) + parts
        if head is not None and parts and parts[-1].name == _part_name(head["part"]):
            rows = []  # they are in it
        self.files: list[Path] = files
        self.about: About | None = head["about"] if head else None
        for file in files:
            self.about = _about(file)
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._starts: dict[int, list[int]] = {}
        self._journal = pa.Table.from_batches(rows, SCHEMA)

    @property
    def finished(self) -> bool:
        """Whether the whole table is there and nothing has been added since."""
        return self.files == [self.final] and not len(self._journal)

    def known(self) -> dict[str, Known]:
        """Every recording by its path: of several rows, the last."""
        found: dict[str, Known] = {}
        for piece in range(len(self.files) + 1):
            columns = self._columns(piece, INDEX).to_pydict()
            rows = zip(*(columns[name] for name in INDEX), strict=True)
            for row, (path, digest, size, modified, count, error) in enumerate(rows):
                failed = error is not None
                found[path] = Known(digest, size, modified, count, failed, piece, row)
        return {path: one for path, one in found.items() if one.bytes != REMOVED}

    def scan(self, columns: Sequence[str]) -> Iterator[Any]:
        """Tables of these columns, of the rows that count; bounded in memory."""
        place = {(one.piece, one.row) for one in self.known().values()}
        for piece in range(len(self.files) + 1):
            row = 0
            for table in self._tables(piece, columns):
                keep = [(piece, row + offset) in place for offset in range(len(table))]
                row += len(table)
                yield table.filter(pa.array(keep, pa.bool_()))

    def gather(self, rows: Sequence[Known]) -> Any:
        """A table of these rows, in this order."""
        order = sorted(range(len(rows)), key=lambda place: (rows[place].piece, rows[place].row))
        found = ((self._group(rows[place].piece, rows[place].row), place) for place in order)
        parts, back = [], [0] * len(rows)
        for _, some in groupby(found, key=lambda one: one[0][0]):
            places = list(some)
            (_, group, _), _ = places[0]
            parts.append(group.take([offset for (_, _, offset), _ in places]))
        for position, place in enumerate(order):
            back[place] = position
        table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
        return table if back == sorted(back) else table.combine_chunks().take(back)

    def row(self, known: Known) -> Any:
        """One row, as a record batch."""
        return self.gather([known]).combine_chunks().to_batches()[0]

    # ------------------------------------------------------------------ pieces

    def _columns(self, piece: int, columns: Sequence[str]) -> Any:
        if piece == len(self.files):
            return self._journal.select(list(columns))
        with _readable(self.files[piece]):
            return pq.read_table(self.files[piece], columns=list(columns), memory_map=False)

    def _tables(self, piece: int, columns: Sequence[str]) -> Iterator[Any]:
        if piece == len(self.files):
            yield self._journal.select(list(columns))
            return
        with _readable(self.files[piece]), pq.ParquetFile(self.files[piece]) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, list(columns))

    def _group(self, piece: int, row: int) -> tuple[tuple[int, int], Any, int]:
        """The row group that a row is in, its number, and the row's place in it."""
        if piece == len(self.files):
            return (piece, 0), self._journal, row
        if piece not in self._starts:
            with _readable(self.files[piece]):
                meta = pq.read_metadata(self.files[piece])
            sizes = (meta.row_group(group).num_rows for group in range(meta.num_row_groups))
            self._starts[piece] = [0, *accumulate(sizes)]
        starts = self._starts[piece]
        place = piece, bisect_right(starts, row) - 1
        if place not in self._groups:
            with _readable(self.files[piece]), pq.ParquetFile(self.files[piece]) as file:
                self._groups[place] = file.read_row_group(place[1])
            if len(self._groups) > GROUPS_HELD:
                self._groups.popitem(last=False)
        self._groups.move_to_end(place)
        return place, self._groups[place], row - starts[place[1]]


class Store:
    """One shard on its way. Use as a context: other processes are kept out.

    Attributes:
        shelf: what was there at the beginning.
        known: its rows, by path.
    """

    def __init__(
        self, results: Path, shard: Shard, about: About, *, resume: bool, force: bool
    ) -> None:
        """Go on with what is in `results`, or begin; with `force`, throw away what is there.

        Raises:
            AtgnnError: something is there and neither `resume` nor `force` is true, or it was made
                with another model or other settings; or another process works on the shard.
            OSError: nothing can be written.
        """
        self.results, self.shard, self.about = results, shard, about
        self.final, self.folder = _places(results, shard)
        self._schema = SCHEMA.with_metadata({KEY: json.dumps(about)})
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._journal = Journal(self.folder / "journal")
        except BlockingIOError:
            raise AtgnnError(
                f"another process is working on shard {shard} in {results}: wait for it"
            ) from None
        try:
            if force:
                self._clear()
            self._check(resume)
            self._take_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others work on the shard; nothing empty is left behind."""
        if not self._parts() and not self._journal.rows:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._journal.close()

    def _clear(self) -> None:
        self._journal.begin({"part": 0, "about": self.about})
        for path in (*self._parts(), self.final):
            path.unlink(missing_ok=True)

    def _check(self, resume: bool) -> None:
        shelf = Shelf(self.results, self.shard)
        if not shelf.files and not self._journal.rows:
            return
        if not resume:
            raise AtgnnError(
                f"{self.results} holds results of shard {self.shard}: --resume goes on with them, "
                "--force begins anew"
            )
        unlike = differences(shelf.about or self.about, self.about)
        if unlike:
            raise AtgnnError(
                f"{self.results} was made with {' and '.join(unlike)}: give the same to go on, "
                "--force to begin anew, or another --out"
            )

    def _take_up(self) -> None:
        """Make a part of what the journal holds, so that all that is known lies in files."""
        scratch = self.results.glob(f".{self.final.name}.*.part")
        for left in (*self.folder.glob(".*.part"), *scratch):  # of a process that was killed
            left.unlink()
        head = self._journal.head
        if head is not None and (self.folder / _part_name(head["part"])).is_file():
            self._journal.rows = []  # killed just after they had become a part
        self._roll()
        self.shelf = Shelf(self.results, self.shard)
        self.known = self.shelf.known()

    def add(self, row: Any) -> None:
        """Keep the row (a record batch of one) of a recording that is done."""
        self._journal.add(row)
        rows = self._journal.rows
        self._bytes += row.nbytes
        if len(rows) >= PART_ROWS or self._bytes >= PART_BYTES:
            self._roll()

    def finish(self) -> Path:
        """Make one table of all pieces, in order of the paths; from then on it is all there is."""
        self._roll()
        shelf = Shelf(self.results, self.shard)
        if not shelf.finished:
            known = shelf.known()
            order = [known[path] for path in sorted(known)]
            with (
                replacing(self.final) as scratch,
                pq.ParquetWriter(scratch, self._schema, compression="zstd") as writer,
            ):
                for some in _portions(order, len(self.about["labels"])):
                    writer.write_table(shelf.gather(some).cast(self._schema))
        for part in self._parts():
            part.unlink()
        return self.final

    def _roll(self) -> None:
        """Make a part of the journal's rows, whole or not at all, and begin another journal."""
        numbers = [int(part.stem.removeprefix("part-")) for part in self._parts()]
        number = max(numbers, default=-1) + 1
        if self._journal.rows:
            table = pa.Table.from_batches(self._journal.rows, SCHEMA).cast(self._schema)
            with replacing(self.folder / _part_name(number)) as scratch:
                pq.write_table(table, scratch, compression="zstd")
            number += 1
        self._journal.begin({"part": number, "about": self.about})
        self._bytes = 0

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))


def differences(old: About, new: About) -> list[str]:
    """What is not alike in two archives, in words; nothing where rows of both go together."""
    words = []
    if any(old[name] != new[name] for name in ("model", "labels", "calibration")):
        words.append("another model")
    elif old["thresholds"] != new["thresholds"]:
        words.append("other thresholds of the model")
    for name in ("window_s", "hop_s", "precision"):
        if old[name] != new[name]:
            words.append(f"{name} {old[name]} (now {new[name]})")
    for name, value in new["settings"].items():
        before = old["settings"].get(name)
        if before != value:
            words.append(f"{name} {json.dumps(before)} (now {json.dumps(value)})")
    return words


def shards_in(results: Path) -> list[Shard]:
    """The shards of which there is something in a folder, in order."""
    found = set()
    for path in results.glob("shard-*-of-*"):
        if path.suffix in (".parquet", ".parts"):
            number, _, count = path.stem.removeprefix("shard-").partition("-of-")
            with suppress(ValueError):
                found.add(Shard(int(number), int(count)))
    return sorted(found)


def _places(results: Path, shard: Shard) -> tuple[Path, Path]:
    return results / f"{shard.name}.parquet", results / f"{shard.name}.parts"


def _part_name(number: int) -> str:
    return f"part-{number:06}.parquet"


def _portions(rows: Sequence[Known], labels: int) -> Iterator[Sequence[Known]]:
    """The rows in portions that are each good for a row group and for memory."""
    begin, size = 0, 0
    for end, row in enumerate(rows):
        size += 4 * labels * row.windows
        if end > begin and (size > PART_BYTES or end - begin >= PART_ROWS):
            yield rows[begin:end]
            begin, size = end, 4 * labels * row.windows
    if begin < len(rows) or not rows:
        yield rows[begin:]


def _about(path: Path) -> About:
    """What a file of results says all its rows have in common."""
    with _readable(path):
        metadata = pq.read_schema(path).metadata or {}
    try:
        about: About = json.loads(metadata[KEY])
        version = about["version"]
    except (KeyError, ValueError):
        raise AtgnnError(f"{path} holds no results of an archive: choose another --out") from None
    if version != VERSION:
        raise AtgnnError(
            f"{path} is of version {version}, this atgnn knows {VERSION}: use the atgnn that "
            "wrote it, or another --out"
        )
    return about


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Damage to a Parquet file in one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        if isinstance(error, AtgnnError):
            raise
        detail = (str(error).splitlines() or ["damaged"])[0]
        raise AtgnnError(
            f"{path} is not a readable Parquet file ({detail}): remove it, and --resume does its "
            "recordings again"
        ) from None
