"""A small causal KL autoencoder of videos: four frames to a latent frame, and the first frame alone.

Looks back in time and never forward, so a prefix has the same latents whatever follows, a long video can be encoded in
pieces, and frames can be decoded as their latents arrive. Only its convolutions over time connect frames; they keep the
last two that they saw (`Past`), and everything else, normalisation too, treats each frame alone.

Before the first frame there is the first frame, held still for ever: it is encoded as four frames of a still, and where
a convolution looks back beyond the beginning it sees what is first there repeated. Zeros would be a past that no video
has, and would make the first latent frame, the one that every continuation starts from, the strangest of all.

As in two dimensions (`autoencoder.py`) the encoder is light, the decoder may cost more. Factors a 3 x 3 x 3 convolution
into space and time (R(2+1)D, arXiv 1711.11248); the count of frames and the causal padding are those of MAGVIT-v2
(arXiv 2310.05737).

Shapes:
    B videos, T = 1 + 4 (t - 1) frames, H x W pixels; t latent frames, C latent channels, h x w = H / stride x W /
    stride. c channels, n frames of features at whatever rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from magi.tokenizers.kl import AutoencoderConfig, KlAutoencoder, full_precision, split_moments
from magi.tokenizers.protocol import Posterior

TEMPORAL_STRIDE = 4
# From full resolution to a quarter of it in space and in time in one step: nothing is convolved where it is expensive.
PATCH = 4
REACH = 2  # frames that a convolution of three looks back


@dataclass
class Past:
    """What has to be known of the frames before to go on with a video: by convolution over time, its last two inputs.

    Empty where a video begins.
    """

    kept: dict[nn.Module, Tensor] = field(default_factory=dict)  # (B, 2, c, h, w) each
    has_begun: bool = False

    def begin(self) -> bool:
        """Whether this is where the video begins; True once."""
        begins, self.has_begun = not self.has_begun, True
        return begins


class TimeConvolution(nn.Module):
    """A convolution over time of each place by itself, of this frame and the two before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, (1 + REACH, 1))  # time x places

    def forward(self, features: Tensor, past: Past) -> Tensor:
        """Map (B, n, c, h, w) to the same shape; the last frames go into `past`."""
        before = past.kept.get(self)
        if before is None:
            before = repeat(features[:, 0], "b c h w -> b n c h w", n=REACH)
        seen = torch.cat([before, features], dim=1)
        past.kept[self] = seen[:, -REACH:].clone()  # a view would keep all of them
        mixed = self.convolution(rearrange(seen, "b n c h w -> b c n (h w)"))
        return rearrange(mixed, "b c n (h w) -> b n c h w", h=features.shape[-2])


class CausalBlock(nn.Module):
    """GroupNorm, SiLU, convolutions over space and over time; GroupNorm, SiLU, a convolution over space; added to the
    input. The identity at initialisation."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, channels)
        self.space1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = TimeConvolution(channels)
        self.norm2 = nn.GroupNorm(norm_groups, channels)
        self.space2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.space2.weight)

    def forward(self, features: Tensor, past: Past) -> Tensor:
        """Map (B, n, c, h, w) to the same shape."""
        batch = len(features)
        update = self.space1(functional.silu(self.norm1(folded(features))))
        update = folded(self.time(unfolded(update, batch), past))
        update = self.space2(functional.silu(self.norm2(update)))
        return features + unfolded(update, batch)


class Encoder(nn.Module):
    """Frames to posterior moments."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.channels[1:], config.norm_groups  # strides 4, 8
        self.patch = nn.Conv2d(3 * TEMPORAL_STRIDE, widths[0], PATCH, stride=PATCH)
        self.levels = nn.ModuleList(
            nn.ModuleList(CausalBlock(width, groups) for _ in range(blocks))
            for width, blocks in zip(widths, config.encoder_blocks, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(one, two, 3, stride=2, padding=1) for one, two in pairwise(widths))
        self.norm = nn.GroupNorm(groups, widths[-1])
        self.out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor, past: Past) -> Tensor:
        """Map the next frames (B, T, 3, H, W), at the beginning 1 + 4k of them and then 4k, to (B, t, 2C, h, w)."""
        if past.begin():
            still = repeat(pixels[:, 0], "b c h w -> b n c h w", n=TEMPORAL_STRIDE - 1)
            pixels = torch.cat([still, pixels], dim=1)
        batch = len(pixels)
        features = unfolded(self.patch(rearrange(pixels, "b (t s) c h w -> (b t) (s c) h w", s=TEMPORAL_STRIDE)), batch)
        for level, blocks in enumerate(self.levels):
            if level > 0:
                features = unfolded(self.down[level - 1](folded(features)), batch)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                features = block(features, past)
        return unfolded(self.out(functional.silu(self.norm(folded(features)))), batch)


class Decoder(nn.Module):
    """Latents to frames."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, counts = config.channels[::-1], config.decoder_blocks[::-1]  # coarse to fine
        self.first = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            nn.ModuleList(CausalBlock(width, config.norm_groups) for _ in range(blocks))
            for width, blocks in zip(widths, counts, strict=True)
        )
        self.norm = nn.GroupNorm(config.norm_groups, widths[-1])
        # the first two steps double the rate of frames too, where there are few places
        self.rates = [2 if level < 2 else 1 for level in range(len(widths))]
        steps = zip(widths, [*widths[1:], 3], self.rates, strict=True)
        self.up = nn.ModuleList(nn.Conv2d(one, 4 * two * rate, 3, padding=1) for one, two, rate in steps)

    def forward(self, latents: Tensor, past: Past) -> Tensor:
        """Map the next latents (B, t, C, h, w) to the frames (B, T, 3, H, W) that they complete."""
        batch, begins = len(latents), past.begin()
        features = unfolded(self.first(folded(latents)), batch)
        for level, blocks in enumerate(self.levels):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                features = block(features, past)
            flat = folded(features)
            if level == len(self.levels) - 1:
                flat = functional.silu(self.norm(flat))
            finer = functional.pixel_shuffle(self.up[level](flat), 2)
            features = rearrange(finer, "(b n) (s c) h w -> b (n s) c h w", b=batch, s=self.rates[level])
        return features[:, TEMPORAL_STRIDE - 1 :] if begins else features


class CausalAutoencoder(KlAutoencoder):
    """A convolutional KL autoencoder, four times smaller in time, that never looks ahead."""

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        config = config or AutoencoderConfig()
        super().__init__(config, temporal_stride=TEMPORAL_STRIDE)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, pixels: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return the training loss of a reconstruction from a posterior sample.

        Args:
            pixels: (B, T, 3, H, W) in [-1, 1].
            noise: (B, t, C, h, w) standard normal, the randomness of the sample.

        Returns:
            the scalars of `losses`.
        """
        batch, num_frames = pixels.shape[:2]
        assert noise.shape == (batch, *self.latent_shape(num_frames, *pixels.shape[-2:])), noise.shape
        mean, log_variance = split_moments(self.encoder(pixels, Past()))
        latents = mean + torch.exp(0.5 * log_variance) * noise
        error = full_precision(self.decoder(latents, Past())) - pixels
        return self.losses(error, mean=mean, log_variance=log_variance)

    def encoding(self) -> Callable[[Tensor], Posterior]:
        """Return a function from the next frames of a video (B, T, 3, H, W) to the posterior of their latents.

        It takes 1 + 4k frames at first and then 4k at a time. All that it returns, joined, is `posterior` of the whole.
        """
        past = Past()

        @torch.no_grad()  # not inference_mode: a generator saves the latents for its backward pass
        def encode(pixels: Tensor) -> Posterior:
            if past.has_begun and pixels.shape[1] % TEMPORAL_STRIDE:
                raise ValueError(
                    f"a video goes on by whole latent frames of {TEMPORAL_STRIDE} frames, got {pixels.shape[1]}"
                )
            num_frames = pixels.shape[1] + (1 if past.has_begun else 0)
            self.latent_shape(num_frames, *pixels.shape[-2:])
            return self.normalised(*split_moments(self.encoder(pixels, past)))

        return encode

    def decoding(self) -> Callable[[Tensor], Tensor]:
        """Return a function from the next latent frames (B, n, C, h, w) to the frames (B, f, 3, H, W) they complete.

        The first latent frame completes one frame, each other one four. All that it returns, joined, is `decode` of the
        whole.
        """
        past = Past()

        @torch.no_grad()
        def decode(latents: Tensor) -> Tensor:
            return full_precision(self.decoder(self.raw(latents), past)).clamp(-1, 1)

        return decode

    def posterior(self, pixels: Tensor, *, frames_per_chunk: int = 64) -> Posterior:
        """Return the posterior, mean and deviation (B, t, C, h, w) float32, of pixels (B, T, 3, H, W)."""
        self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        encode, step = self.encoding(), TEMPORAL_STRIDE * self._latents_per_chunk(len(pixels), frames_per_chunk)
        first = 1 + step - TEMPORAL_STRIDE
        chunks = [pixels[:, :first], *(pixels[:, first:].split(step, dim=1) if pixels.shape[1] > first else ())]
        parts = [encode(chunk) for chunk in chunks]
        deviations = [part.deviation for part in parts if part.deviation is not None]
        return Posterior(torch.cat([part.mean for part in parts], dim=1), torch.cat(deviations, dim=1))

    def decode(self, latents: Tensor, *, frames_per_chunk: int = 64) -> Tensor:
        """Return pixels (B, T, 3, H, W) float32, clamped to [-1, 1], of normalised ``latents`` (B, t, C, h, w)."""
        decode, step = self.decoding(), self._latents_per_chunk(len(latents), frames_per_chunk)
        return torch.cat([decode(chunk) for chunk in latents.split(step, dim=1)], dim=1)

    @staticmethod
    def _latents_per_chunk(videos: int, frames_per_chunk: int) -> int:
        """At least one latent frame of each video."""
        return max(1, frames_per_chunk // (TEMPORAL_STRIDE * videos))


def folded(features: Tensor) -> Tensor:
    """(B, n, c, h, w) as frames (B n, c, h, w), each for itself."""
    return rearrange(features, "b n c h w -> (b n) c h w")


def unfolded(frames: Tensor, batch: int) -> Tensor:
    """Frames (B n, c, h, w) as (B, n, c, h, w)."""
    return rearrange(frames, "(b n) c h w -> b n c h w", b=batch)
