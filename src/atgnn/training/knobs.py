"""Every setting of a recipe in words, from the descriptions beside their definitions."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atgnn.training.recipe import Recipe

__all__ = ["Knob", "knobs", "markdown"]


class Knob(NamedTuple):
    """One setting: its key for ``--set``, its value in this recipe, what it does."""

    key: str
    value: Any
    description: str
    choices: tuple[Any, ...] = ()

    @property
    def text(self) -> str:
        """The value as ``--set`` takes it."""
        return json.dumps(self.value, ensure_ascii=False)

    @property
    def meaning(self) -> str:
        """The description with the choices there are."""
        if not self.choices:
            return self.description
        return f"{self.description} ({', '.join(map(str, self.choices))})".strip()


def knobs(recipe: Recipe) -> list[Knob]:
    """All settings of a recipe with their values, in the order of the file."""
    return list(_of(recipe, ""))


def _of(settings: BaseModel, before: str) -> Iterator[Knob]:
    values = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _of(value, f"{before}{name}.")
        else:
            yield Knob(f"{before}{name}", values[name], field.description or "", _choices(field))


def _choices(field: FieldInfo) -> tuple[Any, ...]:
    """The values of a plain ``Literal``."""
    options = get_args(field.annotation)
    return options if options and all(isinstance(one, str) for one in options) else ()


def markdown(settings: list[Knob]) -> str:
    """A table in Markdown."""
    rows = [f"| `{k.key}` | `{k.text}` | {k.meaning.replace('|', '/')} |" for k in settings]
    return "\n".join(["| setting | value | what it does |", "|---|---|---|", *rows])
