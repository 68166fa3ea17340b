"""Clips of the procedural world as video files, each with a JSON file that tells the truth about it.

For everything that starts from a user's videos: what reads these files cannot tell that nobody filmed them. Knows the
world and how to write videos; nothing reads the JSON but people and their scripts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from magi.data.world import PALETTE, World, WorldConfig, WorldStates
from magi.video import write_video


def write_world(
    directory: str | Path,
    config: WorldConfig,
    *,
    samples: Sequence[int],
    interval: int | None = None,
    num_frames: int | None = None,
    fps: float = 10,
    device: torch.device | str = "cpu",
) -> list[Path]:
    """Write `directory`/world-SAMPLE.mp4 and world-SAMPLE.json for each sample; returns the videos' paths.

    Args:
        samples: positions in the world's endless order, which with the seed of `config` decide what happens.
        interval: physics steps between two frames, in place of each sample's own.
        num_frames: in place of the configured number.
        fps: of the files; it changes how fast they play and nothing else.
        device: where to draw.

    Raises:
        ValueError: a file of that name exists; nothing is written then.
    """
    paths = [Path(directory) / f"world-{sample:06d}.mp4" for sample in samples]
    for path in (name for video in paths for name in (video, video.with_suffix(".json"))):
        if path.exists():
            raise ValueError(f"{path} exists; delete it, or write to another folder")
    world = World(config, device)
    for path, sample in zip(paths, samples, strict=True):  # one at a time: a long clip of many would not fit in memory
        states = world.simulate([sample], interval=interval, num_frames=num_frames)
        frames = rearrange(world.render(states)[0], "t c h w -> t h w c").cpu().numpy()
        write_video(path, frames, fps=fps)
        path.with_suffix(".json").write_text(
            json.dumps(describe_clip(config, states), indent=1) + "\n", encoding="utf-8"
        )
    return paths


def describe_clip(config: WorldConfig, states: WorldStates) -> dict[str, Any]:
    """The states of one clip as plain data; numbers are exact, since JSON keeps every digit that a float64 needs."""
    bodies = [
        {
            "rgb": PALETTE[int(states.color[0, body])],
            "radius": float(states.radius[0, body]),
            "position": states.position[0, :, body].tolist(),
            "velocity": states.velocity[0, :, body].tolist(),
            "bounces": states.bounces[0, :, body].tolist(),
        }
        for body in states.present[0].nonzero()[:, 0].tolist()
    ]
    return {
        "units": "pixels, (x, y) from the upper left corner; velocity per physics step; bounces since the frame before",
        "world": asdict(config),
        "sample": int(states.sample[0]),
        "interval": int(states.interval[0]),
        "frames": states.position.shape[1],
        "action": states.action[0].tolist(),
        "bodies": bodies,
    }
