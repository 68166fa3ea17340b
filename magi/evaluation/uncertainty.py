"""How sure a number is: by resampling clips, or from runs with several seeds.

Clips tell how far a number would move with other clips; seeds, how far with another training. Neither holds the other.
Resample r of a bootstrap depends on the seed, the number of clips and r alone: two models that are resampled with the
same seed lose and double the same clips, and so can be compared draw by draw.

Shapes: B clips, F frames, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from magi.evaluation.frechet import Moments, frechet_distance
from magi.evaluation.protocols import Divisor
from magi.seeds import generator

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Pairing = Literal["joint", "apart", "fixed"]
"""How the real clips are resampled beside the made ones: `joint` where made clip i belongs to real clip i, as in
prediction; `apart` where they do not, as in unconditional generation; `fixed` where the real set is taken as given."""


@dataclass(frozen=True)
class Interval:
    """Where a number lies, with probability `level`."""

    low: float
    high: float
    level: float

    def holds(self, value: float) -> bool:
        """Whether `value` lies in it."""
        return self.low <= value <= self.high


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A statistic of some clips, and of resamples of them with replacement."""

    point: float  # of the clips as they are
    draws: Floats  # (R,)
    key: tuple[int, int, str]  # seed, clips and pairing: with the same key, draw r is of the same clips

    @property
    def bias(self) -> float:
        """How much larger the statistic is in resamples than in the clips themselves, on average.

        No more than noise for a mean; large for a Fréchet distance, see `bootstrap_frechet`.
        """
        return float(self.draws.mean()) - self.point

    def interval(self, level: float = 0.95) -> Interval:
        """Return the percentile interval (Efron, 1979): for means, and differences of means."""
        _check_level(level)
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high), level)

    def recentred(self, level: float = 0.95) -> Interval:
        """Return the percentile interval, moved by `bias`: for a statistic that resampling itself makes larger."""
        moved = self.interval(level)
        return Interval(moved.low - self.bias, moved.high - self.bias, level)

    def minus(self, other: Bootstrap) -> Bootstrap:
        """Return the bootstrap of the difference: both lose and double the same clips in each draw.

        Raises:
            ValueError: resampled in different ways.
        """
        self._check_paired(other)
        return Bootstrap(self.point - other.point, self.draws - other.draws, self.key)

    def over(self, other: Bootstrap) -> Bootstrap:
        """Return the bootstrap of the ratio.

        A bias that both share cancels in a difference, but draws a ratio towards 1: read it with `bias` at hand.

        Raises:
            ValueError: resampled in different ways, or a divisor that is not positive.
        """
        self._check_paired(other)
        if other.point <= 0 or (other.draws <= 0).any():
            raise ValueError(f"a ratio to {other.point} (lowest draw {other.draws.min()}) says nothing; use minus")
        return Bootstrap(self.point / other.point, self.draws / other.draws, self.key)

    def _check_paired(self, other: Bootstrap) -> None:
        if self.key != other.key or len(self.draws) != len(other.draws):
            raise ValueError(
                f"one was resampled {len(self.draws)} times with seed, clips and pairing {self.key}, the other "
                f"{len(other.draws)} times with {other.key}; resample both in the same way"
            )


def resampled(count: int, *, resamples: int, seed: int, purpose: str = "bootstrap") -> Iterator[Indices]:
    """Yield `resamples` times `count` indices (B,) below `count`, with replacement.

    Raises:
        ValueError: nothing to draw from, or no resample.
    """
    if count < 1 or resamples < 1:
        raise ValueError(f"{resamples} resamples of {count} clips, expected at least 1 of each")
    for resample in range(resamples):
        yield generator(seed, purpose, count, resample).integers(count, size=count)


def bootstrap_mean(values: Tensor | Floats | Sequence[float], *, resamples: int = 1000, seed: int = 0) -> Bootstrap:
    """Resample the mean over clips of a score (B,)."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"values have shape {scores.shape}, expected (B,); by frame, see bootstrap_means")
    return bootstrap_means(scores[:, None], resamples=resamples, seed=seed)[0]


def bootstrap_means(values: Tensor | Floats, *, resamples: int = 1000, seed: int = 0) -> tuple[Bootstrap, ...]:
    """Resample the means over clips of scores (B, F), one for each of F frames; whole clips are drawn.

    Raises:
        ValueError: another shape, or a score that is not finite.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"values have shape {scores.shape}, expected (B, F) finite numbers")
    count = len(scores)
    means = np.stack(
        [
            np.bincount(indices, minlength=count) @ scores / count
            for indices in resampled(count, resamples=resamples, seed=seed)
        ]
    )  # (R, F)
    key = (seed, count, "alone")
    return tuple(Bootstrap(float(point), draws, key) for point, draws in zip(scores.mean(0), means.T, strict=True))


def bootstrap_frechet(
    real: Tensor,
    made: Tensor,
    *,
    divisor: Divisor,
    pairing: Pairing,
    resamples: int = 200,
    seed: int = 0,
    allow_different_counts: bool = False,
) -> Bootstrap:
    """Resample the clips of a Fréchet distance.

    A resample holds some 63 % of the clips, some of them more than once, and so looks like a smaller set: its distance
    is biased upwards once more, by about as much as that of the set itself, and the percentile interval may lie above
    the distance altogether. `recentred` takes that off; what is left is how far the distance would move with other
    clips *of the same number*, told cautiously: where N is not many times D the interval is up to twice as wide as it
    need be. Between two models whose distances to the same real clips are both resampled with the
    same seed, `minus` is the comparison to make.

    It costs `resamples` + 1 distances, each of a few D^3 and N D^2 operations.

    Args:
        real: (N, D) features.
        made: (N, D) features.
        divisor: of the covariances.
        pairing: how the real clips are drawn.
        resamples: R.
        seed: of the resampling.
        allow_different_counts: as for `frechet_distance`; never where the pairing is joint.

    Raises:
        ValueError: as `frechet_distance`, or sets of different size whose clips belong together.
    """
    if pairing == "joint" and len(real) != len(made):
        raise ValueError(f"{len(made)} made clips cannot belong one by one to {len(real)} real clips; draw them apart")
    of_real = Moments.of(real)

    def distance(reference: Moments, features: Tensor) -> float:
        return frechet_distance(
            reference, Moments.of(features), divisor=divisor, allow_different_counts=allow_different_counts
        )

    draws = []
    apart = resampled(len(real), resamples=resamples, seed=seed, purpose="bootstrap of real clips")
    for indices, others in zip(resampled(len(made), resamples=resamples, seed=seed), apart, strict=True):
        reference = of_real if pairing == "fixed" else Moments.of(real[indices if pairing == "joint" else others])
        draws.append(distance(reference, made[indices]))
    return Bootstrap(distance(of_real, made), np.array(draws), (seed, len(made), pairing))


def over_seeds(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Return Student's interval for the mean over runs with different seeds; None for one run, which tells no spread.

    Raises:
        ValueError: no run, or one whose value is not finite.
    """
    _check_level(level)
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"values are {list(values)}, expected one finite number for each of at least 1 run")
    if len(scores) == 1:
        return None
    error = float(scores.std(ddof=1)) / math.sqrt(len(scores))
    half = student_quantile((1 + level) / 2, len(scores) - 1) * error
    return Interval(float(scores.mean()) - half, float(scores.mean()) + half, level)


def student_cdf(t: float, freedom: int) -> float:
    """Return the probability that Student's t with `freedom` degrees of freedom is at most `t`, to 1e-14 or so.

    For whole degrees of freedom the integral is a finite sum: Abramowitz and Stegun, 1964, 26.7.3 and 26.7.4.
    """
    if freedom < 1:
        raise ValueError(f"freedom is {freedom}, expected at least 1 degree of freedom")
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(odd, freedom - 1, 2):  # of the cosine
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2


def student_quantile(probability: float, freedom: int) -> float:
    """Return the t that Student's t with `freedom` degrees of freedom does not exceed with this probability.

    Raises:
        ValueError: no probability between 0 and 1, or no degree of freedom.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability is {probability}, expected a number between 0 and 1")
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:  # until no number lies between
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return high


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a share between 0 and 1, such as 0.95")
