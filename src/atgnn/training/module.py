"""What one step of training does."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from atgnn.distributed import gather_rows, mean_over_processes, take_buffers_of_first
from atgnn.errors import DivergedError
from atgnn.frontend import FrontEnd
from atgnn.metrics import Metrics, evaluate_scores
from atgnn.model import ATGNN
from atgnn.networks import Network
from atgnn.training.augment import mask_features, shift_frequency
from atgnn.training.distill import Distillation
from atgnn.training.ema import MovingAverage
from atgnn.training.loading import Batch
from atgnn.training.moments import Moments
from atgnn.training.optimizing import scheduled_optimizer
from atgnn.training.recipe import Recipe
from atgnn.training.resumable import ResumableModule
from atgnn.training.spectral import vary_features

__all__ = [
    "TaggingModule",
    "masked_loss",
    "metrics_of",
    "numbers_of",
]


class TaggingModule(ResumableModule):
    """Front end, model, loss and metrics of a run."""

    def __init__(
        self,
        recipe: Recipe,
        model: Network,
        labels: tuple[str, ...],
        batches_per_epoch: int,
        distillation: Distillation | None = None,
        moments: Moments | None = None,
    ) -> None:
        super().__init__(recipe.seed)
        self.recipe, self.labels = recipe, labels
        self.batches_per_epoch, self.distillation = batches_per_epoch, distillation
        self.moments = moments
        self.front_end = FrontEnd(recipe.front_end_config())
        self.model = model
        if recipe.keep_encoder:
            cast(nn.Module, model.encoder).requires_grad_(False).eval()
        self.average = MovingAverage(model, recipe.ema.decay) if recipe.ema.decay else None
        if recipe.compile:
            model.compile()
        self.metrics: Metrics | None = None  # of `kept`
        self._seen: list[tuple[Tensor, Tensor]] = []

    def train(self, mode: bool = True) -> "TaggingModule":
        """Into training mode; an encoder that is kept does not follow, nor do its norms."""
        super().train(mode)
        if self.recipe.keep_encoder:
            cast(nn.Module, self.model.encoder).eval()
        return self

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """Loss of a batch."""
        features = self.features(batch, augmented=True)
        if self.moments is not None:
            return self._stepped(self._loss_of_moments(features, batch), step)
        logits = self.model(*features)
        truth = batch.targets[:, : len(self.labels)]  # a score file's columns may follow
        loss = masked_loss(
            logits, truth, self.recipe.task, self.recipe.optim.label_smoothing, shared=True
        )
        if self.distillation is not None:
            loss = self.distillation.blend(loss, logits, batch)
        return self._stepped(loss, step)

    def _loss_of_moments(self, features: tuple[Tensor, Tensor | None], batch: Batch) -> Tensor:
        """The loss of whole clips and that of their moments, as the recipe weighs them."""
        assert self.moments is not None
        model, recipe = cast(ATGNN, self.model), self.recipe
        stages = model.encoder(*features)
        smoothing, weight = recipe.optim.label_smoothing, recipe.moments.weight
        truth = batch.targets[:, : len(self.labels)]
        whole = masked_loss(model.scored(stages), truth, recipe.task, smoothing, shared=True)
        logits = self.moments.logits(model, stages)
        truth = self.moments.truth(batch, logits.shape[1])
        parts = masked_loss(logits, truth, recipe.task, smoothing, shared=True)
        return (1 - weight) * whole + weight * parts

    def _stepped(self, loss: Tensor, step: int) -> Tensor:
        """Note a batch's loss; what to go down by."""
        self.means.add("train_loss", loss)
        if self.loggers:
            self.log("loss", loss, on_epoch=False)  # this process's share of it
        return loss * self._batches_to_update(step)

    def _batches_to_update(self, step: int) -> float:
        """Lightning divides by `accumulate`; fewer batches are left for an epoch's last update."""
        together = self.recipe.optim.accumulate
        left = self.batches_per_epoch - step // together * together
        return together / min(together, left)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, and the average that follows them."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.model)

    def on_train_epoch_end(self) -> None:
        """Write the epoch's means to the loggers."""
        self.log_dict(self.means.means())
        # Not the loss: loss scaling passes over steps that overflow, and the weights stay.
        self._check_finite("weights", *self.model.parameters())

    def _check_finite(self, what: str, *values: Tensor) -> None:
        """A run that has lost its way ends there: nothing that follows would be of use."""
        if not all(bool(torch.isfinite(value).all()) for value in values):
            raise DivergedError(
                f"the {what} are not finite in epoch {self.trainer.current_epoch + 1}, the run has "
                "diverged: lower optim.learning_rate, raise optim.warmup_steps, or train in 32-true"
            )

    def on_validation_epoch_start(self) -> None:
        """Norms that are not shared have seen each process's own clips: the first one's count."""
        if not self.recipe.scale.sync_norms:
            take_buffers_of_first(self)

    def validation_step(self, batch: Batch, step: int) -> None:
        """Scores of a batch, kept for the epoch's metrics."""
        features = self.features(batch, augmented=False)
        logits = self.model(*features).float()
        if self.average is not None:
            logits = torch.cat([logits, self.average(*features).float()], dim=1)
        self._seen.append((logits, batch.targets))

    def on_validation_epoch_end(self) -> None:
        """Metrics over all validation clips."""
        logits, targets = self._all_seen()
        self._check_finite("scores", logits)
        if self.average is not None:
            logits, averaged = logits.chunk(2, dim=1)
            of_average = self._log_metrics(averaged, targets, "ema")
        of_model = self._log_metrics(logits, targets, "val")
        self.metrics = of_average if self.recipe.select == "ema" else of_model
        self.log("val_loss", masked_loss(logits, targets, self.recipe.task))

    def _log_metrics(self, logits: Tensor, targets: Tensor, prefix: str) -> Metrics:
        metrics = metrics_of(logits, targets, self.recipe, self.labels)
        self.log(f"{prefix}_mAP", metrics.mean_ap, prog_bar=True)
        if metrics.accuracy is not None:
            self.log(f"{prefix}_accuracy", metrics.accuracy, prog_bar=True)
        return metrics

    @property
    def kept(self) -> Network:
        """The network whose weights are the run's result, so far."""
        if self.recipe.select == "ema" and self.average is not None:
            return cast("Network", self.average.network)
        return self.model

    def _all_seen(self) -> tuple[Tensor, Tensor]:
        """Logits and targets of all validation clips, each once, in order, from all processes."""
        logits = gather_rows(torch.cat([pair[0] for pair in self._seen])).cpu()
        targets = gather_rows(torch.cat([pair[1] for pair in self._seen])).cpu()
        loader: Any = self.trainer.val_dataloaders
        places = gather_rows(torch.from_numpy(loader.places).to(self.device)).cpu()
        self._seen.clear()
        _, order = np.unique(places.numpy(), return_index=True)
        return logits[order], targets[order]

    def features(self, batch: Batch, *, augmented: bool) -> tuple[Tensor, Tensor | None]:
        """The model's input; lengths are left out where all clips are equally long.

        Nothing here waits for the device: what the host needs to know came with the batch.
        """
        known = None if batch.equal else batch.lengths
        features, lengths = self.front_end.log_mel(batch.wave(), known)
        if augmented:
            settings, generator = self.recipe.augment, torch.default_generator
            features, lengths = vary_features(
                features, lengths, settings, generator, self.front_end.config
            )
        features, lengths = self.front_end.pad_or_cut(features, lengths)
        if augmented:
            if settings.frequency_shift:
                features = shift_frequency(features, settings.frequency_shift, generator)
            features = mask_features(features, lengths, settings, generator)
        equal = self._frames_of(batch.shortest) == features.shape[1]
        if augmented and self.recipe.augment.stretch and not self.front_end.config.pad_to_frames:
            equal = False
        lengths_or_none = None if equal else lengths
        return self.front_end.normalise(features, lengths_or_none), lengths_or_none

    def _frames_of(self, samples: int) -> int:
        """Frames of a clip of so many samples, as the model gets it."""
        config = self.front_end.config
        return config.pad_to_frames or config.samples_to_frames(samples)

    def configure_optimizers(self) -> Any:
        """Adam or AdamW, and the rate of every update."""
        settings = self.recipe.optim
        updates = -(-self.batches_per_epoch // settings.accumulate)  # of an epoch
        return scheduled_optimizer(self.model, settings, updates, self.recipe.precision)


def metrics_of(logits: Tensor, targets: Tensor, recipe: Recipe, labels: Sequence[str]) -> Metrics:
    """Metrics of validation clips, from logits and targets (N, L) in main memory.

    No accuracy where a cell is unknown: what such a clip should be called is not known.
    """
    single, known = recipe.task == "single_label", not bool(targets.isnan().any())
    scores = (logits.softmax(1) if single else logits.sigmoid()).numpy().astype(np.float64)
    return evaluate_scores(targets.numpy(), scores, labels, single_label=single and known)


def numbers_of(metrics: Metrics | None) -> dict[str, float]:
    """The numbers for a report; those that are not defined are left out."""
    if metrics is None:
        return {}
    numbers = {
        "mAP": metrics.mean_ap,
        "AUC": metrics.auc,
        "d_prime": metrics.d_prime,
        "accuracy": metrics.accuracy,
    }
    return {k: round(v, 6) for k, v in numbers.items() if v is not None and np.isfinite(v)}


def masked_loss(
    logits: Tensor, targets: Tensor, task: str, smoothing: float = 0.0, *, shared: bool = False
) -> Tensor:
    """Mean loss in float32; unknown (NaN) cells take no part.

    ``multi_label``: binary cross-entropy over the known cells of ``(B, L)``. ``single_label``:
    cross-entropy over clips; a clip with an unknown cell is left out.

    With `shared`, the clips are a part of a batch: the sum here is divided by the number of known
    cells that processes have on average. The mean of that over processes, which is what they step
    by, is the mean over all known cells of the batch, however unevenly the unknown ones fall.
    """
    logits, known = logits.float(), ~targets.isnan()
    if task == "single_label":
        whole = known.all(1)
        truth = targets.nan_to_num()
        loss = functional.cross_entropy(logits, truth, reduction="none", label_smoothing=smoothing)
        return (loss * whole).sum() / _divisor(whole, shared)
    truth = targets.nan_to_num() * (1 - smoothing) + smoothing / 2
    cells = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (cells * known).sum() / _divisor(known, shared)


def _divisor(known: Tensor, shared: bool) -> Tensor:
    count = known.sum()
    return (mean_over_processes(count) if shared else count).clamp(min=1)
