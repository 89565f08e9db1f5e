"""Whatever can sit in a checkpoint: ATGNN, or a baseline behind the same interface.

A network is a module with ``forward(mel (B, T, F), lengths (B,) | None) -> logits (B, S)`` and a
frozen ``config``, whose ``kind`` says which class it belongs to.
"""

from typing import Annotated, Any, TypeAlias

import torch
from pydantic import Discriminator, Tag

from atgnn.baselines import LITE_PRESETS, EfficientNetLite, EfficientNetLiteConfig
from atgnn.errors import ConfigError, did_you_mean
from atgnn.model import ATGNN, PRESETS, ModelConfig, cost, inference
from atgnn.model.atgnn import initialise
from atgnn.model.beside import LabelsBeside
from atgnn.model.empty import without_values
from atgnn.model.inference import InferenceModel

__all__ = [
    "Network",
    "NetworkConfig",
    "base_labels",
    "build",
    "empty_network",
    "for_inference",
    "initialise_network",
    "measure_cost",
    "network_names",
    "network_preset",
]

Network: TypeAlias = ATGNN | EfficientNetLite | LabelsBeside


def _kind(value: Any) -> str:
    """The kind of a configuration; checkpoints from before there were several have none."""
    if isinstance(value, dict):
        return str(value.get("kind", "atgnn"))
    return str(getattr(value, "kind", "atgnn"))


#: For fields of settings: read from JSON by its kind.
NetworkConfig: TypeAlias = Annotated[
    Annotated[ModelConfig, Tag("atgnn")]
    | Annotated[EfficientNetLiteConfig, Tag("efficientnet-lite")],
    Discriminator(_kind),
]

_PRESETS: dict[str, ModelConfig | EfficientNetLiteConfig] = {**PRESETS, **LITE_PRESETS}


def network_names() -> list[str]:
    """Names of all presets: ATGNN's from small to large, then the baselines."""
    return list(_PRESETS)


def network_preset(name: str, **changes: Any) -> ModelConfig | EfficientNetLiteConfig:
    """A preset's configuration, with some fields changed; ConfigError where they do not fit."""
    if name not in _PRESETS:
        raise ConfigError(
            f"unknown preset {name!r} (there are {', '.join(_PRESETS)})"
            f"{did_you_mean(name, _PRESETS)}"
        )
    return _PRESETS[name].replace(**changes)


def build(config: ModelConfig | EfficientNetLiteConfig) -> Network:
    """A network with random weights."""
    if isinstance(config, EfficientNetLiteConfig):
        return EfficientNetLite(config)
    return ATGNN(config)


def empty_network(config: ModelConfig | EfficientNetLiteConfig) -> Network:
    """A network that takes no memory, to count its layers or to fill it from a file."""
    with without_values():
        return build(config)


def initialise_network(network: Network, residual_scale: float) -> None:
    """Draw random weights, the residual branches' last scale as given."""
    if isinstance(network, EfficientNetLite):
        network.initialise(residual_scale)
    elif isinstance(network, ATGNN):
        initialise(network, residual_scale)


def for_inference(network: Network, dtype: torch.dtype = torch.float32) -> InferenceModel:
    """A copy for inference alone, norms folded away; see `atgnn.model.inference`."""
    if isinstance(network, EfficientNetLite):
        return network.for_inference(dtype)
    if isinstance(network, LabelsBeside):
        return inference.for_inference_beside(network, dtype)
    return inference.for_inference(network, dtype)


def base_labels(network: Network) -> int:
    """How many labels a network has without those of packs."""
    return (network.network if isinstance(network, LabelsBeside) else network).config.num_labels


def measure_cost(config: ModelConfig | EfficientNetLiteConfig, frames: int = 1024) -> cost.Cost:
    """Parameters and multiply-accumulates for one clip of `frames` frames."""
    if isinstance(config, ModelConfig):
        return cost.measure_cost(config, frames)
    with without_values():
        return EfficientNetLite(config).measure_cost(frames)
