"""A small per-frame KL autoencoder, for experiments that need latents without downloading any.

The encoder is light, because it runs beside the generator in every training step; the decoder runs only to look at
results and may cost more. Knows pixels and latents, not where pixels come from, how it is optimised or stored.
Source: the first stage of latent diffusion (arXiv 2112.10752, section 3.1), without adversarial and perceptual terms.

Shapes:
    B videos, T frames, F = some of the B * T frames, H x W pixels; C latent channels, h x w = H / stride x W / stride.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from magi.tokenizers.protocol import Posterior, latent_shape_of

# The first convolution goes from full to quarter resolution in one step: nothing is convolved where it is expensive.
PATCH = 4


@dataclass(frozen=True)
class AutoencoderConfig:
    """Architecture and loss of an ``Autoencoder``.

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


class Autoencoder(nn.Module):
    """A convolutional KL autoencoder that treats every frame alone: causal, and as good on one frame as on many."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AutoencoderConfig()
        self.latent_channels = config.latent_channels
        self.spatial_stride = config.spatial_stride
        self.temporal_stride = 1
        self.is_causal = True
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        self.register_buffer("shift", torch.zeros(config.latent_channels))  # (C,) mean of the posterior mean
        self.register_buffer("scale", torch.ones(config.latent_channels))  # (C,) its standard deviation

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (t, C, h, w); ValueError if the stride does not divide height and width."""
        return latent_shape_of(num_frames, height, width, channels=self.latent_channels, stride=self.spatial_stride)

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the posterior, each (F, C, h, w) float32, of ``frames`` (F, 3, H, W)."""
        moments = self.encoder(frames).float()
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)  # keeps the exponential finite whatever the weights do

    def forward(self, pixels: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return the training loss of a reconstruction from a posterior sample.

        Args:
            pixels: (B, T, 3, H, W) in [-1, 1].
            noise: (B, T, C, h, w) standard normal, the randomness of the sample.

        Returns:
            scalars ``loss``, ``mse``, ``l1``, ``kl`` (nats per latent value, to a standard normal) and ``psnr`` (dB).
        """
        batch, num_frames = pixels.shape[:2]
        assert noise.shape == (batch, *self.latent_shape(num_frames, *pixels.shape[-2:])), noise.shape
        frames = rearrange(pixels, "b t c h w -> (b t) c h w")
        mean, log_variance = self.moments(frames)
        latents = mean + torch.exp(0.5 * log_variance) * rearrange(noise, "b t c h w -> (b t) c h w")
        error = self.decoder(latents).float() - frames
        l1, mse = error.abs().mean(), error.square().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = self.config.l1_weight * l1 + self.config.mse_weight * mse + self.config.kl_weight * kl
        psnr = -10 * torch.log10(mse.detach() / 4)  # the range of a pixel is 2
        return {"loss": loss, "mse": mse.detach(), "l1": l1.detach(), "kl": kl.detach(), "psnr": psnr}

    # no_grad, not inference_mode: a generator saves the latents for its backward pass, which inference tensors forbid.
    @torch.no_grad()
    def posterior(self, pixels: Tensor, *, frames_per_chunk: int = 64) -> Posterior:
        """Return the posterior, normalised by ``shift`` and ``scale``: mean and deviation (B, T, C, h, w) float32.

        Args:
            pixels: (B, T, 3, H, W) in [-1, 1].
            frames_per_chunk: how many frames go through the network at once; bounds memory, does not change the result.
        """
        self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        frames = rearrange(pixels, "b t c h w -> (b t) c h w")
        moments = [self.moments(chunk) for chunk in frames.split(frames_per_chunk)]
        mean, log_variance = (torch.cat(parts) for parts in zip(*moments, strict=True))
        mean = (mean - self.shift[:, None, None]) / self.scale[:, None, None]
        deviation = torch.exp(0.5 * log_variance) / self.scale[:, None, None]
        mean, deviation = (rearrange(x, "(b t) c h w -> b t c h w", b=len(pixels)) for x in (mean, deviation))
        return Posterior(mean.contiguous(), deviation.contiguous())

    def encode(self, pixels: Tensor, *, frames_per_chunk: int = 64) -> Tensor:
        """Return the mean of `posterior`, (B, T, C, h, w) float32."""
        return self.posterior(pixels, frames_per_chunk=frames_per_chunk).mean

    @torch.no_grad()
    def decode(self, latents: Tensor, *, frames_per_chunk: int = 64) -> Tensor:
        """Return pixels (B, T, 3, H, W) float32, clamped to [-1, 1], of normalised ``latents`` (B, T, C, h, w)."""
        frames = rearrange(latents, "b t c h w -> (b t) c h w") * self.scale[:, None, None] + self.shift[:, None, None]
        pixels = torch.cat([self.decoder(chunk).float() for chunk in frames.split(frames_per_chunk)]).clamp(-1, 1)
        return rearrange(pixels, "(b t) c h w -> b t c h w", b=latents.shape[0]).contiguous()

    @torch.no_grad()
    def measure_statistics(self, pixel_batches: Iterable[Tensor]) -> None:
        """Set ``shift`` and ``scale`` so that ``encode`` gives each channel zero mean, unit variance on these batches.

        Args:
            pixel_batches: tensors (B, T, 3, H, W) in [-1, 1].

        Raises:
            ValueError: there are no batches, or a channel does not vary, so nothing can be normalised.
        """
        self.shift.zero_()
        self.scale.fill_(1)
        # Welford's update, a batch at a time: no difference of large sums. On the CPU: not every device has float64.
        count = 0
        mean = torch.zeros(self.latent_channels, device="cpu", dtype=torch.float64)
        squares = torch.zeros_like(mean)  # sum of squared deviations from the mean
        for pixels in pixel_batches:
            values = rearrange(self.encode(pixels), "b t c h w -> c (b t h w)").cpu().double()
            size = values.shape[1]
            delta = values.mean(dim=1) - mean
            squares += values.var(dim=1, correction=0) * size + delta.square() * (count * size / (count + size))
            mean += delta * (size / (count + size))
            count += size
        if count == 0:
            raise ValueError("latent statistics need at least one batch of pixels, got none")
        scale = (squares / count).sqrt()
        if not bool(((scale > 0) & scale.isfinite()).all()):
            raise ValueError(f"every latent channel must vary to be normalised, got deviations {scale.tolist()}")
        self.shift.copy_(mean)
        self.scale.copy_(scale)
