"""The per-frame KL autoencoder of Stable Diffusion 1.4, and its two fine-tuned decoders, through diffusers.

Knows the architecture, the names of its weights and the scale of its latents, 0.18215; not where the files lie.
Source: latent diffusion (arXiv 2112.10752); ``AutoencoderKL`` of diffusers runs it.

Shapes:
    B videos, T frames, F = some of the B * T frames, H x W pixels; C = 4 latent channels, h x w = H / 8 x W / 8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from magi import checkpoint
from magi.tokenizers.protocol import Posterior, latent_shape_of
from magi.tokenizers.published.fitting import network_settings
from magi.tokenizers.published.libraries import diffusers

# The projections of an attention layer as diffusers called them before 2023, in files that are still published.
LEGACY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# What a published config.json also says: of tiling, of half precision, and of the pictures that it is for.
OF_NO_EFFECT = {"sample_size", "force_upcast"}


@dataclass(frozen=True)
class StableDiffusionConfig:
    """Architecture and scale in the words of diffusers' config.json; the defaults are those of Stable Diffusion 1.4."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    act_fn: str = "silu"
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if len(self.down_block_types) != levels or len(self.up_block_types) != levels:
            raise ValueError(
                f"block_out_channels has {levels} entries, down_block_types {len(self.down_block_types)}, "
                f"up_block_types {len(self.up_block_types)}; they must be as many"
            )
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor must be positive, got {self.scaling_factor}")

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along height and along width."""
        return 2 ** (len(self.block_out_channels) - 1)


def config_of(described: Mapping[str, Any], source: str) -> StableDiffusionConfig:
    """Read what diffusers' config.json of an ``AutoencoderKL`` says.

    Raises:
        ValueError: it is of another network, or says something that is not understood here.
    """
    data = network_settings(described, "AutoencoderKL", of_no_effect=OF_NO_EFFECT, source=source)
    for name in ("latents_mean", "latents_std"):
        if data.pop(name, None) is not None:
            raise ValueError(f"{source}: {name} is given; Stable Diffusion's latents have one scaling_factor instead")
    return checkpoint.read_config(StableDiffusionConfig, data)


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the old names of attention layers replaced by those of today's diffusers."""
    return {re.sub(r"(\.attentions\.\d+\.)(\w+)(?=\.)", _current, name): tensor for name, tensor in state.items()}


def _current(found: re.Match[str]) -> str:
    return found[1] + LEGACY.get(found[2], found[2])


class StableDiffusionAutoencoder(nn.Module):
    """Stable Diffusion's autoencoder, which treats every frame alone: causal, and as good on one frame as on many.

    ``network`` computes in the floating type that it is moved to, float32 by default; latents and pixels are float32.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: StableDiffusionConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StableDiffusionConfig()
        self.latent_channels = config.latent_channels
        self.spatial_stride = config.spatial_stride
        self.temporal_stride = 1
        self.is_causal = True
        self.network = diffusers().AutoencoderKL(**asdict(config)).eval()
        mean, deviation = config.shift_factor or 0.0, 1 / config.scaling_factor
        self.register_buffer("shift", torch.full((config.latent_channels,), mean))  # (C,)
        self.register_buffer("scale", torch.full((config.latent_channels,), deviation))  # (C,)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (t, C, h, w); ValueError if the stride does not divide height and width."""
        return latent_shape_of(num_frames, height, width, channels=self.latent_channels, stride=self.spatial_stride)

    # no_grad, not inference_mode: a generator saves the latents for its backward pass, which inference tensors forbid.
    @torch.no_grad()
    def posterior(self, pixels: Tensor, *, frames_per_chunk: int = 16) -> Posterior:
        """Return the posterior, normalised by ``shift`` and ``scale``: mean and deviation (B, T, C, h, w) float32.

        Args:
            pixels: (B, T, 3, H, W) in [-1, 1].
            frames_per_chunk: how many frames go through the network at once; bounds memory, does not change the result.
        """
        self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        frames = rearrange(pixels, "b t c h w -> (b t) c h w").to(self.network.dtype)
        told = [self.network.encode(chunk).latent_dist for chunk in frames.split(frames_per_chunk)]
        mean = (torch.cat([part.mean for part in told]).float() - self.shift[:, None, None]) / self.scale[:, None, None]
        deviation = torch.cat([part.std for part in told]).float() / self.scale[:, None, None]
        mean, deviation = (rearrange(x, "(b t) c h w -> b t c h w", b=len(pixels)) for x in (mean, deviation))
        return Posterior(mean.contiguous(), deviation.contiguous())

    def encode(self, pixels: Tensor, *, frames_per_chunk: int = 16) -> Tensor:
        """Return the mean of `posterior`, (B, T, C, h, w) float32."""
        return self.posterior(pixels, frames_per_chunk=frames_per_chunk).mean

    @torch.no_grad()
    def decode(self, latents: Tensor, *, frames_per_chunk: int = 16) -> Tensor:
        """Return pixels (B, T, 3, H, W) float32, clamped to [-1, 1], of normalised ``latents`` (B, T, C, h, w)."""
        frames = rearrange(latents, "b t c h w -> (b t) c h w") * self.scale[:, None, None] + self.shift[:, None, None]
        chunks = frames.to(self.network.dtype).split(frames_per_chunk)
        pixels = torch.cat([self.network.decode(chunk).sample.float() for chunk in chunks]).clamp(-1, 1)
        return rearrange(pixels, "(b t) c h w -> b t c h w", b=latents.shape[0]).contiguous()
