"""The noise contract: a sample is a function of its own seed.

For every video the order in which frame f's tokens appear comes from (seed, f); the noise of the diffusion head comes
from (seed, f, mask step, head step), one full (tokens, channels) normal tensor each, of which the needed tokens are
gathered. So the same video appears at any batch size, with or without a cache, however the steps are grouped, and
noise that a solver would not read need not be drawn. Changing anything here changes every video.

Shapes: B videos, N tokens per frame, C token channels, S head steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from magi.model.masking import random_orders
from magi.seeds import generator

NoiseSource = Literal["cpu", "device"]


class SampleNoise:
    """All randomness of a batch of videos, one seed each."""

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        tokens: int,
        channels: int,
        dtype: torch.dtype,
        device: torch.device,
        source: NoiseSource,
    ) -> None:
        """`source` "cpu" gives a seed the same video on every device; "device" draws on the device, which is faster
        there."""
        self.seeds = [int(seed) for seed in seeds]  # NumPy's integers too: they are spelt otherwise in a key
        self.tokens = tokens
        self.channels = channels
        self.dtype = dtype
        self.device = device
        self.source = source

    def order(self, frame: int) -> Tensor:
        """The order in which tokens are revealed, (B, N) int64."""
        rows = [random_orders(generator(seed, "sample order", frame), 1, self.tokens)[0] for seed in self.seeds]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def head(self, frame: int, mask_step: int, *, head_steps: int) -> Tensor:
        """The head's noise at one mask step, (S + 1, B, N, C): row 0 is the start, row i is added after head step i.
        Rows do not depend on `head_steps`; 0 gives the start alone."""
        return self._normal("sample head", head_steps + 1, frame, mask_step)

    def observation(self, frame: int) -> Tensor:
        """Unit noise for a finished frame before it is observed, (B, N, C)."""
        return self._normal("sample observation", 1, frame)[0]

    def _normal(self, purpose: str, rows: int, *position: int) -> Tensor:
        """Normal numbers (rows, B, N, C), drawn in float32 whatever the model's precision. Row i is the same however
        many rows are drawn: NumPy's streams have that property, on a device each row has its own."""
        shape = (self.tokens, self.channels)
        if self.source == "cpu":
            draws = [
                generator(seed, purpose, *position).standard_normal((rows, *shape), dtype=np.float32)
                for seed in self.seeds
            ]
            return torch.from_numpy(np.stack(draws, axis=1)).to(self.device, self.dtype)
        noise = torch.empty(rows, len(self.seeds), *shape, device=self.device)
        rng = torch.Generator(self.device)
        for row in range(rows):
            for video, seed in enumerate(self.seeds):
                key = hashlib.blake2b(repr((seed, purpose, *position, row)).encode(), digest_size=7).digest()
                noise[row, video].normal_(generator=rng.manual_seed(int.from_bytes(key, "little")))
        return noise.to(self.dtype)
