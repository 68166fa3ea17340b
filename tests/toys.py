"""Small models whose weights look trained, and inputs for them. Nothing here is a claim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws, draw_training
from magi.model.embeddings import patchify
from magi.selftest.small import FLOW, TINY, trained_looking

__all__ = ["FLOW", "TINY", "trained_looking"]


def tiny(**changes: Any) -> MagiConfig:
    """The tiny configuration with some fields changed."""
    return replace(TINY, **changes)


def random_latents(config: MagiConfig, videos: int = 2, *, frames: int | None = None, seed: int = 1) -> Tensor:
    """Latents (B, T, C', h, w) in float64."""
    shape = (
        videos,
        config.num_frames if frames is None else frames,
        config.latent_channels,
        config.latent_height,
        config.latent_width,
    )
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_tokens(config: MagiConfig, videos: int = 2, *, frames: int | None = None, seed: int = 1) -> Tensor:
    """Tokens (B, T, N, C) in float64."""
    return patchify(random_latents(config, videos, frames=frames, seed=seed), config.patch)


def intervals(config: MagiConfig, videos: int = 2) -> Tensor:
    """A different interval for each video."""
    return 1 + torch.arange(videos) % config.max_interval


def noisy_draws(config: MagiConfig, videos: int = 2, *, seed: int = 0, hidden: int | None = None) -> TrainingDraws:
    """Training draws in which every clean frame carries noise, of its own level, and `hidden` tokens are masked."""
    draws = draw_training(config, seed, step=0, samples=range(videos))
    rng = torch.Generator().manual_seed(seed)
    level = torch.randint(1, config.noise_buckets + 1, draws.noise_level.shape, generator=rng)
    sigma = config.noise_max * (level - 0.5) / config.noise_buckets
    return replace(first_hidden(draws, hidden) if hidden else draws, noise_level=level, sigma=sigma)


def by_frame(values: Tensor, frames: int, *, dim: int = -1) -> Tensor:
    """What is listed token by token for a clip whose frames all hide equally many: that axis as (frames, tokens)."""
    return values.unflatten(dim, (frames, -1))


def first_hidden(draws: TrainingDraws, count: int) -> TrainingDraws:
    """The same draws with the first `count` of each frame's hidden tokens alone."""
    frames = draws.noise_level.shape[1]
    return replace(
        draws,
        masked_tokens=by_frame(draws.masked_tokens, frames)[..., :count].flatten(-2),
        head_time=by_frame(draws.head_time, frames)[..., :count].flatten(-2),
        head_noise=by_frame(draws.head_noise, frames, dim=-2)[..., :count, :].flatten(-3, -2),
    )


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the spread of what is expected."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float(((found - expected).abs().max() / expected.std()).detach())
