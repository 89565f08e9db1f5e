"""Settings of a run: read from YAML, changed by ``key=value``, refused in one clear line."""

import os
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from atgnn.errors import ConfigError, describe_error, did_you_mean

__all__ = ["Settings", "changed_settings", "read_settings", "saved_settings", "settings_from"]


class Settings(BaseModel):
    """A frozen group of settings; unknown keys are refused.

    Attributes:
        FREE: settings, by dotted names, that may change when a run goes on: how it is computed and
            written down.
        PATHS: settings that may name files and folders.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    FREE: ClassVar[frozenset[str]] = frozenset()
    PATHS: ClassVar[frozenset[str]] = frozenset()

    def to_yaml(self) -> str:
        """The settings as a file that `settings_from` reads back."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text

    def with_absolute_paths(self) -> Self:
        """The settings as they are to be saved: files are found from any working directory."""
        values = self.model_dump()
        for setting in self.PATHS:
            *parents, last = setting.split(".")
            place = values
            for parent in parents:
                place = place[parent]
            place[last] = _absolute(place[last])
        return self.model_validate(values)


def _absolute(value: Any) -> Any:
    """A path, or several, from the root on; what is not there stays as it is."""
    if isinstance(value, (tuple, list)):
        return [_absolute(one) for one in value]
    there = isinstance(value, str) and os.path.exists(os.path.expanduser(value))
    return os.path.abspath(os.path.expanduser(value)) if there else value


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


def read_settings(path: str | os.PathLike[str]) -> str:
    """The text of a file of settings. Raises `ConfigError` where there is none that can be read."""
    if not Path(path).is_file():
        raise ConfigError(f"no recipe file {path}")
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"recipe {path} cannot be read: {reason}") from None


def saved_settings(out: Path) -> Path:
    """The file that a run saved its settings in. Raises `ConfigError` where there is none."""
    saved = out / "recipe.yaml"
    if not saved.is_file():
        raise ConfigError(f"nothing to resume in {out}: it has no recipe.yaml")
    return saved


def changed_settings(saved: Settings, asked: Settings) -> list[str]:
    """Settings in which two of one run may not differ but do: ``key=old (now new)``."""
    old, new = (_flat(one.with_absolute_paths().model_dump(mode="json")) for one in (saved, asked))
    return [
        f"{key}={_short(old.get(key))} (now {_short(new.get(key))})"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and key not in asked.FREE
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
    return flat


def _short(value: Any) -> str:
    """For one line."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"


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
