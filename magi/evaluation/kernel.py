"""Kernel distance between sets of features: the unbiased squared MMD with KID's cubic kernel (Binkowski et al., 2018).

Unlike the Fréchet distance its mean does not depend on how many clips there are, so it may be below 0 for equal sets.

Shapes: N and M clips, D features.
"""

from __future__ import annotations

from torch import Tensor

ROWS = 1024  # of a block of the kernel's matrix


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Squared maximum mean discrepancy of features (N, D) and (M, D), N and M at least 2, kernel (x.y / D + 1)^3.

    Raises:
        ValueError: fewer than two clips, or features of another number.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"features are {tuple(one.shape)} and {tuple(other.shape)}; expected (N, D) and (M, D)")
    if min(len(one), len(other)) < 2:
        raise ValueError(f"a kernel distance needs at least 2 clips of each, got {len(one)} and {len(other)}")
    return _mean_within(one) + _mean_within(other) - 2 * _sum(one, other) / (len(one) * len(other))


def _mean_within(features: Tensor) -> float:
    """Mean kernel over all pairs of two different clips."""
    count = len(features)
    own = float(((features.double().square().sum(1) / features.shape[1] + 1) ** 3).sum())
    return (_sum(features, features) - own) / (count * (count - 1))


def _sum(one: Tensor, other: Tensor) -> float:
    """Sum of the kernel over all pairs, in blocks of rows."""
    columns = other.double()
    return sum(float(((rows.double() @ columns.T / one.shape[1] + 1) ** 3).sum()) for rows in one.split(ROWS))
