"""How far the features of made clips are from those of real ones, by a kernel: no Gaussian, no bias by their number.

The squared maximum mean discrepancy (MMD) with the polynomial kernel ``(x . y / D + 1)^3``, as the kernel inception
distance (KID) of Binkowski et al., "Demystifying MMD GANs", 2018, section 4. Knows features, not their detector.

Shapes: N and M clips, D features.
"""

from __future__ import annotations

import math

from torch import Tensor


def kernel_distance(x: Tensor, y: Tensor, *, block: int = 1024) -> float:
    """Return the unbiased estimate of MMD^2 from all clips.

    Its expectation is 0 where both come from one distribution, whatever the number of clips; so it may be negative, and
    the sets may differ in size.

    Args:
        x: (N, D) features, N at least 2.
        y: (M, D) features, M at least 2.
        block: clips at a time; memory is that of block^2 numbers in float64.

    Raises:
        ValueError: shapes that do not fit, too few clips, or features that are not finite.
    """
    _check(x, y)
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    n, m = len(x), len(y)
    within_x = _kernel_sum(x, x, block=block) - float(_kernel_of_itself(x).sum())
    within_y = _kernel_sum(y, y, block=block) - float(_kernel_of_itself(y).sum())
    between = _kernel_sum(x, y, block=block)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)


def _kernel_sum(x: Tensor, y: Tensor, *, block: int) -> float:
    """The sum of the kernel over all pairs of x (N, D) and y (M, D)."""
    return math.fsum(
        float((part @ other.T / x.shape[1] + 1).pow(3).sum()) for part in x.split(block) for other in y.split(block)
    )


def _kernel_of_itself(x: Tensor) -> Tensor:
    """The kernel (N,) of every clip of x (N, D) with itself."""
    return (x.square().sum(1) / x.shape[1] + 1).pow(3)


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features have shapes {tuple(x.shape)} and {tuple(y.shape)}, expected (N, D) and (M, D)")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"the sets have {len(x)} and {len(y)} clips, expected at least 2 each")
    for name, features in (("first", x), ("second", y)):
        if not features.isfinite().all():
            raise ValueError(f"features of the {name} set are not all finite; a distance would be NaN")
