"""The models inside the package."""

from pathlib import Path

__all__ = ["SHIPPED", "shipped_models"]

SHIPPED = Path(__file__).parent / "pretrained"  # a checkpoint's folder for each


def shipped_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
