"""`magi bench presets`: what quicker sampling gains and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.bench.presets import run_presets_bench
from magi.cli.arguments import Common, CommonOptions, asks_for_help, parse, split_name
from magi.cli.models import find_release
from magi.distributed import Device, pick_device
from magi.sampling.release import load


@dataclass(frozen=True)
class BenchPresetsArguments:
    """Measure every preset of sampling: how much faster than the paper's 64 x 100 steps, and its quality beside it.

    $ magi bench presets world64 --json presets.json

    MODEL is world64, or the folder of a run or of a release that was trained on the procedural world, and comes first:
    quality is measured on clips of that world.
    """

    quick: bool = False
    """Measure so little that the numbers only prove that everything runs."""
    json: Path | None = None
    """Write every measurement to this file."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    name, words = split_name(words)
    directory = None if name is None and asks_for_help(words) else find_release(name)
    chosen = parse(BenchPresetsArguments, words, usage="bench presets MODEL")
    assert directory is not None, "the help has been printed"
    release = load(directory, device=pick_device(chosen.device))
    run_presets_bench(release, name=directory.name, quick=chosen.quick, json_path=chosen.json)
    return 0
