"""Does a long video stay what it was? Measures in windows of frames, where the truth cannot be followed any more.

Bouncing bodies are chaotic: after some dozens of frames even a perfect model is elsewhere. What must last is that every
body is there once, and that all are as fast as the world's at that time; kinetic energy too, since bounces keep it.
Collisions mix the speeds of bodies, so no body is compared with itself, only the mean of those in free flight.

Shapes: B clips, T frames, W windows. A last window that is not full is left out.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from magi.data.world import WorldStates
from magi.evaluation.dynamics import count_correct, count_errors, share_found
from magi.evaluation.speed import Speeds, seen_speeds, true_speeds
from magi.evaluation.tracking import Tracks


def score_windows(tracks: Tracks, states: WorldStates, *, size: int, gravity: bool = False) -> dict[str, Tensor]:
    """Grade a long video window by window.

    Args:
        tracks: of T frames.
        states: the truth of as many frames of the same scenes, at the interval that was asked for.
        size: frames in a window, at least 2.
        gravity: whether the world has it; then speed is horizontal and energy, which is not kept, is NaN.

    Returns:
        (W,) float64 each: ``count correct``, ``share found``, ``missing bodies`` and ``extra bodies`` per frame;
        ``speed ratio``, of free flight and the truth's in the same window, 1 for the interval asked for; and
        ``energy ratio``, the same of the kinetic energy of bodies in free flight. NaN where nothing flies freely.

    Raises:
        ValueError: windows longer than the video, or a truth of another length.
    """
    frames = tracks.position.shape[1]
    if not 2 <= size <= frames:
        raise ValueError(f"windows of {size} frames in a video of {frames}; expected 2..{frames}")
    if states.position.shape != tracks.position.shape:
        raise ValueError(
            f"truth has shape {tuple(states.position.shape)}, the tracks {tuple(tracks.position.shape)}; "
            "simulate it for as many frames"
        )
    errors = count_errors(tracks)
    single = true_speeds(
        states.position, states.velocity, bounces=states.bounces, present=states.present, gravity=gravity
    )
    seen, interval = seen_speeds(tracks, gravity=gravity), states.interval[:, None, None]
    asked = Speeds(single.speed * interval, single.free)
    mass = tracks.radius.square()[:, None]
    energy = in_windows(mass * seen.speed.square(), seen.free, size=size) / in_windows(
        mass * asked.speed.square(), asked.free, size=size
    )
    return {
        "count correct": _mean(count_correct(tracks), size=size),
        "share found": _mean(share_found(tracks), size=size),
        "missing bodies": _mean(errors.missing, size=size),
        "extra bodies": _mean(errors.extra, size=size),
        "speed ratio": in_windows(seen.speed, seen.free, size=size) / in_windows(asked.speed, asked.free, size=size),
        "energy ratio": torch.full_like(energy, torch.nan) if gravity else energy,
    }


def in_windows(values: Tensor, where: Tensor, *, size: int) -> Tensor:
    """Means of values per step in windows of frames, all clips and bodies together: (W,), NaN where none counts.

    Args:
        values: (B, T - 1, ...), 0 where they do not count; value t belongs to the step from frame t to frame t + 1.
        where: the same shape, bool.
        size: frames in a window; the step into its first frame belongs to it, save that the video's first has none.
    """
    return _sum(values, size=size) / _sum(where, size=size)


def _sum(values: Tensor, *, size: int) -> Tensor:
    by_frame = values.double().transpose(0, 1).flatten(1).sum(1)  # (T - 1,)
    by_frame = torch.cat([torch.zeros_like(by_frame[:1]), by_frame])  # (T,)
    return _windows(by_frame, size=size).sum(1)


def _mean(values: Tensor, *, size: int) -> Tensor:
    """Means (W,) of values (B, T)."""
    return _windows(values.double().mean(0), size=size).mean(1)


def _windows(values: Tensor, *, size: int) -> Tensor:
    """(T,) to (W, size)."""
    return rearrange(values[: len(values) // size * size], "(w t) -> w t", t=size)
