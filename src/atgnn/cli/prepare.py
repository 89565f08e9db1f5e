"""``atgnn prepare``: from a data set as it was downloaded to a packed folder and a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from atgnn.cli.base import app, grouped, refuse_idle
from atgnn.errors import counted

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

LinksOption = Annotated[bool, typer.Option("--links", help="Follow links to folders.")]
LabelsOption = Annotated[
    str | None,
    typer.Option("--labels", help="Vocabulary: audioset, fsd50k, or a label file (CSV)."),
]


@dataclass(frozen=True)
class Packing:
    """Options of every data set: where it is packed, and how."""

    out: Annotated[Path, typer.Option(help="Folder to make; an interrupted one goes on.")]
    rate: Annotated[int, typer.Option(min=1000, help="Samples a second.")] = 16_000
    longest: Annotated[
        float | None, typer.Option(min=0.1, help="Cut clips to so many seconds.")
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode; as a rule one a processor.")
    ] = None
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what an interrupted run left, and begin.")
    ] = False
    retry: Annotated[
        bool,
        typer.Option(
            "--retry", help="Try all unreadable files again, not only those changed since."
        ),
    ] = False

    def run(self, listing: Listing) -> None:
        """Pack, with a bar, and show the report."""
        from rich.console import Console
        from rich.markdown import Markdown

        from atgnn.prepare.run import Options
        from atgnn.prepare.run import prepare as pack
        from atgnn.terminal import counter, say

        options = Options(self.rate, self.longest, self.threads, self.restart, self.retry)
        try:
            with counter(len(listing.clips)) as progress:
                report = pack(listing, self.out, options, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on where it was") from None
        for bad in report.unreadable[:MOST_LINES]:
            say(bad.reason)
        if len(report.unreadable) > MOST_LINES:
            rest = len(report.unreadable) - MOST_LINES
            say(f"and {rest} more unreadable files, all in {self.out / 'report.json'}")
        Console(highlight=False).print(Markdown(report.markdown()))
        typer.echo(f"Packed in {self.out}; train with `--clips {quote(str(self.out))}`")


@dataclass(frozen=True)
class Fetching:
    """Options of data sets that can be downloaded."""

    download: Annotated[
        bool, typer.Option("--download", help="Fetch it into the folder first, or go on with that.")
    ] = False
    mirror: Annotated[
        str | None,
        typer.Option(help="Fetch from this address, which must answer as the usual one."),
    ] = None

    def run(self, context: typer.Context, fetch: Callable[..., None], root: Path) -> None:
        """Fetch and unpack where that is asked for, with a bar for each."""
        from atgnn.terminal import transfers

        if not self.download:
            refuse_idle(context, "without --download", "mirror")
            return
        address = [] if self.mirror is None else [self.mirror]
        try:
            with transfers() as (received, unpacked):
                fetch(root, *address, progress=received, unpacked=unpacked)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on where it was") from None


@prepare.command()
@grouped
def fsd50k(
    context: typer.Context,
    root: Annotated[Path, typer.Argument(help="Folder that FSD50K was unpacked in.")],
    packing: Packing,
    fetching: Fetching,
    links: LinksOption = False,
) -> None:
    """FSD50K: dev_audio, eval_audio and ground_truth, with FSD50K. before their names or not.

    --download fetches 24.5 GB from Zenodo (record 4060432) and unpacks them.
    """
    from atgnn.data.fsd50k import read_fsd50k
    from atgnn.prepare.fetch import fetch_fsd50k

    fetching.run(context, fetch_fsd50k, root)
    packing.run(read_fsd50k(root, links))


@prepare.command()
@grouped
def audioset(
    sounds: Annotated[Path, typer.Argument(help="Folder of clips named by their YouTube id.")],
    packing: Packing,
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
    links: LinksOption = False,
) -> None:
    """AudioSet: its lists of segments, and whatever clips of them are there."""
    from atgnn.data.audioset import find_lists, read_audioset

    chosen = lists or [str(path) for path in find_lists(sounds)]
    listing = read_audioset(
        sounds, chosen, _vocabulary(labels), whole_videos=whole_videos, links=links
    )
    packing.run(listing)


@prepare.command()
@grouped
def esc50(
    context: typer.Context,
    root: Annotated[Path, typer.Argument(help="Folder of ESC-50 with meta and audio.")],
    packing: Packing,
    fetching: Fetching,
    only_esc10: Annotated[
        bool, typer.Option("--only-esc10", help="Only the ten categories of ESC-10.")
    ] = False,
    links: LinksOption = False,
) -> None:
    """ESC-50, or ESC-10. --download fetches 600 MB from GitHub and unpacks them."""
    from atgnn.data.esc50 import read_esc50
    from atgnn.prepare.fetch import fetch_esc50

    fetching.run(context, fetch_esc50, root)
    packing.run(read_esc50(root, only_esc10, links))


@prepare.command()
@grouped
def table(
    table: Annotated[Path, typer.Argument(help="CSV, TSV or Parquet with path and labels.")],
    packing: Packing,
    labels: LabelsOption = None,
    label_column: Annotated[
        str, typer.Option(help="Column of the table that names the labels.")
    ] = "labels",
) -> None:
    """Any table of clips; rows without a sound are counted."""
    from atgnn.data.tables import read_table

    listing = read_table(table, _vocabulary(labels), label_column)
    packing.run(listing)


@prepare.command()
@grouped
def folder(
    root: Annotated[Path, typer.Argument(help="Folder whose folders are labels.")],
    packing: Packing,
    labels: LabelsOption = None,
    links: LinksOption = False,
) -> None:
    """A folder of folders; or train, val and test folders with such folders in them."""
    from atgnn.data.tables import read_folders

    listing = read_folders(root, _vocabulary(labels), links)
    packing.run(listing)


@prepare.command()
@grouped
def manifest(
    manifests: Annotated[
        list[str], typer.Argument(metavar="MANIFEST...", help="JSON files, or SPLIT=FILE.")
    ],
    packing: Packing,
    audio: Annotated[
        Path | None, typer.Option(help="Folder of the sounds, if they have moved.")
    ] = None,
    labels: LabelsOption = None,
    links: LinksOption = False,
) -> None:
    """JSON manifests of PSLA, AST or the author of ATGNN (HDF5 clips need the extra hdf5)."""
    from atgnn.data.manifest import read_manifests

    listing = read_manifests(manifests, _vocabulary(labels), audio, links)
    packing.run(listing)


@prepare.command("check")
def check_folder(
    folder: Annotated[Path, typer.Argument(help="A packed folder.")],
) -> None:
    """Compare a packed folder with its checksums."""
    from atgnn.prepare.run import check

    packed = check(folder)
    hours = packed.lengths.sum() / packed.rate / 3600
    typer.echo(f"{folder}: {counted(len(packed), 'clip')}, {hours:.2f} h, all as they were written")


def _vocabulary(name: str | None) -> Vocabulary | None:
    from atgnn.labels import Vocabulary

    return None if name is None else Vocabulary.named(name)
