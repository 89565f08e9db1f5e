"""What the small-data comparison is on: ESC-10 by its official folds, and scenes mixed of it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atgnn.data import Clips
from atgnn.data.scenes.making import Wishes, make_scenes
from atgnn.data.scenes.settings import SceneSettings

__all__ = ["FOLDS", "RATES", "SCENARIOS", "SYSTEMS", "Scenario", "System", "after", "trials"]

FOLDS = (1, 2, 3, 4, 5)

#: The rates that tuning tries, in this order: the same for every network.
RATES = (1e-3, 3e-4, 3e-3, 1e-4)


@dataclass(frozen=True)
class System:
    """A network that takes part: its preset, and what it cannot do without."""

    preset: str
    settings: tuple[str, ...] = ()


SYSTEMS = {
    "mini": System("mini"),
    "mini-encoder": System("mini-encoder"),  # without label blocks
    "mini-residual": System("mini", ("residual_scale=1",)),  # residual branches begin at full size
    "mini-spread": System("mini", ("model.pooling=mean_std",)),  # the head reads the spread too
    "pyr-ti": System("pyr-ti"),
    "pyr-s": System("pyr-s"),
    "small-cnn": System("small-cnn"),
    "fsd50k-vgg": System("fsd50k-vgg"),
    "lite0-imagenet": System("lite0", ("init=imagenet", "residual_scale=1")),
    "mini-lite0-imagenet": System("mini-lite0", ("init=imagenet",)),  # ATGNN on its stages
    "lite0": System("lite0"),
    "psla": System("psla"),
    "wav2clip": System("wav2clip"),
    "audio-transformer": System("audio-transformer"),
    "cnn14": System("cnn14"),
    "ast": System("ast"),
}


@dataclass(frozen=True)
class Scenario:
    """Clips in five folds and how networks are trained on them.

    `figure` decides which trial is chosen: accuracy, or mean_ap where clips have several labels.
    """

    name: str
    recipe: str
    settings: tuple[str, ...]
    figure: str
    label_column: str

    def clips(self, esc10: Path, out: Path) -> Path:
        """Where the clips are; scenes are mixed when they are first asked for."""
        if self.name == "esc10":
            return esc10
        folder = out / "scenes"
        if not (folder / "meta.csv").is_file():
            wishes = Wishes(str(esc10), count=120, label_column="category", form="flac")
            settings = SceneSettings(seconds=5.0, events=(1, 3), level_db=(0.0, 20.0))
            make_scenes(wishes, settings, folder, 1, lambda total: nullcontext(lambda done: None))
        return folder

    def targets(self, clips: Clips) -> np.ndarray:
        """What is in the clips, bool (N, S); labels in alphabetical order."""
        if self.label_column != "labels":
            clips = clips.labelled_by(self.label_column)
        return clips.targets(clips.vocabulary()) == 1


SCENARIOS = {
    "esc10": Scenario(
        "esc10",
        "esc10",
        ("optim.batch_size=16", "workers=0", "loggers=[]"),
        "accuracy",
        "category",
    ),
    "scenes": Scenario(
        "scenes",
        "folder",
        (
            "data.ontology=false",
            "data.validation_share=0",
            "optim.batch_size=16",
            "select=last",
            "window_seconds=5",
            "workers=0",
            "loggers=[]",
        ),
        "mean_ap",
        "labels",
    ),
}


def after(fold: int) -> int:
    """The fold that validates when `fold` is the test fold."""
    return fold % len(FOLDS) + 1


def trials(system: System, count: int) -> list[tuple[str, ...]]:
    """Settings of each trial of a network."""
    return [(*system.settings, f"optim.learning_rate={rate:g}") for rate in RATES[:count]]
