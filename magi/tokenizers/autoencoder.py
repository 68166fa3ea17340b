"""A small per-frame KL autoencoder, for experiments that need latents without downloading any.

The encoder is light, because it runs beside the generator in every training step; the decoder runs only to look at
results and may cost more. Knows pixels and latents, not where pixels come from, how it is optimised or stored.
Its loss and statistics are those of `kl.py`.

Shapes:
    B videos, T frames, F = some of the B * T frames, H x W pixels; C latent channels, h x w = H / stride x W / stride.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from magi.tokenizers.kl import AutoencoderConfig, KlAutoencoder, full_precision, split_moments
from magi.tokenizers.protocol import Posterior

# The first convolution goes from full to quarter resolution in one step: nothing is convolved where it is expensive.
PATCH = 4


class ResidualBlock(nn.Module):
    """Two rounds of GroupNorm, SiLU and a 3 x 3 convolution, added to the input; the identity at initialisation."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(norm_groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Map (F, channels, h, w) to the same shape."""
        update = self.conv1(functional.silu(self.norm1(features)))
        return features + self.conv2(functional.silu(self.norm2(update)))


def _encoder(config: AutoencoderConfig) -> nn.Sequential:
    """Frames (F, 3, H, W) to posterior moments (F, 2C, h, w)."""
    widths = config.channels[1:]  # strides 4, 8
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], PATCH, stride=PATCH)]
    for level, (width, blocks) in enumerate(zip(widths, config.encoder_blocks, strict=True)):
        if level > 0:
            layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
        layers.extend(ResidualBlock(width, config.norm_groups) for _ in range(blocks))
    layers += [nn.GroupNorm(config.norm_groups, widths[-1]), nn.SiLU()]
    layers.append(nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1))
    return nn.Sequential(*layers)


def _decoder(config: AutoencoderConfig) -> nn.Sequential:
    """Latents (F, C, h, w) to frames (F, 3, H, W)."""
    widths, blocks = config.channels[::-1], config.decoder_blocks[::-1]  # coarse to fine
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        layers.extend(ResidualBlock(width, config.norm_groups) for _ in range(blocks[level]))
        is_last = level == len(widths) - 1
        if is_last:
            layers += [nn.GroupNorm(config.norm_groups, width), nn.SiLU()]
        finer = 3 if is_last else widths[level + 1]
        layers += [nn.Conv2d(width, 4 * finer, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


class Autoencoder(KlAutoencoder):
    """A convolutional KL autoencoder that treats every frame alone: causal, and as good on one frame as on many."""

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        config = config or AutoencoderConfig()
        super().__init__(config, temporal_stride=1)
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the posterior, each (F, C, h, w) float32, of ``frames`` (F, 3, H, W)."""
        return split_moments(self.encoder(frames))

    def forward(self, pixels: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return the training loss of a reconstruction from a posterior sample.

        Args:
            pixels: (B, T, 3, H, W) in [-1, 1].
            noise: (B, T, C, h, w) standard normal, the randomness of the sample.

        Returns:
            the scalars of `losses`.
        """
        batch, num_frames = pixels.shape[:2]
        assert noise.shape == (batch, *self.latent_shape(num_frames, *pixels.shape[-2:])), noise.shape
        frames = rearrange(pixels, "b t c h w -> (b t) c h w")
        mean, log_variance = self.moments(frames)
        latents = mean + torch.exp(0.5 * log_variance) * rearrange(noise, "b t c h w -> (b t) c h w")
        return self.losses(full_precision(self.decoder(latents)) - frames, mean=mean, log_variance=log_variance)

    # no_grad, not inference_mode: a generator saves the latents for its backward pass, which inference tensors forbid.
    @torch.no_grad()
    def posterior(self, pixels: Tensor, *, frames_per_chunk: int = 64) -> Posterior:
        """Return the posterior, mean and deviation (B, T, C, h, w) float32, of pixels (B, T, 3, H, W)."""
        self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        frames = rearrange(pixels, "b t c h w -> (b t) c h w")
        moments = [self.moments(chunk) for chunk in frames.split(frames_per_chunk)]
        posterior = self.normalised(*(torch.cat(parts) for parts in zip(*moments, strict=True)))
        assert posterior.deviation is not None
        mean, deviation = (
            rearrange(x, "(b t) c h w -> b t c h w", b=len(pixels)).contiguous()
            for x in (posterior.mean, posterior.deviation)
        )
        return Posterior(mean, deviation)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, frames_per_chunk: int = 64) -> Tensor:
        """Return pixels (B, T, 3, H, W) float32, clamped to [-1, 1], of normalised ``latents`` (B, T, C, h, w)."""
        frames = self.raw(rearrange(latents, "b t c h w -> (b t) c h w"))
        pixels = torch.cat([full_precision(self.decoder(chunk)) for chunk in frames.split(frames_per_chunk)])
        return rearrange(pixels.clamp(-1, 1), "(b t) c h w -> b t c h w", b=latents.shape[0]).contiguous()
