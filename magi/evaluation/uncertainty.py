"""How far numbers may be off: over clips by the bootstrap, over seeds by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from magi.seeds import generator

# Two-sided 95 % quantiles of Student's t with 1, 2, ... degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Interval:
    """Where the true value probably lies."""

    low: float
    high: float
    level: float = 0.95


def over_seeds(values: Sequence[float]) -> Interval | None:
    """95 % t interval of the mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    half = T95[min(len(values) - 2, len(T95) - 1)] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return Interval(mean - half, mean + half)


def bootstrap_mean(values: Tensor, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """95 % percentile interval of the mean of values (N,)."""
    rows = resampled(len(values), resamples, seed=seed)
    means = values.double()[rows].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(low, high)


def resampled(count: int, resamples: int, *, seed: int = 0) -> Tensor:
    """Rows (resamples, N) int64 drawn with replacement."""
    return torch.from_numpy(generator(seed, "bootstrap").integers(0, count, (resamples, count)))
