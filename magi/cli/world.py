"""`magi world`: videos of the procedural world with the truth beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from magi.cli.arguments import Common, CommonOptions, check_counts, parse
from magi.cli.show import new_folder, progress
from magi.data.world import WorldConfig
from magi.data.world_files import write_world
from magi.distributed import Device, pick_device


@dataclass(frozen=True)
class WorldArguments:
    """Write videos of bouncing discs, near-lossless, each with a JSON file of the exact states.

    $ magi world --out clips --videos 100
    $ magi train tiny --data clips --out runs/discs

    The states are positions, velocities, radii and colours of all bodies in every frame.
    """

    out: Path
    """A folder that is new or empty."""
    videos: int
    """How many."""
    size: int = 64
    """Pixels on a side, 32 or 64."""
    frames: int = 64
    """Frames per video."""
    interval: int = 1
    """Physics steps from frame to frame, 1 to 25."""
    seed: int = 0
    """A video is a function of this and its number."""
    first: int = 0
    """Number of the first video; training with the same seed uses the numbers from 0 on."""
    min_bodies: int = 3
    max_bodies: int = 5
    """Each scene has so many discs, no two of one colour."""
    min_speed: float = 1.5
    max_speed: float = 4.0
    """Pixels per physics step at 64 pixels."""
    gravity: float = 0.0
    """Pixels per physics step squared, downwards."""
    steered: bool = False
    """The red disc answers to one random action per frame."""
    fps: float = 10.0
    """How fast the files play."""
    device: Device = "cpu"
    """Where to draw; another device may round a pixel differently."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(WorldArguments, words, usage="world")
    check_counts(arguments, "videos")
    config = WorldConfig(
        size=arguments.size,
        num_frames=arguments.frames,
        min_bodies=arguments.min_bodies,
        max_bodies=arguments.max_bodies,
        min_speed=arguments.min_speed,
        max_speed=arguments.max_speed,
        gravity=arguments.gravity,
        steered=arguments.steered,
        min_interval=arguments.interval,
        max_interval=arguments.interval,
        seed=arguments.seed,
    )
    device = pick_device(arguments.device)
    folder = new_folder(arguments.out)
    for done in range(arguments.videos):
        write_world(folder, config, samples=[arguments.first + done], fps=arguments.fps, device=device)
        progress(done + 1, arguments.videos, f"videos in {folder}")
    return 0
