"""``atgnn score`` and ``calibrate``: what a model says of many clips, and how far to believe it."""

from pathlib import Path
from typing import Annotated

import typer

from atgnn.cli.base import (
    Activation,
    BatchOption,
    DeviceOption,
    FillOption,
    FoldOption,
    ForceOption,
    PrecisionOption,
    SplitOption,
    ToOption,
    TrimOption,
    app,
    refuse_idle,
)
from atgnn.errors import counted


@app.command()
def score(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A shipped model, a folder or a hub name; hf: before the name of any audio "
            "classification model of transformers."
        ),
    ],
    clips: Annotated[str, typer.Argument(help="A table or folder of clips, packed ones too.")],
    out: Annotated[Path, typer.Option(help="The score file, .parquet.")],
    to: ToOption = None,
    fill: FillOption = False,
    window: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="With hf: seconds of a window.",
            show_default="what the model takes, or 10",
        ),
    ] = None,
    activation: Annotated[
        Activation | None,
        typer.Option(
            help="With hf: of labels that are independent, or not.",
            show_default="as the model says",
        ),
    ] = None,
    fold: FoldOption = None,
    split: SplitOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out clips that cannot be read.")
    ] = False,
    trim_silence: TrimOption = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "float32",
    batch_size: BatchOption = None,
) -> None:
    """Write the scores of all labels of clips into one Parquet file.

    The same file serves enhancement, distillation, ensembles, thresholds and evaluation.
    """
    from atgnn.data.store import clips_of, open_clips
    from atgnn.evaluate import choose_clips
    from atgnn.others import mapped, target_labels
    from atgnn.others.huggingface import HuggingFaceScorer, is_hugging_face
    from atgnn.scoring import ScoreTable, check_new_scores, trimmed_note
    from atgnn.tagger import Tagger, WindowScorer
    from atgnn.tags import Failure
    from atgnn.terminal import counter, say, show_warnings

    show_warnings()
    check_new_scores(out, force)
    if to is None:
        refuse_idle(context, "without --to", "fill")
    scorer: WindowScorer
    if is_hugging_face(model):
        refuse_idle(context, "with hf: models, which run as they are", "precision")
        kind = None if activation is None else activation.kind
        scorer = HuggingFaceScorer.from_pretrained(
            model, device, window_seconds=window, activation=kind
        )
    else:
        refuse_idle(context, "without hf:, as a checkpoint says it", "window", "activation")
        scorer = Tagger.from_pretrained(model, device, precision)
    wanted = None if to is None else target_labels(to)
    opened = open_clips(clips, labelled=False)
    chosen = choose_clips(clips_of(opened), fold=fold, split=split)
    failures: list[Failure] = []
    with counter(len(chosen)) as progress:
        table = ScoreTable.of(
            scorer,
            opened,
            only=chosen,
            batch_size=batch_size,
            source="; ".join(filter(None, [model, trimmed_note(trim_silence)])),
            trim_db=trim_silence,
            progress=progress,
            on_failure=failures.append if skip_bad else None,
        )
    notes: list[str] = []
    if wanted is not None:
        table, notes = mapped(table, wanted, fill=fill)
    table.write(out, force=force)
    for note in notes:
        say(note)
    for failure in failures:
        say(failure, "left out: ")
    typer.echo(f"{counted(len(table), 'clip')} x {counted(len(table.labels), 'label')} in {out}")


@app.command()
def calibrate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A shipped model, a folder or a hub name.")],
    scores: Annotated[
        list[Path], typer.Option(help="Scores of clips it did not learn from; one file a fold.")
    ],
    clips: Annotated[str, typer.Option(help="The table of these clips, or a packed folder.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint.")],
    fold: FoldOption = None,
    split: SplitOption = None,
    thresholds: Annotated[
        bool, typer.Option("--thresholds/--no-thresholds", help="Fit thresholds.")
    ] = True,
    calibration: Annotated[
        bool, typer.Option("--calibration/--no-calibration", help="Fit probabilities.")
    ] = True,
    shrink: Annotated[
        float,
        typer.Option(min=0, help="Authors that the threshold of all labels weighs as much as."),
    ] = 20.0,
    one_threshold: Annotated[
        bool, typer.Option("--one-threshold", help="The same threshold for all labels.")
    ] = False,
    background: Annotated[
        str | None,
        typer.Option(help="Sounds without any label of the model: negatives for thresholds."),
    ] = None,
    max_alarms_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Raise thresholds until there are no more there.")
    ] = None,
    as_marked: Annotated[
        bool, typer.Option("--as-marked", help="Without completing labels by the ontology.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Store weights in half precision.")] = False,
    force: ForceOption = False,
) -> None:
    """Fit a model's probabilities and thresholds to scores of clips it did not learn from.

    For folds: score each fold's clips with the model of the others, then give all files. The same
    for --background; clips of it that no file has scored, the model hears itself.
    """
    from atgnn.calibrate import Background
    from atgnn.calibrate import calibrate as fit
    from atgnn.checkpoint import Checkpoint
    from atgnn.data.store import clips_of, open_clips
    from atgnn.evaluate import choose_clips
    from atgnn.files import check_new
    from atgnn.scoring import ScoreTable
    from atgnn.terminal import counter, show_warnings

    show_warnings()
    check_new(out, force)
    if one_threshold:
        refuse_idle(context, "with --one-threshold", "shrink")
    if not thresholds:
        why = "with --no-thresholds"
        refuse_idle(context, why, "shrink", "one_threshold", "background", "max_alarms_per_hour")
    if background is None:
        refuse_idle(context, "without --background", "max_alarms_per_hour")
    checkpoint = Checkpoint.from_pretrained(model)
    table = ScoreTable.concat([ScoreTable.read(file) for file in scores])
    opened = open_clips(clips)
    silence = None
    if background is not None:
        sounds = open_clips(background, labelled=False)
        with counter(len(sounds)) as progress:
            silence = Background.of(checkpoint, sounds, table, progress)
    result = fit(
        checkpoint,
        table,
        choose_clips(clips_of(opened), fold=fold, split=split),
        calibration=calibration,
        thresholds=thresholds,
        shrink=float("inf") if one_threshold else shrink,
        background=silence,
        most_alarms=max_alarms_per_hour,
        as_marked=as_marked,
    )
    result.checkpoint.save_pretrained(out, half=half)
    typer.echo(f"{result.summary()}\nThe model is in {out}")
