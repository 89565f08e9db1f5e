"""A training run from recipe to checkpoint, in a folder that explains itself (`folder.py`)."""

import errno
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atgnn.distributed import leave_processes
from atgnn.errors import AtgnnError, CheckpointError, ConfigError, MissingExtraError
from atgnn.memory import give_back_freed_memory
from atgnn.model.segments import lean
from atgnn.model.together import share_norms
from atgnn.networks import Network
from atgnn.trained_on import Heard
from atgnn.training.division import divide
from atgnn.training.recipe import Recipe

try:
    import lightning  # noqa: F401
except ImportError:
    raise MissingExtraError.of("Lightning", "train", "training") from None

from atgnn.training.cluster import Cluster, accelerator, find_cluster, was_restarted
from atgnn.training.distill import make_distillation
from atgnn.training.environment import describe_environment
from atgnn.training.fingerprint import check_same_data, describe_data
from atgnn.training.folder import RunFolder, check_folder
from atgnn.training.keeper import Keeper
from atgnn.training.loaders import make_loaders
from atgnn.training.module import TaggingModule
from atgnn.training.moments import make_moments
from atgnn.training.resume import ResumePoint, resume_file
from atgnn.training.start import new_model
from atgnn.training.trainer import check_precision, make_trainer

__all__ = ["fit", "full_disk_in_one_line", "train"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> Path | None:
    """Run a recipe; returns the folder of the resulting checkpoint, ``out/model``.

    Interrupted by Ctrl-C, SIGTERM, a crash or kill -9, the same call with `resume` goes on after
    the last update of the weights whose state was saved, and ends with the same weights as an
    uninterrupted run. A process that torchrun or SLURM started again resumes by itself.

    With several processes, each makes this call; only the first writes to `out` and returns the
    folder, the others None.

    Raises:
        ConfigError: `out` is in use, or `resume` with another recipe or other data; more
            processes than there are devices or than the batch can be shared by.
        ClipsError: the clips are missing or do not fit the recipe.
        AtgnnError: the disk is full.
    """
    check_precision(recipe)
    recipe, cluster = recipe.with_absolute_paths(), find_cluster(recipe.scale)
    resume = resume or (was_restarted() and (out / "recipe.yaml").is_file())
    if cluster.leads:
        check_folder(recipe, out, resume)
    division = divide(recipe)
    data = describe_data(recipe, division)
    if cluster.leads and resume:
        check_same_data(out / "data.json", data)
    loaders = make_loaders(recipe, division, cluster.part)
    start = new_model(recipe, division)
    distillation = make_distillation(recipe, division)
    if distillation is not None:
        distillation.prepare(loaders[0].dataset)
        start = start.taught(distillation.lineage)
    moments = make_moments(recipe, division, start.model)
    if moments is not None:
        moments.prepare(loaders[0].dataset)
    if recipe.scale.sync_norms:
        share_norms(start.model)
    _spare_memory(recipe, start.model)
    names = division.vocabulary.names
    module = TaggingModule(recipe, start.model, names, len(loaders[0]), distillation, moments)
    folder = RunFolder(out, recipe)
    with full_disk_in_one_line(out):
        if cluster.leads:  # only now: whatever does not fit has been found
            folder.claim(
                start.report, data, describe_environment(cluster, accelerator(recipe.scale))
            )
        heard = Heard.of(division.train).joined(start.heard) if cluster.leads else None
        keeper = Keeper(recipe, division.vocabulary, folder, start.lineage, heard)
        _fit(recipe, cluster, keeper, module, loaders, resume)
        return keeper.finish(module) if cluster.leads else None


def _spare_memory(recipe: Recipe, model: Network) -> None:
    """See `Recipe.memory`."""
    if recipe.memory == "usual":
        return
    if not lean(model):
        raise ConfigError(
            f"memory: {recipe.memory} is for ATGNN's own presets: leave it out for "
            f"{recipe.model.get('preset')}"
        )
    if recipe.memory == "least":
        give_back_freed_memory()


def _fit(
    recipe: Recipe,
    cluster: Cluster,
    keeper: Keeper,
    module: TaggingModule,
    loaders: Any,
    resume: bool,
) -> None:
    """Train to the end, or raise; what was reached is in the folder either way."""
    folder, last = keeper.folder, resume_file(keeper.out)
    point = ResumePoint(last, recipe.scale.checkpoint_minutes, recipe.scale.checkpoint_steps)
    trainer = make_trainer(recipe, keeper.out, cluster, [keeper, point])
    try:
        fit(trainer, module, loaders, last if resume else None)
    except (KeyboardInterrupt, AtgnnError) as stop:
        if cluster.leads:
            asked = isinstance(stop, KeyboardInterrupt)
            with suppress(OSError, AtgnnError):  # a full disk: what is raised says so
                folder.draw()
                folder.tell("It was interrupted." if asked else f"It ended with an error: {stop}.")
        raise
    finally:
        leave_processes()  # from here on the first one works alone


def fit(trainer: Any, module: Any, loaders: Sequence[Any], last: Path | None) -> None:
    """Train to the end, from the state in `last` where there is one.

    Ctrl-C is a KeyboardInterrupt, whatever Lightning makes of it. Raises `CheckpointError` where
    that state is damaged.
    """
    resumed_from = last if last is not None and last.is_file() else None
    if resumed_from is not None and not zipfile.is_zipfile(resumed_from):
        raise CheckpointError(
            f"{resumed_from} is damaged: delete it, and --resume begins with the first epoch"
        )
    try:
        with warnings.catch_warnings():
            for needless in NEEDLESS:
                warnings.filterwarnings("ignore", message=needless)
            trainer.fit(module, *loaders, ckpt_path=resumed_from, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None


#: Warnings of Lightning about what is meant so.
NEEDLESS = (
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*",
    ".*in eval mode at the start.*",  # an average of the weights always is
    ".*no `val_dataloader`.*",
    ".*sync_dist=True.*",  # all processes have computed the same number
    ".*broadcast_buffers.*",
    ".*Grad strides do not match bucket view strides.*",
)


@contextmanager
def full_disk_in_one_line(out: Path) -> Iterator[None]:
    """Turns what a full disk raises into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise AtgnnError(
            f"{out} cannot be written to ({error.strerror}); what was saved is whole: make room, "
            "then --resume goes on"
        ) from None
