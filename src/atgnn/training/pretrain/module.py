"""What one step of pre-training does."""

from typing import Any

import torch
from torch import Tensor

from atgnn.frontend import FrontEnd
from atgnn.model import ATGNN
from atgnn.model.atgnn import initialise
from atgnn.model.layers import Patches, spread_of
from atgnn.training.loading import Batch
from atgnn.training.optimizing import scheduled_optimizer
from atgnn.training.pretrain.objectives import Cells, Predictor, Projector, contrast, spread
from atgnn.training.pretrain.settings import PretrainSettings
from atgnn.training.pretrain.views import vary
from atgnn.training.resumable import ResumableModule

__all__ = ["PretrainModule"]


class PretrainModule(ResumableModule):
    """Front end, encoder, and the parts that only pre-training needs."""

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__(settings.seed)
        self.settings = settings
        self.front_end = FrontEnd(settings.front_end_config())
        config = settings.model_config_of()
        model = ATGNN(config)
        initialise(model, settings.residual_scale)
        self.encoder = model.encoder
        channels = config.channels[-1]
        self.cells = Cells(settings.cell, settings.frames, config.n_mels)
        self.projector = Projector(channels, settings.views.width) if settings.compares else None
        self.predictor = Predictor(channels, self.cells) if settings.masks else None

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """Loss of a batch of 2 B views."""
        losses, patches = self._losses(self._views(batch))
        loss = torch.stack(list(losses.values())).sum()
        mean = spread_of(patches).chunk(2, 1)[0]
        numbers = {"loss": loss, **losses, "spread": spread(mean)}
        for name, number in numbers.items():
            self.means.add(name, number)
        if self.loggers:
            self.log_dict(numbers, on_epoch=False)
        return loss

    def _views(self, batch: Batch) -> Tensor:
        """Normalised log-mel of the views, ``(2 B, T, F)``, each changed in its own way."""
        features, _ = self.front_end.log_mel(batch.wave())
        covered = not self.settings.masks  # hidden cells cover enough
        varied = vary(features, self.settings.views, torch.default_generator, covered=covered)
        return self.front_end.normalise(varied)

    def _losses(self, features: Tensor) -> tuple[dict[str, Tensor], Patches]:
        seen, losses, hidden = features, {}, None
        if self.predictor is not None:
            share = self.settings.masked.share
            hidden = self.cells.draw(len(features), share, torch.default_generator)
            hidden = hidden.to(features.device)
            seen = self.cells.hide(features, hidden)
        patches = self.encoder(seen)[-1][-1]
        if self.projector is not None:
            vectors = self.projector(patches)
            losses["views"] = contrast(vectors, self.settings.views.temperature)
        if self.predictor is not None and hidden is not None:
            losses["masked"] = self.predictor(patches, features, hidden)
        return losses, patches

    def configure_optimizers(self) -> Any:
        """AdamW, warmed up and cooled down."""
        optim = self.settings.optim
        return scheduled_optimizer(
            self, optim.as_optim(), optim.steps_each, self.settings.precision
        )
