"""Which tokens are hidden: MAR's training ratios and its unmasking schedule.

Pure arithmetic on counts; what is drawn is drawn by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def mask_ratio(uniform: float, *, minimum: float, deviation: float = 0.25) -> float:
    """Map a uniform number to MAR's training mask ratio: a normal about 1, cut to [minimum, 1].

    At the minimum .7 and deviation .25 of MAR the mean is .867 and the median .874.
    """
    normal = NormalDist(1.0, deviation)
    lowest, highest = normal.cdf(minimum), normal.cdf(1.0)
    return min(1.0, max(minimum, normal.inv_cdf(lowest + uniform * (highest - lowest))))


def masked_count(tokens: int, ratio: float) -> int:
    """Tokens hidden at a mask ratio; at least one, or there would be nothing to learn."""
    return max(1, math.ceil(tokens * ratio))


def unmasking_counts(tokens: int, steps: int) -> list[int]:
    """How many tokens each sampling step reveals: MAR's cosine schedule, no step empty.

    After step s of n, floor(L cos(pi/2 (s+1)/n)) tokens stay hidden, but always at least one fewer than before and one
    for the last step, which reveals all that is left. More steps than tokens would be empty, so min(steps, tokens) are
    made.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"mask steps must be at least 1, got {steps}")
    steps = min(steps, tokens)
    counts, hidden = [], tokens
    for step in range(steps - 1):
        left = math.floor(tokens * math.cos(math.pi / 2 * (step + 1) / steps))
        # the later steps need a token each, so no more than `hidden - 1` may stay and no fewer than those steps
        left = max(steps - 1 - step, min(hidden - 1, left))
        counts.append(hidden - left)
        hidden = left
    return [*counts, hidden]


def first_of_each(orders: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """The first counts[t] tokens of frame t's order, frame after frame, (sum of counts,) int64: token n of frame t is
    number t N + n of the clip. `orders` is (T, N)."""
    frames, tokens = orders.shape
    in_clip = orders + tokens * np.arange(frames)[:, None]
    return np.concatenate([row[:count] for row, count in zip(in_clip, counts, strict=True)])


def random_orders(rng: np.random.Generator, frames: int, tokens: int) -> np.ndarray:
    """A random order of the tokens for each frame, (frames, tokens) int64, independent between frames.

    Row t depends on the generator and t alone, not on how many rows are drawn.
    """
    return rng.random((frames, tokens)).argsort(axis=-1)
