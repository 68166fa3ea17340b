"""`magi reproduce`: the paper's questions, asked again in miniature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.cli.arguments import Common, CommonOptions, parse
from magi.distributed import Device
from magi.reproduce.crew import Crew
from magi.reproduce.reproduce import reproduce
from magi.reproduce.scale import ScaleName


@dataclass(frozen=True)
class ReproduceArguments:
    """Train the paper's comparisons on the procedural world and answer its questions, with their uncertainty.

    $ magi reproduce
    $ magi reproduce --scale cpu --results results/reproduce/cpu
    $ magi report results/reproduce/cpu --out report.html

    What will be run is written to RESULTS/plan.json before anything is, and each answer to a file of its own as soon as
    it is known. The same command goes on where it was stopped. smoke takes a minute and shows that it runs; cpu takes
    hours on two cores; gpu trains on half as many clips again, and took one H200 seven minutes for its trainings with
    --jobs 20 --graphs. With --minutes it goes in slices.
    """

    scale: ScaleName = "smoke"
    """How large: smoke, cpu or gpu."""
    out: Path | None = None
    """Where models and clips are kept, which grow again if deleted; runs/reproduce-SCALE if not said."""
    results: Path | None = None
    """Where results go; results/reproduce/SCALE if not said."""
    only: tuple[str, ...] = ()
    """Some of the questions: forcing, frames, history, exposure, unconditional, length, interval, quality, time,
    footage."""
    jobs: int = 1
    """Steps at a time, each in a process of its own: small models leave most of a GPU idle."""
    minutes: float | None = None
    """Stop after these, to go on by the same command."""
    graphs: bool = False
    """Train in CUDA graphs: several times as many steps of these small models on a GPU."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(ReproduceArguments, words, usage="reproduce")
    alone = arguments.jobs == 1 and arguments.minutes is None
    crew = None if alone else Crew(arguments.jobs, arguments.minutes)
    results = reproduce(
        arguments.scale, folder=arguments.out, results=arguments.results, only=arguments.only or None, crew=crew,
        graphs=arguments.graphs, device=arguments.device,
    )  # fmt: skip
    print(f"results in {results}")
    return 0
