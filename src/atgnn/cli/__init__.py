"""The command line: ``atgnn`` and its commands, a file for each theme.

Exit codes: 0 all went well; 1 a recording could not be read (`tag` goes on with the rest); 2 wrong
usage, a model, recipe or table that is missing or does not fit, or a kernel that cannot be built
or used; 130 stopped with Ctrl-C.
"""

# In the order in which `atgnn --help` lists the commands.
# isort: off
from atgnn.cli.base import app
from atgnn.cli import tagging, explaining, serving, archives, information  # noqa: F401
from atgnn.cli import prepare, scenes  # noqa: F401
from atgnn.cli import training, pretraining  # noqa: F401
from atgnn.cli import learning  # noqa: F401
from atgnn.cli import scores, others, enhancing, averages, evaluation, comparing, reproducing  # noqa: F401
from atgnn.cli import searching, converting, exporting  # noqa: F401

# isort: on
from atgnn.memory import keep_freed_memory

__all__ = ["app", "main"]


def main() -> None:
    """The console script."""
    keep_freed_memory()
    app()
