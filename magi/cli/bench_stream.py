"""`magi bench stream`: frames per second of a small model on one core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.bench.stream import run_stream_bench
from magi.cli.arguments import Common, CommonOptions, parse


@dataclass(frozen=True)
class BenchStreamArguments:
    """Measure how many frames a second a model of .81 M parameters makes on one core, one video at a time: exactly with
    16 x 100 and 8 x 100 steps and by the quicker presets, its head evaluated by torch and in C.

    $ magi bench stream --json stream.json
    """

    quick: bool = False
    """Measure so little that the numbers only prove that everything runs."""
    json: Path | None = None
    """Write every measurement to this file."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    chosen = parse(BenchStreamArguments, words, usage="bench stream")
    if chosen.common.threads not in (None, 1):
        raise ValueError(f"bench stream measures one core, got --threads {chosen.common.threads}; leave it out")
    run_stream_bench(quick=chosen.quick, json_path=chosen.json)
    return 0
