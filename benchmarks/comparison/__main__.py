"""``python -m benchmarks.comparison``: see `run`."""

import sys

from .run import main

sys.exit(main())
