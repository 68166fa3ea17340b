"""A detector that is a network: clips are checked and resized, given to it some at a time, and its features collected.

Shapes: B clips, T frames, D features, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Filter = Literal["bilinear", "antialias", "tf1"]
"""How frames are resized, all without keeping the aspect: `bilinear` samples at pixel centres and skips pixels when it
shrinks, as PyTorch does by default and the ports of I3D do; `antialias` averages over what it would skip; `tf1` samples
from the corner, as TensorFlow 1's `resize_bilinear` did in the original FVD and FID."""


@dataclass(frozen=True)
class NetworkDetector:
    """A `Detector` around a network in evaluation mode; see `protocol.py`."""

    name: str
    dim: int
    fingerprint: str
    frames: int | None
    description: str
    """One line to be printed with every result: the file, its hash, and every choice."""
    run: Callable[[Tensor], Tensor]
    """(b, T, 3, H, W) uint8 on `device` to (b, D), with no gradient."""
    fewest_frames: int = 1
    device: str = "cpu"
    clips_at_once: int = 8
    """A matter of memory: a clip's features depend on it to rounding only."""

    def features(self, video: Tensor) -> Tensor:
        """Features of clips: (B, T, 3, H, W) uint8 to (B, D) float32 on the CPU; errors as in `protocol.py`."""
        if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[2] != 3:
            raise ValueError(
                f"{self.name} reads uint8 clips (B, T, 3, height, width), got {video.dtype} {tuple(video.shape)}"
            )
        frames = video.shape[1]
        if self.frames is not None and frames != self.frames:
            raise ValueError(f"{self.name} reads clips of {self.frames} frames, got {frames}")
        if frames < self.fewest_frames:
            raise ValueError(f"{self.name} reads clips of {self.fewest_frames} frames or more, got {frames}")
        if not len(video):
            return torch.empty(0, self.dim)
        made = []
        with torch.inference_mode():
            for clips in video.split(self.clips_at_once):
                found = self.run(clips.to(self.device))
                if found.shape != (len(clips), self.dim):
                    raise ValueError(
                        f"{self.name} made features {tuple(found.shape)} of {len(clips)} clips, expected "
                        f"({len(clips)}, {self.dim}): its file is another network's"
                    )
                made.append(found.float().cpu())
        return torch.cat(made).clone()  # an inference tensor cannot be written to outside


def resize(video: Tensor, size: int, how: Filter) -> Tensor:
    """Frames at the size that a network was trained at.

    Args:
        video: (B, T, 3, H, W) of any real type; values are kept, not rounded.
        size: of both sides of the result.
        how: the filter.

    Returns:
        (B, T, 3, size, size) float32.
    """
    flat = rearrange(video, "b t c h w -> (b t) c h w").float()
    if flat.shape[-2:] != (size, size):
        if how == "tf1":
            flat = _from_the_corner(_from_the_corner(flat, size, -2), size, -1)
        else:
            flat = F.interpolate(flat, (size, size), mode="bilinear", antialias=how == "antialias")
    return rearrange(flat, "(b t) c h w -> b t c h w", b=len(video))


def _from_the_corner(x: Tensor, size: int, dim: int) -> Tensor:
    """One dimension to `size`: pixel i is read at i * old / size, between its neighbours, the last one held."""
    old = x.shape[dim]
    at = torch.arange(size, device=x.device, dtype=torch.float32) * (old / size)
    below = at.floor().long()
    above = (below + 1).clamp(max=old - 1)
    weight = (at - below).reshape(-1, *[1] * (-dim - 1))
    return x.index_select(dim, below) * (1 - weight) + x.index_select(dim, above) * weight
