"""`magi demo`: the shipped model at work, and a page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.cli.arguments import Common, CommonOptions, parse
from magi.cli.models import find_release
from magi.distributed import Device
from magi.experiments.demo import run_demo


@dataclass(frozen=True)
class DemoArguments:
    """Continue videos with the shipped model, grade them, train a toy model, and show it all on one page.

    $ magi demo --out demo

    Takes some minutes on a CPU; then open demo/index.html.
    """

    out: Path = Path("demo")
    """A folder that is new or empty, or that an earlier demo made, which is replaced."""
    model: str = "world64"
    """A model of the procedural world at 64 pixels: world64, or the folder of a run or of a release."""
    quick: bool = False
    """A few seconds of everything, to see that it runs."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(DemoArguments, words, usage="demo")
    find_release(arguments.model)  # before anything is made
    run_demo(arguments.out, model=arguments.model, device=arguments.device, quick=arguments.quick)
    return 0
