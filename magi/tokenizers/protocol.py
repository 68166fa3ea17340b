"""What every tokenizer promises: pixels in, normalised latents out, and back.

Knows no architecture and no file.

Shapes:
    B videos, T frames, H x W pixels; t latent frames, C latent channels, h x w latent grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """What an encoder says of latents, normalised: independent normal distributions, or values where nothing varies."""

    mean: Tensor  # (B, t, C, h, w)
    deviation: Tensor | None = None  # (B, t, C, h, w), at least 0; None for a deterministic tokenizer

    def sample(self, noise: Tensor) -> Tensor:
        """Latents (B, t, C, h, w) from standard normal `noise` of that shape; without deviation, the values alone."""
        return self.mean if self.deviation is None else self.mean + self.deviation * noise


class Tokenizer(Protocol):
    """A map between pixels (B, T, 3, H, W) in [-1, 1] and latents (B, t, C, h, w) of about zero mean, unit variance.

    With a temporal stride s of more than 1, the first latent frame stands for the first frame alone and each other one
    for s frames: T = 1 + s (t - 1).
    """

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
        """Frames per latent frame after the first; 1 for tokenizers that treat each frame alone."""
        ...

    @property
    def is_causal(self) -> bool:
        """Whether a latent frame never depends on later pixels, nor a decoded frame on later latents."""
        ...

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (t, C, h, w) for a video of this size; ValueError if the strides do not divide it."""
        ...

    def posterior(self, pixels: Tensor) -> Posterior:
        """Return what is known of the latents of ``pixels`` (B, T, 3, H, W) in [-1, 1]."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the mean of `posterior`, (B, t, C, h, w): deterministic."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels (B, T, 3, H, W), clamped to [-1, 1]."""
        ...


def latent_shape_of(
    num_frames: int, height: int, width: int, *, channels: int, stride: int, temporal_stride: int = 1
) -> tuple[int, int, int, int]:
    """Return (t, C, h, w) for a video of this size.

    Raises:
        ValueError: a size is not positive, the stride does not divide height or width, or the number of frames is not
            1 + s (t - 1).
    """
    if num_frames < 1 or height < 1 or width < 1:
        raise ValueError(f"a video needs at least one frame and one pixel, got {num_frames} x {height} x {width}")
    if height % stride or width % stride:
        raise ValueError(f"frames of {height} x {width} pixels are not divisible by the tokenizer's stride {stride}")
    return latent_frames(num_frames, temporal_stride), channels, height // stride, width // stride


def latent_frames(num_frames: int, temporal_stride: int) -> int:
    """The t latent frames that T = 1 + s (t - 1) frames have at temporal stride s.

    Raises:
        ValueError: the tokenizer makes no latents of so many frames; naming the numbers next to it that it takes.
    """
    whole, over = divmod(num_frames - 1, temporal_stride)
    if num_frames < 1 or over:
        below, above = (1 + temporal_stride * max(0, whole + step) for step in (0, 1))
        raise ValueError(
            f"{num_frames} frames do not make whole latent frames: the first stands alone, the others come "
            f"{temporal_stride} to one; take {below} or {above}"
        )
    return whole + 1


def pixel_frames(num_latents: int, temporal_stride: int) -> int:
    """The T = 1 + s (t - 1) frames that t latent frames stand for."""
    return 1 + temporal_stride * (num_latents - 1)


def to_pixels(video: Tensor) -> Tensor:
    """Turn uint8 video (..., 3, H, W) into what tokenizers take: float32 in [-1, 1]."""
    return video.float() / 127.5 - 1


def to_video(pixels: Tensor) -> Tensor:
    """Turn pixels in [-1, 1] back into uint8, rounding to the nearest level."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
