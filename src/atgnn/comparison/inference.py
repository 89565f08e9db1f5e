"""The inference times of a comparison, measured in a process of its own.

python -m atgnn.comparison.inference OUT
"""

import json
import sys
from pathlib import Path

import torch

from atgnn.checkpoint import Checkpoint
from atgnn.comparison.plan import Places, read_plan
from atgnn.comparison.result import Result
from atgnn.comparison.timing import FILE, ROUNDS, caller, made_up, medians
from atgnn.doctor import processor
from atgnn.errors import AtgnnError
from atgnn.files import write_text
from atgnn.training.cluster import accelerator

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Time the models that have a run; writes OUT/inference.json."""
    out = Path(arguments[0])
    plan, places = read_plan(out), Places(out)
    device = accelerator(plan.recipe.scale)
    calls, problems = {}, {}
    for job in plan.jobs():
        result = Result.read(places.beside(job, "json"))
        if result is None or not result.done or job.entry.name in calls:
            continue
        try:
            checkpoint = Checkpoint.from_pretrained(places.run(job) / "model")
            rate = checkpoint.front_end.sample_rate
            wave = made_up(plan.recipe.window_seconds, rate).to(device)
            call = caller(checkpoint.model, checkpoint.make_front_end(), wave)
            call()
        except (AtgnnError, RuntimeError) as error:
            problems[job.entry.name] = str(error).splitlines()[0]
            continue
        calls[job.entry.name] = call
    report = {
        "machine": torch.cuda.get_device_name() if device == "cuda" else processor().name,
        "threads": torch.get_num_threads(),
        "seconds": plan.recipe.window_seconds,
        "rounds": ROUNDS,
        "milliseconds": medians(calls, device) if calls else {},
        "problems": problems,
    }
    write_text(out / FILE, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
