"""The noise contract: a sample is a function of its own seed.

For every video the order in which frame f's tokens appear comes from (seed, f); the noise of the diffusion head comes
from (seed, f, mask step, head step), one full (tokens, channels) normal tensor each, of which the needed tokens are
gathered. So the same video appears at any batch size, with or without a cache, however the steps are grouped, and
noise that a solver would not read need not be drawn. Changing anything here changes every video.

Shapes: B videos, N tokens per frame, n of them chosen, C token channels, S head steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from magi.model.masking import random_orders
from magi.sampling.counted import hashed, normal
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
        """`source` "cpu" draws NumPy's numbers, the same bits for every device; "device" computes others where they are
        needed (`counted`), which is far quicker on a GPU and the same on every device to rounding."""
        self.seeds = [int(seed) for seed in seeds]  # NumPy's integers too: they are spelt otherwise in a key
        self.tokens = tokens
        self.channels = channels
        self.dtype = dtype
        self.device = device
        self.source = source
        self.keys = torch.tensor([hashed(seed) for seed in self.seeds]).to(device)  # (B,)

    def order(self, frame: int) -> Tensor:
        """The order in which tokens are revealed, (B, N) int64."""
        rows = [random_orders(generator(seed, "sample order", frame), 1, self.tokens)[0] for seed in self.seeds]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def head(self, frame: int, mask_step: int, *, head_steps: int, chosen: Tensor | None = None) -> Tensor:
        """The head's noise at one mask step, (S + 1, B, N, C), or of the `chosen` tokens (B, n) alone: row 0 is the
        start, row i is added after head step i. Rows do not depend on `head_steps`; 0 gives the start alone."""
        return self._normal("sample head", head_steps + 1, frame, mask_step, chosen=chosen)

    def observation(self, frame: int) -> Tensor:
        """Unit noise for a finished frame before it is observed, (B, N, C)."""
        return self._normal("sample observation", 1, frame)[0]

    def _normal(self, purpose: str, rows: int, *position: int, chosen: Tensor | None = None) -> Tensor:
        """Normal numbers (rows, B, N, C) or (rows, B, n, C), drawn in float32 whatever the model's precision. Row i is
        the same however many rows are drawn: NumPy's streams have that property, and counts do."""
        videos = len(self.seeds)
        if self.source == "cpu":
            draws = [
                generator(seed, purpose, *position).standard_normal(
                    (rows, self.tokens, self.channels), dtype=np.float32
                )
                for seed in self.seeds
            ]
            noise = torch.from_numpy(np.stack(draws, axis=1)).to(self.device, self.dtype)
            return noise if chosen is None else noise[:, torch.arange(videos, device=self.device)[:, None], chosen]
        if chosen is None:
            chosen = torch.arange(self.tokens, device=self.device).expand(videos, -1)
        pairs = -(-self.channels // 2)
        row, pair = torch.arange(rows, device=self.device), torch.arange(pairs, device=self.device)
        counts = (row[:, None, None, None] * self.tokens + chosen[..., None]) * pairs + pair  # (rows, B, n, pairs)
        keys = self.keys[:, None, None] + hashed((purpose, *position))
        return normal(keys, counts).flatten(-2)[..., : self.channels].to(self.dtype)
