"""``atgnn tag``."""

import os
from typing import Annotated

import typer

from atgnn.cli import archives, listening
from atgnn.cli.base import (
    BatchOption,
    DeviceOption,
    ForceOption,
    ModelOption,
    PackOption,
    PrecisionOption,
    TrimOption,
    app,
    grouped,
    refuse_idle,
)
from atgnn.errors import AtgnnError, ConfigError


@app.command()
@grouped
def tag(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Sound files, and folders of them; - is standard input."
        ),
    ],
    model: ModelOption = None,
    pack: PackOption = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="The best so many labels."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="All labels from this score on."),
    ] = None,
    ancestors: Annotated[
        bool, typer.Option("--ancestors", help="Also labels that a tag implies (Dog for Bark).")
    ] = False,
    trim_silence: TrimOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    form: listening.FormatOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
    listen: listening.EventOptions = listening.EventOptions(),  # noqa: B008, it is frozen
    out: archives.OutOption = None,
    shard: archives.ShardOption = None,
    resume: archives.ResumeOption = False,
    force: ForceOption = False,
    verify: archives.VerifyOption = False,
    export_segments: archives.SegmentsOption = None,
    ray: archives.RayOption = None,
    workers: archives.WorkersOption = None,
) -> None:
    """Name the sounds in recordings.

    Without --top and --threshold, the labels that reach the model's own thresholds are shown, or
    the 5 best where it has none.
    """
    if out is not None and as_json:
        raise ConfigError(
            "--json is for the screen, --out writes Parquet: leave one of them out, or give "
            "--format json, which --out FILE takes too"
        )
    archive = out if form is None else None
    if archive is None:
        archives.check_alone(
            shard=shard,
            resume=resume,
            force=force and out is None,
            verify=verify,
            export_segments=export_segments,
            ray=ray,
            workers=workers,
        )
    if not listen.events:
        refuse_idle(context, "without --events", *listening.EVENT_OPTIONS)
    form = listening.check_format(form, as_json, listen.events)
    if listen.events and archive is None and form != "json":
        refuse_idle(context, "with --events in a form that holds events alone", "top")
        if listen.on:
            refuse_idle(context, "beside --on in a form that holds events alone", "threshold")
    if trim_silence is not None and (listen.events or archive is not None or "-" in paths):
        raise ConfigError(
            "--trim-silence is for the tags of whole files: leave it out with --events, with --out "
            "FOLDER and for standard input"
        )
    events = listen.settings(threshold, ancestors)
    from atgnn.startup import quick_start

    with quick_start():
        from atgnn.checkpoint import DEFAULT_MODEL
        from atgnn.tagger import Tagger
        from atgnn.terminal import Results, expand, say, show_warnings

        show_warnings()
        name = DEFAULT_MODEL if model is None else model
        tagger = Tagger.from_pretrained(name, device, precision, packs=pack or ())
    if archive is not None:
        settings = archives.settings_of(top, threshold, ancestors, events)
        archives.tag_folder(
            tagger,
            paths,
            archive,
            settings,
            shard=shard,
            segments=export_segments,
            worker=archives.worker_of(
                settings,
                name,
                ray,
                workers,
                device=device,
                precision=precision,
                batch_size=batch_size,
                packs=tuple(os.path.abspath(one) for one in pack or ()),
            ),
            resume=resume,
            force=force,
            verify=verify,
            batch_size=batch_size,
        )
        return
    found = list(expand(paths))
    problems = [item for item in found if isinstance(item, AtgnnError)]
    for problem in problems:
        say(problem)
    sounds = [item for item in found if isinstance(item, str)]
    choice = {"top": top, "threshold": threshold, "ancestors": ancestors}
    with listening.opened(form, out, len(sounds), force, tagger) as writer:
        failures = Results(sounds, writer).write_all(
            listening.results(tagger, sounds, events, form, batch_size, trim_silence, **choice)
        )
    if failures or problems:
        raise typer.Exit(1)
