"""pyarrow, or one line that says how to get it."""

from atgnn.errors import MissingExtraError

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError:
    raise MissingExtraError.of("pyarrow", "archive", "tagging archives") from None

__all__ = ["pa", "pc", "pq"]
