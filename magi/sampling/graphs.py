"""Sampling in CUDA graphs: the transformer's pass and the head's loop are recorded once and replayed.

What a pass launches depends on how many frames are cached, on their positions and on how many tokens are revealed, and
what the loop launches on the last of these alone. A schedule reveals few different numbers of tokens (64 steps over 256
tokens: seven), so there are few graphs of each, and no rows need be added to make shapes agree. Later rollouts of the
same model find the graphs of earlier ones: caches are lent to rollouts and come back, as graphs read them where they
were.

Shapes: B videos, N tokens per frame, n chosen tokens, C token channels, R rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from magi.graphs import Inputs, Recorder, check_device
from magi.model.cache import KVCache
from magi.model.embeddings import times_on
from magi.model.head import DiffusionHead
from magi.model.magi import Finished, Magi

MOST = 4096  # graphs: of a hundred frames in 64 steps over 256 tokens there are 807
_graphed: WeakKeyDictionary[Magi, GraphedMagi] = WeakKeyDictionary()


def graphed(model: Magi) -> GraphedMagi:
    """The model, in graphs: those of earlier calls, unless its parameters have moved since.

    Raises:
        ValueError: it is not on a CUDA device.
    """
    check_device(model.head_position.device)
    places = tuple(parameter.data_ptr() for parameter in model.parameters())
    if model not in _graphed or _graphed[model].places != places:
        _graphed[model] = GraphedMagi(model, Recorder(most=MOST), places)
    return _graphed[model]


class Lent:
    """The memory of a cache, which at most one rollout has at a time."""

    def __init__(self, empty: KVCache) -> None:
        self.empty = empty
        self.owner: Callable[[], KVCache | None] = lambda: None

    def lend(self) -> KVCache:
        """An empty cache in this memory, which comes back when the cache is no longer used."""
        cache = copy(self.empty)
        self.owner = ref(cache)
        return cache


class GraphedMagi(Magi):
    """A model that computes what `model` does, whose parameters it shares, by replaying."""

    def __init__(self, model: Magi, recorder: Recorder, places: tuple[int, ...] = ()) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        self.embedding, self.transformer, self.head_position = model.embedding, model.transformer, model.head_position
        self.head = GraphedHead(model.head, recorder)
        self.training = model.training
        self.recorder = recorder
        self.places = places
        self.lent: dict[tuple[int, int], list[Lent]] = {}  # by videos and frames

    def new_cache(self, batch: int, max_frames: int) -> KVCache:
        """An empty cache; in the memory of one of the same size that nobody has any more, if there is one."""
        same = self.lent.setdefault((batch, max_frames), [])
        free = [lent for lent in same if lent.owner() is None]
        if not free:
            free = [Lent(super().new_cache(batch, max_frames))]
            same += free
        return free[0].lend()

    def predict(
        self,
        cache: KVCache,
        tokens: Tensor,
        masked: Tensor,
        *,
        time: float,
        interval: Tensor,
        chosen: Tensor | None = None,
        finished: Finished | None = None,
    ) -> Tensor:
        """The head's conditions (B, n, D), as `Magi.predict` says; overwritten by the next call like this one."""
        if chosen is None:
            chosen = torch.arange(self.config.tokens, device=tokens.device).expand(len(tokens), -1)
        plain, apart = super().predict, copy(cache)  # what is done to a cache besides computing would not be replayed
        times = [(time,)] if finished is None else [(time,), tuple(finished.time.tolist())]

        def compute(inputs: Inputs) -> Tensor:
            tokens, masked, interval, chosen, *values = inputs
            read = None if finished is None else finished._replace(tokens=values[0])
            return plain(copy(apart), tokens, masked, time=time, interval=interval, chosen=chosen, finished=read)

        inputs = (tokens, masked, interval, chosen, *(() if finished is None else (finished.tokens,)))
        memory, level = (cache.store.data_ptr(), cache.store.shape), None if finished is None else finished.noise_level
        like = self.head_position
        z: Tensor = self.recorder(
            ("predict", *memory, cache.frames, *times, level),
            compute,
            inputs,
            kept=[times_on(like.device, when, self.config.width, like.dtype) for when in times],
        )
        if finished is not None:
            cache.advance(finished.tokens.shape[1])
        return z


class GraphedHead(DiffusionHead):
    """A head that samples what `head` does, whose parameters it shares, by replaying."""

    def __init__(self, head: DiffusionHead, recorder: Recorder) -> None:
        nn.Module.__init__(self)
        for name, module in head.named_children():
            setattr(self, name, module)
        self.token_channels, self.config = head.token_channels, head.config
        self.recorder = recorder

    def sample(self, z: Tensor, noise: Tensor, **settings: Any) -> Tensor:
        """Tokens (R, C), as `DiffusionHead.sample` says; overwritten by the next call like this one."""
        plain: Callable[..., Tensor] = partial(super().sample, **settings)
        tokens: Tensor = self.recorder(("head", *sorted(settings.items())), lambda inputs: plain(*inputs), (z, noise))
        return tokens
