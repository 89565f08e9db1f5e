"""As many epochs as fit into so many minutes, found by timing a few steps.

On a CPU the minutes are those of the processor, all threads together, so that other work on the
machine takes nothing away; on a GPU they are minutes on the clock.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from atgnn.errors import ConfigError
from atgnn.training.cluster import accelerator
from atgnn.training.division import Division, divide
from atgnn.training.loaders import make_loaders
from atgnn.training.module import TaggingModule
from atgnn.training.recipe import Recipe
from atgnn.training.start import new_model

__all__ = ["clock_of", "fitted", "seconds_an_epoch", "with_epochs"]

WARM, TIMED = 1, 4  # steps, of training and of validation each
LONG = 10.0  # seconds after which no further step is timed
SHORT = 0.1  # of a run is the longest warm-up


def clock_of(recipe: Recipe) -> Callable[[], float]:
    """What measures a budget: seconds of processor time, or of the clock where a GPU computes."""
    return time.process_time if accelerator(recipe.scale) == "cpu" else time.perf_counter


def fitted(recipe: Recipe, minutes: float) -> Recipe:
    """The recipe with as many epochs as fit, one at least.

    Warm-up and milestones keep their places in the run; the warm-up is at most a tenth of it.
    """
    division = divide(recipe)
    epochs = max(1, int(60 * minutes / seconds_an_epoch(recipe, division)))
    return with_epochs(recipe, epochs, max(1, len(division.train) // recipe.optim.batch_size))


def with_epochs(recipe: Recipe, epochs: int, batches: int) -> Recipe:
    """The recipe with another number of epochs of so many batches each."""
    optim = recipe.optim
    share = epochs / optim.epochs
    updates = epochs * -(-batches // optim.accumulate)
    warmup = min(round(optim.warmup_steps * min(1.0, share)), int(SHORT * updates))
    milestones = sorted({max(1, round(one * share)) for one in optim.milestones})
    changes = {
        "epochs": epochs,
        "warmup_steps": max(warmup, min(1, optim.warmup_steps)),
        "milestones": tuple(milestones),
    }
    kept = min(recipe.keep_epochs, epochs)
    if recipe.select == "averaged" and kept < 2:
        raise ConfigError(
            "select: averaged needs two epochs, the budget has room for one: give more minutes, "
            "or --set select=last"
        )
    return recipe.model_copy(
        update={"optim": optim.model_copy(update=changes), "keep_epochs": kept}
    )


def seconds_an_epoch(recipe: Recipe, division: Division) -> float:
    """Seconds (`clock_of`) that an epoch takes with its validation, from a few steps of each."""
    clock = clock_of(recipe)
    training, validation = make_loaders(recipe, division)
    device = torch.device(accelerator(recipe.scale))
    start = new_model(recipe, division)
    module = TaggingModule(recipe, start.model, division.vocabulary.names, len(training))
    module.to(device)
    optimizer: Any = module.configure_optimizers()["optimizer"]

    def step(batch: Any) -> None:
        with _precision(recipe, device):
            loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def look(batch: Any) -> None:
        with torch.no_grad(), _precision(recipe, device):
            module.model(*module.features(batch, augmented=False))

    module.train()
    seconds = _seconds_each(_batches(training, device), step, clock, device) * len(training)
    if validation is not None:
        module.eval()
        seconds += _seconds_each(_batches(validation, device), look, clock, device) * len(
            validation
        )
    return seconds


def _batches(loader: Any, device: torch.device) -> Iterator[Any]:
    """A few batches, on the device; the sounds are decoded before the clock runs."""
    loader.set_epoch(0)
    for batch in list(islice(iter(loader), WARM + TIMED)):
        yield move_data_to_device(batch, device)


def _seconds_each(
    batches: Iterator[Any],
    work: Callable[[Any], None],
    clock: Callable[[], float],
    device: torch.device,
) -> float:
    times: list[float] = []
    for batch in batches:
        begun = clock()
        work(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - begun)
        if sum(times) > LONG:
            break
    counted = times[WARM:] or times
    return sum(counted) / len(counted)


def _precision(recipe: Recipe, device: torch.device) -> Any:
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(recipe.precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
