"""`magi bench`: how fast a model is on this machine, and `magi bench decode`: how fast videos are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.bench.decoding import run_decoding_bench
from magi.bench.run import run_bench
from magi.cli import bench_cache, bench_peer
from magi.cli.arguments import Common, CommonOptions, asks_for_help, parse, split_name
from magi.cli.models import find_release
from magi.distributed import Device, pick_device
from magi.model.config import PRESETS


@dataclass(frozen=True)
class BenchArguments:
    """Measure the speed of a model on this machine: training, frames, cache, growth with length.

    $ magi bench tiny --json bench.json
    $ magi bench runs/mine --device cuda
    $ magi bench decode --json decode.json

    MODEL is tiny, small, base, large, xl, world64, or the folder of a run or of a release, and comes first. What was
    learned does not matter for speed, so presets are measured untrained, and with the paper's diffusion head, which
    magi train tiny replaces by a flow. In place of a model, decode measures how fast clips are read from video files,
    cache what a latent cache saves, and peer how fast we are beside MAR's code.
    """

    quick: bool = False
    """Measure so little that the numbers only prove that everything runs."""
    json: Path | None = None
    """Write every measurement to this file."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: CommonOptions = field(default_factory=Common)


@dataclass(frozen=True)
class DecodeArguments:
    """Measure how fast clips are read from video files on one core: by key frame, by decoding from the start, and by
    key frame in a process of its own; MPEG-4 and H.264, 240p and 1080p.

    $ magi bench decode --json decode.json
    """

    quick: bool = False
    """Measure so little that the numbers only prove that everything runs."""
    json: Path | None = None
    """Write every measurement to this file."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    name, words = split_name(words)
    if name == "cache":
        return bench_cache.main(words)
    if name == "peer":
        return bench_peer.main(words)
    if name == "decode":
        chosen = parse(DecodeArguments, words, usage="bench decode")
        if chosen.common.threads not in (None, 1):
            raise ValueError(f"bench decode measures one core, got --threads {chosen.common.threads}; leave it out")
        run_decoding_bench(quick=chosen.quick, json_path=chosen.json)
        return 0
    if name not in PRESETS and not (name is None and asks_for_help(words)):
        name = str(find_release(name))
    arguments = parse(BenchArguments, words, usage="bench MODEL")
    assert name is not None, "the help has been printed"
    run_bench(name, device=pick_device(arguments.device), quick=arguments.quick, json_path=arguments.json)
    return 0
