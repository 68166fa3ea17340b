"""Fréchet distance between Gaussians fitted to features (Heusel et al., 2017), in float64.

Shapes: N clips, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from magi.seeds import generator

Divisor = Literal["N", "N-1"]


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of features: all that the distance needs."""

    count: int
    mean: Tensor  # (D,) float64
    scatter: Tensor  # (D, D) float64, sum of the outer products of deviations from the mean

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features (N, D)."""
        values = features.double()
        mean = values.mean(0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    @classmethod
    def nothing(cls, dim: int) -> Moments:
        """Of no features: what a stream begins with."""
        return cls(0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64))

    def merge(self, other: Moments) -> Moments:
        """Of the features of both, to rounding as if they had come at once (Chan et al., 1983)."""
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), scatter)

    def covariance(self, divisor: Divisor = "N") -> Tensor:
        """(D, D) float64, of at least two clips.

        Args:
            divisor: N as StyleGAN-V and Latte have it, or N - 1 as `numpy.cov`.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 clips, got {self.count}")
        return self.scatter / (self.count if divisor == "N" else self.count - 1)


def frechet_distance(
    one: Moments, other: Moments, *, divisor: Divisor = "N", allow_different_counts: bool = False
) -> float:
    """|m1 - m2|^2 + Tr(S1) + Tr(S2) - 2 Tr((S1^1/2 S2 S1^1/2)^1/2), at least 0.

    Both square roots are of symmetric matrices, so eigenvalues do, which is exact also where there are fewer clips than
    features: these covariances have zeros for eigenvalues, and rounding below zero is cut off.

    Args:
        one, other: of equally many clips.
        divisor: of the covariances.
        allow_different_counts: compare sets of different size all the same; their biases do not cancel.

    Raises:
        ValueError: sets of different size or of different features.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(one.mean)} and {len(other.mean)} numbers cannot be compared")
    if one.count != other.count and not allow_different_counts:
        raise ValueError(
            f"{one.count} clips against {other.count}: the distance is biased by the number of clips, so sets must be "
            "equally large; take as many of both, or force it with --different-counts"
        )
    a, b = one.covariance(divisor), other.covariance(divisor)
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    middle = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    distance = (one.mean - other.mean).square().sum() + a.trace() + b.trace() - 2 * middle
    return max(0.0, float(distance))


def finite_sample_bias(real: Moments, *, repeats: int = 4, seed: int = 0) -> float:
    """What the distance would be if both sets came from one and the same distribution, and were as small as these.

    Two sets of N are drawn from the Gaussian that was fitted to the real clips, whose true distance is 0; the mean over
    `repeats` such pairs. An estimate: features are not Gaussian, and the fit itself rests on N clips.
    """
    values, vectors = torch.linalg.eigh(real.covariance())
    root = vectors * values.clamp(min=0).sqrt()  # (D, D)
    shape = (2, repeats, real.count, len(values))
    draws = torch.from_numpy(generator(seed, "finite sample bias").standard_normal(shape))
    pairs = [[Moments.of(half @ root.T) for half in pair] for pair in draws.unbind(1)]
    return sum(frechet_distance(one, other) for one, other in pairs) / repeats
