"""NVIDIA's Cosmos tokenizers CV4x8x8 and CV8x8x8: native weights through diffusers, or the published TorchScript pair.

Both are strictly causal in time, encoder and decoder alike, and deterministic: the latents of a prefix are the prefix
of the latents, and frames once decoded never change. The published statistics, where there are any, are per channel and
position; here they are per channel, since position must not matter to a model that goes on for ever.

``AutoencoderKLCosmos`` of diffusers represents both. Its pictures are first cut by a Haar transform of 4 x 4 x 4, so at
temporal ratio 4 no level strides in time and one of them strides in space; its decoder takes that step at the first
level whatever the number of levels, and the published CV4x8x8 has one level less than its encoder: channels
(256, 512, 512). At temporal ratio 8 the decoder goes up at its second level, and needs all of (256, 512, 512, 512).

Knows architectures and the names of weights; not where files lie nor whether they are to be trusted.

Shapes:
    B videos, T = 1 + s (t - 1) frames at temporal stride s, H x W pixels; t latent frames, C = 16 channels,
    h x w = H / 8 x W / 8. The networks want b c t h w, the rest of MAGI b t c h w.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from magi import checkpoint
from magi.tokenizers.protocol import Posterior, latent_shape_of
from magi.tokenizers.published.fitting import network_settings
from magi.tokenizers.published.libraries import diffusers

LATENT_CHANNELS = 16  # of every published Cosmos tokenizer with continuous latents
STRIDE = 8  # in space


@dataclass(frozen=True)
class CosmosConfig:
    """Architecture in the words of diffusers' config.json; the defaults are those of CV4x8x8."""

    temporal_compression_ratio: int = 4
    spatial_compression_ratio: int = 8
    latent_channels: int = LATENT_CHANNELS
    encoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    decode_block_out_channels: tuple[int, ...] = (256, 512, 512)
    num_layers: int = 2
    patch_size: int = 4
    patch_type: str = "haar"
    attention_resolutions: tuple[int, ...] = (32,)
    resolution: int = 1024

    def __post_init__(self) -> None:
        ratio, patch = self.spatial_compression_ratio, self.patch_size
        space, time = log2(ratio / patch), log2(self.temporal_compression_ratio / patch)
        ratios = f"{self.temporal_compression_ratio}x{ratio}x{ratio}"
        if not (space.is_integer() and time.is_integer() and space >= time >= 0):
            raise ValueError(f"ratios {ratios} are not a patch of {patch} times powers of two, smaller ones in time")
        down, up = len(self.encoder_block_out_channels) - 2, len(self.decode_block_out_channels) - 2
        # Where diffusers' decoder strides: in time from its second level on, and there in space too.
        in_time = [0 < level <= time for level in range(up)]
        in_space = [in_time[level] or (level < space and space > time) for level in range(up)]
        if down < space or sum(in_time) != time or sum(in_space) != space:
            raise ValueError(
                f"encoder {self.encoder_block_out_channels} and decoder {self.decode_block_out_channels} have too few "
                f"levels for ratios {ratios}: what is decoded would have another size than what was encoded"
            )


CV4X8X8 = CosmosConfig()
CV8X8X8 = CosmosConfig(temporal_compression_ratio=8, decode_block_out_channels=(256, 512, 512, 512))
# What config.json also says: of the diffusion model beside it, and statistics, which `statistics_of` reads.
OF_NO_EFFECT = {"scaling_factor", "latents_mean", "latents_std"}


def config_of(described: Mapping[str, Any], source: str) -> CosmosConfig:
    """Read what diffusers' config.json of an ``AutoencoderKLCosmos`` says.

    Raises:
        ValueError: it is of another network, or says something that is not understood here.
    """
    settings = network_settings(described, "AutoencoderKLCosmos", of_no_effect=OF_NO_EFFECT, source=source)
    return checkpoint.read_config(CosmosConfig, settings)


def statistics_of(described: Mapping[str, Any], channels: int) -> tuple[Tensor, Tensor] | None:
    """Return ``shift`` and ``scale``, (C,) each, from the statistics in diffusers' config.json; None if there are none.

    They are given per channel and latent position; pooled over positions, a channel's variance is the mean of the
    variances plus the variance of the means.
    """
    if described.get("latents_mean") is None or described.get("latents_std") is None:
        return None
    means = torch.tensor(described["latents_mean"], dtype=torch.float64).reshape(channels, -1)
    deviations = torch.tensor(described["latents_std"], dtype=torch.float64).reshape(channels, -1)
    variance = deviations.square().mean(dim=1) + means.var(dim=1, correction=0)
    return means.mean(dim=1).float(), variance.sqrt().float()


class _Causal(nn.Module, ABC):
    """What both forms share: strides, statistics, and the layout of pixels and latents."""

    shift: Tensor
    scale: Tensor

    def __init__(self, temporal_stride: int, channels: int, stride: int) -> None:
        super().__init__()
        self.latent_channels = channels
        self.spatial_stride = stride
        self.temporal_stride = temporal_stride
        self.is_causal = True
        self.register_buffer("shift", torch.zeros(channels))  # (C,)
        self.register_buffer("scale", torch.ones(channels))  # (C,)

    @abstractmethod
    def _encoded(self, videos: Tensor) -> Tensor:
        """Latents (b, C, t, h, w) of ``videos`` (b, 3, T, H, W), as the network gives them."""

    @abstractmethod
    def _decoded(self, latents: Tensor) -> Tensor:
        """Videos (b, 3, T, H, W) of ``latents`` (b, C, t, h, w), as the network gives them."""

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (t, C, h, w); ValueError if the strides do not divide the video."""
        return latent_shape_of(
            num_frames,
            height,
            width,
            channels=self.latent_channels,
            stride=self.spatial_stride,
            temporal_stride=self.temporal_stride,
        )

    def posterior(self, pixels: Tensor, *, videos_per_chunk: int = 1) -> Posterior:
        """The values of `encode`: nothing about them is uncertain."""
        return Posterior(self.encode(pixels, videos_per_chunk=videos_per_chunk))

    # no_grad, not inference_mode: a generator saves the latents for its backward pass, which inference tensors forbid.
    @torch.no_grad()
    def encode(self, pixels: Tensor, *, videos_per_chunk: int = 1) -> Tensor:
        """Return latents (B, t, C, h, w) float32, normalised by ``shift`` and ``scale``.

        Args:
            pixels: (B, T, 3, H, W) in [-1, 1].
            videos_per_chunk: how many videos go through the network at once; bounds memory, does not change the result.
        """
        expected = self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        videos = rearrange(pixels, "b t c h w -> b c t h w")
        latents = torch.cat([self._encoded(chunk).float() for chunk in videos.split(videos_per_chunk)])
        latents = rearrange(latents, "b c t h w -> b t c h w")
        if latents.shape[1:] != expected:
            raise ValueError(
                f"the encoder made latents (t, C, h, w) {tuple(latents.shape[1:])} of {tuple(pixels.shape[1:])}, "
                f"expected {expected}: it is not the tokenizer that it is taken for"
            )
        return ((latents - self.shift[:, None, None]) / self.scale[:, None, None]).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor, *, videos_per_chunk: int = 1) -> Tensor:
        """Return pixels (B, T, 3, H, W) float32, clamped to [-1, 1], of normalised ``latents`` (B, t, C, h, w)."""
        values = latents * self.scale[:, None, None] + self.shift[:, None, None]
        chunks = rearrange(values, "b t c h w -> b c t h w").split(videos_per_chunk)
        videos = torch.cat([self._decoded(chunk).float() for chunk in chunks]).clamp(-1, 1)
        return rearrange(videos, "b c t h w -> b t c h w").contiguous()


class CosmosTokenizer(_Causal):
    """A Cosmos tokenizer with its weights in the open.

    ``network`` computes in the floating type that it is moved to, float32 by default; latents and pixels are float32.
    """

    def __init__(self, config: CosmosConfig | None = None) -> None:
        config = config or CosmosConfig()
        super().__init__(config.temporal_compression_ratio, config.latent_channels, config.spatial_compression_ratio)
        self.config = config
        # without statistics: the defaults are those of another tokenizer than most
        kind = diffusers().AutoencoderKLCosmos
        self.network = kind(**asdict(config), latents_mean=None, latents_std=None).eval()

    def _encoded(self, videos: Tensor) -> Tensor:
        latents: Tensor = self.network.encode(videos.to(self.network.dtype)).latent_dist.mode()
        return latents

    def _decoded(self, latents: Tensor) -> Tensor:
        videos: Tensor = self.network.decode(latents.to(self.network.dtype)).sample
        return videos


class CosmosTorchScript(_Causal):
    """The published pair of TorchScript files as it is, in the floating type that its weights are stored in."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, *, temporal_stride: int, place: str, sha256: Mapping[str, str]
    ) -> None:
        """Wrap what ``torch.jit.load`` gave.

        Args:
            encoder: from videos (b, 3, T, H, W) to latents (b, 16, t, h, w), perhaps the first of several values.
            decoder: from latents to videos.
            temporal_stride: 4 or 8.
            place: the folder of the two files, which a release of a model refers to.
            sha256: of each of them, by name.
        """
        super().__init__(temporal_stride, LATENT_CHANNELS, STRIDE)
        self.encoder, self.decoder = encoder, decoder
        self.place, self.sha256 = place, dict(sha256)
        self.dtype = next((p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32)

    def _encoded(self, videos: Tensor) -> Tensor:
        return self._run(self.encoder, videos)

    def _decoded(self, latents: Tensor) -> Tensor:
        return self._run(self.decoder, latents)

    def _run(self, half: nn.Module, given: Tensor) -> Tensor:
        try:
            told = half(given.to(self.dtype))
        except NotImplementedError as error:
            raise ValueError(
                f"{self.place} is TorchScript in {self.dtype}, which cannot run on {given.device}: "
                f"{str(error).splitlines()[-1]}; magi tokenizer convert makes it a tokenizer in float32"
            ) from error
        made: Tensor = told if isinstance(told, Tensor) else told[0]
        return made
