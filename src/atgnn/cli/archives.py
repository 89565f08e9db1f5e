"""``atgnn tag FOLDER --out RESULTS``: a whole archive into Parquet; and ``atgnn segments``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atgnn.cli.base import app
from atgnn.errors import ConfigError, counted

if TYPE_CHECKING:
    from atgnn.archive import ArchiveSettings, Report
    from atgnn.archive.run import Worker
    from atgnn.events import EventSettings
    from atgnn.tagger import Tagger

__all__ = [
    "OutOption",
    "RayOption",
    "ResumeOption",
    "SegmentsOption",
    "ShardOption",
    "VerifyOption",
    "WorkersOption",
    "check_alone",
    "settings_of",
    "tag_folder",
    "worker_of",
]

PANEL = "A whole archive"

OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="RESULTS",
        rich_help_panel=PANEL,
        help="Tag all sounds of one folder into a Parquet table in this folder; with --format, "
        "the file to write.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", rich_help_panel=PANEL, help="Only share I of N, one for each machine."
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", rich_help_panel=PANEL, help="Go on with the results that are there."),
]
VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify",
        rich_help_panel=PANEL,
        help="With --resume: read every file again, to see whether it has changed.",
    ),
]
SegmentsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=PANEL,
        help="At the end, cut out the N best clips of every label, to listen to.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=PANEL,
        help="Let a Ray cluster do it: its address, auto for this machine's, or local.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=PANEL,
        help="With --ray: how many models work side by side; one on each machine by default.",
    ),
]


def check_alone(**options: Any) -> None:
    """Refuse options that say nothing without ``--out``."""
    for name, value in options.items():
        if value:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for a whole archive: give --out RESULTS as well, "
                "a folder for its results"
            )


def settings_of(
    top: int | None, threshold: float | None, ancestors: bool, events: EventSettings | None
) -> ArchiveSettings:
    """What the options ask for."""
    from atgnn.archive import ArchiveSettings

    return ArchiveSettings(top=top, threshold=threshold, ancestors=ancestors, events=events)


def worker_of(
    settings: ArchiveSettings,
    model: str,
    ray: str | None,
    workers: int | None,
    **how: Any,
) -> Worker | None:
    """Who does the work: a cluster, or (None) this process."""
    if ray is None:
        if workers is not None:
            raise ConfigError("--workers are of a Ray cluster: give --ray as well")
        return None
    from atgnn.archive.cluster import RayWorkers

    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    return RayWorkers(model, settings, ray, workers, **how)


def tag_folder(
    tagger: Tagger,
    paths: Sequence[str],
    out: Path,
    settings: ArchiveSettings,
    *,
    shard: str | None,
    segments: int | None,
    **how: Any,
) -> None:
    """Tag the one folder in `paths`; exit code 1 if any of it could not be read."""
    from atgnn.archive import Shard, tag_archive
    from atgnn.terminal import looking, pace, say

    folder = _only_folder(paths)
    with looking() as looked, pace() as progress:
        report = tag_archive(
            tagger,
            folder,
            out,
            settings,
            shard=None if shard is None else Shard.parse(shard),
            looked=looked,
            progress=progress,
            on_failure=say,
            **how,
        )
    typer.echo(_summary(report))
    problems = _export(out, folder, segments) if segments is not None else 0
    if report.failed or problems:
        raise typer.Exit(1)


def _only_folder(paths: Sequence[str]) -> str:
    if len(paths) != 1 or not paths[0] or os.path.isfile(paths[0]):
        came = f"{len(paths)} paths" if len(paths) > 1 else f"the file {paths[0]!r}"
        raise ConfigError(f"--out is for one folder of recordings, {came} came: give that folder")
    return paths[0]


def _summary(report: Report) -> str:
    from atgnn.tags import clock

    parts = [f"{report.tagged} tagged ({clock(report.seconds)} of sound)"]
    if report.known:
        moved = f" ({report.moved} have moved since)" if report.moved else ""
        parts.append(f"{report.known} known from before{moved}")
    if report.failed:
        parts.append(f"{report.failed} could not be read, see {report.log}")
    if report.gone:
        parts.append(f"kept: results of {report.gone} that are no longer there")
    recordings = counted(report.recordings, "recording")
    return f"{recordings}: {'; '.join(parts)}\nResults are in {report.table}"


def _export(results: Path, folder: str, count: int, out: Path | None = None) -> int:
    """Write the clips; returns how many could not be."""
    from atgnn.archive import export_segments
    from atgnn.terminal import looking, say

    problems: list[str] = []
    with looking() as progress:
        place = export_segments(
            results, folder, count, out, progress=progress, on_failure=problems.append
        )
    for problem in problems:
        say(problem, "no clip: ")
    typer.echo(f"Clips are in {place}")
    return len(problems)


@app.command()
def segments(
    results: Annotated[Path, typer.Argument(help="What `atgnn tag FOLDER --out` wrote.")],
    folder: Annotated[str, typer.Argument(help="The archive that it was made from.")],
    count: Annotated[int, typer.Option(min=1, help="How many clips of every label.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="A folder for them; by default RESULTS/segments.")
    ] = None,
) -> None:
    """Cut out the clips of an archive in which each label scores highest, to listen to."""
    from atgnn.terminal import show_warnings

    show_warnings()
    if _export(results, folder, count, out):
        raise typer.Exit(1)
