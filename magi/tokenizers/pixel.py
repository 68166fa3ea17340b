"""A tokenizer without parameters: each latent cell is a square of pixels.

For tests and for the smallest experiments: it loses nothing, so whatever a generated video gets wrong is the
generator's doing. Knows nothing of how the pixels came about.

Shapes:
    B videos, T frames, H x W pixels; C = 3 * stride^2 latent channels, h x w = H / stride x W / stride.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from magi.tokenizers.protocol import Posterior, latent_shape_of


@dataclass(frozen=True)
class PixelTokenizer:
    """Space to depth with squares of ``stride`` x ``stride`` pixels; decoding it gives back the very same pixels."""

    stride: int = 4

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"the stride of the pixel tokenizer must be at least 1, got {self.stride}")

    @property
    def latent_channels(self) -> int:
        """C."""
        return 3 * self.stride**2

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and along width."""
        return self.stride

    @property
    def temporal_stride(self) -> int:
        """Each frame is encoded alone."""
        return 1

    @property
    def is_causal(self) -> bool:
        """Each frame is encoded alone."""
        return True

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (t, C, h, w); ValueError if the stride does not divide height and width."""
        return latent_shape_of(num_frames, height, width, channels=self.latent_channels, stride=self.stride)

    def posterior(self, pixels: Tensor) -> Posterior:
        """The values of `encode`: nothing about them is uncertain."""
        return Posterior(self.encode(pixels))

    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents (B, T, C, h, w) of ``pixels`` (B, T, 3, H, W) in [-1, 1]: the same values, rearranged."""
        self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        return rearrange(pixels, "b t c (h i) (w j) -> b t (c i j) h w", i=self.stride, j=self.stride)

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels (B, T, 3, H, W), clamped to [-1, 1]."""
        pixels = rearrange(latents, "b t (c i j) h w -> b t c (h i) (w j)", i=self.stride, j=self.stride)
        return pixels.clamp(-1, 1)
