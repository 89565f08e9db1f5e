"""How good a model is, and how far that number can be trusted.

`measured`: a model or a score file, and clips with known labels, give a `Report`. `compared`: two
score files on the same clips. `ranked`: several. `collections`: negatives of one collection,
leaving one out. `alarms`: false alarms. `owners`: whose the clips are. `pages`, `written`,
`curves`, `tables`: how all of that looks.
"""

from atgnn.evaluate.alarms import FalseAlarms, false_alarms
from atgnn.evaluate.collections import LeftOut, collection_negatives, leave_one_collection_out
from atgnn.evaluate.compared import Comparison, compare
from atgnn.evaluate.measured import choose_clips, evaluate, evaluate_table
from atgnn.evaluate.owners import owners_of
from atgnn.evaluate.ranked import Ranking, rank
from atgnn.evaluate.report import Intervals, Report, measure
from atgnn.evaluate.written import write_report

__all__ = [
    "Comparison",
    "FalseAlarms",
    "Intervals",
    "LeftOut",
    "Ranking",
    "Report",
    "choose_clips",
    "collection_negatives",
    "compare",
    "evaluate",
    "evaluate_table",
    "false_alarms",
    "leave_one_collection_out",
    "measure",
    "owners_of",
    "rank",
    "write_report",
]
