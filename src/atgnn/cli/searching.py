"""``atgnn embed``, ``atgnn index`` and ``atgnn search``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atgnn.cli.base import (
    BatchOption,
    DeviceOption,
    ForceOption,
    ModelOption,
    app,
    refuse_idle,
)
from atgnn.errors import AtgnnError, ConfigError, counted

if TYPE_CHECKING:
    from atgnn.embeddings import Embedder, Vectors
    from atgnn.search import Match
    from atgnn.tags import Failure

SoundsArgument = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Sound files, and folders of them.")
]


@app.command()
def embed(
    context: typer.Context,
    paths: SoundsArgument,
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    model: Annotated[
        str | None, typer.Option(help="A model as for `tag`, or an encoder without labels.")
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="A vector for each window of so many seconds.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(help="Seconds from one window to the next; else its length.")
    ] = None,
    every: Annotated[
        float | None, typer.Option(help="A time-stamped vector every so many seconds (0.05).")
    ] = None,
    device: DeviceOption = "auto",
    batch_size: BatchOption = None,
    force: ForceOption = False,
) -> None:
    """Turn recordings into vectors: one each, or one for each window or moment."""
    from atgnn.files import check_new

    if every is not None:
        refuse_idle(context, "with --every", "window", "hop")
    if window is None:
        refuse_idle(context, "without --window", "hop")
    check_new(out, force)
    embedder = _embedder(model, device)
    from atgnn.embeddings import write_vectors
    from atgnn.terminal import say

    sounds, missing = _sounds(paths)
    if every is not None:
        found = embedder.moments(sounds, every, batch_size=batch_size, on_error="collect")
    else:
        found = embedder.windows(sounds, window, hop, batch_size=batch_size, on_error="collect")
    failures: list[Failure] = []
    whole = window is None and every is None
    about = {
        "format": "atgnn embeddings",
        "version": 1,
        "model": embedder.name,
        "digest": embedder.digest,
        "of": "moments" if every is not None else "recordings" if whole else "windows",
    }
    rows = write_vectors(out, _good(found, len(sounds), failures, whole), about, force)
    heard = counted(len(sounds) - len(failures), "recording")
    say(f"{out}: {counted(rows, 'vector')} of {heard}")
    if failures or missing:
        raise typer.Exit(1)


def _good(
    found: "Iterator[Vectors | Failure]", total: int, failures: "list[Failure]", whole: bool
) -> "Iterator[Vectors]":
    """Those that could be embedded, failures named on the way; with `whole` one vector each."""
    from atgnn.tags import Failure
    from atgnn.terminal import say, tracked

    for one in tracked(found, total):
        if isinstance(one, Failure):
            failures.append(one)
            say(one)
        else:
            yield one.whole() if whole else one


@app.command()
def index(
    paths: SoundsArgument,
    out: Annotated[Path, typer.Option(help="The folder of the index, new or begun before.")],
    model: ModelOption = None,
    segment: Annotated[float, typer.Option(help="Seconds of sound behind each vector.")] = 5.0,
    hop: Annotated[float, typer.Option(help="Seconds from one vector to the next.")] = 2.5,
    regions: Annotated[
        bool, typer.Option("--regions", help="Keep patch nodes, to search by time and frequency.")
    ] = False,
    device: DeviceOption = "auto",
    batch_size: BatchOption = None,
) -> None:
    """Index recordings for `atgnn search`, or bring an index up to date.

    New and changed recordings are taken in; those that are gone from a folder given are taken out.
    What was stopped goes on with the same command.
    """
    embedder = _embedder(model, device)
    from atgnn.search import Index, IndexSettings
    from atgnn.terminal import counter, say

    settings = IndexSettings.of(segment_s=segment, hop_s=hop, regions=regions)
    sounds, missing = _sounds(paths)
    found = Index.create(out, embedder, settings)
    try:
        with counter(len(sounds)) as progress:
            done = found.update(
                sounds,
                gone_below=[path for path in paths if Path(path).is_dir()],
                batch_size=batch_size,
                on_failure=say,
                progress=progress,
            )
        say(
            f"{out}: {counted(len(found), 'recording')} ({done.new} new, {done.unchanged} "
            f"unchanged, {done.moved} moved or copied, {done.removed} gone, {done.failed} not read)"
        )
    finally:
        found.close()
    if done.failed or missing:
        raise typer.Exit(1)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="A sound file: what should be found.")],
    index: Annotated[Path, typer.Option("--in", help="The folder of `atgnn index`.")],
    top: Annotated[int, typer.Option(min=1, help="The best so many places.")] = 10,
    start: Annotated[float | None, typer.Option(min=0, help="Only from this second on.")] = None,
    end: Annotated[float | None, typer.Option(min=0, help="Only up to this second.")] = None,
    low_hz: Annotated[float | None, typer.Option(min=0, help="With --high-hz: a region.")] = None,
    high_hz: Annotated[float | None, typer.Option(min=0, help="With --low-hz: a region.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    model: Annotated[
        str | None, typer.Option(help="The index's model, where it is no longer at its place.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Find what sounds like a recording, like a part of it, or like a region of its spectrogram.

    With --start, --end, --low-hz and --high-hz the box of time and frequency between them is
    looked for, and regions are found, in an index made with --regions.
    """
    region = low_hz is not None or high_hz is not None
    if region and None in (start, end, low_hz, high_hz):
        raise ConfigError("a region needs --start, --end, --low-hz and --high-hz: give all four")
    if start is not None and end is not None and end <= start:
        raise ConfigError(f"--end {end:g} is not after --start {start:g}")
    matches = _matches(query, index, top, (start, end), (low_hz, high_hz), model, device)
    if as_json:
        import json

        for match in matches:
            typer.echo(json.dumps(match.to_dict()))
    else:
        from atgnn.terminal import matches_table

        matches_table(matches)


def _matches(
    query: str,
    folder: Path,
    top: int,
    times: tuple[float | None, float | None],
    band: tuple[float | None, float | None],
    model: str | None,
    device: str,
) -> "list[Match]":
    from atgnn.search.index import Index

    name = Index.model_of(folder) if model is None else model
    index = Index.open(folder, _embedder(name, device))
    try:
        start, end = times
        low, high = band
        if low is None or high is None:
            return index.search(query, top, start=start or 0.0, end=end)
        from atgnn.search import Box

        assert start is not None
        assert end is not None
        return index.search_region(query, Box(start, end, low, high), top)
    finally:
        index.close()


def _embedder(model: str | None, device: str) -> "Embedder":
    from atgnn.startup import quick_start

    with quick_start():
        from atgnn.checkpoint import DEFAULT_MODEL
        from atgnn.embeddings import Embedder
        from atgnn.terminal import show_warnings

        show_warnings()
        return Embedder.from_pretrained(DEFAULT_MODEL if model is None else model, device)


def _sounds(paths: list[str]) -> tuple[list[str], int]:
    """Sound files, and how many of the places given hold none; those are named."""
    from atgnn.terminal import expand, say

    found: list[Any] = list(expand(paths))
    problems = [item for item in found if isinstance(item, AtgnnError)]
    for problem in problems:
        say(problem)
    return [item for item in found if isinstance(item, str)], len(problems)
