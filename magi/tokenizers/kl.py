"""What the autoencoders of this package have in common: their settings, loss and normalised latents.

Knows no layer: how frames become latents is each one's own matter. Source: the first stage of latent diffusion (arXiv
2112.10752, section 3.1), without adversarial and perceptual terms.

Shapes:
    B videos, T frames, H x W pixels; t latent frames, C latent channels, h x w = H / stride x W / stride.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from magi.tokenizers.protocol import Posterior, latent_shape_of
from magi.tokenizers.statistics import measure_statistics


@dataclass(frozen=True)
class AutoencoderConfig:
    """Architecture and loss of an autoencoder, in two dimensions or in three.

    ``channels`` and ``decoder_blocks`` are counted from fine to coarse, for the resolutions at stride 2, 4 and 8, so
    their length decides the spatial stride. The encoder starts at stride 4, so ``encoder_blocks`` has one entry less.
    """

    latent_channels: int = 4
    channels: tuple[int, ...] = (32, 48, 96)
    encoder_blocks: tuple[int, ...] = (1, 2)
    decoder_blocks: tuple[int, ...] = (1, 2, 2)
    norm_groups: int = 8
    l1_weight: float = 1.0
    mse_weight: float = 4.0  # a small disc drawn one pixel off is a few large errors: it is the square that sees them
    kl_weight: float = 1e-6  # per nat and latent value

    def __post_init__(self) -> None:
        if len(self.channels) not in (2, 3):
            raise ValueError(f"channels must have 2 entries (stride 4) or 3 (stride 8), got {self.channels}")
        if len(self.encoder_blocks) != len(self.channels) - 1 or len(self.decoder_blocks) != len(self.channels):
            raise ValueError(
                f"channels {self.channels} need {len(self.channels) - 1} encoder_blocks, got {self.encoder_blocks}, "
                f"and {len(self.channels)} decoder_blocks, got {self.decoder_blocks}"
            )
        if any(width % self.norm_groups for width in self.channels):
            raise ValueError(f"channels {self.channels} must all be divisible by norm_groups {self.norm_groups}")

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and along width."""
        return 2 ** len(self.channels)


class KlAutoencoder(nn.Module, ABC):
    """A causal autoencoder whose posterior is a normal distribution for every latent value."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: AutoencoderConfig, *, temporal_stride: int) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.latent_channels
        self.spatial_stride = config.spatial_stride
        self.temporal_stride = temporal_stride
        self.is_causal = True
        self.register_buffer("shift", torch.zeros(config.latent_channels))  # (C,) mean of the posterior mean
        self.register_buffer("scale", torch.ones(config.latent_channels))  # (C,) its standard deviation

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (t, C, h, w); ValueError if the strides do not divide the video."""
        return latent_shape_of(
            num_frames, height, width,
            channels=self.latent_channels, stride=self.spatial_stride, temporal_stride=self.temporal_stride,
        )  # fmt: skip

    @abstractmethod
    def posterior(self, pixels: Tensor, *, frames_per_chunk: int = 64) -> Posterior:
        """Return the posterior, normalised by ``shift`` and ``scale``: mean and deviation (B, t, C, h, w) float32.

        Args:
            pixels: (B, T, 3, H, W) in [-1, 1].
            frames_per_chunk: how many frames go through the network at once, about; bounds memory, does not change the
                result.
        """

    @abstractmethod
    def decode(self, latents: Tensor, *, frames_per_chunk: int = 64) -> Tensor:
        """Return pixels (B, T, 3, H, W) float32, clamped to [-1, 1], of normalised ``latents`` (B, t, C, h, w)."""

    def encode(self, pixels: Tensor, *, frames_per_chunk: int = 64) -> Tensor:
        """Return the mean of `posterior`, (B, t, C, h, w) float32."""
        return self.posterior(pixels, frames_per_chunk=frames_per_chunk).mean

    def normalised(self, mean: Tensor, log_variance: Tensor) -> Posterior:
        """The posterior that these raw moments (..., C, h, w) say."""
        shift, scale = self.shift[:, None, None], self.scale[:, None, None]
        return Posterior((mean - shift) / scale, torch.exp(0.5 * log_variance) / scale)

    def raw(self, latents: Tensor) -> Tensor:
        """Undo the normalisation of latents (..., C, h, w)."""
        return latents * self.scale[:, None, None] + self.shift[:, None, None]

    def losses(self, error: Tensor, *, mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
        """The loss of a reconstruction, and its parts.

        Args:
            error: (..., 3, H, W), reconstruction less truth.
            mean, log_variance: (..., C, h, w), raw moments.

        Returns:
            scalars ``loss``, ``mse``, ``l1``, ``kl`` (nats per latent value, to a standard normal) and ``psnr`` (dB).
        """
        l1, mse = error.abs().mean(), error.square().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = self.config.l1_weight * l1 + self.config.mse_weight * mse + self.config.kl_weight * kl
        psnr = -10 * torch.log10(mse.detach() / 4)  # the range of a pixel is 2
        return {"loss": loss, "mse": mse.detach(), "l1": l1.detach(), "kl": kl.detach(), "psnr": psnr}

    def measure_statistics(self, pixel_batches: Iterable[Tensor]) -> None:
        """`statistics.measure_statistics` of this autoencoder, on pixels (B, T, 3, H, W) in [-1, 1]."""
        measure_statistics(self, pixel_batches)


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """What an encoder gives, (..., 2C, h, w), as mean and log variance, each (..., C, h, w) float32."""
    mean, log_variance = full_precision(moments).chunk(2, dim=-3)
    return mean, log_variance.clamp(-20, 10)  # keeps the exponential finite whatever the weights do


def full_precision(values: Tensor) -> Tensor:
    """Values as float32, (...), unless they are finer already."""
    return values if values.dtype == torch.float64 else values.float()
