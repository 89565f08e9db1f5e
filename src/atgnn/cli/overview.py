"""The commands in the order of `atgnn --help`, in groups, each with examples for its own help.

A command that is not listed here is shown last; a test sees to it that there is none.
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["EXAMPLES", "GROUPS", "arrange", "place"]

#: Groups of commands, and examples of each command.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "Listen": {
        "tag": (
            "atgnn tag recordings/ --json > tags.jsonl",
            "atgnn tag night.flac --events --format audacity --out night.txt",
            "atgnn tag ARCHIVE --out RESULTS --resume",
        ),
        "explain": ("atgnn explain night.flac",),
        "app": ("atgnn app --open", "atgnn app --pack cow.pack field/"),
        "segments": ("atgnn segments RESULTS ARCHIVE --count 20",),
    },
    "Your own labels": {
        "learn": (
            'atgnn learn "my cow" cows/ --not field/ --out cow.pack',
            "atgnn tag pasture.wav --pack cow.pack",
        ),
        "packs": ("atgnn packs cow.pack theirs.pack --out ours.pack",),
        "review": ("atgnn review field/ --pack cow.pack --who Ada",),
    },
    "Search": {
        "embed": ("atgnn embed recordings/ --out embeddings.parquet",),
        "index": ("atgnn index recordings/ --out INDEX",),
        "search": ("atgnn search query.wav --in INDEX --top 10",),
    },
    "Train": {
        "prepare": ("atgnn prepare fsd50k DOWNLOADED --out PACKED",),
        "train": (
            "atgnn train folder-finetune --clips SOUNDS --out RUN",
            "atgnn train fsd50k --clips PACKED --out RUN --devices 4",
            "atgnn train --out RUN --resume",
        ),
        "pretrain": ("atgnn pretrain recordings/ --out RUN",),
        "recipes": ("atgnn recipes", "atgnn recipes fsd50k"),
    },
    "Scores of many clips": {
        "score": (
            "atgnn score RUN/model CLIPS --out scores.parquet",
            "atgnn score hf:MIT/ast-finetuned-audioset-10-10-0.4593 CLIPS --out ast.parquet",
        ),
        "import": (
            "atgnn import passt.npy --logits --names rows.pkl --to fsd50k --out passt.parquet",
        ),
        "enhance": ("atgnn enhance --clips CLIPS --scores teacher.parquet --out more.csv",),
        "calibrate": (
            "atgnn calibrate RUN/model --scores scores.parquet --clips CLIPS --out CALIBRATED",
        ),
        "average": ("atgnn average RUN --epochs 41-50",),
        "ensemble": ("atgnn ensemble a.parquet b.parquet --out both.parquet",),
    },
    "How good is it": {
        "evaluate": (
            "atgnn evaluate RUN/model CLIPS --report REPORT",
            "atgnn evaluate --scores scores.parquet CLIPS",
        ),
        "compare": (
            "atgnn compare a.parquet b.parquet CLIPS --report REPORT",
            "atgnn compare esc10 --models mini,lite0 --seeds 3 --out COMPARED",
        ),
        "reproduce": ("atgnn reproduce table2 --data PACKED",),
    },
    "Models and this machine": {
        "models": ("atgnn models",),
        "convert": ("atgnn convert Cnn14_mAP=0.431.pth --preset cnn14 --out CNN14",),
        "export": ("atgnn export everyday-lite0 --out model.onnx",),
        "doctor": ("atgnn doctor", "atgnn doctor --build"),
    },
}

#: Examples of the commands of `atgnn prepare`.
PREPARE: dict[str, tuple[str, ...]] = {
    "fsd50k": ("atgnn prepare fsd50k DOWNLOADED --out PACKED",),
    "audioset": ("atgnn prepare audioset SOUNDS --list eval_segments.csv --out PACKED",),
    "esc50": ("atgnn prepare esc50 ESC-50 --download --out PACKED",),
    "table": ("atgnn prepare table clips.csv --out PACKED",),
    "folder": ("atgnn prepare folder SOUNDS --out PACKED",),
    "manifest": ("atgnn prepare manifest train.json eval.json --out PACKED",),
    "check": ("atgnn prepare check PACKED",),
    "scenes": ("atgnn prepare scenes EVENTS --out SCENES",),
}

EXAMPLES = {name: lines for group in GROUPS.values() for name, lines in group.items()}
_ORDER = [*EXAMPLES, *PREPARE]


def place(name: str) -> int:
    """Where a command stands in the list."""
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def arrange(app: Any, prepare: Any) -> None:
    """Put the commands of the application into their groups, and examples into their help."""
    groups = {name: group for group, names in GROUPS.items() for name in names}
    for info in (*app.registered_commands, *prepare.registered_commands):
        info.help = _unwrapped(inspect.getdoc(info.callback) or "")
    for info in (*app.registered_commands, *app.registered_groups):
        name = info.name or info.callback.__name__
        info.rich_help_panel = groups.get(name, "Others")
        info.epilog = _shown(EXAMPLES.get(name, ()))
    for info in prepare.registered_commands:
        info.epilog = _shown(PREPARE.get(info.name or info.callback.__name__, ()))


def _unwrapped(text: str) -> str:
    """A docstring whose paragraphs are one line each: a terminal has a width of its own."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _shown(examples: tuple[str, ...]) -> str:
    """Examples as lines of their own: paragraphs, for the help would join lines."""
    return "\n\n".join(("Examples:" if len(examples) > 1 else "Example:", *examples))
