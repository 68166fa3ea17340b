"""Where the bodies of the procedural world are in a video: read back from its pixels, frame by frame.

Bodies are told apart by colour alone, so no track is ever lost to an identity switch: a body is the largest connected
blob of its colour. Knows the palette of `magi.data.world` and nothing of models; `dynamics.py`, `bounces.py` and
`speed.py` grade what is found here.

Shapes: B clips, T frames, K bodies a scene may hold, C colours of the palette. Positions are (x, y) in pixels, y
pointing down, pixel i covering [i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
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


def join(before: Tracks, after: Tracks) -> Tracks:
    """One track of two that follow each other in time, of the same bodies: what happens at the seam can be graded."""
    if before.size != after.size or not torch.equal(before.color, after.color):
        raise ValueError(
            f"tracks of {len(before.color)} clips at {before.size} px and of {len(after.color)} at {after.size} px "
            "are not of the same bodies; track both with the colours of one scene"
        )
    position, found, blobs = (
        torch.cat([getattr(before, name), getattr(after, name)], dim=1) for name in ("position", "found", "blobs")
    )
    return replace(after, position=position, found=found, blobs=blobs)


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
