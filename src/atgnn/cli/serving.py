"""``atgnn app``."""

from typing import Annotated

import typer

from atgnn.cli.base import DeviceOption, ModelOption, app


@app.command("app")
def serve(
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="[the first free one from 7860]")
    ] = None,
    most_mb: Annotated[float, typer.Option(help="MB that a recording may have.")] = 100.0,
    most_minutes: Annotated[float, typer.Option(help="Minutes that it may last.")] = 15.0,
    queue: Annotated[int, typer.Option(min=1, help="People who may wait at a time.")] = 20,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Serve a page to drop or record sounds; nothing leaves this machine."""
    from atgnn.app import AppSettings
    from atgnn.app import serve as serving
    from atgnn.checkpoint import DEFAULT_MODEL
    from atgnn.tagger import Tagger
    from atgnn.terminal import show_warnings

    settings = AppSettings.of(
        host=host, port=port, most_mb=most_mb, most_minutes=most_minutes, queue=queue
    )
    show_warnings()
    tagger = Tagger.from_pretrained(DEFAULT_MODEL if model is None else model, device)
    with serving(tagger, settings, browser=open_browser) as served:
        typer.echo(f"{served.url}  (Ctrl-C ends it)")
        served.wait()
