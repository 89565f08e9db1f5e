"""The epochs that a run has kept.

OUT/epochs/021/   the checkpoint after epoch 21, in half precision
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from atgnn.errors import ConfigError
from atgnn.shipped import shipped_models

__all__ = ["chosen_epochs", "epoch_folder", "kept_epochs", "members", "parse_epochs", "ranges"]


def epoch_folder(run: Path, epoch: int) -> Path:
    """Where a run keeps the weights after an epoch, counted from 1."""
    return run / "epochs" / f"{epoch:03d}"


def kept_epochs(run: Path) -> dict[int, Path]:
    """The epochs that a run has kept, ascending, with their checkpoints."""
    numbered = (path for path in (run / "epochs").glob("*") if path.name.isdecimal())
    folders = sorted(numbered, key=lambda path: int(path.name))
    return {int(path.name): path for path in folders if (path / "config.json").is_file()}


def parse_epochs(text: str) -> tuple[int, int]:
    """``21-40`` as (21, 40); one number is that epoch alone."""
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+))?\s*", text)
    if match is None:
        raise ConfigError(f"epochs {text!r}: expected a range such as 21-40")
    first, last = int(match[1]), int(match[2] or match[1])
    if first < 1 or last < first:
        raise ConfigError(f"epochs {text!r}: expected the first and the last, counted from 1")
    return first, last


def chosen_epochs(run: Path, epochs: tuple[int, int] | None) -> dict[int, Path]:
    """The kept epochs from the first to the last asked for (None: all that are kept).

    Raises `ConfigError` where one of them was not kept.
    """
    kept = kept_epochs(run)
    there = ranges(list(kept))
    if epochs is None:
        if not kept:
            raise ConfigError(f"{run} has kept no epochs: train it with --set keep_epochs=20")
        return kept
    wanted = range(epochs[0], epochs[1] + 1)
    missing = next((epoch for epoch in wanted if epoch not in kept), None)
    if missing is not None:
        raise ConfigError(
            f"{run} has not kept epoch {missing}; it has {there or 'none'}: choose among these, "
            "or train with more keep_epochs"
        )
    return {epoch: kept[epoch] for epoch in wanted}


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in words: ``21-40`` where none is left out."""
    if not numbers:
        return ""
    whole = len(numbers) == numbers[-1] - numbers[0] + 1
    return f"{numbers[0]}-{numbers[-1]}" if whole else ", ".join(map(str, numbers))


def members(parts: Iterable[Path], clips: bool) -> tuple[list[Path], list[Path]]:
    """What an ensemble is made of: score files, and models, those of a run's kept epochs too.

    A model is a checkpoint's folder, or the name of one that is shipped.

    Raises `ConfigError` for what is neither, for checkpoints without `clips` to score, and for
    `clips` that nothing has to score.
    """
    files, models = [], []
    for part in parts:
        if part.is_file():
            files.append(part)
        elif (part / "config.json").is_file() or str(part) in shipped_models():
            models.append(part)
        elif (part / "recipe.yaml").is_file():
            models += chosen_epochs(part, None).values()
        else:
            raise ConfigError(f"{part} is no score file, checkpoint, run or shipped model")
    if models and not clips:
        raise ConfigError(f"{models[0]} is a model: name the clips that it shall score, --clips")
    if clips and not models:
        raise ConfigError("score files name their clips themselves: leave out --clips")
    return files, models
