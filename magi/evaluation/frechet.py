"""How far the features of made clips are from those of real ones, each taken for one Gaussian: the Fréchet distance.

Everything here is float64. Knows features and their moments; not which detector they come from.

Shapes: N clips, D features, R the rank of a covariance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from magi.evaluation.protocols import Divisor
from magi.seeds import generator


@dataclass(frozen=True, eq=False)
class Moments:
    """The statistics of some clips: enough to merge them with those of others, and to compare them."""

    count: int  # N
    mean: Tensor  # (D,) float64
    scatter: Tensor  # (D, D) float64, the sum over clips of (x - mean) (x - mean)^T

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Return the moments of features (N, D) of any floating type; N may be 0, for a process without clips.

        Raises:
            ValueError: not of this shape or type, or a feature that is not a finite number.
        """
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"features are {features.dtype} {tuple(features.shape)}, expected floating point numbers (N, D)"
            )
        finite = features.isfinite().all(dim=1)
        if not finite.all():
            raise ValueError(
                f"features of {int((~finite).sum())} of {len(features)} clips are not finite, the first is clip "
                f"{int(finite.long().argmin())} of these; a distance would be NaN"
            )
        count, values = len(features), features.detach().cpu().double()
        mean = values.sum(0) / max(count, 1)
        centred = values - mean
        return cls(count, mean, centred.T @ centred)

    @property
    def dim(self) -> int:
        """D, features per clip."""
        return len(self.mean)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the clips of both.

        Exact but for rounding: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
        sample variances", 1979. Sums of squares, which would cancel where the mean is large, are never formed.

        Raises:
            ValueError: another number of features.
        """
        _check_dims(self, other)
        count = self.count + other.count
        if count == 0:
            return self
        apart = other.mean - self.mean  # (D,)
        mean = self.mean + apart * (other.count / count)
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def covariance(self, divisor: Divisor) -> Tensor:
        """Return the covariance (D, D).

        Raises:
            ValueError: too few clips for this divisor.
        """
        by = _DIVISORS[divisor](self.count)
        if by < 1:
            raise ValueError(
                f"moments of {self.count} clips have no covariance with divisor {divisor}; at least "
                f"{self.count + 1 - by} are needed"
            )
        return self.scatter / by

    def tensors(self) -> dict[str, Tensor]:
        """Return what `from_tensors` reads, as safetensors can keep it: count (), mean (D,) and scatter (D, D)."""
        return {
            "count": torch.tensor(self.count, dtype=torch.int64),
            "mean": self.mean.contiguous(),
            "scatter": self.scatter.contiguous(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, where: str) -> Self:
        """Return the moments that `tensors` kept: count (), mean (D,) and scatter (D, D).

        Args:
            tensors: by name.
            where: the file they come from, for messages.

        Raises:
            ValueError: not such tensors.
        """
        found = {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}
        dim = tensors["mean"].numel() if "mean" in tensors else 0
        expected = {
            "count": (torch.int64, ()),
            "mean": (torch.float64, (dim,)),
            "scatter": (torch.float64, (dim, dim)),
        }
        if found != expected:
            raise ValueError(f"{where} holds {found}, expected moments: {expected}; compute them anew")
        return cls(int(tensors["count"]), tensors["mean"], tensors["scatter"])


_DIVISORS = {"N": lambda count: count, "N-1": lambda count: count - 1}


def frechet_distance(a: Moments, b: Moments, *, divisor: Divisor, allow_different_counts: bool = False) -> float:
    """Return the squared Fréchet distance of two Gaussians with these moments, as FID and FVD are defined.

    That is ``|m_a - m_b|^2 + Tr S_a + Tr S_b - 2 Tr (S_a^1/2 S_b S_a^1/2)^1/2`` (Dowson and Landau, 1982; Heusel et
    al., 2017). With symmetric roots from `eigh`, the last trace is the sum of the singular values of
    ``S_a^1/2 S_b^1/2``: their squares, whose roots would have half of the digits, are never formed, and nothing is
    added to a diagonal. So a covariance of any rank, as of fewer clips than features, is as good as another.

    It is biased upwards by an amount that depends on the number of clips: see `finite_sample_bias`.

    Args:
        a, b: the two sets; their order matters to no more than rounding.
        divisor: of the covariance, for both.
        allow_different_counts: compare sets of different size all the same.

    Raises:
        ValueError: another number of features, another number of clips, or too few.
    """
    _check_dims(a, b)
    if a.count != b.count and not allow_different_counts:
        raise ValueError(
            f"the sets have {a.count} and {b.count} clips, and the distance depends on that number; compare sets of "
            f"the same size, or ask for it with allow_different_counts"
        )
    root_a, root_b = (_root(moments.covariance(divisor)) for moments in (a, b))
    return _distance(root_a, root_b, shift=a.mean - b.mean)


@dataclass(frozen=True)
class Bias:
    """How large a Fréchet distance would be found between sets that do not differ but for chance."""

    mean: float
    std: float  # of one such distance around the mean; NaN for one repeat
    counts: tuple[int, int]
    repeats: int


def finite_sample_bias(
    real: Moments,
    count: int,
    *,
    divisor: Divisor,
    other_count: int | None = None,
    repeats: int = 8,
    seed: int = 0,
) -> Bias:
    """Estimate the distance that chance alone gives, to be printed beside a distance.

    Twice `count` clips are drawn from the Gaussian with the moments of `real`, and compared; the true distance is 0.
    This is an estimate: features are no Gaussian, and the spectrum of `real` has itself been seen in `real.count` clips
    only. Nor may it be subtracted: between sets that do differ, the bias is another.

    Nothing of size N is drawn. In the basis of eigenvectors the scatter of n + 1 Gaussian vectors is ``A A^T``: A is
    lower triangular, normal below the diagonal, root chi-squared with n, n - 1 ... degrees of freedom on it (Bartlett,
    1933), and each row scaled by the root of its eigenvalue.

    Args:
        real: the moments whose covariance is taken for the truth.
        count: N of either set.
        divisor: of the covariances.
        other_count: N of the other set, if it differs.
        repeats: pairs of sets drawn.
        seed: draws depend on it and on nothing else.

    Raises:
        ValueError: `count`, `other_count` or `repeats` are too small, or `real` is.
    """
    counts = (count, count if other_count is None else other_count)
    if min(counts) < 2 or repeats < 1:
        raise ValueError(f"counts are {counts} and repeats {repeats}, expected at least 2 clips and 1 repeat")
    scale = _eigenvalues(real.covariance(divisor))[0].sqrt()  # (R,)
    distances = torch.tensor(
        [
            frechet_distance(
                _draw(scale, counts[0], position=(seed, repeat, 0)),
                _draw(scale, counts[1], position=(seed, repeat, 1)),
                divisor=divisor, allow_different_counts=True,
            )
            for repeat in range(repeats)
        ],
        dtype=torch.float64,
    )  # fmt: skip
    std = float(distances.std()) if repeats > 1 else math.nan
    return Bias(float(distances.mean()), std, counts, repeats)


def _draw(scale: Tensor, count: int, *, position: tuple[int, int, int]) -> Moments:
    """Draw the moments of `count` Gaussian vectors with standard deviations `scale` (R,) and mean 0."""
    seed, repeat, side = position
    numbers = generator(seed, "finite sample bias", repeat, side)
    rank, freedom = len(scale), count - 1
    columns = min(rank, freedom)  # fewer clips than features leave a trapezium of the triangle
    mean = torch.from_numpy(numbers.standard_normal(rank)) * scale / math.sqrt(count)
    triangle = torch.from_numpy(numbers.standard_normal((rank, columns))).tril(-1)
    chi = torch.from_numpy(numbers.chisquare([freedom - index for index in range(columns)])).sqrt()
    triangle.diagonal().copy_(chi)
    triangle *= scale[:, None]
    return Moments(count, mean, triangle @ triangle.T)


def _distance(root_a: Tensor, root_b: Tensor, *, shift: Tensor) -> float:
    """The distance from roots (R_a, D) and (R_b, D) with ``S = root^T root``, and the difference of means (D,)."""
    traces = root_a.square().sum() + root_b.square().sum()
    common = torch.linalg.svdvals(root_a @ root_b.T).sum() if len(root_a) and len(root_b) else traces.new_zeros(())
    spread = float(traces - 2 * common)
    # The nuclear norm is no more than half the traces; what is missing is rounding, one unit for each addition.
    assert spread >= -float(traces) * root_a.shape[1] * _EPS, f"distance of covariances is {spread}"
    return float(shift.square().sum()) + max(spread, 0.0)


def _root(covariance: Tensor) -> Tensor:
    """A root (R, D) with ``covariance = root^T root``."""
    values, vectors = _eigenvalues(covariance)
    return values.sqrt()[:, None] * vectors


_EPS = torch.finfo(torch.float64).eps


def _eigenvalues(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues (R,) of a covariance (D, D) that are not 0 for all that can be known, and eigenvectors (R, D).

    `eigh` returns the eigenvalues of a matrix that is off by some D roundings of the largest eigenvalue. What is
    smaller than that, of either sign, is noise, and its root would be far larger than a rounding: 1e-8 from 1e-16.
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * _EPS * values[-1].clamp(min=0)
    return values[kept], vectors.T[kept]


def _check_dims(a: Moments, b: Moments) -> None:
    if a.dim != b.dim:
        raise ValueError(f"the sets have {a.dim} and {b.dim} features per clip; take both from the same detector")
