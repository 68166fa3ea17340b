"""The mean and deviation of each latent channel, by which a tokenizer normalises. Knows no architecture and no file.

Shapes: B videos, T frames, H x W pixels; C latent channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from torch import Tensor

from magi.tokenizers.protocol import Tokenizer


@runtime_checkable
class Normalised(Tokenizer, Protocol):
    """A tokenizer whose latents are (raw - shift) / scale by channel."""

    shift: Tensor  # (C,)
    scale: Tensor  # (C,), above 0


def measure_statistics(tokenizer: Normalised, pixel_batches: Iterable[Tensor]) -> int:
    """Set ``shift`` and ``scale`` so that ``encode`` gives each channel zero mean, unit variance on these batches.

    Args:
        tokenizer: keeps the statistics that it had if an error is raised.
        pixel_batches: tensors (B, T, 3, H, W) in [-1, 1].

    Returns:
        How many values of each channel were measured.

    Raises:
        ValueError: there are no batches, or a channel does not vary, so nothing can be normalised.
    """
    before = tokenizer.shift.clone(), tokenizer.scale.clone()
    tokenizer.shift.zero_()
    tokenizer.scale.fill_(1)
    measured = before
    try:
        mean, deviation, count = channel_moments(map(tokenizer.encode, pixel_batches))
        measured = mean, deviation
    finally:
        tokenizer.shift.copy_(measured[0])
        tokenizer.scale.copy_(measured[1])
    return count


def channel_moments(latent_batches: Iterable[Tensor]) -> tuple[Tensor, Tensor, int]:
    """Mean (C,) and standard deviation (C,), both float64 on the CPU, of latents (B, t, C, h, w), and how many values.

    Raises:
        ValueError: there are no batches, or a channel does not vary.
    """
    # Welford's update, a batch at a time: no difference of large sums. On the CPU: not every device has float64.
    count, mean, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for latents in latent_batches:
        values = rearrange(latents, "b t c h w -> c (b t h w)").cpu().double()
        size = values.shape[1]
        delta = values.mean(dim=1) - mean
        squares = squares + values.var(dim=1, correction=0) * size + delta.square() * (count * size / (count + size))
        mean = mean + delta * (size / (count + size))
        count += size
    if count == 0:
        raise ValueError("latent statistics need at least one batch of pixels, got none")
    deviation = (squares / count).sqrt()
    if not bool(((deviation > 0) & deviation.isfinite()).all()):
        raise ValueError(f"every latent channel must vary to be normalised, got deviations {deviation.tolist()}")
    return mean, deviation, count
