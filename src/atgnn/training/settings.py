"""Settings of a run: read from YAML, changed by ``key=value``, refused in one clear line."""

from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from atgnn.errors import ConfigError, describe_error, did_you_mean

__all__ = ["Settings", "settings_from"]


class Settings(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_yaml(self) -> str:
        """The settings as a file that `settings_from` reads back."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text


_S = TypeVar("_S", bound=Settings)


def settings_from(kind: type[_S], text: str, origin: str, overrides: list[str] | None = None) -> _S:
    """Settings of this kind from YAML, with ``key=value`` overrides (dots for nested keys).

    Raises:
        ConfigError: not YAML, an unknown key (the nearest is suggested), or a bad value.
    """
    values = _parse(text, origin)
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {origin}: expected settings, got {type(values).__name__}")
    for override in overrides or []:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"recipe {origin}: {_explain(error, kind)}") from None


def _parse(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"recipe {origin}: not readable YAML: {reason}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    """Put one ``a.b=value`` into nested settings."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"expected key=value after --set, got {override!r}")
    *parents, last = key.strip().split(".")
    place = values
    for parent in parents:
        child = place.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"cannot set {key}: {parent} is not a group of settings")
        place = child
    place[last] = _parse(text, f"--set {override}")


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """As `describe_error`, with the nearest known key where one is unknown."""
    for entry in error.errors():
        if entry["type"] == "extra_forbidden":
            *parents, key = (str(step) for step in entry["loc"])
            known = _known_keys(parents, kind)
            where = ".".join([*parents, key])
            return f"unknown key {where} (known: {', '.join(known)}){did_you_mean(key, known)}"
    return describe_error(error)


def _known_keys(parents: list[str], kind: type[BaseModel]) -> list[str]:
    for parent in parents:
        annotation = kind.model_fields[parent].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            kind = annotation
    return list(kind.model_fields)
