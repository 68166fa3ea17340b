"""Does a generated video of the procedural world obey its mechanics? Grades the tracks of its bodies by horizon.

Places, velocities and counts are compared with the truth frame by frame; `bounces.py` asks whether bodies turn when
they should and `speed.py` whether they are as fast as asked for. Knows no pixels: `tracking.py` reads them.

Shapes: B clips, T frames, K bodies a scene may hold, C colours of the palette. Positions are (x, y) in pixels, y
pointing down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor

from magi.evaluation.tracking import Tracks


def position_error(tracks: Tracks, truth: Tensor) -> Tensor:
    """Return how far the bodies of each frame are from the truth, in pixels, averaged over bodies: (B, T) float64.

    A body that was not found is as wrong as it can be: it counts as far as the corner that is farthest from the truth.

    Args:
        tracks: of T frames.
        truth: (B, T, K, 2) px, the true centres.
    """
    _check(tracks, truth)
    farthest = torch.maximum(truth, tracks.size - truth)
    offset = torch.where(tracks.found[..., None], tracks.position - truth, farthest)
    distance = offset.square().sum(-1).sqrt()  # (B, T, K)
    present = tracks.present[:, None]
    return torch.where(present, distance, 0).sum(-1) / present.sum(-1)


def found_error(tracks: Tracks, truth: Tensor) -> Tensor:
    """Return how far the bodies that were found are from the truth, in pixels: (B, T) float64, NaN where none was.

    A model that loses the bodies which it has wrong does well here, so it is read beside `share_found`.

    Args:
        tracks: of T frames.
        truth: (B, T, K, 2) px, the true centres.
    """
    _check(tracks, truth)
    return _mean_over_bodies((tracks.position - truth).norm(dim=-1), where=tracks.found)


def share_found(tracks: Tracks) -> Tensor:
    """Return which share of its bodies each frame shows, wherever they are: (B, T) float64."""
    return tracks.found.sum(-1).double() / tracks.present.sum(-1)[:, None]


def velocity_error(tracks: Tracks, truth: Tensor) -> Tensor:
    """Return how far the bodies' velocities are from the truth, in pixels per frame: (B, T - 1) float64.

    A velocity is the difference of two consecutive positions, of the truth too: value t belongs to the step from frame
    t to frame t + 1, and a bounce within the step is in both. Only bodies found in both frames count; NaN where none.

    Args:
        tracks: of T frames; `tracking.join` puts the last given frame before the generated ones.
        truth: (B, T, K, 2) px, the true centres.

    Raises:
        ValueError: truth of another shape, or a single frame.
    """
    _check(tracks, truth)
    if truth.shape[1] < 2:
        raise ValueError("tracks have 1 frame, a velocity needs at least 2")
    error = (tracks.position.diff(dim=1) - truth.diff(dim=1)).norm(dim=-1)  # (B, T - 1, K)
    return _mean_over_bodies(error, where=tracks.found[:, 1:] & tracks.found[:, :-1])


def count_correct(tracks: Tracks) -> Tensor:
    """Return which frames (B, T) show every body of the scene once and nothing else that could be a body."""
    return (tracks.blobs == _expected(tracks)[:, None]).all(-1)


@dataclass(frozen=True)
class CountErrors:
    """How many bodies each frame lacks and how many it has too many, by colour, so that neither hides the other."""

    missing: Tensor  # (B, T) int64, bodies of the scene that are not there
    extra: Tensor  # (B, T) int64, second bodies of a colour and bodies of colours that the scene lacks


def count_errors(tracks: Tracks) -> CountErrors:
    """Return by how many bodies each frame is wrong, in both directions."""
    surplus = tracks.blobs - _expected(tracks)[:, None]  # (B, T, C)
    return CountErrors(missing=(-surplus).clamp(min=0).sum(-1), extra=surplus.clamp(min=0).sum(-1))


def copy_last(context: Tracks, num_frames: int) -> Tracks:
    """Return the baseline that leaves everything where the last context frame has it."""
    return _extrapolate(context, torch.zeros_like(context.position[:, -1]), num_frames=num_frames)


def constant_velocity(context: Tracks, num_frames: int) -> Tracks:
    """Return the baseline that moves every body as between the last two context frames and knows no bounce.

    A body stops where it meets a wall. One that was not found in both frames is taken to stand still.
    """
    if context.position.shape[1] < 2:
        raise ValueError("the context has 1 frame, constant velocity needs at least 2")
    velocity = context.position[:, -1] - context.position[:, -2]
    return _extrapolate(context, velocity.nan_to_num(0), num_frames=num_frames)


def _extrapolate(context: Tracks, velocity: Tensor, *, num_frames: int) -> Tracks:
    ahead = torch.arange(1, num_frames + 1, device=velocity.device)[:, None, None]  # (T, 1, 1)
    position = context.position[:, -1:] + ahead * velocity[:, None]  # (B, T, K, 2)
    radius = context.radius[:, None, :, None].to(position.dtype)
    return Tracks(
        position=position.clamp(radius, context.size - radius),
        found=repeat(context.found[:, -1], "b k -> b t k", t=num_frames),
        blobs=repeat(context.blobs[:, -1], "b c -> b t c", t=num_frames),
        color=context.color,
        radius=context.radius,
        present=context.present,
        size=context.size,
    )


def _expected(tracks: Tracks) -> Tensor:
    """How many bodies of each colour the scene has, (B, C) int64."""
    expected = torch.zeros_like(tracks.blobs[:, 0])
    return expected.scatter_add_(1, tracks.color, tracks.present.long())


def _mean_over_bodies(values: Tensor, *, where: Tensor) -> Tensor:
    """Means (...) of values (..., K) over the bodies where (..., K) holds, NaN where it holds for none."""
    return torch.where(where, values, 0).sum(-1) / where.sum(-1)


def _check(tracks: Tracks, truth: Tensor) -> None:
    if truth.shape != tracks.position.shape:
        raise ValueError(
            f"truth has shape {tuple(truth.shape)}, the tracks {tuple(tracks.position.shape)}; expected the same: cut "
            "the truth to the clips and frames that were tracked"
        )
