"""Decode latent frames as they arrive. Knows what causality allows, not how any tokenizer does it.

Shapes: B videos, C latent channels, h x w latent grid, H x W pixels; s frames per latent frame after the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from magi.tokenizers.protocol import Tokenizer, pixel_frames


@runtime_checkable
class StreamingDecoder(Protocol):
    """A causal tokenizer that remembers what it needs of the past instead of decoding it again."""

    def decoding(self) -> Callable[[Tensor], Tensor]:
        """Return a function from the next latent frames (B, n, C, h, w) to the frames (B, f, 3, H, W) they complete.

        All the frames that it returns, joined, are `decode` of all that it was given, joined.
        """
        ...


def decode_stream(tokenizer: Tokenizer, latents: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the frames that each further latent frame completes, the same that `decode` makes of all of them.

    A tokenizer that is causal but remembers nothing decodes the past again for each latent frame. One that is not
    causal can finish no frame before it has seen all latents: everything comes at the end.

    Args:
        tokenizer: any.
        latents: groups of latent frames (B, n, C, h, w), in order; the first may hold a whole context.

    Yields:
        (B, f, 3, H, W) in [-1, 1] for each group; for a tokenizer that is not causal once, after the last.
    """
    if tokenizer.temporal_stride == 1 and tokenizer.is_causal:
        yield from (tokenizer.decode(group) for group in latents)
    elif isinstance(tokenizer, StreamingDecoder):
        decode = tokenizer.decoding()
        yield from (decode(group) for group in latents)
    else:
        yield from _decode_again(tokenizer, latents)


def _decode_again(tokenizer: Tokenizer, latents: Iterable[Tensor]) -> Iterator[Tensor]:
    seen: list[Tensor] = []
    for group in latents:
        before = sum(part.shape[1] for part in seen)
        seen.append(group)
        if tokenizer.is_causal:
            shown = pixel_frames(before, tokenizer.temporal_stride) if before else 0
            yield tokenizer.decode(torch.cat(seen, dim=1))[:, shown:]
    if seen and not tokenizer.is_causal:
        yield tokenizer.decode(torch.cat(seen, dim=1))
