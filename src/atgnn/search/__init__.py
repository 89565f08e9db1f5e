"""What sounds like this? An index of recordings, searched by a clip or by a region of one."""

from atgnn.search.index import Index, IndexSettings, Match, SearchError
from atgnn.search.regions import Box

__all__ = ["Box", "Index", "IndexSettings", "Match", "SearchError"]
