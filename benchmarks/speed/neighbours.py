"""Cost against the number of neighbours k: the settings of the paper's Table I, turn by turn.

python -m benchmarks.speed neighbours                    # pyr-s, one clip of 10 s

Dilation shrinks as k grows (Vision GNN: at most 49 over k), so a patch looks for its k x dilation
nearest among about as many. The paper's mAP for these k is 57.9, 57.7, 57.7, 57.9, 57.6: flat.
Differences of that size are smaller than the sounds at hand can show, and none is measured here.
"""

import statistics
from typing import Any

import torch

from atgnn.model import ATGNN

from .harness import (
    Case,
    Contestant,
    finish,
    heading,
    machine,
    parser,
    quartiles,
    table,
    threads,
    timed,
)
from .systems import LABELS, inference, settled

PAPER = {9: 57.9, 12: 57.7, 15: 57.7, 18: 57.9, 20: 57.6}  # mAP on FSD50K, its Table I
NOTE = (
    "The paper's mAP is flat in k, and differences in accuracy of that size are smaller than the "
    "development sounds can show: only cost is measured."
)


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    options_of = parser(
        __doc__.splitlines()[0], preset=["pyr-s"], batch=[1], seconds=[10.0], rounds=5, memory=False
    )
    options_of.add_argument("--k", nargs="+", type=int, default=list(PAPER), metavar="K")
    options = options_of.parse_args(argv)
    cases, text = [], []
    with threads(options.threads):
        for preset in options.preset:
            for seconds in options.seconds:
                for batch in options.batch:
                    case = Case("infer", "ours", "fp32", preset, batch, seconds, options.device)
                    rows = measured(case, options.k, options.rounds)
                    cases.append(
                        {"preset": preset, "batch": batch, "clip_seconds": seconds, "rows": rows}
                    )
                    text += [f"{preset}, batch {batch}, {seconds:g} s", *table(rows, COLUMNS)]
        facts = machine(options)
    report = {"command": "neighbours", "machine": facts, "options": vars(options), "note": NOTE}
    lines = [heading("neighbours", facts), *text, NOTE]
    return finish({**report, "cases": cases}, "\n".join(lines), options)


COLUMNS = {"k": "d", "largest_dilation": "d", "median_ms": ",.1f", "ratio": ".2f",
           "ratio_from": ".2f", "ratio_to": ".2f", "paper_map": ".1f"}  # fmt: skip


def measured(case: Case, neighbours: list[int], rounds: int) -> list[dict[str, Any]]:
    """A row for each k; ratios are to the first one, the median and quartiles of the rounds."""
    contestants, dilations = [], []
    for k in neighbours:
        torch.manual_seed(0)
        model = ATGNN.from_preset(
            case.preset, num_labels=LABELS, nominal_frames=max(1024, case.frames), k=k
        )
        dilations.append(model.config.max_dilation)
        contestants.append(Contestant(case, inference(case, settled(model, case))))
    seconds = timed(contestants, rounds)
    rows = []
    for k, dilation, own in zip(neighbours, dilations, seconds, strict=True):
        ratios = [a / b for a, b in zip(own, seconds[0], strict=True)]
        low, high = quartiles(ratios)
        rows.append(
            {
                "k": k,
                "largest_dilation": dilation,
                "median_ms": 1e3 * statistics.median(own),
                "ratio": statistics.median(ratios),
                "ratio_from": low,
                "ratio_to": high,
                "paper_map": PAPER.get(k),
                "seconds": own,
            }
        )
    return rows
