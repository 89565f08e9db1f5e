"""Peak memory of one case, in a process of its own: `harness.peak_memory` starts it."""

import json
import resource
import sys
from pathlib import Path

import torch

from .harness import Case
from .systems import NEEDS, bare_network, build, front_end

CALLS = 2  # the first one also fills caches and makes Adam's state


def main(argv: list[str]) -> int:
    """Run a case twice and print its peak in MB."""
    case = Case(**json.loads(argv[0]))
    if case.system in NEEDS:
        import transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer  # noqa: E501, F401
    imported = resident()
    run = front_end(case) if case.task == "frontend" else build(case, bare_network(case))
    for _ in range(CALLS):
        run()
    if case.device.startswith("cuda"):
        peak, imported = torch.cuda.max_memory_allocated() / 1e6, 0.0
    else:
        peak = resident()
    print(json.dumps({"peak_mb": peak, "own_mb": peak - imported}))
    return 0


def resident() -> float:
    """Peak of this process's resident memory so far, in MB.

    Not from `getrusage` on Linux, where a process inherits the peak of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
