"""Would CTF's temporal attention be quicker in two parts?

Its mask has two exact parts: observations see the observations up to themselves, and a masked frame sees earlier
observations and itself, never another masked frame. Computed apart, half of the scores at one masked copy and most at
four need not be there, for more and smaller operations. The model computes the whole (`model.attention`); this
measures what that costs.

Shapes: O observation frames, M masked copies, T frames, d head channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from magi.bench.measure import Spread, alternate
from magi.model.attention import attend
from magi.model.config import MagiConfig
from magi.model.forcing import ctf_mask

COPIES = (1, 2, 4)


def in_two_parts(query: Tensor, key: Tensor, value: Tensor, *, frames: int) -> Tensor:
    """`attend` under `forcing.ctf_mask`: three of (..., O + M T, d) to one, with T = `frames` and O = T - 1."""
    observed, scale = frames - 1, query.shape[-1] ** -0.5
    seen, values = key[..., :observed, :], value[..., :observed, :]
    causal = torch.ones(observed, observed, dtype=torch.bool, device=key.device).tril()
    first = attend(query[..., :observed, :], seen, values, mask=causal)

    asking, own_key, own_value = (part[..., observed:, :] for part in (query, key, value))
    earlier = torch.ones(frames, observed, dtype=torch.bool, device=key.device).tril(-1)
    earlier = earlier.repeat(asking.shape[-2] // frames, 1)  # (M T, O)
    scores = (scale * asking @ seen.transpose(-1, -2)).masked_fill(~earlier, float("-inf"))
    own = (scale * asking * own_key).sum(dim=-1, keepdim=True)
    weights = torch.cat([scores, own], dim=-1).softmax(dim=-1)
    second = weights[..., :observed] @ values + weights[..., observed:] * own_value
    return torch.cat([first, second], dim=-2)


def measure_two_parts(config: MagiConfig, *, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """How many times faster the two parts are than the whole, forwards and backwards in turn, of one layer.

    Returns:
        By number of masked copies a summary.
    """
    found = {}
    for copies in COPIES:
        streams = config.num_frames - 1 + copies * config.num_frames
        shape = (batch * config.frame_tokens, config.heads, streams, config.width // config.heads)
        inputs = [torch.randn(shape, device=device, requires_grad=True) for _ in range(3)]
        mask = ctf_mask(config.num_frames, copies).to(device)

        def run(attention: Callable[..., Tensor], inputs: list[Tensor] = inputs) -> None:
            attention(*inputs).sum().backward()

        ways = {"whole": partial(attend, mask=mask), "parts": partial(in_two_parts, frames=config.num_frames)}
        seconds = alternate({name: partial(run, way) for name, way in ways.items()}, repeats=repeats, device=device)
        turns = zip(seconds["whole"].values, seconds["parts"].values, strict=True)
        found[str(copies)] = Spread(tuple(whole / parts for whole, parts in turns)).summary()
    return found
