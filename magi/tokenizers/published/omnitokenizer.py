"""OmniTokenizer's VAE, the tokenizer of Kinetics-600 in the paper: 17 frames to 5 latent frames of 8 channels.

Encoder and decoder under the names of the published weights; no discriminator, no perceptual network, no codebook.
`omnitokenizer_names.py` makes one of what a published file holds.

**It is not causal**, whatever its attention: see `PositionConvolution`. Latents of a clip's first frames hold something
of its last ones, so a context is encoded alone, and decoding takes all latents of a clip at once.

Source: arXiv 2406.09399; the published code (FoundationVision/OmniTokenizer, commit 701b619, omnitokenizer.py).

Shapes:
    B videos, T = 1 + 4 (t - 1) frames, H x W pixels; t latent frames, C latent channels, h x w = H / 8 x W / 8 latent
    grid; D width.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from magi.choices import check_choices
from magi.tokenizers.protocol import Posterior, latent_shape_of, pixel_frames
from magi.tokenizers.published.omnitokenizer_layers import Axis, Transformer

TRAINED_LATENTS = 5  # in a clip, of the published VAEs


@dataclass(frozen=True)
class OmniTokenizerConfig:
    """Architecture of an `OmniTokenizer`; the defaults are those of the published VAEs."""

    latent_channels: int = 8
    width: int = 512
    heads: int = 8
    head_width: int = 64
    patch: int = 8  # pixels
    temporal_patch: int = 4  # frames
    encoder_blocks: str = "ttww"  # a letter per layer: t attends to the whole frame, w within windows
    decoder_blocks: str = "tttt"
    temporal_depth: int = 4  # layers along time, of the encoder and of the decoder
    window: int = 8  # latent cells
    multiplier: float = 4.0  # of the feed-forward's inner width
    spatial_position: Literal["rope", "rel"] = "rope"  # rel: a bias per relative position, which is held but not used
    causal_attention: bool = True  # along time
    causal_position: bool = True  # padding of the position convolutions

    def __post_init__(self) -> None:
        check_choices(self)
        sizes = ("latent_channels", "width", "heads", "head_width", "patch", "temporal_patch", "temporal_depth")
        for name in (*sizes, "window", "multiplier"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("encoder_blocks", "decoder_blocks"):
            blocks = getattr(self, name)
            if not blocks or set(blocks) - {"t", "w"}:
                raise ValueError(f"{name} must be letters t (whole frame) and w (windows), got {blocks!r}")
        if self.has_windows and self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by the {self.heads} heads of window attention")
        if self.spatial_position == "rope" and self.head_width % 4:
            raise ValueError(f"head_width {self.head_width} must be divisible by 4 for rotary positions")

    @property
    def has_windows(self) -> bool:
        """Whether any layer attends within windows, which must then fill a frame."""
        return "w" in self.encoder_blocks + self.decoder_blocks


def _transformer(config: OmniTokenizerConfig, blocks: str, axis: Axis) -> Transformer:
    is_spatial = axis == "space"
    return Transformer(
        blocks,
        axis,
        width=config.width,
        heads=config.heads,
        head_width=config.head_width,
        window=config.window,
        multiplier=config.multiplier,
        rotary=is_spatial and config.spatial_position == "rope",
        biased=not is_spatial or config.spatial_position == "rel",
        causal=not is_spatial and config.causal_attention,
        causal_position=config.causal_position,
    )


def _patch_embedding(config: OmniTokenizerConfig, frames: int) -> nn.Sequential:
    """Video (B, 3, T, H, W) to tokens (B, T / frames, h, w, D)."""
    values = 3 * frames * config.patch**2
    return nn.Sequential(
        Rearrange("b c (t i) (h j) (w k) -> b t h w (c i j k)", i=frames, j=config.patch, k=config.patch),
        nn.LayerNorm(values),
        nn.Linear(values, config.width),
        nn.LayerNorm(config.width),
    )


def _to_pixels(config: OmniTokenizerConfig, frames: int) -> nn.Sequential:
    """Tokens (B, t, h, w, D) to video (B, 3, t * frames, H, W)."""
    return nn.Sequential(
        nn.Linear(config.width, 3 * frames * config.patch**2),
        Rearrange("b t h w (c i j k) -> b c (t i) (h j) (w k)", i=frames, j=config.patch, k=config.patch),
    )


def _to_channels(inputs: int, outputs: int) -> nn.Sequential:
    """A linear map of the channels of (B, c, t, h, w)."""
    return nn.Sequential(
        Rearrange("b c t h w -> b t h w c"), nn.Linear(inputs, outputs), Rearrange("b t h w c -> b c t h w")
    )


class Encoder(nn.Module):
    """Video (B, 3, T, H, W) in [-0.5, 0.5] to features (B, D, t, h, w): along space, then along time."""

    def __init__(self, config: OmniTokenizerConfig) -> None:
        super().__init__()
        self.to_patch_emb_first_frame = _patch_embedding(config, 1)
        self.to_patch_emb = _patch_embedding(config, config.temporal_patch)
        self.enc_spatial_transformer = _transformer(config, config.encoder_blocks, "space")
        self.enc_temporal_transformer = _transformer(config, "t" * config.temporal_depth, "time")

    def forward(self, video: Tensor) -> Tensor:
        """See the class."""
        tokens = self.to_patch_emb_first_frame(video[:, :, :1])
        if video.shape[2] > 1:
            tokens = torch.cat([tokens, self.to_patch_emb(video[:, :, 1:])], dim=1)
        tokens = self.enc_temporal_transformer(self.enc_spatial_transformer(tokens))
        return rearrange(tokens, "b t h w d -> b d t h w")


class Decoder(nn.Module):
    """Features (B, D, t, h, w) to video (B, 3, T, H, W) of about [-0.5, 0.5]: along time, then along space."""

    def __init__(self, config: OmniTokenizerConfig) -> None:
        super().__init__()
        self.dec_spatial_transformer = _transformer(config, config.decoder_blocks, "space")
        self.dec_temporal_transformer = _transformer(config, "t" * config.temporal_depth, "time")
        self.to_pixels_first_frame = _to_pixels(config, 1)
        self.to_pixels = _to_pixels(config, config.temporal_patch)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        tokens = self.dec_temporal_transformer(rearrange(features, "b d t h w -> b t h w d"))
        tokens = self.dec_spatial_transformer(tokens)
        video = self.to_pixels_first_frame(tokens[:, :1])
        if tokens.shape[1] > 1:
            video = torch.cat([video, self.to_pixels(tokens[:, 1:])], dim=2)
        return video


class OmniTokenizer(nn.Module):
    """Encoder and decoder of a 3-D KL autoencoder with attention along space and time.

    Not causal: encode a context alone, and decode all latents of a clip at once. `shift` and `scale`, the mean and the
    standard deviation of each latent channel, are 0 and 1 until someone measures and sets them.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: OmniTokenizerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OmniTokenizerConfig()
        self.latent_channels = config.latent_channels
        self.spatial_stride = config.patch
        self.temporal_stride = config.temporal_patch
        self.is_causal = False
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.pre_vq_conv = _to_channels(config.width, 2 * config.latent_channels)  # mean and log variance
        self.post_vq_conv = _to_channels(config.latent_channels, config.width)
        self.register_buffer("shift", torch.zeros(config.latent_channels))  # (C,)
        self.register_buffer("scale", torch.ones(config.latent_channels))  # (C,)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (t, C, h, w); ValueError if the strides or the windows do not divide the video, or H is not W."""
        shape = latent_shape_of(
            num_frames,
            height,
            width,
            channels=self.latent_channels,
            stride=self.spatial_stride,
            temporal_stride=self.temporal_stride,
        )
        if height != width:
            raise ValueError(f"OmniTokenizer takes square frames, got {height} x {width} pixels; crop them first")
        side = self.spatial_stride * self.config.window
        if self.config.has_windows and height % side:
            raise ValueError(
                f"frames of {height} x {width} pixels do not divide into OmniTokenizer's windows of {side} x {side}; "
                f"take a multiple of {side}, such as {side * (height // side + 1)}"
            )
        return shape

    @torch.no_grad()
    def posterior(self, pixels: Tensor, *, videos_per_chunk: int = 8) -> Posterior:
        """Return the posterior, normalised by `shift` and `scale`: mean and deviation (B, t, C, h, w) float32.

        Args:
            pixels: (B, T, 3, H, W) in [-1, 1], T = 1 + 4 (t - 1): a whole clip, or a context alone.
            videos_per_chunk: how many videos go through the network at once; bounds memory, does not change the result.
        """
        self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        moments = torch.cat([self._moments(chunk) for chunk in pixels.split(videos_per_chunk)])
        mean, log_variance = moments.chunk(2, dim=2)
        shift, scale = self.shift[:, None, None], self.scale[:, None, None]
        deviation = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return Posterior(((mean - shift) / scale).contiguous(), (deviation / scale).contiguous())

    def encode(self, pixels: Tensor, *, videos_per_chunk: int = 8) -> Tensor:
        """Return the mean of `posterior`, (B, t, C, h, w) float32."""
        return self.posterior(pixels, videos_per_chunk=videos_per_chunk).mean

    @torch.no_grad()
    def decode(self, latents: Tensor, *, videos_per_chunk: int = 8) -> Tensor:
        """Return pixels (B, T, 3, H, W) float32, clamped to [-1, 1], of normalised ``latents`` (B, t, C, h, w).

        All latents of a clip at once: every frame depends on all of them. Warns where they are more than the weights
        were trained on, of which nothing is known.
        """
        _, frames, _, height, width = latents.shape
        stride = self.spatial_stride
        self.latent_shape(pixel_frames(frames, self.temporal_stride), height * stride, width * stride)
        if frames > TRAINED_LATENTS:
            warnings.warn(
                f"{frames} latent frames are decoded at once; OmniTokenizer was trained on {TRAINED_LATENTS}, "
                f"{pixel_frames(TRAINED_LATENTS, self.temporal_stride)} frames",
                stacklevel=2,
            )
        values = latents * self.scale[:, None, None] + self.shift[:, None, None]
        pixels = torch.cat([self._pixels(chunk) for chunk in values.split(videos_per_chunk)])
        return rearrange(pixels.clamp(-1, 1), "b c t h w -> b t c h w").contiguous()

    def _moments(self, pixels: Tensor) -> Tensor:
        """Mean and log variance, (b, t, 2C, h, w) as the network gives them, of some videos (b, T, 3, H, W)."""
        video = rearrange(self._as_weights(pixels), "b t c h w -> b c t h w") / 2  # to [-0.5, 0.5]
        return _at_least_float32(rearrange(self.pre_vq_conv(self.encoder(video)), "b c t h w -> b t c h w"))

    def _pixels(self, values: Tensor) -> Tensor:
        """Videos (b, 3, T, H, W) of about [-1, 1], of some latents (b, t, C, h, w) as the network takes them."""
        features = self.post_vq_conv(rearrange(self._as_weights(values), "b t c h w -> b c t h w"))
        return 2 * _at_least_float32(self.decoder(features))

    def _as_weights(self, values: Tensor) -> Tensor:
        """``values`` in the precision of the weights."""
        return values.to(next(self.parameters()).dtype)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
