"""`python -m magi`, which is also how `torchrun -m magi` starts the processes of a run."""

from __future__ import annotations

import sys

from magi.cli import main

if __name__ == "__main__":
    sys.exit(main())
