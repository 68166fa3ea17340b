"""Does a generated video of the procedural world obey its mechanics? Reads bodies back from pixels and grades them.

Bodies are told apart by colour alone, so no track is ever lost to an identity switch: a body is the largest connected
blob of its colour. Knows the palette of `magi.data.world` and nothing of models; `magi.data.world` knows the truth.

Shapes: B clips, T frames, K bodies a scene may hold, C colours of the palette. Positions are (x, y) in pixels, y
pointing down, pixel i covering [i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor

from magi.data.world import PALETTE

# Wide enough for a body's rim and highlight, too narrow for a background or for most of a soft edge.
COLOUR_DISTANCE = 90  # of 0..255 RGB
# A blob smaller than this is a speck: half a body still counts, and so a body torn in two counts twice.
SMALLEST_SHARE = 0.3  # of the area of the disc that it should be


@dataclass(frozen=True)
class Tracks:
    """Where the bodies of a batch of clips were seen, or are predicted to be."""

    position: Tensor  # (B, T, K, 2) float64, px, centre; NaN where not found
    found: Tensor  # (B, T, K) bool
    blobs: (
        Tensor  # (B, T, C) int64, bodies of each palette colour in each frame, whether the scene has such a body or not
    )
    color: Tensor  # (B, K) int64, index into PALETTE
    radius: Tensor  # (B, K) px
    present: Tensor  # (B, K) bool, which of the K bodies the scene has
    size: int  # px, height and width of the frame


def track(video: Tensor, color: Tensor, *, present: Tensor, radius: Tensor) -> Tracks:
    """Find the bodies of a scene in every frame.

    Args:
        video: (B, T, 3, H, W) uint8 with H = W.
        color: (B, K) palette index of each body.
        present: (B, K) bool, which of the K bodies the scene has.
        radius: (B, K) px.

    Raises:
        ValueError: a video that is not square RGB in uint8.
    """
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[2] != 3 or video.shape[3] != video.shape[4]:
        raise ValueError(f"video is {video.dtype} {tuple(video.shape)}, expected uint8 (B, T, 3, H, W) with H = W")
    # Clip by clip: labelling needs some 50 bytes per pixel.
    clips = [
        _track_clip(clip, color[index], present=present[index], radius=radius[index].double())
        for index, clip in enumerate(video)
    ]
    position, found, blobs = (torch.stack(part) for part in zip(*clips, strict=True))
    return Tracks(position, found, blobs, color, radius, present, size=video.shape[-1])


def position_error(tracks: Tracks, truth: Tensor) -> Tensor:
    """Return how far the bodies of each frame are from the truth, in pixels, averaged over bodies: (B, T) float64.

    A body that was not found is as wrong as it can be: it counts as far as the corner that is farthest from the truth.

    Args:
        tracks: of T frames.
        truth: (B, T, K, 2) px, the true centres.
    """
    if truth.shape != tracks.position.shape:
        raise ValueError(f"truth has shape {tuple(truth.shape)}, the tracks {tuple(tracks.position.shape)}")
    farthest = torch.maximum(truth, tracks.size - truth)
    offset = torch.where(tracks.found[..., None], tracks.position - truth, farthest)
    distance = offset.square().sum(-1).sqrt()  # (B, T, K)
    present = tracks.present[:, None]
    return torch.where(present, distance, 0).sum(-1) / present.sum(-1)


def found_error(tracks: Tracks, truth: Tensor) -> Tensor:
    """Return how far the bodies that were found are from the truth, (B, T) float64 px; NaN where none was found.

    Beside `share_found`: a model that loses its bodies may look good here, and one that keeps them all cannot hide.
    """
    distance = (tracks.position - truth).square().sum(-1).sqrt()  # (B, T, K), NaN where not found
    return torch.where(tracks.found, distance, torch.nan).nanmean(-1)


def share_found(tracks: Tracks) -> Tensor:
    """Return which share of the scene's bodies was found in each frame, (B, T) float64."""
    return tracks.found.sum(-1).double() / tracks.present.sum(-1)[:, None]


def velocity_error(tracks: Tracks, truth: Tensor, *, before: Tensor, true_before: Tensor) -> Tensor:
    """Return how far velocities are from the truth, (B, T) float64 px per frame; NaN where no body was found twice.

    A velocity is the way from one frame to the next, so a body in the wrong place may move rightly.

    Args:
        tracks: of T frames.
        truth: (B, T, K, 2) px, the true centres.
        before: (B, K, 2) px, where bodies were found in the frame before the first; NaN where not.
        true_before: (B, K, 2) px, where they were.
    """
    places = torch.cat([before[:, None], tracks.position], dim=1)
    true_places = torch.cat([true_before[:, None], truth], dim=1)
    difference = places.diff(dim=1) - true_places.diff(dim=1)  # (B, T, K, 2)
    present = tracks.present[:, None, :, None]
    return torch.where(present, difference, torch.nan).square().sum(-1).sqrt().nanmean(-1)


def count_error(tracks: Tracks) -> Tensor:
    """Return how many bodies there are too many (above 0) or too few (below) in each frame, (B, T) float64."""
    return tracks.blobs.sum(-1).double() - tracks.present.sum(-1)[:, None]


def count_correct(tracks: Tracks) -> Tensor:
    """Return which frames (B, T) show every body of the scene once and nothing else that could be a body."""
    expected = torch.zeros_like(tracks.blobs[:, 0])  # (B, C)
    expected.scatter_add_(1, tracks.color, tracks.present.long())
    return (tracks.blobs == expected[:, None]).all(-1)


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


def _track_clip(video: Tensor, color: Tensor, *, present: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return position (T, K, 2), found (T, K) and blobs (T, C) of one clip (T, 3, H, W)."""
    num_frames, size = video.shape[0], video.shape[-1]
    colors = _classify(video)  # (T, H, W)
    roots = _label(colors)  # (T, H W)
    colors = rearrange(colors, "t h w -> t (h w)")
    area = torch.zeros_like(roots).scatter_add_(1, roots, torch.ones_like(roots))  # (T, H W), at each blob's root

    disc = torch.pi * radius.square()  # (K,) px
    # A blob of a colour that the scene lacks counts as a body from the size at which the smallest of the scene would.
    least = torch.full((len(PALETTE),), float(disc[present].min()), dtype=disc.dtype, device=disc.device)
    least[color[present]] = disc[present]
    least *= SMALLEST_SHARE
    of_color = colors[:, None] == torch.arange(len(PALETTE), device=colors.device)[:, None]  # (T, C, H W)
    blobs = (of_color & (area[:, None] >= least[:, None])).sum(-1)

    own_area, root = torch.where(of_color[:, color], area[:, None], 0).max(-1)  # (T, K) each: the largest blob
    found = present & (own_area >= least[color])
    body = (roots[:, None] == root[..., None]) & found[..., None]  # (T, K, H W)
    pixel = torch.arange(size * size, device=video.device)
    centre = torch.stack([pixel % size, pixel // size], dim=-1) + 0.5  # (H W, 2)
    position = body.double() @ centre.double() / own_area[..., None]
    missing = torch.full((num_frames, len(color), 2), torch.nan, dtype=position.dtype, device=position.device)
    return torch.where(found[..., None], position, missing), found, blobs


def _classify(video: Tensor) -> Tensor:
    """Return the palette index (T, H, W) of the colour nearest to each pixel, -1 where none is near."""
    red, green, blue = video.int().unbind(1)
    nearest = torch.full_like(red, COLOUR_DISTANCE**2)
    colors = torch.full_like(red, -1)
    for index, (r, g, b) in enumerate(PALETTE):
        distance = (red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2
        colors = torch.where(distance < nearest, index, colors)
        nearest = torch.minimum(distance, nearest)
    return colors


def _label(colors: Tensor) -> Tensor:
    """Return for each pixel (T, H W) the root, that is the last pixel, of the 4-connected blob of one colour it is in.

    Every pixel points at one that comes no sooner. It takes over the farthest pointer among its neighbours of the same
    colour, then follows it once more, so that a blob collapses onto its root in about log(diameter) rounds.
    """
    num_frames, height, width = colors.shape
    start = torch.arange(height * width, device=colors.device).view(height, width)
    pointer = start.expand(num_frames, -1, -1)
    body = colors >= 0  # the background is left in single pixels: joined, it would take the most rounds
    alike_down = (colors[:, 1:] == colors[:, :-1]) & body[:, 1:]
    alike_right = (colors[:, :, 1:] == colors[:, :, :-1]) & body[:, :, 1:]
    while True:
        before, pointer = pointer, pointer.clone()
        for alike, one, two in (
            (alike_down, pointer[:, :-1], pointer[:, 1:]),
            (alike_right, pointer[:, :, :-1], pointer[:, :, 1:]),
        ):
            # Both are views, and overlap: writing to them moves the pointers, and the second line sees the first.
            one.copy_(torch.where(alike, torch.maximum(one, two), one))
            two.copy_(torch.where(alike, torch.maximum(one, two), two))
        flat = rearrange(pointer, "t h w -> t (h w)")
        pointer = flat.gather(1, flat).view_as(pointer)
        if torch.equal(pointer, before):
            return flat
