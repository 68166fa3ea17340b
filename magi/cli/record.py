"""`magi record`: videos of ViZDoom gameplay with the action of every frame."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from magi.cli.arguments import Common, CommonOptions, check_counts, parse
from magi.cli.show import progress
from magi.data.doom.engine import Doom, DoomConfig
from magi.data.doom.files import RecordConfig, open_folder, takes
from magi.data.doom.maps import Split, split_of
from magi.data.doom.workers import record
from magi.video import Quality


@dataclass(frozen=True)
class RecordArguments:
    """Record gameplay as videos, each with a JSON file of the action, position and angle of every frame.

    $ magi record --out doom --episodes 400
    $ magi train tiny --data doom/train --out runs/doom

    ViZDoom renders the levels of Freedoom 1 and 2; a player who follows a seed explores them. Training and test share
    no level and no seed. Run the same command again to go on after an interruption, or with more episodes to add some.
    Needs: pip install 'magi-video[sim]'
    """

    out: Path
    """A folder that is new, or has episodes recorded with the same settings."""
    episodes: int
    """How many, of each set that is recorded."""
    split: Literal["train", "test", "both"] = "both"
    """Which set; in another run with the same --out the other one can have another size."""
    maps: tuple[str, ...] = ()
    """Levels, E1M1 to E4M9 and MAP01 to MAP32, in place of all 57 of training and all 11 of the test."""
    frames: int = 200
    """Frames per video."""
    size: str = "128"
    """Pixels on a side of the square that is cut out and shrunk; or what the engine renders as it is, such as
    160x120."""
    tics: int = 2
    """Of the engine, which makes 35 a second, from frame to frame; an action is held for as long."""
    skill: int = 2
    """How many monsters there are and how they fight, 1 to 5."""
    seed: int = 0
    """An episode is a function of this, its set and its number."""
    quality: Quality = "fast"
    """How the videos are compressed. "fast" and "near-lossless" come back within a level on average, the latter is
    a quarter smaller and takes six times as long; "web" is far smaller, loses detail, and plays in browsers."""
    fps: float | None = None
    """How fast the files play; by default as fast as the game, 35 divided by --tics."""
    workers: int = 1
    """Processes that record at the same time; the videos do not depend on it."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(RecordArguments, words, usage="record")
    check_counts(arguments, "episodes", "workers")
    width, height = read_size(arguments.size)
    doom = DoomConfig(
        width=width, height=height, num_frames=arguments.frames, tics=arguments.tics, skill=arguments.skill
    )
    config = RecordConfig(doom, arguments.quality, arguments.fps)
    splits: tuple[Split, ...] = ("train", "test") if arguments.split == "both" else (arguments.split,)
    wanted = []
    for split in splits:
        maps = tuple(name for name in arguments.maps if arguments.split != "both" or split_of(name) == split)
        if maps or not arguments.maps:
            wanted += takes(split, arguments.episodes, seed=arguments.seed, maps=maps)
    Doom(config.doom)  # says now what is wrong with the size or the installation
    open_folder(arguments.out, config)
    missing = [take for take in wanted if not take.is_recorded(arguments.out)]
    if len(missing) < len(wanted):
        print(f"{len(wanted) - len(missing)} of {len(wanted)} episodes are there")
    start, moving = time.monotonic(), 0.0
    for done, recorded in enumerate(record(arguments.out, config, missing, workers=arguments.workers), start=1):
        moving += recorded.checks["moving"]
        progress(done, len(missing), f"episodes recorded in {arguments.out}")
    if missing:
        speed = len(missing) * arguments.frames / (time.monotonic() - start)
        print(f"{speed:,.0f} frames per second; the view moves in {moving / len(missing):.1%} of the frames")
    return 0


def read_size(text: str) -> tuple[int, int]:
    """Width and height of "128" or "160x120".

    Raises:
        ValueError: neither form.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if match is None:
        raise ValueError(f"--size must be one number, or two as in 160x120, got {text!r}")
    return int(match[1]), int(match[2] or match[1])
