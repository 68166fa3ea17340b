"""The frozen test of a model of the procedural world: which clips, and what is asked of their continuation.

The clips come from a seed no training uses, and their pixels are hashed, so a result names exactly what it was measured
on. Scores are read from uint8 tensors by generated frame: where the bodies are, how they move and how many there are.
The test world has no gravity.

Shapes: B clips, T frames, K bodies.

    python -m magi.evaluation.world         # writes results/world64-test.json
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from magi.data.world import World, WorldConfig, WorldStates
from magi.evaluation.bounces import BounceScores, score_bounces
from magi.evaluation.dynamics import (
    constant_velocity,
    copy_last,
    count_correct,
    found_error,
    position_error,
    share_found,
    velocity_error,
)
from magi.evaluation.tracking import Tracks, join, track

EVALUATION_WORLD = WorldConfig(num_frames=21, seed=20_250_123)
"""3 to 5 bodies at 1.5 to 4 px per frame, two bounces each in 12 frames; 5 frames are given, 16 asked for."""

CLIPS = 256
CONTEXT = 5
HORIZONS = (1, 4, 8, 11, 16)  # generated frames to report
FROZEN = {
    1: "7583dbd11baf8cc97ba7312e73eba13b46a3bcf7b975b673ee1efe8e04f52aa4",
    2: "8202ed1a75203579320b54d3c6a7c3a31a8f437349d43d80d552993e26295cee",
}
"""By interval, SHA-256 of the pixels of the first `CLIPS` clips of `EVALUATION_WORLD`: the frozen test."""


@dataclass(frozen=True)
class WorldTest:
    """Clips with their truth."""

    video: Tensor  # (B, T, 3, H, W) uint8
    states: WorldStates


def world_test(
    interval: int, *, clips: int = CLIPS, config: WorldConfig = EVALUATION_WORLD, first: int = 0
) -> WorldTest:
    """The first `clips` test clips at a frame interval."""
    world = World(config)
    states = world.simulate(range(first, first + clips), interval=interval)
    return WorldTest(world.render(states), states)


def fingerprint(test: WorldTest) -> str:
    """SHA-256 of the clips' pixels."""
    return hashlib.sha256(test.video.numpy().tobytes()).hexdigest()


def score_positions(video: Tensor, test: WorldTest, *, context: int = CONTEXT) -> dict[str, Tensor]:
    """Grade generated frames.

    Args:
        video: (B, F, 3, H, W) uint8, the F frames generated after `context` given ones.
        test: the clips that were continued.
        context: frames given.

    Returns:
        (F,) float64 each, by generated frame. ``position error`` of the video and of the baselines ``copy last`` and
        ``constant velocity`` in pixels; ``position error where found``, without the bodies that were not, beside
        ``share found``; ``velocity error`` of the video and of both baselines, px per frame; ``bounce F1``, of the
        bounces that fell into the frame; ``count correct``, the share of frames with the right bodies and no others.
        A frame in which there is nothing to measure, as where no body is found or nothing bounces, is NaN.
    """
    frames, states = video.shape[1], test.states
    bodies = {"present": states.present, "radius": states.radius}
    seen = track(test.video[:, :context], states.color, **bodies)
    made = track(video, states.color, **bodies)
    truth = states.position[:, context : context + frames]
    held, straight = copy_last(seen, frames), constant_velocity(seen, frames)
    return {
        "position error": position_error(made, truth).mean(0),
        "position error, copy last": position_error(held, truth).mean(0),
        "position error, constant velocity": position_error(straight, truth).mean(0),
        "position error where found": found_error(made, truth).nanmean(0),
        "share found": share_found(made).mean(0),
        "velocity error": _velocity_errors(seen, made, states=states),
        "velocity error, copy last": _velocity_errors(seen, held, states=states),
        "velocity error, constant velocity": _velocity_errors(seen, straight, states=states),
        "bounce F1": _bounces(seen, made, states=states).f1[-frames:],
        "count correct": count_correct(made).double().mean(0),
    }


def _velocity_errors(seen: Tracks, made: Tracks, *, states: WorldStates) -> Tensor:
    """Means over clips (F,): the step into the first generated frame starts from the last given one."""
    frames, end = made.position.shape[1], seen.position.shape[1] + made.position.shape[1]
    return velocity_error(join(seen, made), states.position[:, :end])[:, -frames:].nanmean(0)


def _bounces(seen: Tracks, made: Tracks, *, states: WorldStates) -> BounceScores:
    """Bounces of given and generated frames: those before the first tell where a body was heading."""
    end = seen.position.shape[1] + made.position.shape[1]
    return score_bounces(
        join(seen, made), states.position[:, :end], states.velocity[:, :end], bounces=states.bounces[:, :end]
    )


def at_size(size: int) -> WorldConfig:
    """The test world at another frame size."""
    return replace(EVALUATION_WORLD, size=size)


def mean_bounces(test: WorldTest, *, frames: int) -> float:
    """Bounces per body from the last given frame over the next `frames`."""
    window = test.states.bounces[:, CONTEXT : CONTEXT + frames].sum(1)
    return float(window[test.states.present].double().mean())


def describe(test: WorldTest) -> dict[str, str | int | float]:
    """What the test is, for a results file."""
    return {
        "clips": len(test.video),
        "frames": test.video.shape[1],
        "interval": int(test.states.interval[0]),
        "bounces per body in 12 frames": round(mean_bounces(test, frames=12), 3),
        "sha256": fingerprint(test),
    }


def is_frozen(test: WorldTest) -> bool:
    """Whether these are, to the last pixel, the clips that published results are measured on."""
    return FROZEN.get(int(test.states.interval[0])) == fingerprint(test)


def main() -> None:
    """Write what the frozen tests are, hashed anew."""
    path = Path("results/world64-test.json")
    tests = [describe(world_test(interval)) for interval in FROZEN]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"world": repr(EVALUATION_WORLD), "tests": tests}, indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
