"""From latents to hidden states and back: patches, sinusoids, learned tables.

Knows where a token sits (space, time, stream), the clip's interval and each frame's noise level. Knows nothing of
attention or of teacher forcing; a stream frame is just a frame with a time, a kind and a mask.

Shapes: B videos, S stream frames, N tokens per frame, C token channels, D width, L tokens the transformer sees per
frame (N, or N + 1 when the noise level is a token of its own).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

NoiseEmbedding = Literal["token", "channel", "add"]
TimeMode = Literal["interpolate", "extrapolate"]


def patchify(latents: Tensor, patch: int) -> Tensor:
    """Cut latents (B, T, C', h, w) into tokens (B, T, N, C), channel-major inside a token as MAR does."""
    return rearrange(latents, "b t c (h p) (w q) -> b t (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int, height: int) -> Tensor:
    """Undo `patchify`: tokens (B, T, N, C) to latents (B, T, C', h, w) of latent height `height`."""
    return rearrange(tokens, "b t (h w) (c p q) -> b t c (h p) (w q)", p=patch, q=patch, h=height // patch)


def sinusoid(positions: Tensor, width: int, *, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of real-valued positions: (...) to (..., width), sines then cosines (Transformer, MAE).

    Positions need not be whole, so interpolating an embedding in time is embedding the interpolated time. They are on
    the CPU and so is the float64 result: not every device has that type.
    """
    half = width // 2
    frequency = torch.exp(-math.log(max_period) * torch.arange(half, device="cpu", dtype=torch.float64) / half)
    angle = positions.double()[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def sinusoid_2d(rows: int, columns: int, width: int) -> Tensor:
    """Sinusoidal embedding of a token grid, (rows * columns, width): half the channels for the row, half for the
    column."""
    row = sinusoid(torch.arange(rows, device="cpu"), width // 2)[:, None].expand(rows, columns, width // 2)
    column = sinusoid(torch.arange(columns, device="cpu"), width // 2)[None].expand(rows, columns, width // 2)
    return rearrange(torch.cat([row, column], dim=-1), "r c d -> (r c) d")


def temporal_positions(num_frames: int, trained_frames: int, mode: TimeMode) -> Tensor:
    """Temporal position of each frame of a video, (num_frames,) float64 on the CPU.

    ``interpolate`` (the paper, A.4; its formula NOVA's) squeezes frame i of n > T to i T / n, which is below T, so the
    total length must be known before the first frame; ``extrapolate`` counts on. Short videos count 0, 1, 2 ... either
    way.
    """
    positions = torch.arange(num_frames, device="cpu", dtype=torch.float64)
    if mode == "interpolate" and num_frames > trained_frames:
        positions = positions * trained_frames / num_frames
    return positions


@lru_cache(maxsize=1024)
def times_on(device: torch.device, times: tuple[float, ...], width: int, dtype: torch.dtype) -> Tensor:
    """Embedding (S, width) of times, copied to the device once instead of at every step, which would stall it."""
    with torch.inference_mode(mode=False):  # what is kept may be used in training, whoever asks for it first
        return sinusoid(torch.tensor(times, device="cpu", dtype=torch.float64), width).to(dtype).to(device)


class StreamEmbedding(nn.Module):
    """Hidden states of stream frames (paper §4: positions, intervals, noise levels)."""

    spatial: Tensor  # (N, D)

    def __init__(
        self,
        token_channels: int,
        width: int,
        *,
        grid: tuple[int, int],
        intervals: int,
        noise_levels: int,
        noise_embedding: NoiseEmbedding,
    ) -> None:
        super().__init__()
        self.grid, self.width = grid, width
        self.noise_embedding = noise_embedding
        self.token_in = nn.Linear(token_channels, width)
        self.mask_token = nn.Parameter(torch.empty(1, width))  # a matrix, for MAR's weight decay spares vectors
        self.position = nn.Parameter(torch.empty(2, grid[0] * grid[1], width))  # one table per stream kind
        self.interval = nn.Embedding(intervals, width)
        self.noise_level = nn.Embedding(noise_levels, width)
        self.join = nn.Linear(2 * width, width) if noise_embedding == "channel" else None
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("spatial", self.places(), persistent=False)

    def places(self) -> Tensor:
        """Sinusoids (N, D) of the places in a frame, where the parameters are; without memory if these have none."""
        if self.position.is_meta:
            return self.position.new_empty(self.grid[0] * self.grid[1], self.width)
        return sinusoid_2d(*self.grid, self.width).float().to(self.position.device)

    @property
    def extra_tokens(self) -> int:
        """Tokens per frame beside those of the picture: 1 if the noise level has its own."""
        return int(self.noise_embedding == "token")

    def forward(
        self, tokens: Tensor, masked: Tensor, kind: Tensor, time: Tensor, noise_level: Tensor, interval: Tensor
    ) -> Tensor:
        """Embed stream frames.

        Args:
            tokens: (B, S, N, C) token values; those under the mask are ignored.
            masked: (B, S, N) bool.
            kind: (S,) int, which position table: 0 observation, 1 masked.
            time: (S,) temporal positions, on the CPU whatever the device of the rest.
            noise_level: (B, S) int ids.
            interval: (B,) int, 1-based frame intervals.

        Returns:
            (B, S, L, D) hidden states.
        """
        dtype, device = self.mask_token.dtype, self.mask_token.device
        when = times_on(device, tuple(time.tolist()), self.width, dtype)[:, None]  # (S, 1, D)
        pace = self.interval(interval - 1)[:, None, None]  # (B, 1, 1, D)
        level = self.noise_level(noise_level)[:, :, None]  # (B, S, 1, D)

        x = torch.where(masked[..., None], self.mask_token, self.token_in(tokens.to(dtype)))  # (B, S, N, D)
        x = x + self.position[kind] + self.spatial.to(dtype) + when + pace
        if self.noise_embedding == "add":
            x = x + level
        elif self.join is not None:
            x = self.join(torch.cat([x, level.expand_as(x)], dim=-1))
        else:
            x = torch.cat([x, level + when + pace], dim=2)  # (B, S, N + 1, D)
        return self.norm(x)
