"""`python -m magi.reproduce`: what `magi reproduce` does, where nothing but the core is installed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from magi.reproduce.reproduce import reproduce
from magi.reproduce.scale import SCALES


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m magi.reproduce", description="The paper in miniature.")
    parser.add_argument("--scale", choices=list(SCALES), default="smoke", help="how large")
    parser.add_argument("--out", type=Path, default=None, help="where models and clips are kept; runs/reproduce-SCALE")
    parser.add_argument("--results", type=Path, default=None, help="where results go; results/reproduce/SCALE")
    parser.add_argument("--only", nargs="+", default=None, metavar="PART", help="names of studies")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    given = parser.parse_args()
    reproduce(given.scale, folder=given.out, results=given.results, only=given.only, device=given.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
