"""One training step (forward, backward, Adam): ours, the published algorithm and AST, turn by turn.

python -m benchmarks.speed train                                # pyr-s, batch 4 and 16
python -m benchmarks.speed train --keep usual lean              # what `memory: lean` changes
python -m benchmarks.speed train --batch 24 --device cuda --precision fp32 bf16 fp16
"""

from .harness import parser
from .infer import SYSTEMS, measure


def main(argv: list[str]) -> int:
    """Parse options, measure, print."""
    options = parser(
        __doc__.splitlines()[0],
        systems=["ours", "published", "ast"],
        preset=["pyr-s"],
        batch=[4, 16],
        seconds=[10.0],
        precision=None,
        compile=[],
        keep=["usual"],
        rounds=5,
    ).parse_args(argv)
    return measure("train", SYSTEMS, options)
