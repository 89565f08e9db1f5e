"""The configuration of a model, and the presets of the paper.

One frozen record says everything about the layers; geometry is derived from it.
"""

from typing import Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from atgnn.errors import ConfigError, describe_error, did_you_mean
from atgnn.graph.pooling import ceil_div

__all__ = ["PRESETS", "LayoutConfig", "ModelConfig", "preset", "preset_names"]

_Layout = TypeVar("_Layout", bound="LayoutConfig")

#: The layout of EfficientNet-Lite0: its grids halve four times before the first patch blocks and
#: once more before the second.
LITE0 = {
    "stem_widths": (16, 24, 40, 112),
    "stem_strides": (2, 2, 2, 2),
    "channels": (112, 320),
}


class LayoutConfig(BaseModel):
    """What every network's configuration has; `kind` says which network it is.

    Attributes:
        front_end: the name in `atgnn.frontend.FRONT_ENDS` of what such a network hears.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    front_end: ClassVar[str] = "paper"

    kind: str
    num_labels: int = Field(200, ge=1, description="classes; one score each")
    n_mels: int = Field(128, ge=1, description="frequency bins of the input")
    in_channels: int = Field(1, ge=1, description="spectrograms per clip; 3 for published images")

    def replace(self: _Layout, **changes: Any) -> _Layout:
        """A copy with some fields changed, validated again; ConfigError where they do not fit."""
        unknown = sorted(set(changes) - set(type(self).model_fields))
        if unknown:
            raise ConfigError(
                f"unknown model setting {unknown[0]!r}"
                + did_you_mean(unknown[0], type(self).model_fields)
            )
        try:
            return type(self).model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise ConfigError(f"model configuration: {describe_error(error)}") from None


class ModelConfig(LayoutConfig):
    """Every choice of layout. Defaults are pyr-s with label blocks, in the author's layout.

    Choices that the paper leaves open are marked (open); docs/paper.md lists them.
    """

    kind: Literal["atgnn"] = "atgnn"
    nominal_frames: int = Field(1024, ge=1, description="frames that stored positions are made for")

    trunk: Literal["plain", "lite0"] = Field(
        "plain",
        description="convolutions before the patch blocks: Vision GNN's, or, with weights from "
        "ImageNet (init: imagenet), those of EfficientNet-Lite0",
    )
    stem_widths: tuple[PositiveInt, ...] = Field((40, 80, 80), min_length=1)
    stem_strides: tuple[PositiveInt, ...] = (2, 2, 1)
    channels: tuple[PositiveInt, ...] = Field((80, 160, 400, 640), min_length=1)
    blocks: tuple[PositiveInt, ...] = Field(
        (2, 2, 6, 2), description="M: patch blocks of each stage"
    )
    reductions: tuple[PositiveInt, ...] = Field(
        (4, 2, 1, 1), description="candidates are means of r x r"
    )
    k: int = Field(9, ge=1, description="neighbours of a patch")
    k_last: int | None = Field(None, description="k grows linearly to this in the last block")
    dilation_every: int = Field(4, ge=1, description="dilation grows by one every so many blocks")
    dilation_budget: int = Field(49, ge=1, description="largest dilation = budget // largest k")
    distance: Literal["cosine", "euclidean"] = "cosine"  # (open)
    position: Literal["grid", "legacy", "none"] = "grid"
    absolute_position: bool = True
    update_groups: int = Field(4, ge=1, description="groups of the update; 1 is dense (open)")
    ffn_ratio: int = Field(4, ge=1)
    drop_path: float = Field(0.1, ge=0, lt=1, description="of the last block; grows from 0")
    pooling: Literal["mean", "mean_std"] = Field(
        "mean", description="what the head reads of all patches; mean_std: their spread as well"
    )
    head_width: int = Field(1024, ge=1)
    head_dropout: float = Field(0.0, ge=0, lt=1)

    label_blocks: tuple[NonNegativeInt, ...] = Field(
        (1, 1, 3, 1), description="P of each stage; () for none"
    )
    label_placement: Literal["after_stage", "after_block"] = "after_stage"
    k_plg: int = Field(9, ge=1, description="patches that a label draws on")
    label_width: PositiveInt | None = Field(None, description="None: the stage's channels (open)")
    label_update_groups: int = Field(4, ge=1, description="1 is dense (open)")
    label_ffn_ratio: int = Field(4, ge=0, description="0: no feed-forward network (open)")
    label_drop_path: float = Field(0.1, ge=0, lt=1)
    shared_adjacency: bool = Field(False, description="one label adjacency for all blocks (open)")

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        stages = len(self.channels)
        for name in ("blocks", "reductions"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{name} needs one entry per stage: {stages}")
        if len(self.stem_widths) != len(self.stem_strides):
            raise ValueError("stem_widths and stem_strides need the same number of entries")
        if self.trunk == "lite0":
            for name, value in LITE0.items():
                if getattr(self, name) != value:
                    shown = ", ".join(map(str, value))
                    raise ValueError(f"with trunk lite0, {name} must be ({shown}), as it has them")
        if self.stem_widths[-1] != self.channels[0]:
            raise ValueError("the stem must end at the first stage's channels")
        if self.label_blocks and len(self.label_blocks) != stages:
            raise ValueError(f"label_blocks needs one entry per stage ({stages}) or none at all")
        if any(c % 4 or c % self.update_groups for c in self.channels):
            raise ValueError("channels must be multiples of 4 and of update_groups")
        widths = self.channels if self.label_width is None else (self.label_width,)
        if any(c % self.label_update_groups for c in widths):
            raise ValueError("label widths must be multiples of label_update_groups")
        if self.k_last is not None and self.k_last < self.k:
            raise ValueError("k_last must not be smaller than k")
        return self

    @model_serializer(mode="wrap")
    def _without_later_settings(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is left out at its default: a model's digest stays what it was."""
        values: dict[str, Any] = dump(self)
        for name in ("trunk", "pooling"):
            if values.get(name) == type(self).model_fields[name].default:
                del values[name]
        return values

    # ------------------------------------------------------------------ derived

    @property
    def depth(self) -> int:
        """Number of patch blocks."""
        return sum(self.blocks)

    @property
    def neighbours(self) -> tuple[int, ...]:
        """k of every patch block."""
        last = self.k if self.k_last is None else self.k_last
        span = max(1, self.depth - 1)
        return tuple(self.k + (last - self.k) * i // span for i in range(self.depth))

    @property
    def max_dilation(self) -> int:
        """The cap on dilation, as the published models have it."""
        return max(1, self.dilation_budget // max(self.neighbours))

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilation of every patch block: one more every `dilation_every` blocks, up to the cap."""
        cap = self.max_dilation
        return tuple(min(i // self.dilation_every + 1, cap) for i in range(self.depth))

    @property
    def drop_paths(self) -> tuple[float, ...]:
        """Drop-path rate of every patch block, linear from 0."""
        span = max(1, self.depth - 1)
        return tuple(self.drop_path * i / span for i in range(self.depth))

    @property
    def time_stride(self) -> int:
        """Input frames per column of the first stage."""
        stride = 1
        for step in self.stem_strides:
            stride *= step
        return stride

    def grid(self, frames: int, stage: int = 0) -> tuple[int, int]:
        """Rows and columns of nodes of a stage for an input of `frames` frames."""
        rows, columns = self.n_mels, frames
        for stride in (*self.stem_strides, *(2,) * stage):
            rows, columns = ceil_div(rows, stride), ceil_div(columns, stride)
        return rows, columns

    @property
    def has_labels(self) -> bool:
        """Whether there are label blocks; without, this is the paper's "-MLG"."""
        return bool(self.label_blocks)

    @property
    def label_levels(self) -> tuple[tuple[int, int], ...]:
        """(channels of the patches, number of label blocks) wherever label blocks sit, in order."""
        if not self.has_labels:
            return ()
        if self.label_placement == "after_stage":
            return tuple(zip(self.channels, self.label_blocks, strict=True))
        return tuple(
            (c, p)
            for c, m, p in zip(self.channels, self.blocks, self.label_blocks, strict=True)
            for _ in range(m)
        )


def _pyramid(channels: tuple[int, ...], blocks: tuple[int, ...], p: tuple[int, ...]) -> ModelConfig:
    c = channels[0]
    return ModelConfig(stem_widths=(c // 2, c, c), channels=channels, blocks=blocks, label_blocks=p)


def _isotropic(channels: int, blocks: int) -> ModelConfig:
    c = channels
    return ModelConfig(
        stem_widths=(c // 8, c // 4, c // 2, c, c),
        stem_strides=(2, 2, 2, 2, 1),
        channels=(c,),
        blocks=(blocks,),
        reductions=(1,),
        k=9,
        k_last=18,
        dilation_budget=196,
        position="none",
        label_blocks=(1,),
        label_placement="after_block",
    )


def _mini() -> ModelConfig:
    """Our own small pyramid for laptops and tests: three stages on an 8 x 8 patch."""
    return ModelConfig(
        stem_widths=(16, 32, 48, 48),
        stem_strides=(2, 2, 2, 1),
        channels=(48, 96, 192),
        blocks=(2, 3, 2),
        reductions=(2, 1, 1),
        head_width=256,
        label_blocks=(1, 1, 1),
    )


def _mini_lite0() -> ModelConfig:
    """Ours: patch and label blocks between and behind the stages of EfficientNet-Lite0."""
    return ModelConfig(
        trunk="lite0",
        **LITE0,
        blocks=(2, 1),
        reductions=(1, 1),
        pooling="mean_std",
        head_width=256,
        label_blocks=(1, 1),
    )


_WITH_LABELS = {
    "mini": _mini(),
    "mini-lite0": _mini_lite0(),
    "iso-ti": _isotropic(192, 12),
    "iso-s": _isotropic(320, 16),
    "iso-b": _isotropic(640, 16),
    "pyr-ti": _pyramid((48, 96, 240, 384), (2, 2, 6, 2), (1, 1, 3, 1)),
    "pyr-s": _pyramid((80, 160, 400, 640), (2, 2, 6, 2), (1, 1, 3, 1)),
    "pyr-m": _pyramid((96, 192, 384, 768), (2, 2, 16, 2), (1, 1, 6, 1)),
    "pyr-b": _pyramid((128, 256, 512, 1024), (2, 2, 18, 2), (1, 1, 6, 1)),
}

PRESETS: dict[str, ModelConfig] = {}
for _name, _config in _WITH_LABELS.items():
    PRESETS[_name] = _config
    PRESETS[f"{_name}-encoder"] = _config.replace(label_blocks=())


def preset_names() -> list[str]:
    """Names of the presets: ours, the isotropic and the pyramid ones, each from small to large."""
    return list(PRESETS)


def preset(name: str, **changes: Any) -> ModelConfig:
    """A preset's configuration, with some fields changed.

    Raises:
        ConfigError: the name is unknown (the nearest is suggested) or the changes do not fit.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"unknown preset {name!r} (there are {', '.join(PRESETS)}){did_you_mean(name, PRESETS)}"
        )
    return PRESETS[name].replace(**changes)
