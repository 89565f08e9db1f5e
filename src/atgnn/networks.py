"""Whatever can sit in a checkpoint: ATGNN, or a baseline behind the same interface.

A network is a module with ``forward(mel (B, T, F), lengths (B,) | None) -> logits (B, S)`` and a
frozen ``config``, whose ``kind`` says which row of the table below it belongs to.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias, Union, cast

import torch
from pydantic import Discriminator, Tag

from atgnn.baselines.ast import AST, AST_PRESETS, ASTConfig
from atgnn.baselines.ast_weights import is_published_ast, load_ast, told_by_ast
from atgnn.baselines.audio_transformer import (
    AUDIO_TRANSFORMER_PRESETS,
    AudioTransformer,
    AudioTransformerConfig,
)
from atgnn.baselines.base import Baseline, BaselineConfig
from atgnn.baselines.cnn14 import CNN14, CNN14_PRESETS, CNN14Config
from atgnn.baselines.cnn14_weights import cnn14_front_end, load_cnn14
from atgnn.baselines.efficientnet import LITE_PRESETS, EfficientNetLite, EfficientNetLiteConfig
from atgnn.baselines.fsd50k_vgg import FSD50K_VGG_PRESETS, FSD50KVGG, FSD50KVGGConfig
from atgnn.baselines.imagenet import load_imagenet
from atgnn.baselines.psla import PSLA, PSLA_PRESETS, PSLAConfig, load_psla
from atgnn.baselines.published import Told
from atgnn.baselines.small_cnn import SMALL_CNN_PRESETS, SmallCNN, SmallCNNConfig
from atgnn.baselines.wav2clip import WAV2CLIP_PRESETS, Wav2CLIP, Wav2CLIPConfig, load_wav2clip
from atgnn.costs import FRAMES, Cost
from atgnn.errors import ConfigError, MissingExtraError, did_you_mean
from atgnn.frontend import FRONT_ENDS, FrontEndConfig
from atgnn.model import ATGNN, PRESETS, ModelConfig, cost, inference
from atgnn.model.atgnn import initialise
from atgnn.model.beside import LabelsBeside
from atgnn.model.config import LayoutConfig
from atgnn.model.empty import without_values
from atgnn.model.inference import InferenceModel
from atgnn.model.weights import WeightsReport, load_published, published_config

__all__ = [
    "KINDS",
    "Kind",
    "Network",
    "NetworkConfig",
    "base_labels",
    "build",
    "check_front_end",
    "empty_network",
    "for_inference",
    "initialise_network",
    "kind_of",
    "measure_cost",
    "network_names",
    "network_preset",
    "own_frames",
    "own_front_end",
    "preset_cost",
    "preset_of",
    "published_front_end",
    "preset_costs",
]

Network: TypeAlias = ATGNN | Baseline | LabelsBeside


class Kind(NamedTuple):
    """All that differs from one kind of network to another."""

    config: type[LayoutConfig]
    build: Callable[[Any], Network]
    presets: Mapping[str, LayoutConfig]
    tag: str  # for model cards on the hub
    summary: str  # for model cards, one sentence
    initialise: Callable[[Any, float], None]
    for_inference: Callable[[Any, torch.dtype], InferenceModel]
    measure_cost: Callable[[Any, int], Cost]
    #: What an `init` of this name fills the network with: a report, and a line for its card.
    starts: Mapping[str, Callable[[Any], tuple[str, str]]] = {}
    #: A preset that can be filled so.
    start_preset: str = ""
    #: Fills a network, in place, from published weights; the result's text is a report.
    load: Callable[[Any, Path], WeightsReport] | None = None
    #: Whether a path that there is can be given to `load`.
    loads: Callable[[Path], bool] = Path.is_file
    #: What such a path is, in words.
    form: str = "a file of weights"
    #: What a path for `load` says of layout, front end and labels.
    told: Callable[[Path], Told] = lambda path: Told()
    #: The front end that published weights say they learned from, by name, where they do.
    hears: Callable[[Path], str | None] | None = None
    #: Front ends of presets that hear something else than `config.front_end`.
    front_ends: Mapping[str, str] = {}


def _for_inference(network: ATGNN | LabelsBeside, dtype: torch.dtype) -> InferenceModel:
    if isinstance(network, LabelsBeside):
        return inference.for_inference_beside(network, dtype)
    return inference.for_inference(network, dtype)


def _told_by_atgnn(path: Path) -> Told:
    layout = published_config(path)
    heard = {"n_mels": layout.n_mels, "pad_to_frames": layout.nominal_frames}
    return Told(layout.model_dump(), heard)


def _baseline(
    config: type[BaselineConfig],
    network: type[Baseline],
    presets: Mapping[str, BaselineConfig],
    tag: str,
    summary: str,
    **special: Any,
) -> Kind:
    """A row for a baseline, which says most things itself."""

    def measure(layout: BaselineConfig, frames: int) -> Cost:
        return cast(Baseline, empty_network(layout)).measure_cost(frames)

    return Kind(
        config,
        network,
        presets,
        tag,
        summary,
        network.initialise,
        network.for_inference,
        measure,
        **special,
    )


#: All kinds, by the `kind` of their configuration.
KINDS: dict[str, Kind] = {
    "atgnn": Kind(
        ModelConfig,
        ATGNN,
        PRESETS,
        "graph-neural-network",
        "An audio tagging graph neural network.",
        initialise,
        _for_inference,
        cost.measure_cost,
        starts={"imagenet": load_imagenet},
        start_preset="mini-lite0",
        load=lambda model, path: load_published(path, model),
        told=_told_by_atgnn,
    ),
    "efficientnet-lite": _baseline(
        EfficientNetLiteConfig,
        EfficientNetLite,
        LITE_PRESETS,
        "efficientnet",
        "An EfficientNet-Lite for audio tagging.",
        starts={"imagenet": load_imagenet},
        start_preset="lite0",
    ),
    "psla": _baseline(
        PSLAConfig,
        PSLA,
        PSLA_PRESETS,
        "efficientnet",
        "PSLA (EfficientNet-B2 with attention pooling) for audio tagging.",
        load=load_psla,
    ),
    "ast": _baseline(
        ASTConfig,
        AST,
        AST_PRESETS,
        "audio-spectrogram-transformer",
        "An Audio Spectrogram Transformer.",
        load=load_ast,
        loads=is_published_ast,
        form="a file of weights, or a folder of the Hub with an AST's config.json and its weights",
        told=told_by_ast,
    ),
    "audio-transformer": _baseline(
        AudioTransformerConfig,
        AudioTransformer,
        AUDIO_TRANSFORMER_PRESETS,
        "audio-transformer",
        "An Audio Transformer, which tags raw waveforms.",
    ),
    "wav2clip": _baseline(
        Wav2CLIPConfig,
        Wav2CLIP,
        WAV2CLIP_PRESETS,
        "wav2clip",
        "Wav2CLIP's audio encoder with a classifier for audio tagging.",
        load=load_wav2clip,
    ),
    "small-cnn": _baseline(
        SmallCNNConfig,
        SmallCNN,
        SMALL_CNN_PRESETS,
        "cnn",
        "A small convolutional network for audio tagging.",
    ),
    "cnn14": _baseline(
        CNN14Config,
        CNN14,
        CNN14_PRESETS,
        "panns",
        "PANNs' CNN14 for audio tagging.",
        load=load_cnn14,
        hears=cnn14_front_end,
        front_ends={"cnn14-16k": "cnn14-16k"},
    ),
    "fsd50k-vgg": _baseline(
        FSD50KVGGConfig,
        FSD50KVGG,
        FSD50K_VGG_PRESETS,
        "vgg",
        "The VGG-like network of the FSD50K paper for audio tagging.",
    ),
}


def _kind(value: Any) -> str:
    """The kind of a configuration; checkpoints from before there were several have none."""
    if isinstance(value, dict):
        return str(value.get("kind", "atgnn"))
    return str(getattr(value, "kind", "atgnn"))


#: For fields of settings: read from JSON by its kind.
if TYPE_CHECKING:
    NetworkConfig: TypeAlias = LayoutConfig
else:
    NetworkConfig = Annotated[
        Union[tuple(Annotated[kind.config, Tag(name)] for name, kind in KINDS.items())],  # noqa: UP007
        Discriminator(_kind),
    ]

_OF_PRESET = {preset: kind for kind in KINDS.values() for preset in kind.presets}


def kind_of(config: LayoutConfig) -> Kind:
    """The row of a configuration."""
    return KINDS[config.kind]


def network_names() -> list[str]:
    """Names of all presets: ATGNN's from small to large, then the baselines."""
    return list(_OF_PRESET)


def network_preset(name: str, **changes: Any) -> LayoutConfig:
    """A preset's configuration, with some fields changed; ConfigError where they do not fit."""
    return _kind_with(name).presets[name].replace(**changes)


def preset_of(config: LayoutConfig) -> str | None:
    """The preset that a configuration is, whatever its labels; None where it is none."""
    presets = kind_of(config).presets.items()
    same = (name for name, one in presets if one.replace(num_labels=config.num_labels) == config)
    return next(same, None)


def own_front_end(name: str) -> FrontEndConfig:
    """What the network of a preset hears where it was published; ConfigError if unknown."""
    kind = _kind_with(name)
    return FRONT_ENDS[kind.front_ends.get(name, kind.config.front_end)]


def own_frames(name: str, seconds: float) -> int:
    """Frames that the network of a preset gets of a clip from its own front end."""
    front_end = own_front_end(name)
    return front_end.pad_to_frames or front_end.seconds_to_frames(seconds)


def _kind_with(name: str) -> Kind:
    if name not in _OF_PRESET:
        raise ConfigError(
            f"unknown preset {name!r} (there are {', '.join(_OF_PRESET)})"
            f"{did_you_mean(name, _OF_PRESET)}"
        )
    return _OF_PRESET[name]


def published_front_end(kind: Kind, weights: Path) -> str | None:
    """The name of the front end that published weights say they learned from; None: nothing."""
    return None if kind.hears is None else kind.hears(weights)


def check_front_end(front_end: FrontEndConfig, config: LayoutConfig) -> None:
    """Raises `ValueError` where a network cannot hear what a front end makes."""
    heard = FRONT_ENDS[config.front_end].kind == "waveform"
    if (front_end.kind == "waveform") != heard:
        sorts = ("the waveform", "mel bins")
        made, wanted = sorts if front_end.kind == "waveform" else sorts[::-1]
        raise ValueError(
            f"the front end makes {made}, a network of kind {config.kind} hears {wanted}: set "
            "front_end={preset: own}"
        )
    if front_end.n_mels != config.n_mels:
        raise ValueError(f"front end with {front_end.n_mels} bins, model with {config.n_mels}")


def build(config: LayoutConfig) -> Network:
    """A network with random weights."""
    return kind_of(config).build(config)


def empty_network(config: LayoutConfig) -> Network:
    """A network that takes no memory, to count its layers or to fill it from a file."""
    with without_values():
        return build(config)


def initialise_network(network: Network, residual_scale: float) -> None:
    """Draw random weights, the residual branches' last scale as given."""
    kind_of(network.config).initialise(network, residual_scale)


def for_inference(network: Network, dtype: torch.dtype = torch.float32) -> InferenceModel:
    """A copy for inference alone, norms folded away; see `atgnn.model.inference`."""
    return kind_of(network.config).for_inference(network, dtype)


def base_labels(network: Network) -> int:
    """How many labels a network has without those of packs."""
    own = network.network if isinstance(network, LabelsBeside) else network
    return cast(int, own.config.num_labels)


def measure_cost(config: LayoutConfig, frames: int = FRAMES) -> Cost:
    """Parameters and multiply-accumulates for one clip of `frames` frames."""
    return kind_of(config).measure_cost(config, frames)


def preset_cost(name: str, frames: int = FRAMES, **changes: Any) -> Cost:
    """What a preset costs for a clip as long as `frames` frames of 10 ms, which ATGNN hears.

    Networks that hear something else get as much of their own input: samples, or other frames.
    """
    if own_front_end(name) != FRONT_ENDS["paper"]:
        frames = own_frames(name, frames * FRONT_ENDS["paper"].hop_ms / 1000)
    return measure_cost(network_preset(name, **changes), frames)


def preset_costs(frames: int = FRAMES, **changes: Any) -> tuple[dict[str, Cost], list[str]]:
    """`preset_cost` of all presets, and a line about each that needs what is not installed."""
    costs, notes = {}, []
    for name in network_names():
        try:
            costs[name] = preset_cost(name, frames, **changes)
        except MissingExtraError as error:
            notes.append(f"{name} is left out: {error}")
    return costs, notes
