"""The figures that the paper prints in its Tables I to III, as far as they could be established.

S. Singh et al., *ATGNN: Audio Tagging Graph Neural Network* (arXiv 2311.01526). Parameters and
"GFLOPs" (multiply-accumulates in fact) of its own models are those of `atgnn.costs.PAPER`. A
figure that we could not establish from the paper's abstract, its author's repository or the works
that it quotes is left out: None.
"""

from dataclasses import dataclass
from typing import Literal

from atgnn.costs import PAPER

__all__ = ["SETS", "TABLES", "DataSet", "Line", "PaperTable"]


#: Networks of pictures that systems start from, as published, by the beginning of our presets.
IMAGENET = {
    "iso-s": "vig_s_80.6.pth",
    "pyr-s": "pvig_s_82.1.pth.tar",
    "pyr-m": "pvig_m_83.1.pth.tar",
    "psla": "efficientnet-b2-8bb594d6.pth",
    "ast": "deit_base_distilled_patch16_384-d0272ac0.pth",
}


@dataclass(frozen=True)
class DataSet:
    """What a table's mAP is on, and how it is had here.

    Attributes:
        name: for people.
        folder: where `atgnn reproduce --data DIR` looks for it below DIR.
        prepare: the command that makes it, without ``--out``.
        recipe: the recipe that trains on it.
        split: which clips the mAP is over.
        labels, frames: of the published models' output and input, frames of 10 ms.
    """

    name: str
    folder: str
    prepare: str
    recipe: str
    split: str
    labels: int
    frames: int


SETS = {
    "fsd50k": DataSet(
        "FSD50K", "fsd50k", "atgnn prepare fsd50k DOWNLOADED", "fsd50k", "eval", 200, 1024
    ),
    "audioset20k": DataSet(
        "AudioSet (balanced)",
        "audioset20k",
        "atgnn prepare audioset SOUNDS",
        "audioset20k",
        "eval",
        527,
        1056,
    ),
}


@dataclass(frozen=True)
class Line:
    """A system of a table: our preset, and what is printed of it.

    Attributes:
        name: what the paper calls it.
        preset, changes: ours, and fields of its configuration to change.
        millions, gmacs, mean_ap: as the paper prints them; mAP between 0 and 1.
        elsewhere, source: mAP on the same data in the system's own publication.
    """

    name: str
    preset: str
    changes: tuple[tuple[str, int], ...] = ()
    millions: float | None = None
    gmacs: float | None = None
    mean_ap: float | None = None
    elsewhere: float | None = None
    source: str = ""

    @property
    def init(self) -> str:
        """Published weights of pictures that the system starts from; "" for others."""
        return next((file for start, file in IMAGENET.items() if self.preset.startswith(start)), "")

    @property
    def run(self) -> str:
        """What a run of it is called."""
        return "-".join([self.preset, *(f"{key}{value}" for key, value in self.changes)])


@dataclass(frozen=True)
class PaperTable:
    """One table: what it is about, on which data, its systems, and what has to be known."""

    title: str
    data: Literal["fsd50k", "audioset20k"]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def _ours(name: str, preset: str, mean_ap: float | None = None) -> Line:
    millions, gmacs = PAPER[preset]
    return Line(name, preset, (), millions, gmacs, mean_ap)


_SIZES = (
    "parameters and GMAC that the paper prints for its own models fit 200 labels and 1024 frames "
    "best (docs/paper.md); the columns here are measured with the labels and frames of the table"
)
_START = (
    "the paper's encoders start from ImageNet weights, files of the releases `pyramid-vig` and "
    "`vig` of huawei-noah/Efficient-AI-Backbones, PSLA from those of "
    "lukemelas/EfficientNet-PyTorch, AST from those of facebookresearch/deit; commands of other "
    "systems train from random weights, which is not how Wav2CLIP was published (docs/baselines.md)"
)
_OWN = "PSLA's repository"

TABLES = {
    "table1": PaperTable(
        "Table I: mAP against the number of neighbours k, FSD50K",
        "fsd50k",
        tuple(
            Line(f"k = {k}", "pyr-s-encoder", (("k", k),), mean_ap=value)
            for k, value in ((9, 0.579), (12, 0.577), (15, 0.577), (18, 0.579), (20, 0.576))
        ),
        (
            "the paper does not say with which model; 0.579 at k = 9 is less than its 0.583 for "
            "pyr-s, so we take pyr-s without label blocks",
            "neither parameters nor the multiply-accumulates that are counted depend on k; time "
            "does: --time measures it",
            _START,
        ),
    ),
    "table2": PaperTable(
        "Table II: AudioSet, trained on the balanced set",
        "audioset20k",
        (
            Line("PANNs CNN14", "cnn14", millions=81.0),
            Line("PSLA", "psla", millions=13.6, elsewhere=0.312, source=_OWN),
            Line("AST", "ast", millions=88.7),
            _ours("ATGNN-iso-s", "iso-s"),
            _ours("ATGNN-pyr-s (-MLG)", "pyr-s-encoder"),
            _ours("ATGNN-pyr-s", "pyr-s"),
            _ours("ATGNN-pyr-m (-MLG)", "pyr-m-encoder"),
            _ours("ATGNN-pyr-m", "pyr-m"),
        ),
        (
            "the paper's best is 0.335 (abstract); its ablation is 0.335 with label blocks and "
            "0.331 without (author's repository), for a size that we could not establish",
            _SIZES,
            _START,
        ),
    ),
    "table3": PaperTable(
        "Table III: FSD50K",
        "fsd50k",
        (
            Line("VGG-like", "fsd50k-vgg", millions=0.27),
            Line("Wav2CLIP", "wav2clip", elsewhere=0.431, source="its own paper"),
            Line(
                "Audio Transformers",
                "audio-transformer",
                millions=2.3,
                elsewhere=0.537,
                source="its own paper",
            ),
            Line("PSLA", "psla", millions=13.6, elsewhere=0.567, source="its own paper"),
            _ours("ATGNN-iso-s", "iso-s"),
            _ours("ATGNN-pyr-s", "pyr-s", 0.583),
            _ours("ATGNN-pyr-m", "pyr-m"),
        ),
        (
            "the paper's best is 0.585 (abstract), for a size that we could not establish",
            "13.6 M of PSLA are with AudioSet's 527 labels; its 0.567 is of averaged weights",
            _SIZES,
            _START,
        ),
    ),
}
