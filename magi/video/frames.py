"""Pictures as arrays: resize, crop, lay side by side. Knows no file.

``T`` frames, ``H`` x ``W`` pixels, ``S`` side of a square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch.nn import functional

Frames: TypeAlias = NDArray[np.uint8]  # (T, H, W, 3) RGB


def resize(frames: Frames, height: int, width: int) -> Frames:
    """Return the frames (T, H, W, 3) as (T, height, width, 3): bicubic, with antialiasing where they shrink."""
    if frames.shape[1:3] == (height, width):
        return frames
    pixels = np.require(frames, requirements=["C", "W"])  # torch warns of memory that it must not write
    pictures = rearrange(torch.from_numpy(pixels), "t h w c -> t c h w")
    pictures = functional.interpolate(pictures, size=(height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(rearrange(pictures, "t c h w -> t h w c").numpy())


def fit(frames: Frames, size: int, *, top: float = 0.5, left: float = 0.5) -> Frames:
    """Return frames (T, H, W, 3) as squares (T, S, S, 3), S = `size`: the short side becomes S, the long one is cut.

    Args:
        top, left: where in the picture the square lies, from 0 (at the top, at the left) to 1; 0.5 is the centre. The
            one along the short side has nothing to choose from.
    """
    if not (0 <= top <= 1 and 0 <= left <= 1):
        raise ValueError(f"top and left must be between 0 and 1, got {top} and {left}")
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    frames = resize(frames, max(size, round(height * scale)), max(size, round(width * scale)))
    row, column = _nearest(top * (frames.shape[1] - size)), _nearest(left * (frames.shape[2] - size))
    return np.ascontiguousarray(frames[:, row : row + size, column : column + size])


def _nearest(place: float) -> int:
    """The nearest integer, of two the lower."""
    return math.ceil(place - 0.5)


def tile(videos: Sequence[Frames], *, columns: int | None = None, gap: int = 2, fill: int = 255) -> Frames:
    """Lay videos of one shape out in a grid, row by row.

    Args:
        videos: each (T, H, W, 3).
        columns: videos per row; the default makes the grid about square.
        gap: pixels between neighbours.
        fill: grey value of gaps and of unused places.

    Raises:
        ValueError: no videos, or videos of different shapes.
    """
    shapes = sorted({video.shape for video in videos})
    if len(shapes) != 1:
        raise ValueError(f"tile needs videos of one shape, got {shapes or 'none'}")
    columns = columns or math.ceil(math.sqrt(len(videos)))
    rows = math.ceil(len(videos) / columns)
    num_frames, height, width, _ = shapes[0]
    cells = np.full((rows * columns, num_frames, height + gap, width + gap, 3), fill, dtype=np.uint8)
    cells[: len(videos), :, :height, :width] = videos
    grid = rearrange(cells, "(r c) t h w d -> t (r h) (c w) d", c=columns)
    return np.ascontiguousarray(grid[:, : grid.shape[1] - gap, : grid.shape[2] - gap])  # no gap after the last
