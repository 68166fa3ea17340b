"""Keys and values of finished frames.

Only temporal layers need a cache: in a spatial layer a frame attends to itself alone. Memory is taken once; a forward
pass writes its frames behind the committed ones and `advance` makes them permanent, so the frame under construction
overwrites its own slot at every mask step. Knows nothing of what it stores.

Shapes: B videos, L tokens per frame, T frames, H heads, d head channels.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor


class KVCache:
    """Preallocated keys and values of every temporal layer."""

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        tokens: int,
        max_frames: int,
        heads: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Frames next to each other in memory: the keys of one location are then one contiguous block for attention.
        self.store = torch.zeros(layers, 2, batch * tokens, heads, max_frames, head_width, dtype=dtype, device=device)
        self.max_frames = max_frames
        self.frames = 0  # committed

    @property
    def nbytes(self) -> int:
        """Bytes held, known before the first frame."""
        return self.store.nbytes

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values (B*L, H, S, d) of S new frames of one layer behind the committed ones.

        Returns:
            Views (B*L, H, frames + S, d) of the committed and the new keys and values.

        Raises:
            ValueError: the cache is full.
        """
        end = self.frames + keys.shape[2]
        if end > self.max_frames:
            raise ValueError(
                f"the cache holds {self.max_frames} frames; frame {end} does not fit. Allocate more or use a window"
            )
        self.store[layer, 0, :, :, self.frames : end] = keys
        self.store[layer, 1, :, :, self.frames : end] = values
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]

    def beside(self, layer: int, keys: Tensor, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The committed keys and values of some places, and behind them new ones (B*n, H, S, d), which are not kept.

        Args:
            layer: which layer.
            keys: of new frames.
            values: of new frames.
            places: (B, n) tokens of a frame.

        Returns:
            Copies (B*n, H, frames + S, d).
        """
        batch = len(places)
        videos = torch.arange(batch, device=places.device)[:, None] * (self.store.shape[2] // batch)
        past = self.store[layer, :, (videos + places).flatten(), :, : self.frames]  # (2, B*n, H, frames, d)
        return torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)

    def advance(self, frames: int) -> None:
        """Commit the frames written last."""
        self.frames += frames
        assert self.frames <= self.max_frames

    def rewind(self, frames: int) -> None:
        """Forget all but the first `frames` committed frames; what follows is generated anew.

        Raises:
            ValueError: that many were never committed.
        """
        if not 0 <= frames <= self.frames:
            raise ValueError(f"cannot rewind to {frames} frames: {self.frames} are committed")
        self.frames = frames

    def fork(self) -> KVCache:
        """An independent copy, for branching one past into several futures."""
        twin = copy.copy(self)
        twin.store = self.store.clone()
        return twin
