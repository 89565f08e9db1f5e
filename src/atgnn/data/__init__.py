"""Tables of clips and the data sets they come from."""

from atgnn.data.clips import Clip, Clips

__all__ = ["Clip", "Clips"]
