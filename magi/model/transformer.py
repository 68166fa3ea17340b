"""The spatial-temporal transformer (paper §4): blocks of a full 2-D spatial layer, then a masked 1-D temporal layer.

It never learns which teacher-forcing paradigm it serves: streams of frames come in with a temporal mask, hidden states
go out.

Shapes: B videos, S stream frames, L tokens per frame, D width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magi.model.attention import Attention, Axis, causal_mask
from magi.model.cache import KVCache


class Layer(nn.Module):
    """Pre-norm attention along one axis, then an MLP, both residual."""

    def __init__(
        self, width: int, mlp_width: int, heads: int, *, axis: Axis, dropout: float, extra_projection: bool
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, axis=axis, dropout=dropout)
        self.extra_projection = nn.Linear(width, width) if extra_projection else None
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_width), nn.GELU(), nn.Linear(mlp_width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, cache: KVCache | None = None, layer: int = 0, skip: int = 0
    ) -> Tensor:
        """(B, S, L, D) to (B, S - skip, L, D): the first `skip` frames are seen by the others and have no result."""
        y = self.attention(self.attention_norm(x), mask=mask, cache=cache, layer=layer, skip=skip)
        if self.extra_projection is not None:
            y = self.extra_projection(y)
        x = x[:, skip:] + self.dropout(y)
        expand, activation, project = self.mlp
        hidden = self.dropout(activation(expand(self.mlp_norm(x))))  # MAR drops after both linear layers
        return x + self.dropout(project(hidden))


class Block(nn.Module):
    """One spatial layer, then one temporal layer, each with its own MLP (the parameter count of the paper asks for
    both)."""

    def __init__(self, width: int, mlp_width: int, heads: int, *, dropout: float, temporal_out_proj: bool) -> None:
        super().__init__()
        self.spatial = Layer(width, mlp_width, heads, axis="space", dropout=dropout, extra_projection=False)
        self.temporal = Layer(width, mlp_width, heads, axis="time", dropout=dropout, extra_projection=temporal_out_proj)

    def forward(self, x: Tensor, *, mask: Tensor | None, cache: KVCache | None, layer: int, skip: int = 0) -> Tensor:
        """(B, S, L, D) to (B, S - skip, L, D): of the first `skip` frames no more is computed than the others see."""
        x = self.spatial(x)
        return self.temporal(x, mask=mask, cache=cache, layer=layer, skip=skip)


class Transformer(nn.Module):
    """A stack of blocks and a last norm.

    With `checkpointed` a block keeps its input alone for the backward pass and computes the rest again: a third more
    operations for a fraction of the memory, and the same gradients.
    """

    def __init__(
        self, *, depth: int, width: int, mlp_width: int, heads: int, dropout: float, temporal_out_proj: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, mlp_width, heads, dropout=dropout, temporal_out_proj=temporal_out_proj) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.checkpointed = False

    def forward(
        self, x: Tensor, *, temporal_mask: Tensor | None = None, cache: KVCache | None = None, wanted: int | None = None
    ) -> Tensor:
        """Transform stream frames.

        Args:
            x: (B, S, L, D).
            temporal_mask: (S, S) bool, which stream frame may attend to which; training.
            cache: committed frames; the frames of x follow them, each seeing the past and those up to itself.
            wanted: of how many last frames the result is wanted; None is all. The others end at the keys and values of
                the last temporal layer, which changes no result.

        Returns:
            (B, wanted, L, D), normed. The cache, if any, holds the keys and values of x, not yet committed.
        """
        skip = 0 if wanted is None else x.shape[1] - wanted
        if cache is not None:
            assert temporal_mask is None, "with a cache the order of the frames is the mask"
            temporal_mask = causal_mask(x.shape[1], cache.frames, device=x.device)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            run = partial(block, mask=temporal_mask, cache=cache, layer=index, skip=skip if index == last else 0)
            x = checkpoint(run, x, use_reentrant=False) if self.checkpointed and torch.is_grad_enabled() else run(x)
        return self.norm(x)
