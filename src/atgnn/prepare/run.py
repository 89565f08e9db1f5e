"""Pack what a data set's lists name, and say what came of it.

OUT/                 the packed waveforms, see `atgnn.data.store`
OUT/labels.csv       the vocabulary, for `data.vocabulary` of a recipe
OUT/missing.csv      listed clips that have no sound here
OUT/report.json      what was found, in numbers; OUT/report.md: the same to read
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from atgnn.data.listing import Listing
from atgnn.data.store import PackedWaveforms
from atgnn.errors import ClipsError, counted
from atgnn.files import write_rows, write_text
from atgnn.prepare.report import Report, report_on

__all__ = ["Options", "check", "prepare"]


class Options(NamedTuple):
    """How to pack.

    Attributes:
        rate: samples a second.
        longest: cut clips to so many seconds; None: whole.
        threads: that decode; None: one for each processor.
        restart: throw away what an interrupted run left instead of going on with it.
        retry: decode again what could not be, also where its file has not changed since.
    """

    rate: int = 16_000
    longest: float | None = None
    threads: int | None = None
    restart: bool = False
    retry: bool = False


DEFAULT = Options()


def prepare(
    listing: Listing,
    out: Path,
    options: Options = DEFAULT,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Pack the clips of a listing into `out`, write the report there and return it.

    Clips that cannot be decoded are counted, not fatal. Interrupted, the same call goes on; where
    everything is there already, clips that could not be decoded are tried again if their files have
    changed, and the report is written again.

    Raises `ClipsError` where `out` is in use or cannot be written, or no clip can be decoded.
    """
    packed = PackedWaveforms.write(
        listing.clips,
        out,
        options.rate,
        longest=options.longest,
        strict_ends="segment_end" not in listing.clips.table,
        threads=options.threads,
        on_error="collect",
        progress=progress,
        resume=True,
        restart=options.restart,
        retry=options.retry,
    )
    report = report_on(listing, packed)
    try:
        write_rows(out / "labels.csv", _labels(listing))
        write_rows(out / "missing.csv", _missing(listing))
        write_text(out / "report.json", json.dumps(report.to_dict(), indent=1) + "\n")
        write_text(out / "report.md", report.markdown())
    except OSError as error:
        raise ClipsError(f"{out}: the report cannot be written ({error.strerror})") from None
    return report


def check(folder: Path) -> PackedWaveforms:
    """Compare every sample of a packed folder with its checksums.

    Raises `ClipsError`, in one line, where something is not as it was written.
    """
    packed = PackedWaveforms.open(folder)
    bad = packed.verify()
    if len(bad):
        names = ", ".join(path.name for path in packed.clips.subset(bad[:3]).paths)
        raise ClipsError(
            f"{folder}: {len(bad)} of {counted(len(packed), 'clip')} are not as they were written, "
            "among them "
            f"{names}: delete the folder and prepare it again"
        )
    return packed


def _labels(listing: Listing) -> Iterator[tuple[object, ...]]:
    yield "index", "mid", "name"
    for index, label in enumerate(listing.vocabulary):
        yield index, label.mid or "", label.name


def _missing(listing: Listing) -> Iterator[tuple[object, ...]]:
    yield "name", "split", "start", "end"
    for row in listing.missing:
        yield row.name, row.split, f"{row.start:g}", "" if row.end is None else f"{row.end:g}"
