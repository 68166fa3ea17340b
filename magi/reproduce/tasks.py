"""What models are asked to do, and on which clips.

Shapes: N clips, T frames, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magi.evaluation.world import WorldTest, world_test
from magi.reproduce.plan import EVALUATION_SEED
from magi.reproduce.workshop import Workshop
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release
from magi.sampling.video import generate

FRAMES = 16  # of every clip that is compared


@dataclass(frozen=True)
class Task:
    """What is given and how long the clip is."""

    name: str
    context: int
    frames: int = FRAMES
    """T, the given ones included."""
    interval: int = 1


NOTHING = Task("nothing given", 0)
FIRST = Task("first frame given", 1)
FIVE = Task("5 frames given", 5)


def test_clips(workshop: Workshop, task: Task, *, seed: int = EVALUATION_SEED, part: int = 0) -> WorldTest:
    """N clips of T frames of the evaluation's scenes: part 0 are those that models continue, 1 and on are others."""
    world, count = replace(workshop.scale.world, num_frames=task.frames, seed=seed), workshop.scale.clips
    return world_test(task.interval, clips=count, config=world, first=part * count)


def make(
    workshop: Workshop, release: Release, task: Task, *, settings: SampleConfig, given: Tensor, count: int | None = None
) -> Tensor:
    """Let a model continue, or begin, clips: clip i with seed i.

    Args:
        workshop: says how many at a time.
        release: the model.
        task: how many frames are given and made.
        settings: of sampling.
        given: (N, >= context, 3, H, W) uint8; of a task that gives nothing only the number N counts.
        count: frames to make, if not what the task asks for.

    Returns:
        (N, context + F, 3, H, W) uint8, the given frames first.
    """
    parts = []
    for clips in torch.arange(len(given)).split(workshop.scale.generate_batch):
        context = given[clips, : task.context] if task.context else None
        frames = generate(
            release, context, num_frames=count or task.frames - task.context, seeds=clips.tolist(),
            interval=task.interval, settings=settings,
        )  # fmt: skip
        made = torch.stack([frame.cpu() for frame in frames], dim=1)
        parts.append(made if context is None else torch.cat([context, made], dim=1))
    return torch.cat(parts)
