"""Dynamic graphs over sound: who is whose neighbour, and what a node takes from them.

Pure functions over tensors. Networks call `knn_extremum` (`operator`), which is both questions in
one; `neighbours` and `extremum` answer one each, plainly; `position` says what is near in frequency
and time, `pooling` and `removal` which nodes there are. Legend used in every file here:
B batch, N query nodes, M candidate nodes, K neighbours, C channels, F frequency, T time.
"""

from atgnn.graph.extremum import neighbour_extremum
from atgnn.graph.neighbours import nearest_neighbours, shrink
from atgnn.graph.operator import (
    BACKENDS,
    backend_in_use,
    extremum_over,
    knn_extremum,
    use_backend,
)
from atgnn.graph.pooling import ceil_div, coarser, mean_nodes, node_mask, pool_nodes
from atgnn.graph.position import (
    NO_POSITION,
    Position,
    axis_table,
    grid_position,
    legacy_table,
    resize_table,
    sine_cosine,
)

__all__ = [
    "BACKENDS",
    "NO_POSITION",
    "Position",
    "axis_table",
    "backend_in_use",
    "ceil_div",
    "coarser",
    "extremum_over",
    "grid_position",
    "knn_extremum",
    "legacy_table",
    "mean_nodes",
    "nearest_neighbours",
    "neighbour_extremum",
    "node_mask",
    "pool_nodes",
    "resize_table",
    "shrink",
    "sine_cosine",
    "use_backend",
]
