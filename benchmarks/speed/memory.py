"""Peak memory of one case, in a process of its own: `harness.peak_memory` starts it."""

import json
import sys

import torch

from atgnn.memory import peak_memory

from .harness import Case
from .systems import NEEDS, bare_network, build, front_end

CALLS = 2  # the first one also fills caches and makes Adam's state


def main(argv: list[str]) -> int:
    """Run a case twice and print its peak in MB."""
    case = Case(**json.loads(argv[0]))
    if case.system in NEEDS:
        import transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer  # noqa: E501, F401
    imported = peak_memory()
    run = front_end(case) if case.task == "frontend" else build(case, bare_network(case))
    for _ in range(CALLS):
        run()
    if case.device.startswith("cuda"):
        peak, imported = torch.cuda.max_memory_allocated() / 1e6, 0.0
    else:
        peak = peak_memory()
    print(json.dumps({"peak_mb": peak, "own_mb": peak - imported}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
