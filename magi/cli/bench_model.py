"""`magi bench MODEL`, `magi bench sampling MODEL`, `magi bench training MODEL`: how fast a model is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.bench.run import PARTS, Part, run_bench
from magi.cli.arguments import Common, CommonOptions, asks_for_help, parse, split_name
from magi.cli.models import find_release
from magi.distributed import Device, pick_device
from magi.model.config import PRESETS


@dataclass(frozen=True)
class BenchArguments:
    """Measure the speed of a model on this machine: training, frames, cache, growth with length.

    $ magi bench tiny --json bench.json
    $ magi bench tiny --compare bench.json
    $ magi bench sampling runs/mine --device cuda
    $ magi bench training tiny --profile training.txt
    $ magi bench decode --json decode.json
    $ magi bench cache --json cache.json
    $ magi bench peer path/to/mar --json peer.json
    $ magi bench presets world64 --json presets.json
    $ magi bench stream --json stream.json

    MODEL is tiny, small, base, large, xl, world64, or the folder of a run or of a release, and comes first. What was
    learned does not matter for speed, so presets are measured untrained, and with the paper's diffusion head, which
    magi train tiny replaces by a flow. Before MODEL, sampling or training measures that half alone. In place of a
    model, decode measures how fast clips are read from video files, cache what a latent cache saves, peer how fast we
    are beside MAR's own code, presets what quicker sampling gains and costs, and stream how many frames a second a
    small model makes on one core.
    """

    quick: bool = False
    """Measure so little that the numbers only prove that everything runs."""
    json: Path | None = None
    """Write every measurement to this file."""
    compare: Path | None = None
    """An earlier --json of this benchmark: ratios of all shared figures, new over old."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: CommonOptions = field(default_factory=Common)


@dataclass(frozen=True)
class PartArguments(BenchArguments):
    """Measure how fast a model samples, or trains, on this machine, and what share that is of the possible.

    $ magi bench sampling tiny --json sampling.json
    $ magi bench training tiny --compare training.json --profile training.txt

    MODEL is tiny, small, base, large, xl, world64, or the folder of a run or of a release, and comes first. Possible is
    what this machine reached in the same run: operations of a large matrix product, or bytes read.
    """

    profile: Path | None = None
    """Write to this file where the time goes, as text: by part, and by operation."""


def main(words: Sequence[str], *, part: Part | None = None) -> int:
    """Run the verb, for one part of the model or both."""
    name, words = split_name(words)
    if name not in PRESETS and not (name is None and asks_for_help(words)):
        name = str(find_release(name))
    if part is None:
        arguments, profile = parse(BenchArguments, words, usage="bench MODEL"), None
    else:
        arguments = chosen = parse(PartArguments, words, usage=f"bench {part} MODEL")
        profile = chosen.profile
    assert name is not None, "the help has been printed"
    run_bench(
        name,
        parts=PARTS if part is None else (part,),
        device=pick_device(arguments.device),
        quick=arguments.quick,
        json_path=arguments.json,
        compare=arguments.compare,
        profile=profile,
    )
    return 0
