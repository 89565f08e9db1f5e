"""A whole archive of recordings: tagged in shards, interrupted and resumed, read back, listened to.

`tag_archive` writes, `read`, `tags`, `events` and `windows` give tables, `export_segments` cuts out
the best clips of every label.
"""

from atgnn.archive.listing import Shard
from atgnn.archive.reading import events, read, tags, windows
from atgnn.archive.run import Done, Report, tag_archive
from atgnn.archive.segments import export_segments
from atgnn.archive.settings import ArchiveSettings

__all__ = [
    "ArchiveSettings",
    "Done",
    "Report",
    "Shard",
    "events",
    "export_segments",
    "read",
    "tag_archive",
    "tags",
    "windows",
]
