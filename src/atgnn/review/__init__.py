"""Review of what learned labels say: segments to judge, verdicts on record, heads fitted again."""

from atgnn.review.asking import ask, player
from atgnn.review.session import ORDERS, ReviewSession, ReviewStore, Segment, Verdict

__all__ = ["ORDERS", "ReviewSession", "ReviewStore", "Segment", "Verdict", "ask", "player"]
