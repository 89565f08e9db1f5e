"""What scenes are like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atgnn.errors import ConfigError, describe_error

__all__ = ["SceneSettings"]

Range = Annotated[tuple[float, float], Field(description="from, to")]


class SceneSettings(BaseModel):
    """What scenes are like."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seconds: float = Field(10.0, ge=0.01, description="length of a scene")
    rate: int = Field(16_000, ge=1000, description="samples a second")
    events: tuple[int, int] = Field((1, 5), description="events in a scene, fewest and most")
    level_db: Range = Field(
        (0.0, 20.0), description="of an event where it is loud, over the background"
    )
    background_dbfs: Range = Field((-50.0, -30.0), description="level of the background")
    audible_db: float = Field(
        30.0, gt=0, description="an event lasts while it is at most this much below its loudest"
    )
    fade: float = Field(0.01, ge=0, description="s, at both ends of an event")
    least_clips: int = Field(2, ge=1, description="of every label in every part")
    unmarked: Literal["unknown", "absent"] = Field(
        "unknown", description="what a label is in clips of a collection that never marks it"
    )
    shared_owners: Literal["drop", "keep", "refuse"] = Field(
        "drop", description="an author in several parts: keep the largest share, all, or none"
    )
    seed: int = Field(0, ge=0, lt=2**63)

    @classmethod
    def of(cls, **values: Any) -> SceneSettings:
        """Checked; `ConfigError` in one line where something does not fit."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"scenes: {describe_error(error, cls.model_fields)}") from None

    @model_validator(mode="after")
    def _in_order(self) -> SceneSettings:
        for name in ("events", "level_db", "background_dbfs"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} runs from {low:g} to {high:g}: give the smaller first")
        if self.events[0] < 1:
            raise ValueError(f"events starts at {self.events[0]}: a scene has one event or more")
        if self.background_dbfs[1] > 0:
            raise ValueError(f"background_dbfs is {self.background_dbfs[1]:g}: at most 0")
        return self
