"""Fréchet distance between Gaussians fitted to features (Heusel et al., 2017), in float64.

Shapes: N clips, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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

    def merge(self, other: Moments) -> Moments:
        """Of the features of both (Chan et al., 1983)."""
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), scatter)

    def covariance(self, divisor: Divisor = "N") -> Tensor:
        """(D, D) float64."""
        return self.scatter / (self.count if divisor == "N" else self.count - 1)


def frechet_distance(one: Moments, other: Moments, *, divisor: Divisor = "N") -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)."""
    a, b = one.covariance(divisor), other.covariance(divisor)
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    middle = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    distance = (one.mean - other.mean).square().sum() + a.trace() + b.trace() - 2 * middle
    return max(0.0, float(distance))
