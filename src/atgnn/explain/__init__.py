"""Why a tag: the evidence for it in time and frequency, the labels that moved it, what carries it.

    window of sound -> patch nodes -> what each node and each edge gave to the label's log-odds
                    -> regions (s, Hz) -> pictures, their sound, a page
    nodes and label nodes removed -> smallest sufficient set, influences of other labels

Everything is asked of the real network; nothing is trained for it.
"""

from atgnn.explain.asking import explain
from atgnn.explain.figure import figure
from atgnn.explain.page import to_html
from atgnn.explain.records import (
    Edge,
    Evidence,
    Explanation,
    Influence,
    Region,
    Sufficient,
    Window,
)
from atgnn.explain.sound import sound_of
from atgnn.explain.writing import form_of, write

__all__ = [
    "Edge",
    "Evidence",
    "Explanation",
    "Influence",
    "Region",
    "Sufficient",
    "Window",
    "explain",
    "figure",
    "form_of",
    "sound_of",
    "to_html",
    "write",
]
