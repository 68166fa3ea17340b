"""Distances between sets of features, against closed forms and other ways to the same number."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from magi.evaluation.frechet import Moments, finite_sample_bias, frechet_distance
from magi.evaluation.kernel import kernel_distance
from magi.evaluation.uncertainty import bootstrap_mean, over_seeds, resampled


def draw(count: int, dim: int, *, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal features (N, D) float64 mixed by a fixed matrix, so that they are correlated."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    mixed: Tensor = features @ torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return scale * mixed


def moments(mean: Tensor, covariance: Tensor, count: int = 1000) -> Moments:
    """Moments with exactly this mean and covariance."""
    return Moments(count, mean.double(), covariance.double() * count)


def by_svd(one: Tensor, other: Tensor) -> float:
    """The same distance without a root of a matrix: Tr((S1^1/2 S2 S1^1/2)^1/2) is the nuclear norm of X1 X2'."""
    a, b = (x - x.mean(0) for x in (one, other))
    cross = torch.linalg.matrix_norm(a @ b.T, "nuc") / (len(a) * len(b)) ** 0.5
    spread = a.square().sum() / len(a) + b.square().sum() / len(b)
    return float((one.mean(0) - other.mean(0)).square().sum() + spread - 2 * cross)


def test_one_dimension_has_a_closed_form() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2: 9 + 4 for means 1 and 4, deviations 2 and 4."""
    one, other = (moments(torch.tensor([m]), torch.tensor([[s * s]])) for m, s in ((1.0, 2.0), (4.0, 4.0)))
    assert frechet_distance(one, other) == pytest.approx(13, rel=1e-12)


def test_commuting_covariances_have_a_closed_form() -> None:
    """In a common eigenbasis the distance is that of the deviations along each axis, whatever the basis."""
    basis, _ = torch.linalg.qr(draw(7, 7))
    s1, s2 = torch.arange(1.0, 8).double(), torch.tensor([3.0, 1, 4, 1, 5, 9, 2]).double()
    one, other = (moments(torch.zeros(7), basis @ torch.diag(s * s) @ basis.T) for s in (s1, s2))
    assert frechet_distance(one, other) == pytest.approx(float((s1 - s2).square().sum()), rel=1e-10)


@pytest.mark.parametrize("count", [5, 12, 200])
def test_it_is_right_with_fewer_clips_than_features(count: int) -> None:
    """Against the nuclear norm of the product of the centred features, which needs no covariance at all."""
    one, other = draw(count, 30), draw(count, 30, seed=1, scale=1.3) + 0.5
    assert frechet_distance(Moments.of(one), Moments.of(other)) == pytest.approx(by_svd(one, other), rel=1e-6)


def test_it_agrees_with_the_usual_route_where_that_is_sound() -> None:
    """Tr(sqrtm(S1 S2)) of scipy, with many more clips than features."""
    linalg = pytest.importorskip("scipy.linalg")
    one, other = draw(500, 16).numpy(), draw(500, 16, seed=1, scale=1.2).numpy() + 0.1
    c1, c2 = np.cov(one.T), np.cov(other.T)
    usual = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    ours = frechet_distance(*(Moments.of(torch.from_numpy(x)) for x in (one, other)), divisor="N-1")
    assert ours == pytest.approx(usual, rel=1e-9)


def test_order_rotation_and_place_do_not_matter() -> None:
    """A distance between distributions: symmetric, and the same after turning and shifting both."""
    one, other = draw(40, 9), draw(40, 9, seed=1, scale=0.7)
    turn, _ = torch.linalg.qr(draw(9, 9, seed=5))
    distance = frechet_distance(Moments.of(one), Moments.of(other))
    assert frechet_distance(Moments.of(other), Moments.of(one)) == pytest.approx(distance, rel=1e-9)
    moved = (Moments.of(x @ turn + 3) for x in (one, other))
    assert frechet_distance(*moved) == pytest.approx(distance, rel=1e-9)


def test_equal_sets_are_at_no_distance() -> None:
    """To rounding, and never below 0."""
    features = draw(8, 30)
    assert 0 <= frechet_distance(Moments.of(features), Moments.of(features)) < 1e-5


def test_a_stream_gives_what_all_at_once_gives() -> None:
    """Batches of different sizes, in any grouping; features far from zero, where naive sums of squares lose digits."""
    features = draw(100, 6) + 1e4
    streamed = Moments.nothing(6)
    for batch in features.split([1, 9, 40, 50]):
        streamed = streamed.merge(Moments.of(batch))
    whole = Moments.of(features)
    assert streamed.count == 100
    torch.testing.assert_close(streamed.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(streamed.scatter, whole.scatter, rtol=1e-9, atol=1e-6)


def test_sets_of_different_size_are_refused_unless_forced() -> None:
    """Their biases differ: 2048 against 50,000 has half the bias of 2048 against 2048."""
    one, other = Moments.of(draw(10, 4)), Moments.of(draw(11, 4))
    with pytest.raises(ValueError, match="10 clips against 11"):
        frechet_distance(one, other)
    assert frechet_distance(one, other, allow_different_counts=True) > 0


def test_the_divisor_is_the_covariance_s() -> None:
    """N - 1 makes every variance, and so the distance of equal means, larger by N / (N - 1)."""
    one, other = Moments.of(draw(20, 3)), Moments.of(draw(20, 3, scale=2.0))
    n, n1 = (frechet_distance(one, Moments(20, one.mean, other.scatter), divisor=d) for d in ("N", "N-1"))  # type: ignore[arg-type]
    assert n1 == pytest.approx(n * 20 / 19, rel=1e-9)


def test_the_bias_of_few_clips_is_that_of_the_known_simulation() -> None:
    """400 features with variances falling as 1 / k, 1000 in all: 256 clips of each give 327 where the truth is 0."""
    variance = 1 / torch.arange(1, 401).double()
    real = moments(torch.zeros(400), torch.diag(variance / variance.sum() * 1000), count=256)
    assert finite_sample_bias(real, repeats=2) == pytest.approx(327, rel=0.08)


def test_the_bias_falls_with_the_number_of_clips() -> None:
    """About as 1 / N."""
    covariance = torch.eye(20)
    biases = [finite_sample_bias(moments(torch.zeros(20), covariance, count=n), repeats=4) for n in (50, 200, 800)]
    assert all(2.5 < before / after < 6 for before, after in pairwise(biases))


def test_the_kernel_distance_is_the_mean_over_pairs() -> None:
    """A plain double loop over all pairs of different clips."""
    one, other = draw(6, 3).float(), draw(5, 3, seed=1).float() + 1

    def kernel(x: Tensor, y: Tensor) -> float:
        return float((x.double() @ y.double() / 3 + 1) ** 3)

    within = [
        np.mean([kernel(x, y) for i, x in enumerate(xs) for j, y in enumerate(xs) if i != j]) for xs in (one, other)
    ]
    between = np.mean([kernel(x, y) for x in one for y in other])
    assert kernel_distance(one, other) == pytest.approx(sum(within) - 2 * between, rel=1e-9)


def test_the_kernel_distance_has_no_bias() -> None:
    """Its mean over many pairs of equal distributions is 0, with few clips too."""
    values = [kernel_distance(draw(20, 4, seed=s), draw(20, 4, seed=s + 1000)) for s in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5


def test_the_bootstrap_covers_the_mean() -> None:
    """Of 200 samples of 50 from a distribution of mean 1 about 95 % have it in their interval."""
    data = torch.distributions.Exponential(1.0)
    torch.manual_seed(0)
    intervals = [bootstrap_mean(data.sample((50,)), resamples=300, seed=s) for s in range(200)]
    covered = np.mean([interval.low <= 1 <= interval.high for interval in intervals])
    assert 0.87 <= covered <= 0.99


def test_resamples_are_a_function_of_the_seed() -> None:
    """So that two models are resampled alike."""
    assert torch.equal(resampled(9, 5), resampled(9, 5)) and not torch.equal(resampled(9, 5), resampled(9, 5, seed=1))


def test_intervals_over_seeds_are_student_s() -> None:
    """Of 1, 2, 3: mean 2, deviation 1, and 4.303 / sqrt(3) for two degrees of freedom. One seed has no interval."""
    interval = over_seeds([1.0, 2.0, 3.0])
    assert interval is not None
    assert interval.high - 2 == pytest.approx(4.303 / 3**0.5, rel=1e-3) and 2 - interval.low == pytest.approx(
        interval.high - 2
    )
    assert over_seeds([1.0]) is None


def test_quantiles_of_student_are_those_of_scipy() -> None:
    """For every number of seeds up to eleven."""
    stats = pytest.importorskip("scipy.stats")
    for count in range(2, 12):
        values = list(map(float, range(count)))
        interval = over_seeds(values)
        assert interval is not None
        half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5
        assert interval.high - np.mean(values) == pytest.approx(half, rel=1e-3)
