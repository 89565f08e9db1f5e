"""The model: configuration, patch side, label side, published weights."""

from atgnn.model.atgnn import ATGNN
from atgnn.model.config import PRESETS, LayoutConfig, ModelConfig, preset, preset_names

__all__ = ["ATGNN", "PRESETS", "LayoutConfig", "ModelConfig", "preset", "preset_names"]
