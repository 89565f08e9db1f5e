"""``atgnn app``."""

from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import DeviceOption, ModelOption, app
from atgnn.errors import ConfigError


@app.command("app")
def serve(
    sounds: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOUND]...", help="With --pack: recordings to review."),
    ] = None,
    pack: Annotated[
        Path | None, typer.Option(help="A label pack: its labels are heard, and can be reviewed.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The label to review, where the pack has several.")
    ] = None,
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    allow_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name that the page may be asked for by, such as a proxy's; may be repeated.",
            show_default="this machine's own; with other machines let in, any",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port to listen at.", show_default="the first free one from 7860"
        ),
    ] = None,
    most_mb: Annotated[float, typer.Option(help="MB that a recording may have.")] = 100.0,
    most_minutes: Annotated[float, typer.Option(help="Minutes that it may last.")] = 15.0,
    queue: Annotated[int, typer.Option(min=1, help="People who may wait at a time.")] = 20,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Serve a page to drop or record sounds; nothing leaves this machine.

    With --pack and SOUNDs there is a second tab: segments to judge, from which the label learns.
    """
    if pack is None and (sounds or label):
        raise ConfigError("sounds and --label are for a review: give --pack PACK as well")
    if label and not sounds:
        raise ConfigError("--label is for a review: give the recordings to review as well")
    from atgnn.app import AppSettings, Review
    from atgnn.app import serve as serving
    from atgnn.checkpoint import DEFAULT_MODEL, Checkpoint
    from atgnn.packs import LabelPack, with_packs
    from atgnn.review import ReviewSession
    from atgnn.tagger import Tagger
    from atgnn.terminal import show_warnings, sounds_in

    settings = AppSettings.of(
        host=host,
        allow_hosts=allow_hosts or (),
        port=port,
        most_mb=most_mb,
        most_minutes=most_minutes,
        queue=queue,
    )
    show_warnings()
    checkpoint = Checkpoint.from_pretrained(DEFAULT_MODEL if model is None else model)
    review = None
    if pack is not None:
        if sounds:
            review = Review(ReviewSession(checkpoint, pack, label), sounds_in(sounds))
        checkpoint = with_packs(checkpoint, [LabelPack.read(pack)])
    tagger = Tagger(checkpoint, device)
    with serving(tagger, settings, review=review, browser=open_browser) as served:
        typer.echo(f"{served.url}  (Ctrl-C ends it)")
        served.wait()
