"""One attention for every axis. Space and time differ only in how the frames are arranged around it.

Shapes: B videos, S stream frames, L tokens per frame, D width, H heads, d = D / H.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from magi.model.cache import KVCache

Axis = Literal["space", "time"]


def attend(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention over the second last axis: (..., S, d), (..., T, d), (..., T, d) to (..., S, d).

    `mask` is boolean (S, T), true where attention is allowed.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    # On the CPU the fused kernel's backward is several times slower than this at the short lengths of video tokens.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)
    return weights.to(value.dtype) @ value


class Attention(nn.Module):
    """Multi-head self-attention along one axis of (B, S, L, D), up to its output projection `out`, which the layer
    applies."""

    def __init__(self, width: int, heads: int, *, axis: Axis, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.heads = heads
        self.axis = axis
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        *,
        asking: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        places: Tensor | None = None,
    ) -> Tensor:
        """Attend along the axis.

        Args:
            x: (B, S, L, D) hidden states, which are seen.
            asking: hidden states whose results are wanted, of the others only keys and values are computed: in space
                (B, S, n, D), some tokens of each frame; in time (B, S', L, D), the last frames of x. None is all of x.
            mask: (S, T) bool over the frames attended to; time only.
            cache: keys and values of committed frames, which come before those of x; time only.
            layer: which layer of the cache.
            places: (B, L) where in the cached frames the tokens of x are, if they are not all: keys and values of x are
                then not written to the cache.

        Returns:
            Results for `asking`, in its shape.
        """
        if asking is None:
            asking = x
            query, key, value = self.qkv(x).chunk(3, dim=-1)
        else:
            width = x.shape[-1]
            weights, biases = self.qkv.weight.split([width, 2 * width]), self.qkv.bias.split([width, 2 * width])
            query = F.linear(asking, weights[0], biases[0])
            key, value = F.linear(x, weights[1], biases[1]).chunk(2, dim=-1)
        across = "b s l (h d) -> (b s) h l d" if self.axis == "space" else "b s l (h d) -> (b l) h s d"
        query, key, value = (rearrange(part, across, h=self.heads) for part in (query, key, value))
        if cache is not None and self.axis == "time":
            key, value = cache.extend(layer, key, value) if places is None else cache.beside(layer, key, value, places)
        if mask is not None:
            mask = mask[len(mask) - asking.shape[1] :]
        y = attend(query, key, value, mask=mask, dropout=self.dropout if self.training else 0.0)
        back = "(b s) h l d -> b s l (h d)" if self.axis == "space" else "(b l) h s d -> b s l (h d)"
        return rearrange(y, back, b=len(x))


def causal_mask(new: int, past: int, *, device: torch.device) -> Tensor | None:
    """Mask (new, past + new) under which each new frame sees the past and the new frames up to itself; None if all is
    seen."""
    if new == 1:
        return None
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)
