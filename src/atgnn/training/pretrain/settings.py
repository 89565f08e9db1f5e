"""Every knob of a pre-training run."""

import math
import os
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from atgnn.errors import ConfigError
from atgnn.frontend import FrontEndConfig
from atgnn.model import ModelConfig
from atgnn.training.recipe import OptimSettings, Recipe, ScaleSettings
from atgnn.training.settings import Settings, read_settings, settings_from

__all__ = [
    "MaskSettings",
    "PretrainSettings",
    "ScheduleSettings",
    "SoundSettings",
    "ViewSettings",
    "load_settings",
]


class SoundSettings(Settings):
    """What is heard, and in which portions."""

    paths: tuple[str, ...] = Field((), description="folders, tables, packed folders, sound files")
    crop_seconds: float = Field(1.3, ge=0.01, description="length of a view")
    reach_seconds: float = Field(
        5.0, gt=0, description="both views of a pair come from one stretch of this length"
    )
    cache_gigabytes: float = Field(4.0, ge=0, description="decoded short recordings kept in memory")

    @model_validator(mode="after")
    def _a_crop_fits(self) -> "SoundSettings":
        if self.reach_seconds < self.crop_seconds:
            raise ValueError("reach_seconds must not be shorter than crop_seconds")
        return self


class ViewSettings(Settings):
    """How two views of a sound are made to differ; what they share is what is learned."""

    gain_db: float = Field(8.0, ge=0, description="level changes by up to this much either way")
    background: float = Field(
        0.3, ge=0, le=1, description="share of views with another sound behind, 6 to 30 dB softer"
    )
    zoom: float = Field(
        0.2, ge=0, lt=1, description="pitch and tempo move by windows up to so much smaller"
    )
    equalise_db: float = Field(6.0, ge=0, description="colour by up to this much either way")
    noise: float = Field(0.1, ge=0, le=1, description="share of views with hiss behind them")
    frequency_mask: int = Field(
        16, ge=0, description="widest, in mel bins; where no cell is hidden"
    )
    time_mask: int = Field(12, ge=0, description="widest, in frames; where no cell is hidden")
    temperature: float = Field(0.2, gt=0, description="the lower, the more near misses count")
    width: int = Field(128, ge=2, description="of the space in which views are compared")


class MaskSettings(Settings):
    """What is hidden from the encoder; it is predicted from the patch nodes that are left."""

    share: float = Field(0.5, gt=0, lt=1, description="of the cells under the last stage's nodes")


class ScheduleSettings(Settings):
    """AdamW with a linear warm-up and a cosine down to zero."""

    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    batch_size: int = Field(64, ge=2, description="stretches of sound; each gives two views")
    steps: int = Field(10_000, ge=1)
    warmup_steps: int = Field(100, ge=0)
    gradient_clip: float = Field(5.0, ge=0, description="largest norm; 0 is off")
    report_every: int = Field(100, ge=1, description="steps between rows of the history")

    @property
    def reports(self) -> int:
        """Rows of the history; Lightning's epochs."""
        return math.ceil(self.steps / self.report_every)

    @property
    def steps_each(self) -> int:
        """Steps between two rows: equally many, so that all may be a few more than `steps`."""
        return math.ceil(self.steps / self.reports)

    def as_optim(self) -> OptimSettings:
        """The same in the terms of a recipe."""
        return OptimSettings(
            optimizer="adamw",
            learning_rate=self.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            epochs=self.reports,
            warmup_steps=self.warmup_steps,
            schedule="cosine",
            gradient_clip=self.gradient_clip,
        )


class PretrainSettings(Settings):
    """All of a pre-training run; it is saved as ``recipe.yaml``."""

    FREE: ClassVar = frozenset({"workers", "sounds.cache_gigabytes", "checkpoint_minutes"})
    PATHS: ClassVar = frozenset({"sounds.paths"})

    method: Literal["views", "masked", "both"] = Field(
        "both",
        description="views: two changed excerpts of a sound are brought together; masked: hidden "
        "patches are predicted from the others",
    )
    model: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "mini"}, description="a preset, and fields to change"
    )
    front_end: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "paper", "hop_ms": 20},
        description="a preset, and fields to change",
    )
    residual_scale: float = Field(0.0, ge=0, description="of residual branches at the start")
    sounds: SoundSettings = SoundSettings()
    views: ViewSettings = ViewSettings()
    masked: MaskSettings = MaskSettings()
    optim: ScheduleSettings = ScheduleSettings()
    seed: int = Field(42, ge=0, lt=2**63)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    workers: int = Field(2, ge=0, description="threads that load ahead of the network; 0: none")
    checkpoint_minutes: float = Field(
        10.0, ge=0, description="save the run's state so often within `report_every`; 0: never"
    )

    @model_validator(mode="after")
    def _parts_exist(self) -> "PretrainSettings":
        self.model_config_of()
        frames, cell = self.frames, self.cell
        if self.masks and frames < cell:
            raise ValueError(
                f"sounds.crop_seconds gives {frames} frames, one patch node of the last stage "
                f"covers {cell}: lengthen the crop"
            )
        return self

    @property
    def compares(self) -> bool:
        """Whether pairs of views are compared."""
        return self.method != "masked"

    @property
    def masks(self) -> bool:
        """Whether patches are hidden and predicted."""
        return self.method != "views"

    @property
    def frames(self) -> int:
        """Frames of a view."""
        return self.front_end_config().seconds_to_frames(self.sounds.crop_seconds)

    @property
    def cell(self) -> int:
        """Frames, and mel bins, of the input under one patch node of the last stage."""
        config = self.model_config_of()
        return config.time_stride * 2 ** (len(config.channels) - 1)

    def front_end_config(self) -> FrontEndConfig:
        """The front end: its preset with the changes."""
        config = self.as_recipe().front_end_config()
        if config.scale != "ln":
            raise ConfigError(
                "pre-training changes the natural logarithm of power: set front_end.scale=ln"
            )
        return config

    def model_config_of(self) -> ModelConfig:
        """Layout of the encoder, without labels; ConfigError for networks that have no patches."""
        config = self.as_recipe().model_config_for(1)
        if not isinstance(config, ModelConfig):
            raise ConfigError(
                f"model.preset={self.model.get('preset')} has no patch encoder: pre-train one of "
                "ATGNN's presets, such as mini or pyr-s"
            )
        return config.replace(label_blocks=())

    def as_recipe(self) -> Recipe:
        """What it shares with a run that has labels: model, front end, schedule, one device."""
        return Recipe(
            name="pretrain",
            model=self.model,
            front_end=self.front_end,
            optim=self.optim.as_optim(),
            precision=self.precision,
            scale=ScaleSettings(devices=1, nodes=1, checkpoint_minutes=self.checkpoint_minutes),
        )


def load_settings(
    path: str | os.PathLike[str] | None = None, overrides: list[str] | None = None
) -> PretrainSettings:
    """The defaults, or a YAML file such as a run's ``recipe.yaml``, with ``key=value`` changes.

    Raises:
        ConfigError: no such file, unknown key (the nearest is suggested), or a bad value.
    """
    if path is None:
        return settings_from(PretrainSettings, "{}", "of pre-training", overrides)
    return settings_from(PretrainSettings, read_settings(path), str(path), overrides)
