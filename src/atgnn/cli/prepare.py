"""``atgnn prepare``: from a data set as it was downloaded to a packed folder and a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atgnn.cli.base import app

if TYPE_CHECKING:
    from atgnn.data.listing import Listing
    from atgnn.labels import Vocabulary

__all__ = ["prepare"]

prepare = typer.Typer(
    help="Make a data set ready: decode once into a packed folder, and report what is in it.",
    no_args_is_help=True,
)
app.add_typer(prepare, name="prepare")

#: More unreadable files than this are not shown one by one.
MOST_LINES = 20

OutOption = Annotated[Path, typer.Option(help="Folder to make; an interrupted one goes on.")]
RateOption = Annotated[int, typer.Option(min=1000, help="Samples a second.")]
LongestOption = Annotated[float | None, typer.Option(min=0.1, help="Cut clips to so many seconds.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that decode; as a rule one a processor.")
]
RestartOption = Annotated[
    bool, typer.Option("--restart", help="Throw away what an interrupted run left, and begin.")
]
LinksOption = Annotated[bool, typer.Option("--links", help="Follow links to folders.")]
LabelsOption = Annotated[
    str | None,
    typer.Option("--labels", help="Vocabulary: audioset, fsd50k, or a label file (CSV)."),
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Fetch it into the folder first, or go on with that.")
]
MirrorOption = Annotated[
    str | None, typer.Option(help="Fetch from this address, which must answer as the usual one.")
]


@prepare.command()
def fsd50k(
    root: Annotated[Path, typer.Argument(help="Folder that FSD50K was unpacked in.")],
    out: OutOption,
    rate: RateOption = 16_000,
    longest: LongestOption = None,
    threads: ThreadsOption = None,
    restart: RestartOption = False,
    links: LinksOption = False,
    download: DownloadOption = False,
    mirror: MirrorOption = None,
) -> None:
    """FSD50K: dev_audio, eval_audio and ground_truth, with FSD50K. before their names or not.

    --download fetches 24.5 GB from Zenodo (record 4060432) and unpacks them.
    """
    from atgnn.data.fsd50k import read_fsd50k

    _check_mirror(mirror, download)
    if download:
        from atgnn.prepare.fetch import FSD50K, fetch_fsd50k

        _fetch(fetch_fsd50k, root, mirror or FSD50K)
    _pack(read_fsd50k(root, links), out, rate, longest, threads, restart)


@prepare.command()
def audioset(
    sounds: Annotated[Path, typer.Argument(help="Folder of clips named by their YouTube id.")],
    out: OutOption,
    lists: Annotated[
        list[str] | None,
        typer.Option(
            "--list",
            help="List of segments, or SPLIT=LIST; may be repeated. As a rule, all "
            "*_segments.csv in or beside the folder.",
        ),
    ] = None,
    labels: LabelsOption = None,
    whole_videos: Annotated[
        bool, typer.Option("--whole-videos", help="Sounds are whole videos: cut segments out.")
    ] = False,
    rate: RateOption = 16_000,
    longest: LongestOption = None,
    threads: ThreadsOption = None,
    restart: RestartOption = False,
    links: LinksOption = False,
) -> None:
    """AudioSet: its lists of segments, and whatever clips of them are there."""
    from atgnn.data.audioset import find_lists, read_audioset

    chosen = lists or [str(path) for path in find_lists(sounds)]
    listing = read_audioset(
        sounds, chosen, _vocabulary(labels), whole_videos=whole_videos, links=links
    )
    _pack(listing, out, rate, longest, threads, restart)


@prepare.command()
def esc50(
    root: Annotated[Path, typer.Argument(help="Folder of ESC-50 with meta and audio.")],
    out: OutOption,
    only_esc10: Annotated[
        bool, typer.Option("--only-esc10", help="Only the ten categories of ESC-10.")
    ] = False,
    rate: RateOption = 16_000,
    longest: LongestOption = None,
    threads: ThreadsOption = None,
    restart: RestartOption = False,
    links: LinksOption = False,
    download: DownloadOption = False,
    mirror: MirrorOption = None,
) -> None:
    """ESC-50, or ESC-10. --download fetches 600 MB from GitHub and unpacks them."""
    from atgnn.data.esc50 import read_esc50

    _check_mirror(mirror, download)
    if download:
        from atgnn.prepare.fetch import ESC50, fetch_esc50

        _fetch(fetch_esc50, root, mirror or ESC50)
    _pack(read_esc50(root, only_esc10, links), out, rate, longest, threads, restart)


@prepare.command()
def table(
    table: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet with path and labels.")],
    out: OutOption,
    labels: LabelsOption = None,
    label_column: Annotated[
        str, typer.Option(help="Column of the table that names the labels.")
    ] = "labels",
    rate: RateOption = 16_000,
    longest: LongestOption = None,
    threads: ThreadsOption = None,
    restart: RestartOption = False,
) -> None:
    """Any table of clips; rows without a sound are counted."""
    from atgnn.data.tables import read_table

    listing = read_table(table, _vocabulary(labels), label_column)
    _pack(listing, out, rate, longest, threads, restart)


@prepare.command()
def folder(
    root: Annotated[Path, typer.Argument(help="Folder whose folders are labels.")],
    out: OutOption,
    labels: LabelsOption = None,
    rate: RateOption = 16_000,
    longest: LongestOption = None,
    threads: ThreadsOption = None,
    restart: RestartOption = False,
    links: LinksOption = False,
) -> None:
    """A folder of folders; or train, val and test folders with such folders in them."""
    from atgnn.data.tables import read_folders

    listing = read_folders(root, _vocabulary(labels), links)
    _pack(listing, out, rate, longest, threads, restart)


@prepare.command()
def manifest(
    manifests: Annotated[
        list[str], typer.Argument(metavar="MANIFEST...", help="JSON files, or SPLIT=FILE.")
    ],
    out: OutOption,
    audio: Annotated[
        Path | None, typer.Option(help="Folder of the sounds, if they have moved.")
    ] = None,
    labels: LabelsOption = None,
    rate: RateOption = 16_000,
    longest: LongestOption = None,
    threads: ThreadsOption = None,
    restart: RestartOption = False,
    links: LinksOption = False,
) -> None:
    """JSON manifests of PSLA, AST or the author of ATGNN (HDF5 clips: pip install h5py)."""
    from atgnn.data.manifest import read_manifests

    listing = read_manifests(manifests, _vocabulary(labels), audio, links)
    _pack(listing, out, rate, longest, threads, restart)


@prepare.command("check")
def check_folder(
    folder: Annotated[Path, typer.Argument(help="A packed folder.")],
) -> None:
    """Compare a packed folder with its checksums."""
    from atgnn.prepare.run import check

    packed = check(folder)
    hours = packed.lengths.sum() / packed.rate / 3600
    typer.echo(f"{folder}: {len(packed)} clips, {hours:.2f} h, all as they were written")


def _vocabulary(name: str | None) -> Vocabulary | None:
    from atgnn.labels import Vocabulary

    return None if name is None else Vocabulary.named(name)


def _check_mirror(mirror: str | None, download: bool) -> None:
    from atgnn.errors import ConfigError

    if mirror is not None and not download:
        raise ConfigError("--mirror is where --download fetches from: give both, or none")


def _fetch(fetch: Callable[..., None], root: Path, address: str) -> None:
    """Fetch and unpack, with a bar for each."""
    from atgnn.terminal import transfers

    try:
        with transfers() as (received, unpacked):
            fetch(root, address, received, unpacked)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it was") from None


def _pack(
    listing: Listing,
    out: Path,
    rate: int,
    longest: float | None,
    threads: int | None,
    restart: bool,
) -> None:
    """Pack, with a bar, and show the report."""
    from rich.console import Console
    from rich.markdown import Markdown

    from atgnn.prepare.run import Options
    from atgnn.prepare.run import prepare as pack
    from atgnn.terminal import counter, say

    try:
        with counter(len(listing.clips)) as progress:
            report = pack(listing, out, Options(rate, longest, threads, restart), progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it was") from None
    for bad in report.unreadable[:MOST_LINES]:
        say(bad.reason)
    if len(report.unreadable) > MOST_LINES:
        rest = len(report.unreadable) - MOST_LINES
        say(f"and {rest} more unreadable files, all in {out / 'report.json'}")
    Console(highlight=False).print(Markdown(report.markdown()))
    typer.echo(f"Packed in {out}; train with `--clips {out}`")
