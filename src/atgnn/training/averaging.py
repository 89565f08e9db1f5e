"""The mean of the weights of several epochs of a run.

Averaged weights need their own batch-norm statistics: those of the epochs belong to other
weights. They are measured over training clips, augmented as in training (`norms="measured"`), or,
as published, averaged like everything else (`norms="averaged"`). Every epoch counts once; PSLA's
code counts the first one twice.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from atgnn.checkpoint import Checkpoint
from atgnn.errors import CheckpointError, ConfigError
from atgnn.metrics import Metrics
from atgnn.training.division import divide
from atgnn.training.epochs import chosen_epochs, ranges
from atgnn.training.loaders import make_loaders
from atgnn.training.loading import Batch, Loader
from atgnn.training.module import TaggingModule, metrics_of, numbers_of
from atgnn.training.norms import measure_norms
from atgnn.training.recipe import Recipe, load_recipe

__all__ = ["average", "average_weights"]

Norms = Literal["measured", "averaged"]

NORM_BATCHES = 1000  # tens of thousands of clips: plenty for means and variances


def average_weights(states: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts, each counting once; of whole numbers, the last one's.

    One state at a time is in memory; sums are float64.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    last: dict[str, Tensor] = {}
    for last in states:
        count += 1
        for name, value in last.items():
            if value.is_floating_point():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
    return {
        name: (sums[name] / count).to(value.dtype) if name in sums else value
        for name, value in last.items()
    }


@torch.inference_mode()
def validate(module: TaggingModule, batches: Iterable[Batch]) -> Metrics:
    """A module's metrics on validation clips, as after an epoch of training."""
    seen = []
    module.eval()
    for batch in batches:
        logits = module.model(*module.features(batch, augmented=False)).float()
        seen.append((logits.cpu(), batch.targets.cpu()))
    logits, targets = (torch.cat(part) for part in zip(*seen, strict=True))
    return metrics_of(logits, targets, module.recipe, module.labels)


def average(
    run: Path,
    out: Path,
    epochs: tuple[int, int] | None = None,
    norms: Norms | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Path, dict[str, float]]:
    """Average the weights of a run's kept epochs into the checkpoint `out`.

    Reads the clips of the run's recipe to measure norms and to validate. `epochs` are the first
    and the last one (None: all that were kept), `norms` as the recipe says unless given. Returns
    `out` and the validation metrics, with the number of the last epoch.

    Raises:
        ConfigError: not a run's folder, or epochs that were not kept.
        ClipsError: the run's clips are not there any more.
    """
    if not (run / "recipe.yaml").is_file():
        raise ConfigError(f"{run} is not the folder of a run: it has no recipe.yaml")
    recipe, folders = load_recipe(run / "recipe.yaml"), chosen_epochs(run, epochs)
    norms = norms or recipe.average_norms
    checkpoints = (Checkpoint.from_pretrained(folder) for folder in folders.values())
    weights = average_weights(checkpoint.model.state_dict() for checkpoint in checkpoints)
    result = Checkpoint.from_pretrained(list(folders.values())[-1])
    result.model.load_state_dict(weights)
    report: dict[str, float] = {"epoch": max(folders)}
    report |= _finished(recipe, result, norms, device)
    covered = f"epochs {ranges(list(folders))}" if len(folders) > 1 else f"epoch {max(folders)}"
    metrics = {name: value for name, value in report.items() if name != "epoch"}
    about = result.provenance.model_copy(
        update={
            "metrics": metrics,
            "evaluated_on": f"Validation clips, mean weights of {covered}." if metrics else "",
            "notes": (*result.provenance.notes, f"Weights: the mean of {covered}; norms {norms}."),
        }
    )
    result.changed(provenance=about).save_pretrained(out, half=recipe.save_half)
    return out, report


def _finished(
    recipe: Recipe, result: Checkpoint, norms: Norms, device: str | torch.device
) -> dict[str, float]:
    """Measure norms, where asked, and validate, where there are validation clips."""
    division = divide(recipe)
    if division.vocabulary.names != result.vocabulary.names:
        raise CheckpointError("the clips of the run have other labels now than when it was trained")
    training, validation = make_loaders(recipe, division)
    labels = result.vocabulary.names
    module = TaggingModule(recipe, result.model, labels, len(training)).to(device)
    if norms == "measured":
        training.set_epoch(recipe.optim.epochs)  # an epoch that the run has not seen
        torch.manual_seed(recipe.seed)
        batches = _on(device, islice(training, NORM_BATCHES))
        measure_norms(module.model, (module.features(one, augmented=True) for one in batches))
    module.eval()
    numbers = {}
    if validation is not None:
        numbers = numbers_of(validate(module, _on(device, validation)))
    result.model.cpu()
    return numbers


def _on(device: str | torch.device, batches: Iterable[Batch] | Loader) -> Iterator[Batch]:
    for batch in batches:
        moved: Any = move_data_to_device(batch, torch.device(device))
        yield moved
