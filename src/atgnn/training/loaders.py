"""The loaders of a run: training and validation clips, packed or as files."""

from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms, is_packed
from atgnn.data.waveforms import Waveforms
from atgnn.distributed import Part
from atgnn.errors import ClipsError, ConfigError, counted
from atgnn.training.division import Division
from atgnn.training.loading import ClipDataset, EpochSampler, Loader
from atgnn.training.recipe import Recipe
from atgnn.training.sampling import balanced_weights

__all__ = ["make_loaders"]


def make_loaders(
    recipe: Recipe,
    division: Division,
    part: Part = Part(),  # noqa: B008
) -> tuple[Loader, Loader | None]:
    """Of training clips and of validation clips, if there are any, what this process reads."""
    packed = _packed(recipe)

    def waveforms(clips: Clips) -> Waveforms:
        rate, room = recipe.front_end_config().sample_rate, recipe.data.cache_gigabytes
        return Waveforms(clips, rate, room, recipe.window_seconds, packed)

    training = ClipDataset(
        waveforms(division.train), division.train_targets, recipe.augment, recipe.seed
    )
    batch_size = _batch_size(recipe.optim.batch_size, len(training), part.world)
    weights = balanced_weights(division.train_targets) if recipe.data.balanced else None
    sampler = EpochSampler(len(training), recipe.seed, weights)
    first = Loader(training, batch_size, recipe.workers, sampler, part)
    if division.validation is None or division.validation_targets is None:
        return first, None
    validation = ClipDataset(waveforms(division.validation), division.validation_targets)
    return first, Loader(validation, batch_size, recipe.workers, part=part)


def _batch_size(wanted: int, clips: int, world: int) -> int:
    """Clips of a batch over all processes, of which each takes as many."""
    if wanted % world:
        raise ConfigError(
            f"optim.batch_size {wanted} cannot be shared by "
            f"{counted(world, 'process', 'processes')}: the batch of all of "
            f"them together must be a multiple, {wanted // world * world or world} say"
        )
    size = min(wanted, clips // world * world)
    if not size:
        raise ClipsError(
            f"{clips} training clips are too few for {counted(world, 'process', 'processes')}"
        )
    return size


def _packed(recipe: Recipe) -> list[PackedWaveforms]:
    """The packed folders that a recipe names, as such or among its clips."""
    folders = [*filter(is_packed, recipe.data.clips), *recipe.data.packed]
    return [PackedWaveforms.open(folder) for folder in dict.fromkeys(folders)]
