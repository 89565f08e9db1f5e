"""Other networks behind ATGNN's interface: to compare with, and to learn from."""

from atgnn.baselines.efficientnet import LITE_PRESETS, EfficientNetLite, EfficientNetLiteConfig

__all__ = ["LITE_PRESETS", "EfficientNetLite", "EfficientNetLiteConfig"]
