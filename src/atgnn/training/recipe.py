"""A recipe: every knob of a training run, validated, readable, saved with the run."""

import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from atgnn.errors import ConfigError, did_you_mean
from atgnn.frontend import FrontEndConfig, front_end_preset
from atgnn.model.config import ModelConfig
from atgnn.networks import NetworkConfig, check_front_end, network_preset, own_front_end
from atgnn.training.settings import Settings as _Settings
from atgnn.training.settings import read_settings, saved_settings, settings_from

__all__ = [
    "AugmentSettings",
    "DataSettings",
    "DistillSettings",
    "EmaSettings",
    "MomentSettings",
    "OptimSettings",
    "Recipe",
    "ScaleSettings",
    "load_recipe",
    "recipe_names",
    "recipe_of_run",
]


#: As a front end's preset: that of the model's preset.
OWN = "own"

Share = Annotated[float, Field(ge=0, lt=1)]


class DataSettings(_Settings):
    """Which clips, which labels, and how they are divided."""

    clips: tuple[str, ...] = Field(
        (), description="tables or folders of clips, packed ones too; may be one string"
    )
    packed: tuple[str, ...] = Field(
        (), description="folders of packed waveforms to take the clips' samples from"
    )
    label_column: str = Field("labels", description="column of the table that names the labels")
    vocabulary: str | None = Field(
        None, description="'audioset', 'fsd50k', a CSV file, or nothing: the labels of the clips"
    )
    drop_other_labels: bool = Field(False, description="ignore labels outside the vocabulary")
    ontology: bool = Field(True, description="a label makes its AudioSet ancestors true as well")
    train: dict[str, Any] = Field(
        default_factory=dict, description="rows to train on: column: value"
    )
    validation: dict[str, Any] = Field(default_factory=dict, description="rows to validate on")
    test: dict[str, Any] = Field(default_factory=dict, description="rows nobody looks at here")
    validation_share: float = Field(
        0.1, ge=0, lt=1, description="held out by author where `validation` names no rows"
    )
    balanced: bool = Field(
        False, description="draw clips by the rarity of their labels instead of each once an epoch"
    )
    cache_gigabytes: float = Field(4.0, ge=0, description="decoded sound kept in memory")

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        lists = {"clips", "packed"}
        return {k: (v,) if k in lists and isinstance(v, str) else v for k, v in values.items()}


class AugmentSettings(_Settings):
    """Random changes to training clips. Zero switches one off."""

    crop_seconds: float | None = Field(
        None, ge=0.01, description="train on excerpts of this length"
    )
    crop_shortest: float | None = Field(
        None, ge=0.01, description="half of the clips are cut to a random length from this on"
    )
    fill: float = Field(
        0.0, ge=0, le=1, description="share of shorter clips filled up: repeated or in silence"
    )
    trim_silence: bool = Field(False, description="cut digital silence off both ends first")
    gain_db: float = Field(0.0, ge=0, description="level changes by up to this much either way")
    roll: float = Field(0.0, ge=0, le=1, description="share of clips shifted in time, cyclically")
    mixup_probability: float = Field(
        0.5, ge=0, le=1, description="share of clips mixed with another, drawn uniformly"
    )
    mixup_alpha: float = Field(10.0, gt=0, description="weights are drawn from Beta(alpha, alpha)")
    frequency_mask: int = Field(48, ge=0, description="widest mask, in mel bins")
    time_mask: int = Field(192, ge=0, description="widest mask, in frames (of a waveform: samples)")
    masks: int = Field(1, ge=0, description="masks of each kind")
    frequency_shift: int = Field(0, ge=0, description="shift up or down by up to so many mel bins")

    stretch: float = Field(0.0, ge=0, le=1, description="faster or slower by up to this factor - 1")
    equalise_db: float = Field(0.0, ge=0, description="colour by up to this much either way")
    noise: float = Field(0.0, ge=0, le=1, description="share of clips with hiss behind them")
    band_limit: float = Field(0.0, ge=0, le=1, description="share of clips with a narrower band")

    @model_validator(mode="after")
    def _shortest_is_shorter(self) -> "AugmentSettings":
        if self.crop_shortest and self.crop_shortest > (self.crop_seconds or 0):
            raise ValueError("crop_shortest needs a crop_seconds that is longer")
        if self.fill and not self.crop_seconds:
            raise ValueError("fill needs crop_seconds, the length that clips are filled up to")
        return self

    @property
    def spectral(self) -> tuple[str, ...]:
        """Settings in use that change mel bins, which a waveform does not have."""
        names = ["frequency_mask"] if self.masks else []
        names += ["frequency_shift", "stretch", "equalise_db", "noise", "band_limit"]
        return tuple(name for name in names if getattr(self, name))


class OptimSettings(_Settings):
    """Optimiser and schedule. Defaults are the paper's for FSD50K."""

    optimizer: Literal["adam", "adamw"] = Field(
        "adam", description="adam decays all weights through the gradient, adamw matrices directly"
    )
    learning_rate: float = Field(5e-4, gt=0, description="the highest, after the warm-up")
    betas: tuple[Share, Share] = Field(
        (0.95, 0.999), description="how slowly means of gradients and of their squares change"
    )
    weight_decay: float = Field(5e-7, ge=0, description="pull of weights toward 0")
    batch_size: int = Field(24, ge=2, description="clips in an update, over all processes")
    epochs: int = Field(50, ge=1, description="an epoch has as many draws as there are clips")
    warmup_steps: int = Field(1000, ge=0, description="updates until the rate is at its highest")
    warmup: Literal["linear", "staircase"] = Field(
        "linear", description="per step, or as published: a stair every 50 steps, from 0"
    )
    schedule: Literal["steps", "cosine", "constant"] = Field(
        "steps", description="how the rate falls after the warm-up"
    )
    milestones: tuple[int, ...] = Field(
        tuple(range(10, 50, 5)), description="epochs after which `steps` lowers the rate"
    )
    decay: float = Field(0.5, gt=0, le=1, description="factor of the rate at each milestone")
    accumulate: int = Field(
        1, ge=1, description="batches whose gradients are added up before the weights are updated"
    )
    gradient_clip: float = Field(1.0, ge=0, description="largest norm; 0 is off")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="pull of targets to the middle")


class ScaleSettings(_Settings):
    """On how many devices a run works, and how often it can be taken up again.

    The batch size is that of all processes together: a recipe gives the same run on one device
    and on several, as near as sums of rounded numbers allow.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="what computes; auto: a GPU where there is one"
    )
    devices: Annotated[int, Field(ge=1)] | Literal["all"] | None = Field(
        None, description="processes of each node; nothing: as torchrun or SLURM say, else one"
    )
    nodes: Annotated[int, Field(ge=1)] | None = Field(None, description="as `devices`")
    sync_norms: bool = Field(
        True, description="batch norms of several processes see the clips of all of them"
    )
    checkpoint_minutes: float = Field(
        10.0, ge=0, description="within an epoch, save the run's state so often; 0: never"
    )
    checkpoint_steps: int = Field(0, ge=0, description="the same by updates of the weights")


class DistillSettings(_Settings):
    """Another model to learn from: its score file, or checkpoints that listen along."""

    scores: str | None = Field(None, description="score file of the training clips")
    teacher: tuple[str, ...] = Field(
        (), description="checkpoints that hear every batch; their mean counts; may be one string"
    )
    weight: float = Field(0.5, gt=0, le=1, description="share of the teacher in the loss")
    temperature: float = Field(1.0, gt=0, description="above 1 the unlikely labels count more")
    partial: bool = Field(
        False, description="labels that the scores lack are learned from the clips' labels alone"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("teacher"), str):
            return {**values, "teacher": (values["teacher"],)}
        return values

    @model_validator(mode="after")
    def _one_of_them(self) -> "DistillSettings":
        if self.scores is not None and self.teacher:
            raise ValueError("give scores or teacher, not both")
        fields = type(self).model_fields
        idle = [n for n in ("weight", "temperature") if getattr(self, n) != fields[n].default]
        if idle and self.scores is None and not self.teacher:
            raise ValueError(f"{idle[0]} does nothing without a teacher: give scores or teacher")
        if self.partial and self.scores is None:
            raise ValueError("partial does nothing without scores: give a score file")
        return self


class EmaSettings(_Settings):
    """A moving average of the weights, validated beside them; `select: ema` makes it the result."""

    decay: float = Field(0.0, ge=0, lt=1, description="share that each update keeps; 0 is off")


class MomentSettings(_Settings):
    """Strong labels: the network learns from tables of events what is heard at each moment."""

    events: tuple[str, ...] = Field(
        (), description="tables of events (events.csv of scenes, DESED's); may be one string"
    )
    weight: float = Field(0.5, gt=0, lt=1, description="share of moments in the loss")

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("events"), str):
            return {**values, "events": (values["events"],)}
        return values

    @model_validator(mode="after")
    def _has_events(self) -> "MomentSettings":
        if self.weight != type(self).model_fields["weight"].default and not self.events:
            raise ValueError("weight does nothing without events")
        return self


class Recipe(_Settings):
    """All of a run. `atgnn train` saves the resolved one as ``recipe.yaml``."""

    # Where data are may change: digests tell whether they are the same.
    FREE: ClassVar = frozenset(
        {
            "data.clips",
            "data.packed",
            "data.vocabulary",
            "moments.events",
            "description",
            "memory",
            "workers",
            "loggers",
            "data.cache_gigabytes",
            "scale.accelerator",
            "scale.devices",
            "scale.nodes",
            "scale.checkpoint_minutes",
            "scale.checkpoint_steps",
        }
    )
    PATHS: ClassVar = frozenset(
        {
            "init",
            "data.clips",
            "data.packed",
            "data.vocabulary",
            "distill.scores",
            "distill.teacher",
            "moments.events",
        }
    )

    name: str = Field(description="of the recipe")
    description: str = Field("", description="one line for lists of recipes")
    task: Literal["multi_label", "single_label"] = Field(
        "multi_label", description="labels by themselves (sigmoid), or one of them (softmax)"
    )
    model: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "pyr-s"}, description="a preset, and fields to change"
    )
    front_end: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "paper"},
        description="a preset, or `own` for that of the model's, and fields to change",
    )
    init: str | None = Field(
        None,
        description="published weights, a checkpoint or encoder to start from, `imagenet` (lite)",
    )
    keep_encoder: bool = Field(
        False, description="stem and patch blocks stay as init brought them; labels and head learn"
    )
    residual_scale: float = Field(
        1.0, ge=0, description="of residual branches at the start; 0 learns faster from few clips"
    )
    data: DataSettings = DataSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
    distill: DistillSettings = DistillSettings()
    ema: EmaSettings = EmaSettings()
    moments: MomentSettings = MomentSettings()
    select: Literal["best", "last", "last5", "averaged", "ema"] = Field(
        "best",
        description="the result: the epoch that validates best; the last one, with its metrics or "
        "their mean over the last five epochs; the mean of the kept epochs' weights; or the moving "
        "average of weights",
    )
    keep_epochs: int = Field(
        0, ge=0, description="keep the weights of so many last epochs, in half precision"
    )
    average_norms: Literal["measured", "averaged"] = Field(
        "measured",
        description="batch-norm statistics of averaged weights: measured anew over training "
        "clips, or averaged like all weights, as published",
    )
    window_seconds: float = Field(10.0, ge=0.01, description="longer clips are cut to this length")
    seed: int = Field(42, ge=0, lt=2**63, description="every random draw follows from it")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true", description="of the network; front end and loss are float32 always"
    )
    compile: bool = Field(
        False, description="torch.compile the network: minutes at first, then faster on a GPU"
    )
    memory: Literal["usual", "lean", "least"] = Field(
        "usual",
        description="lean: what is cheap to compute again is not kept for the backward pass; "
        "least: and freed main memory goes back to the system at once, which takes time",
    )
    workers: int = Field(2, ge=0, description="threads that load ahead of the network; 0: none")
    scale: ScaleSettings = ScaleSettings()
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        ("tensorboard",), description="where else to write losses and metrics; may be none"
    )
    save_half: bool = Field(True, description="store the final weights in half precision")

    @model_validator(mode="after")
    def _parts_exist(self) -> "Recipe":
        self.front_end_config()
        self._check_augment()
        config = self.model_config_for(2)
        if self.keep_encoder:
            if self.init is None:
                raise ValueError("keep_encoder keeps what init brings: set init")
            if config.kind != "atgnn":
                raise ValueError(f"keep_encoder: {config.kind} has no encoder of patches to keep")
            if self.select == "averaged" and self.average_norms == "measured":
                raise ValueError("keep_encoder keeps its norms too: set average_norms=averaged")
        if self.select == "averaged" and min(self.keep_epochs, self.optim.epochs) < 2:
            raise ConfigError("select: averaged needs two or more keep_epochs (and optim.epochs)")
        if self.select == "ema" and not self.ema.decay:
            raise ConfigError("select: ema needs a moving average: set ema.decay, 0.99 perhaps")
        if self.moments.events:
            self._check_moments()
        if self.memory != "usual" and self.compile:
            raise ConfigError(
                f"memory: {self.memory} does nothing where compile weighs what to keep: leave "
                "one of them out"
            )
        return self

    def _check_augment(self) -> None:
        """Changes to log-mel spectrograms are refused where there is none."""
        if self.front_end_config().kind != "waveform":
            return
        if used := self.augment.spectral:
            raise ConfigError(
                f"a waveform has no mel bins for augment.{', augment.'.join(used)}: add "
                + " ".join(f"--set augment.{name}=0" for name in used)
            )

    def _check_moments(self) -> None:
        """Nothing may move sounds in time or lead past the moments."""
        augment = self.augment
        moved = {
            "augment.roll": bool(augment.roll),
            "augment.crop_seconds": augment.crop_seconds is not None,
            "augment.trim_silence": augment.trim_silence,
            "augment.stretch": bool(augment.stretch),
            "compile": self.compile,
            "distill": bool(self.distill.scores is not None or self.distill.teacher),
            "front_end.pad_to_frames": self.front_end_config().pad_to_frames is not None,
        }
        wrong = [name for name, there in moved.items() if there]
        if self.task != "multi_label":
            raise ConfigError("moments.events: several sounds at once need task=multi_label")
        if wrong:
            raise ConfigError(
                f"moments.events does not go together with {', '.join(wrong)}: events lie where "
                "the clip has them; leave one or the other out"
            )

    def front_end_config(self) -> FrontEndConfig:
        """The front end: its preset with the recipe's changes."""
        changes = dict(self.front_end)
        name = str(changes.pop("preset", "paper"))
        base = own_front_end(self._preset) if name == OWN else front_end_preset(name)
        return FrontEndConfig.model_validate({**base.model_dump(), **changes})

    def model_config_for(self, num_labels: int) -> NetworkConfig:
        """The model's configuration for so many labels."""
        changes, front_end = dict(self.model), self.front_end_config()
        changes.pop("preset", None)
        n_mels = front_end.n_mels
        if "num_labels" in changes:
            raise ConfigError("model.num_labels follows from the clips: leave it out")
        if changes.setdefault("n_mels", n_mels) != n_mels:
            raise ConfigError(
                f"model.n_mels is {changes['n_mels']}, the front end makes {n_mels}: set "
                "front_end.n_mels alone"
            )
        known = type(network_preset(self._preset)).model_fields
        elsewhere = [
            name for name in changes if name not in known and name in ModelConfig.model_fields
        ]
        if elsewhere:
            raise ConfigError(
                f"model.{elsewhere[0]} is no setting of {self._preset}: to leave out the recipe's "
                f"layout, set model={{preset: {self._preset}}}"
            )
        config = network_preset(self._preset, **changes, num_labels=num_labels)
        check_front_end(front_end, config)
        return config

    @property
    def _preset(self) -> str:
        return str(self.model.get("preset", "pyr-s"))


def recipe_of_run(out: Path, resume: bool, overrides: list[str]) -> Recipe:
    """The recipe that a run saved in its folder, with overrides.

    Raises `ConfigError` where there is none, or a new run is wanted.
    """
    if not resume:
        raise ConfigError(
            f"a new run needs a recipe: a .yaml file or one of {', '.join(recipe_names())}"
        )
    return load_recipe(saved_settings(out), overrides)


def recipe_names() -> list[str]:
    """Names of the recipes that ship."""
    folder = resources.files("atgnn.training") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir())


def load_recipe(name_or_path: str | os.PathLike[str], overrides: list[str] | None = None) -> Recipe:
    """A recipe that ships, or a YAML file, with ``key=value`` overrides (dots for nested keys).

    Values are YAML: ``optim.epochs=10``, ``data.validation={fold: 2}``.

    Raises:
        ConfigError: no such recipe, unknown key (the nearest is suggested), or a bad value.
    """
    path = Path(name_or_path)
    shipped = resources.files("atgnn.training") / "recipes" / f"{name_or_path}.yaml"
    if path.suffix in (".yaml", ".yml"):
        text = read_settings(path)
    elif shipped.is_file():
        text = shipped.read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f"unknown recipe {str(name_or_path)!r}: give a .yaml file or one of "
            f"{', '.join(recipe_names())}{did_you_mean(str(name_or_path), recipe_names())}"
        )
    return settings_from(Recipe, text, str(name_or_path), overrides)
