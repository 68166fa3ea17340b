"""What every tokenizer promises: pixels in, normalised latents out, and back.

Knows no architecture and no file.

Shapes:
    B videos, T frames, H x W pixels; t latent frames, C latent channels, h x w latent grid.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Tokenizer(Protocol):
    """A map between pixels (B, T, 3, H, W) in [-1, 1] and latents (B, t, C, h, w) of about zero mean, unit variance."""

    @property
    def latent_channels(self) -> int:
        """C."""
        ...

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and along width."""
        ...

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame; 1 for tokenizers that treat each frame alone."""
        ...

    @property
    def is_causal(self) -> bool:
        """Whether a latent frame never depends on later pixels, so that a prefix may be encoded alone."""
        ...

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (t, C, h, w) for a video of this size; ValueError if the strides do not divide it."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the latents (B, t, C, h, w) of ``pixels`` (B, T, 3, H, W) in [-1, 1]; deterministic."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels (B, T, 3, H, W), clamped to [-1, 1]."""
        ...


def per_frame_latent_shape(
    num_frames: int, height: int, width: int, *, channels: int, stride: int
) -> tuple[int, int, int, int]:
    """Return (t, C, h, w) for a tokenizer that treats each frame alone.

    Raises:
        ValueError: a size is not positive, or the stride does not divide height or width.
    """
    if num_frames < 1 or height < 1 or width < 1:
        raise ValueError(f"a video needs at least one frame and one pixel, got {num_frames} x {height} x {width}")
    if height % stride or width % stride:
        raise ValueError(f"frames of {height} x {width} pixels are not divisible by the tokenizer's stride {stride}")
    return num_frames, channels, height // stride, width // stride


def to_pixels(video: Tensor) -> Tensor:
    """Turn uint8 video (..., 3, H, W) into what tokenizers take: float32 in [-1, 1]."""
    return video.float() / 127.5 - 1


def to_video(pixels: Tensor) -> Tensor:
    """Turn pixels in [-1, 1] back into uint8, rounding to the nearest level."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
