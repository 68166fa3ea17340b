"""`python -m magi.reproduce`: what `magi reproduce` does, where nothing but the core is installed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from magi.reproduce.crew import Crew
from magi.reproduce.reproduce import reproduce
from magi.reproduce.scale import SCALES
from magi.training.loop import Interrupted


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m magi.reproduce", description="The paper in miniature.")
    parser.add_argument("--scale", choices=list(SCALES), default="smoke", help="how large")
    parser.add_argument("--out", type=Path, default=None, help="where models and clips are kept; runs/reproduce-SCALE")
    parser.add_argument("--results", type=Path, default=None, help="where results go; results/reproduce/SCALE")
    parser.add_argument("--only", nargs="+", default=None, metavar="PART", help="names of studies")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--jobs", type=int, default=1, help="steps at a time, each in a process of its own")
    parser.add_argument("--minutes", type=float, default=None, help="stop after these, to go on by the same command")
    parser.add_argument("--graphs", action="store_true", help="train in CUDA graphs")
    parser.add_argument("--step", default=None, metavar="NAME", help="do this one step")
    given = parser.parse_args()
    alone = given.jobs == 1 and given.minutes is None
    try:
        crew = None if alone else Crew(given.jobs, given.minutes)
        reproduce(
            given.scale, folder=given.out, results=given.results, only=given.only, device=given.device,
            step=given.step, crew=crew, graphs=given.graphs,
        )  # fmt: skip
    except Interrupted as stopped:
        print(stopped, flush=True)
        return 128 + stopped.number
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
