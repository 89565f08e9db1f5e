"""``atgnn learn``, ``atgnn packs`` and ``atgnn review``."""

import getpass
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from atgnn.cli.base import ForceOption, ModelOption, app, refuse_idle
from atgnn.errors import ClipsError, ConfigError

CacheOption = Annotated[
    Path | None,
    typer.Option(help="Folder for what was heard of clips; by default in the user's cache."),
]


@app.command()
def learn(
    label: Annotated[str, typer.Argument(help="Name of the new label.")],
    clips: Annotated[
        list[str],
        typer.Argument(metavar="CLIPS...", help="Sounds that have it: files and folders."),
    ],
    out: Annotated[Path, typer.Option(help="The label pack to write.")],
    others: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="CLIPS", help="Sounds that do not have it; may be repeated."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=CLIPS", help="Learn another label too, into the same pack; repeatable."
        ),
    ] = None,
    model: ModelOption = None,
    pack: Annotated[
        list[str] | None,
        typer.Option("--pack", metavar="PACK", help="Packs whose labels go into this one as well."),
    ] = None,
    force: ForceOption = False,
    cache: CacheOption = None,
) -> None:
    """Teach the model a new label from 5 to 50 clips, in seconds.

    The model stays as it is. Use the pack with `atgnn tag SOUND --pack PACK`.
    """
    from atgnn.startup import quick_start

    with quick_start():
        from atgnn.checkpoint import DEFAULT_MODEL, Checkpoint
        from atgnn.files import check_new
        from atgnn.learn import learn as teach
        from atgnn.packs import LabelPack, with_packs
        from atgnn.terminal import looking, say, show_warnings, sounds_in

        show_warnings()
        check_new(out, force)
        checkpoint = Checkpoint.from_pretrained(DEFAULT_MODEL if model is None else model)
    before = [LabelPack.read(path) for path in pack or ()]
    positives = {label: sounds_in(clips)}
    for more in also or ():
        name, separator, path = more.partition("=")
        if not separator or not path:
            raise ClipsError(f"--also {more}: expected LABEL=CLIPS")
        positives[name] = [*positives.get(name, []), *sounds_in([path])]
    negatives = sounds_in(others or [])
    with looking() as progress:
        learned = teach(
            with_packs(checkpoint, before), positives, negatives, cache=cache, progress=progress
        )
    for failure in learned.failures:
        say(failure)
    LabelPack.merged([*before, learned.pack]).write(out, force)
    for one in learned.pack.labels:
        typer.echo(one)
    of = "" if model is None else f" --model {quote(model)}"
    typer.echo(f"Written to {out}: try `atgnn tag SOUND{of} --pack {quote(str(out))}`")
    if learned.failures:
        raise typer.Exit(1)


@app.command()
def packs(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="PACK...", help="Label packs.")],
    out: Annotated[
        Path | None, typer.Option(help="Put the labels of all of them into this one.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Show what label packs hold, and merge them."""
    from atgnn.packs import LabelPack
    from atgnn.terminal import say

    if out is None:
        refuse_idle(context, "without --out", "force")
    read = [LabelPack.read(path) for path in files]
    if out is not None:
        LabelPack.merged(read).write(out, force)
        say(f"written to {out}")
    for path, one in zip(files, read, strict=True):
        typer.echo(f"{path}  for the model {one.model[:12]}")
        for label in one.labels:
            typer.echo(f"  {label}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        raise ConfigError("nobody is logged in by a name: say who judges (--who)") from None


@app.command()
def review(
    sounds: Annotated[
        list[str], typer.Argument(metavar="SOUND...", help="Recordings: files and folders.")
    ],
    pack: Annotated[Path, typer.Option(help="The label pack; its file is replaced at the end.")],
    label: Annotated[
        str | None, typer.Option(help="The label, where the pack has several.")
    ] = None,
    order: Annotated[
        str,
        typer.Option(help="uncertain: the least certain segments first; best: the best matches."),
    ] = "uncertain",
    count: Annotated[int, typer.Option(min=0, help="Segments to judge; 0: only fit again.")] = 20,
    who: Annotated[
        str | None, typer.Option(help="Who judges; without it the name you are logged in by.")
    ] = None,
    play: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="Plays a sound file, e.g. 'aplay' or 'ffplay -nodisp'."
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="File of verdicts; by default beside the pack.")
    ] = None,
    clips: Annotated[
        list[str] | None,
        typer.Option(help="Sounds behind the label, where they are no longer kept; repeatable."),
    ] = None,
    model: ModelOption = None,
    cache: CacheOption = None,
) -> None:
    """Judge what a learned label says of recordings; it learns from every answer.

    Each answer is one line: y, n, s (skip), u (undo), p (play), q (quit).
    """
    from atgnn.startup import quick_start

    with quick_start():
        from atgnn.checkpoint import DEFAULT_MODEL, Checkpoint
        from atgnn.review import ReviewSession, ask, player
        from atgnn.terminal import say, show_warnings, sounds_in

        show_warnings()
        checkpoint = Checkpoint.from_pretrained(DEFAULT_MODEL if model is None else model)
        session = ReviewSession(checkpoint, pack, label, store=store, cache=cache)
    failures: list[Any] = []
    found = session.segments(sounds_in(sounds), order, count, failures) if count else []
    for failure in failures:
        say(failure)
    judged = 0
    if found:
        judged = ask(session, found, who or _user(), sys.stdin, typer.echo, player(play))
    if judged or not count:
        typer.echo(session.refit(sounds_in(clips or [])))
        typer.echo(f"Written to {pack}; verdicts are in {session.store.path}")
    else:
        typer.echo("nothing was judged: the pack stays as it is")
    if failures:
        raise typer.Exit(1)
