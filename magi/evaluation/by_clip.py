"""How a handful of continuations compare with what really happened, clip by clip and frame by frame.

These are clips to be shown one by one; `run.py` grades models on many more, in means. Knows no model.

Shapes: B clips, T = context + F frames, K bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from magi.evaluation import dynamics
from magi.evaluation.pixel import copy_last, psnr
from magi.evaluation.tracking import Tracks, track
from magi.evaluation.world import WorldTest

Who = Literal["model", "held", "straight", "ceiling"]
"""Who says what comes next: the model; nobody, the last given frame being held still; a rule, every body going straight
on; or the world itself, seen through the tokenizer."""
MODEL: Final = "model"
HELD: Final = "held"
STRAIGHT: Final = "straight"
CEILING: Final = "ceiling"


@dataclass(frozen=True)
class ClipScores:
    """By who says what comes next, (B, F) float64 each."""

    error: Mapping[Who, Tensor]  # px, mean distance of the bodies from where they should be
    psnr: Mapping[Who, Tensor]  # dB
    right: Mapping[Who, Tensor]  # 1 where a frame shows every body once and nothing else, otherwise 0


def score_clips(made: Tensor, test: WorldTest, *, reconstructed: Tensor, context: int) -> ClipScores:
    """Compare with the truth what a model made, what trivial rules predict, and the truth through the tokenizer.

    Args:
        made: (B, F, 3, H, W) uint8, the frames after the `context` given ones.
        test: the clips, T frames.
        reconstructed: (B, T, 3, H, W) uint8, the same clips encoded and decoded: what a perfect model would show.
        context: frames given.
    """
    states, frames = test.states, made.shape[1]
    true_frames, true_positions = test.video[:, context:], states.position[:, context:]

    def read(video: Tensor) -> Tracks:
        return track(video, states.color, present=states.present, radius=states.radius)

    seen, best = read(test.video[:, :context]), reconstructed[:, context:]
    copied = copy_last(reconstructed, frames=frames)
    tracks: dict[Who, Tracks] = {
        MODEL: read(made),
        HELD: dynamics.copy_last(seen, frames),
        STRAIGHT: dynamics.constant_velocity(seen, frames),
        CEILING: read(best),
    }
    return ClipScores(
        error={who: dynamics.position_error(found, true_positions) for who, found in tracks.items()},
        psnr={MODEL: psnr(made, true_frames), HELD: psnr(copied, true_frames), CEILING: psnr(best, true_frames)},
        right={MODEL: right_bodies(tracks[MODEL]), CEILING: right_bodies(tracks[CEILING])},
    )


def right_bodies(tracks: Tracks) -> Tensor:
    """Which frames show every body of the scene once and nothing else, 1 or 0, (B, F) float64."""
    return dynamics.count_correct(tracks).double()
