"""New labels from a few clips: label packs for a model that stays as it is."""

from atgnn.learn.learning import Learned, Lessons, learn, learn_label, listen, made_by_rule
from atgnn.learn.nodes import ClipNodes, Listener, NodeCache, content_key

__all__ = [
    "ClipNodes",
    "Learned",
    "Lessons",
    "Listener",
    "NodeCache",
    "content_key",
    "learn",
    "learn_label",
    "listen",
    "made_by_rule",
]
