"""The spatial-temporal transformer (paper §4): blocks of a full 2-D spatial layer, then a masked 1-D temporal layer.

It never learns which teacher-forcing paradigm it serves: streams of frames come in with a temporal mask, hidden states
go out.

Shapes: B videos, S stream frames, L tokens per frame, n chosen tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
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
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        skip: int = 0,
        asking: Tensor | None = None,
        places: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """(B, S, L, D) to (B, S - skip, L, D): the first `skip` frames are seen by the others and have no result.

        Args:
            x: hidden states.
            mask: as `Attention` takes it.
            cache: likewise.
            layer: likewise.
            skip: frames without a result; time only.
            asking: (B, n) the tokens of each frame that have a result, which is (B, S, n, D); space only.
            places: as `Attention` takes it.
            chosen: (B, n) the tokens of all frames with a result, frame after frame, that are wanted: (B, n, D).
        """
        seen = self.attention_norm(x)
        queries = seen[:, skip:] if skip else None
        x = x[:, skip:]
        if asking is not None:
            x, queries = take(x, asking), take(seen, asking)
        y = self.attention(seen, asking=queries, mask=mask, cache=cache, layer=layer, places=places)
        if chosen is not None:
            x, y = (take(part.flatten(1, 2), chosen) for part in (x, y))
        y = self.attention.out(y)
        if self.extra_projection is not None:
            y = self.extra_projection(y)
        x = x + self.dropout(y)
        expand, activation, project = self.mlp
        hidden = self.dropout(activation(expand(self.mlp_norm(x))))  # MAR drops after both linear layers
        return x + self.dropout(project(hidden))


def take(x: Tensor, index: Tensor) -> Tensor:
    """The tokens at index (B, n) of x (B, ..., L, D), of every frame the same: (B, ..., n, D)."""
    between = (1,) * (x.ndim - 3)
    return x.take_along_dim(index.view(len(index), *between, -1, 1), dim=-2)


class Block(nn.Module):
    """One spatial layer, then one temporal layer, each with its own MLP (the parameter count of the paper asks for
    both)."""

    def __init__(self, width: int, mlp_width: int, heads: int, *, dropout: float, temporal_out_proj: bool) -> None:
        super().__init__()
        self.spatial = Layer(width, mlp_width, heads, axis="space", dropout=dropout, extra_projection=False)
        self.temporal = Layer(width, mlp_width, heads, axis="time", dropout=dropout, extra_projection=temporal_out_proj)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
        skip: int = 0,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """(B, S, L, D) to (B, S - skip, L, D), or to (B, n, D), of these tokens the chosen ones (B, n) alone.

        Of all others no more is computed than those see.
        """
        if chosen is not None and x.shape[1] == 1:  # no other frame sees this one: in time a token needs itself alone
            x = self.spatial(x, asking=chosen)
            return self.temporal(x, cache=cache, layer=layer, places=chosen)[:, 0]
        x = self.spatial(x)
        return self.temporal(x, mask=mask, cache=cache, layer=layer, skip=skip, chosen=chosen)


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
        self,
        x: Tensor,
        *,
        temporal_mask: Tensor | None = None,
        cache: KVCache | None = None,
        wanted: int | None = None,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """Transform stream frames.

        Args:
            x: (B, S, L, D).
            temporal_mask: (S, S) bool, which stream frame may attend to which; training.
            cache: committed frames; the frames of x follow them, each seeing the past and those up to itself.
            wanted: of how many last frames the result is wanted; None is all. The others end at the keys and values of
                the last temporal layer, which changes no result; with a cache they are committed to it.
            chosen: (B, n) of the tokens of these frames, counted frame after frame, those whose result is wanted; None
                is all. The others end where no chosen one sees them any more, which changes no result either.

        Returns:
            (B, wanted, L, D), normed, or (B, n, D) of the chosen. Without `chosen` the cache, if any, holds the keys
            and values of the wanted frames behind the committed ones.
        """
        skip = 0 if wanted is None else x.shape[1] - wanted
        mask = temporal_mask
        if cache is not None:
            assert temporal_mask is None, "with a cache the order of the frames is the mask"
            mask = causal_mask(x.shape[1], cache.frames, device=x.device)
        *earlier, last = (partial(block, cache=cache, layer=index) for index, block in enumerate(self.blocks))
        for block in earlier:
            x = self._run(partial(block, mask=mask), x)
        if cache is not None and skip:  # apart from the wanted frames, of which only the chosen tokens are needed
            last(x[:, :skip], mask=causal_mask(skip, cache.frames, device=x.device), skip=skip)
            cache.advance(skip)
            if not wanted:
                return x[:, skip:]
            x, skip = x[:, skip:], 0
            mask = causal_mask(x.shape[1], cache.frames, device=x.device)
        return self.norm(self._run(partial(last, mask=mask, skip=skip, chosen=chosen), x))

    def _run(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A block, whose inner values are kept for the backward pass or computed again there."""
        return checkpoint(block, x, use_reentrant=False) if self.checkpointed and torch.is_grad_enabled() else block(x)
