"""The command line: ``atgnn`` and its commands, a file for each theme.

Exit codes: 0 all went well; 1 sound could not be read: a recording that is missing or damaged, or a
folder without any (`tag` goes on with the rest); 2 wrong usage, a model, recipe, table or data set
that is missing or does not fit, or a kernel that cannot be built or used; 130 stopped with Ctrl-C.
"""

from atgnn.cli import (  # noqa: F401  (each file adds its commands)
    archives,
    averages,
    comparing,
    converting,
    enhancing,
    evaluation,
    explaining,
    exporting,
    information,
    learning,
    others,
    prepare,
    pretraining,
    reproducing,
    scenes,
    scores,
    searching,
    serving,
    tagging,
    training,
)
from atgnn.cli.base import app
from atgnn.cli.overview import arrange
from atgnn.memory import keep_freed_memory

__all__ = ["app", "main"]

arrange(app, prepare.prepare)


def main() -> None:
    """The console script."""
    keep_freed_memory()
    app()
