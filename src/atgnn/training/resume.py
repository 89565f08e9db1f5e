"""The point from which an interrupted run goes on: RUN/resume/last.ckpt."""

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from atgnn.distributed import largest_over_processes
from atgnn.errors import AtgnnError
from atgnn.files import replacing

__all__ = ["AtomicCheckpoints", "ResumePoint", "resume_file"]


def resume_file(out: Path) -> Path:
    """Where a run keeps it."""
    return out / "resume" / "last.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the old file, to the disk, and only then in its place."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Raises `AtgnnError` where it cannot be written; the file before it is whole then."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Through a Python file: torch's own would not say that the disk is full.
            with replacing(path) as scratch, scratch.open("wb") as file:
                torch.save(checkpoint, file)
        except OSError as error:
            kept = "the one before it is whole" if path.is_file() else "there is none before it"
            raise AtgnnError(
                f"{path} could not be written ({error.strerror or error}); {kept}: make room, "
                "then --resume goes on"
            ) from None


class ResumePoint(Checkpoint):
    """Saves all of a run's state after every epoch, and within one every so often.

    Within an epoch, it is saved between two updates of the weights: after so many steps, after so
    many minutes, and when the process is asked to end (SIGTERM), which it then does. As every
    draw is a function of seed, epoch and step, going on from there repeats nothing and skips
    nothing.
    """

    def __init__(self, path: Path, minutes: float, steps: int) -> None:
        super().__init__()
        self.path, self.minutes, self.steps = path, minutes, steps
        self._asked_to_end = False
        self._saved_at = 0.0
        self._before: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """From now on SIGTERM is a request, answered at the end of a step."""
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            # After Lightning's own, which would talk to other processes from within the signal.
            self._before = signal.signal(signal.SIGTERM, self._end)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """SIGTERM is again what it was."""
        if self._before is not None:
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_end = True

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time to, in all processes at once."""
        done = batch_idx + 1
        if done >= trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return  # the epoch's own follows soon; gradients under way are not saved
        minutes = (time.monotonic() - self._saved_at) / 60
        late = 0 < self.minutes <= minutes
        # Clocks differ, and a signal may reach one process alone.
        urgency = largest_over_processes(
            2 * self._asked_to_end + late, getattr(pl_module, "device", None)
        )
        counted = self.steps > 0 and trainer.global_step % self.steps == 0
        if urgency or counted:
            self._save(trainer)
        if urgency >= 2:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the whole epoch."""
        self._save(trainer)
        if largest_over_processes(self._asked_to_end, getattr(pl_module, "device", None)):
            raise KeyboardInterrupt

    def _save(self, trainer: Any) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
