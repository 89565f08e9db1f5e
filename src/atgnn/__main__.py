"""``python -m atgnn`` is the ``atgnn`` command."""

from atgnn.cli import main

main()
