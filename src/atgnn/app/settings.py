"""What visitors of the page may ask of the machine that serves it."""

from __future__ import annotations

import ipaddress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atgnn.errors import ConfigError, describe_error

__all__ = ["AppSettings"]


class AppSettings(BaseModel):
    """Where the page is served, and its limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="address to listen at")
    port: int | None = Field(
        None, ge=1, le=65535, description="without it the first free from 7860"
    )
    most_mb: float = Field(100.0, gt=0, description="MB of a recording")
    most_minutes: float = Field(15.0, gt=0, description="minutes of a recording")
    queue: int = Field(20, ge=1, description="people who may wait at a time")
    keep_hours: float = Field(1.0, gt=0, description="hours until what was sent is deleted")

    @classmethod
    def of(cls, **values: Any) -> AppSettings:
        """Checked; `ConfigError` in one line where something does not fit."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"app: {describe_error(error, cls.model_fields)}") from None

    @property
    def private(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
