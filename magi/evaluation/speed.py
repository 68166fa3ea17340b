"""Is interval k really k times faster? The speed of a video's bodies against that of the world in single steps.

Speed is read where bodies fly freely: a step that holds a bounce goes there and partly back, and its ends are nearer to
each other than its path is long. Steps around a reversal are therefore left out, in the video by what it shows and in
the truth by what it knows. Between bounces a body keeps its velocity, so there the way of one frame at interval k is k
times that of one step, exactly. Fast bodies bounce more and are left out more often, so the truth is read at the same
interval, with the same steps left out, and a body is compared with itself.

Under gravity only the horizontal part of a velocity is kept in flight, so only that is compared.

Shapes: B clips, T frames, K bodies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from magi.evaluation.bounces import reversals
from magi.evaluation.tracking import Tracks


@dataclass(frozen=True)
class Speeds:
    """Ways in free flight, step by step; sums and means over any part of them are the caller's."""

    speed: Tensor  # (B, T - 1, K) float64, px per frame, 0 where not free
    free: Tensor  # (B, T - 1, K) bool, whether the step can be told to be free flight

    def mean(self) -> Tensor:
        """Mean speed in px per frame, over clips and bodies: (T - 1,), NaN where nothing flies freely."""
        return self.speed.sum((0, 2)) / self.free.sum((0, 2))


def seen_speeds(tracks: Tracks, *, gravity: bool = False) -> Speeds:
    """Speeds in a video, in px per generated frame.

    Args:
        tracks: of T frames.
        gravity: whether the world has it; then horizontal.
    """
    way = tracks.position.diff(dim=1)
    near = _around(reversals(tracks.position, gravity=gravity))
    free = tracks.found[:, 1:] & tracks.found[:, :-1] & ~near
    return Speeds(torch.where(free, _length(way, gravity=gravity), 0), free)


def true_speeds(
    position: Tensor, velocity: Tensor, *, bounces: Tensor, present: Tensor, gravity: bool = False
) -> Speeds:
    """Speeds of the world, in px per physics step: what interval 1 moves in one frame.

    Args:
        position: (B, T, K, 2) px, exact, at the interval of the video that is judged.
        velocity: (B, T, K, 2) px per physics step, exact.
        bounces: (B, T, K), hits since the frame before.
        present: (B, K) bool.
        gravity: whether the world has it.
    """
    near = _around(reversals(position, gravity=gravity)) | (bounces[:, 1:] > 0)
    free = present[:, None] & ~near
    return Speeds(torch.where(free, _length(velocity[:, 1:], gravity=gravity), 0), free)


def _around(turned: Tensor) -> Tensor:
    """Steps (B, T - 1, K) with a reversal within, or in the step before or after: (B, T, K) bool at the ending frame.

    A reversal is placed to within a frame only.
    """
    near = turned.clone()
    near[:, 1:] |= turned[:, :-1]
    near[:, :-1] |= turned[:, 1:]
    return near[:, 1:]


def _length(vectors: Tensor, *, gravity: bool) -> Tensor:
    """Lengths (...) of vectors (..., 2), or how long they are from left to right."""
    return vectors[..., 0].abs() if gravity else vectors.norm(dim=-1)
