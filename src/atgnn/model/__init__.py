"""The model of the paper, and what is done with it.

To be read beside the paper:

    config    -> every choice of layout, and the presets
    atgnn     -> the whole, and the head (eq. 7 and 9)
    patch     -> stem, patch blocks (PGN, eq. 1 to 3), stages
    label     -> label blocks (PLG, eq. 4 and 5; LLG, eq. 6) and the readout (eq. 8)
    layers    -> what both kinds of block are made of
    inverted  -> the stages of EfficientNet-Lite0, as another stem
    weights   -> published weights in

The same numbers sooner, or of less memory: `inference`, `graphs` (CUDA), and in training `fused`,
`products`, `segments` and `together`. More than scores: `geometry`, `moments` and `evidence` say
when and where, `beside` adds labels. Weights and sizes: `transfer`, `digest`, `empty`, `cost`.
"""

from atgnn.model.atgnn import ATGNN
from atgnn.model.config import PRESETS, LayoutConfig, ModelConfig, preset, preset_names

__all__ = ["ATGNN", "PRESETS", "LayoutConfig", "ModelConfig", "preset", "preset_names"]
