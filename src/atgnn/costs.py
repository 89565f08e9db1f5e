"""What models cost: the paper's figures, and those of the presets as they were measured.

Nothing here needs PyTorch, whose import takes longer than a list of presets should.
"""

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLASSES", "FRAMES", "PAPER", "Cost", "kept_costs"]


@dataclass(frozen=True)
class Cost:
    """Size and work of one model."""

    trainable_parameters: int
    stored_parameters: int  # trainable, and the frozen relative tables of the legacy geometry
    gmacs: float  # 1e9 multiply-accumulates of dense layers and k-NN score products, one clip


# The paper's Table I and II: million parameters and "GFLOPs" (multiply-accumulates in fact).
# docs/paper.md tells how far the two can agree.
PAPER: dict[str, tuple[float, float]] = {
    "iso-s": (38.7, 14.93),
    "pyr-s-encoder": (27.3, 12.94),
    "pyr-s": (36.4, 14.72),
    "pyr-m-encoder": (51.2, 24.93),
    "pyr-m": (62.7, 27.20),
}

#: Labels and frames of 10 ms that the figures kept here are for: the paper's.
CLASSES, FRAMES = 200, 1024

#: What ``atgnn models --measure --json`` wrote; a test measures it again.
FILE = Path(__file__).parent / "assets" / "costs.json"


def kept_costs() -> dict[str, Cost]:
    """The cost of every preset with `CLASSES` labels for `FRAMES` frames, as it was measured."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    return {row.pop("name"): Cost(**row) for row in rows}
