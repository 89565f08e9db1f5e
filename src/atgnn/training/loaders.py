"""The loaders of a run: training and validation clips, packed or as files."""

from atgnn.data.clips import Clips
from atgnn.data.store import PackedWaveforms, is_packed
from atgnn.training.division import Division
from atgnn.training.loading import ClipDataset, EpochSampler, Loader, Waveforms
from atgnn.training.recipe import Recipe
from atgnn.training.sampling import balanced_weights

__all__ = ["make_loaders"]


def make_loaders(recipe: Recipe, division: Division) -> tuple[Loader, Loader | None]:
    packed = _packed(recipe)

    def waveforms(clips: Clips) -> Waveforms:
        rate, room = recipe.front_end_config().sample_rate, recipe.data.cache_gigabytes
        return Waveforms(clips, rate, room, recipe.window_seconds, packed)

    training = ClipDataset(
        waveforms(division.train), division.train_targets, recipe.augment, recipe.seed
    )
    batch_size = min(recipe.optim.batch_size, len(training))
    weights = balanced_weights(division.train_targets) if recipe.data.balanced else None
    sampler = EpochSampler(len(training), recipe.seed, weights)
    first = Loader(training, batch_size, recipe.workers, sampler)
    if division.validation is None or division.validation_targets is None:
        return first, None
    validation = ClipDataset(waveforms(division.validation), division.validation_targets)
    return first, Loader(validation, batch_size, recipe.workers)


def _packed(recipe: Recipe) -> list[PackedWaveforms]:
    """The packed folders that a recipe names, as such or among its clips."""
    folders = [*filter(is_packed, recipe.data.clips), *recipe.data.packed]
    return [PackedWaveforms.open(folder) for folder in dict.fromkeys(folders)]
