"""Models trained and judged on equal terms, and the paper's tables from one command.

`plan`: what is compared. `work`: a queue of processes over devices. `one`: a run in its process.
`budget`: epochs that fit into minutes. `timing`: models turn by turn, `inference` those of a
comparison. `table`, `written`: what came of it. `paper`: the figures of the paper. `reproduce`:
them beside ours.
"""

from atgnn.comparison.plan import Entry, Job, Places, Plan, claim, make_plan, read_plan
from atgnn.comparison.result import Result
from atgnn.comparison.run import compare_models
from atgnn.comparison.table import Row, Spread, Standings, read_standings

__all__ = [
    "Entry",
    "Job",
    "Places",
    "Plan",
    "Result",
    "Row",
    "Spread",
    "Standings",
    "claim",
    "compare_models",
    "make_plan",
    "read_plan",
    "read_standings",
]
