"""The bar of a run in a terminal."""

from typing import Any

from lightning.pytorch.callbacks import RichProgressBar

__all__ = ["EpochBar"]


class EpochBar(RichProgressBar):
    """Lightning's bar, whose epochs are counted from 1, as the history and the folders are.

    `unit` is what a row of the run's history is called.
    """

    def __init__(self, unit: str = "Epoch") -> None:
        super().__init__()
        self.unit = unit

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Write another name on the bar that Lightning has just set up."""
        super().on_train_epoch_start(trainer, pl_module)
        if self.progress is not None and self.train_progress_bar_id is not None:
            text = f"{self.unit} {trainer.current_epoch + 1} of {trainer.max_epochs}"
            self.progress.update(self.train_progress_bar_id, description=text)
