"""What visitors of the page may ask of the machine that serves it."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from atgnn.errors import ConfigError, describe_error

__all__ = ["AppSettings"]

#: What a browser on this machine calls it by.
LOOPBACK = ("localhost", "127.0.0.1", "::1")

_NAME = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:]+")


class AppSettings(BaseModel):
    """Where the page is served, and its limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="address to listen at")
    allow_hosts: tuple[str, ...] = Field(
        (), description="names, without a port, that the page may be asked for by"
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="without it the first free from 7860"
    )
    most_mb: float = Field(100.0, gt=0, description="MB of a recording")
    most_minutes: float = Field(15.0, gt=0, description="minutes of a recording")
    queue: int = Field(20, ge=1, description="people who may wait at a time")
    keep_hours: float = Field(1.0, gt=0, description="hours until what was sent is deleted")

    @field_validator("allow_hosts")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError("expected a name without http:// and port, as sounds.example.org")
        return names

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

    @property
    def hosts(self) -> frozenset[str] | None:
        """The names that the page answers to, in lower case; None where it answers to any.

        A page for this machine only must not answer to a name that somebody else chose: a site
        could have its own name resolve to 127.0.0.1 and read the page from a visitor's browser.
        """
        if not self.private and not self.allow_hosts:
            return None
        return frozenset(name.lower() for name in (*LOOPBACK, self.host, *self.allow_hosts))
