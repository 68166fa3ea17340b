"""Tokenizers with a temporal stride that cost nothing to run, for tests of what is built upon them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from magi.tokenizers.protocol import Posterior, latent_shape_of


@dataclass(frozen=True)
class Groups:
    """Four frames become one latent frame, the first frame alone, every pixel kept; decoding looks back in time.

    A latent frame is its group less half of the group before it, so that decoding one needs all that came before. With
    ``leak`` the mean of the whole video is added to every latent, and a number of the last latent to every frame, as by
    a tokenizer that is not causal. Sizes: two by two pixels per cell, 48 channels.
    """

    leak: float = 0.0
    latent_channels: int = 48
    spatial_stride: int = 2
    temporal_stride: int = 4

    @property
    def is_causal(self) -> bool:
        return self.leak == 0

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return latent_shape_of(num_frames, height, width, channels=48, stride=2, temporal_stride=4)

    def posterior(self, pixels: Tensor) -> Posterior:
        return Posterior(self.encode(pixels))

    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(pixels.shape[1], *pixels.shape[-2:])
        padded = torch.cat([pixels[:, :1].expand(-1, 3, -1, -1, -1), pixels], dim=1)
        groups = rearrange(padded, "b (t f) c (h i) (w j) -> b t (f c i j) h w", f=4, i=2, j=2)
        before = torch.cat([torch.zeros_like(groups[:, :1]), groups[:, :-1]], dim=1)
        return groups - 0.5 * before + self.leak * pixels.mean(dim=(1, 2, 3, 4))[:, None, None, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        groups: list[Tensor] = []
        for latent in latents.unbind(1):
            groups.append(latent + 0.5 * groups[-1] if groups else latent)
        frames = rearrange(torch.stack(groups, dim=1), "b t (f c i j) h w -> b (t f) c (h i) (w j)", f=4, i=2, j=2)
        leak = self.leak * latents[:, -1:, :1, :1, :1]
        return (frames[:, 3:] + leak).clamp(-1, 1)


@dataclass(frozen=True)
class StreamedGroups(Groups):
    """The same, remembering the last group instead of decoding the past again."""

    def decoding(self) -> Callable[[Tensor], Tensor]:
        last: list[Tensor] = []

        def decode(latents: Tensor) -> Tensor:
            frames = []
            for latent in latents.unbind(1):
                group = latent + 0.5 * last[0] if last else latent
                shown = rearrange(group, "b (f c i j) h w -> b f c (h i) (w j)", f=4, i=2, j=2)
                frames.append(shown if last else shown[:, 3:])
                last[:] = [group]
            return torch.cat(frames, dim=1).clamp(-1, 1)

        return decode
