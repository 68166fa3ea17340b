"""How fast bodies move in a video, read from where they were found. Knows tracks, not what they should have been.

Shapes: B clips, T frames, K bodies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magi.evaluation.dynamics import Tracks


def steps(tracks: Tracks) -> Tensor:
    """How far each body moved from each frame to the next, (B, T - 1, K) float64 px; NaN where one was not found.

    Across a bounce this is the straight line, shorter than the path.
    """
    moved = tracks.position[:, 1:] - tracks.position[:, :-1]
    both = tracks.found[:, 1:] & tracks.found[:, :-1] & tracks.present[:, None]
    return torch.where(both, moved.square().sum(-1).sqrt(), torch.nan)


def mean_speed(tracks: Tracks) -> Tensor:
    """Mean speed of the bodies of each clip, (B,) float64 px per frame; NaN where no body was found in two frames."""
    return steps(tracks).flatten(1).nanmean(1)


def speed_ratio(tracks: Tracks, base: Tracks) -> float:
    """How many times faster the bodies of some clips move than those of others, each the mean over clips."""
    return float(mean_speed(tracks).nanmean() / mean_speed(base).nanmean())
