"""What training and pre-training need to go on within an epoch as if nothing had happened."""

from typing import Any

import lightning
import torch

from atgnn.training.loading import Batch
from atgnn.training.means import EpochMeans, step_seed

__all__ = ["ResumableModule"]


class ResumableModule(lightning.LightningModule):
    """A module whose draws are a function of seed, epoch and step, and whose means are saved.

    Attributes:
        seed: of every draw.
        means: the epoch's sums so far.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.means = seed, EpochMeans()

    def on_train_epoch_start(self) -> None:
        """Not called where a run goes on within an epoch: all of this was saved."""
        loader: Any = self.trainer.train_dataloader
        loader.set_epoch(self.current_epoch)
        self.means.clear()

    def on_train_batch_start(self, batch: Batch, step: int) -> None:
        """Every draw of a step is a function of the seed, the epoch and the step."""
        loader: Any = self.trainer.train_dataloader
        loader.taken = step + 1
        torch.manual_seed(step_seed(self.seed, self.current_epoch, step))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm of all; Lightning's own refuses fused optimizers under autocast."""
        if gradient_clip_val:
            weights = [one for group in optimizer.param_groups for one in group["params"]]
            torch.nn.utils.clip_grad_norm_(weights, gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What Lightning does not keep."""
        checkpoint["means"] = self.means.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with it; a whole epoch of an earlier version has none."""
        if "means" in checkpoint:
            self.means.load_state_dict(checkpoint["means"])
