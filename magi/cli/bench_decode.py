"""`magi bench decode`: how fast videos are read on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.bench.decoding import run_decoding_bench
from magi.cli.arguments import Common, CommonOptions, parse


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
    compare: Path | None = None
    """An earlier --json of this benchmark: ratios of clips per second, new over old."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    chosen = parse(DecodeArguments, words, usage="bench decode")
    if chosen.common.threads not in (None, 1):
        raise ValueError(f"bench decode measures one core, got --threads {chosen.common.threads}; leave it out")
    run_decoding_bench(quick=chosen.quick, json_path=chosen.json, compare=chosen.compare)
    return 0
