"""How fast ATGNN is beside the published algorithm, AST and a MobileNet tagger.

python -m benchmarks.speed COMMAND [options]      # from the root of a checkout
"""

import importlib
import sys

from atgnn.errors import AtgnnError

COMMANDS = {
    "infer": "inference: milliseconds, ratios and peak memory",
    "train": "one training step: forward, backward, Adam",
    "length": "cost against clip length and against batch",
    "neighbours": "cost against the number of neighbours k",
    "frontend": "waveform to log-mel",
    "loader": "ten-second clips a second from packed waveforms",
    "coldstart": "a whole process that tags one clip",
    "half": "scores in bfloat16 against float32 on real sounds, and what being nearer costs",
    "bound": "where the time goes, against what the machine allows",
    "accuracy": "accuracy on ESC-10 beside milliseconds a clip, for every preset",
}


def main(argv: list[str]) -> int:
    """Run the command that `argv` begins with."""
    if not argv or argv[0] not in COMMANDS:
        print(__doc__.strip(), end="\n\n")
        for name, what in COMMANDS.items():
            print(f"    {name:<10} {what}")
        print("\nEach takes --help, and --json for machines.")
        return 0 if not argv or argv[0] in ("-h", "--help") else 2
    command = importlib.import_module(f"{__package__}.{argv[0]}")
    try:
        return command.main(argv[1:]) or 0
    except AtgnnError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
