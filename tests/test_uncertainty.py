"""Claims about intervals: how often they hold the truth, what they are where it can be worked out, and pairing.

Shapes: B clips, F frames, R resamples, N clips, D features.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from magi.evaluation.frechet import Moments, frechet_distance
from magi.evaluation.uncertainty import (
    Bootstrap,
    Interval,
    Pairing,
    bootstrap_frechet,
    bootstrap_mean,
    bootstrap_means,
    over_seeds,
    resampled,
    student_cdf,
    student_quantile,
)


def features(count: int, dim: int, *, seed: int, scale: float = 1) -> Tensor:
    """(N, D) standard normal, scaled."""
    return scale * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_the_bootstrap_of_a_mean_holds_the_truth_as_often_as_it_says() -> None:
    """200 sets of 50 clips of mean 1 (exponential, so skewed): 90 % intervals hold it 80 to 95 % of the time; the
    binomial spread is 2 %, and skewness costs the percentile interval a few."""
    numbers = np.random.default_rng(0)
    held = [
        bootstrap_mean(numbers.exponential(size=50), resamples=300, seed=trial).interval(0.9).holds(1.0)
        for trial in range(200)
    ]
    assert 0.80 <= np.mean(held) <= 0.95


def test_the_spread_of_resampled_means_is_the_standard_error() -> None:
    """Theory: the variance over clips (divisor B) divided by B; no bias; for every frame of its own."""
    scores = np.random.default_rng(1).normal(size=(40, 3)) * [1, 10, 100]
    for frame, found in enumerate(bootstrap_means(scores, resamples=4000)):
        assert found.point == pytest.approx(scores[:, frame].mean())
        error = scores[:, frame].std() / math.sqrt(40)
        assert found.draws.std() == pytest.approx(error, rel=0.05)
        assert abs(found.bias) < 4 * error / math.sqrt(4000)
        assert found.interval().high - found.interval().low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_every_resample_of_three_clips_comes_as_often() -> None:
    """27 ordered resamples: each within 5 standard deviations of its share of 5400."""
    found = [tuple(indices) for indices in resampled(3, resamples=5400, seed=0)]
    counts = [found.count(triple) for triple in itertools.product(range(3), repeat=3)]
    assert sum(counts) == 5400 and max(abs(count - 200) for count in counts) < 5 * math.sqrt(200)


def test_the_fast_mean_is_the_statistic_of_indices() -> None:
    """Counts of clips times scores is the mean over drawn clips, draw by draw; tensors and lists are welcome."""
    scores = np.random.default_rng(2).normal(size=30)
    fast = bootstrap_mean(scores, resamples=50, seed=3)
    plain = [scores[indices].mean() for indices in resampled(30, resamples=50, seed=3)]
    np.testing.assert_allclose(fast.draws, plain, rtol=0, atol=1e-14)
    assert fast.key == (3, 30, "alone") and fast.point == pytest.approx(scores.mean())
    for same in (torch.from_numpy(scores), scores.tolist()):
        np.testing.assert_array_equal(bootstrap_mean(same, resamples=50, seed=3).draws, fast.draws)
    frames = bootstrap_means(np.stack([scores, -scores], 1), resamples=50, seed=3)
    np.testing.assert_allclose(frames[0].draws, -frames[1].draws, rtol=0, atol=1e-14)


def test_resamples_depend_on_seed_and_number_alone() -> None:
    """The first of many are the same as of few; another seed draws others."""
    few, many = (list(resampled(10, resamples=number, seed=0)) for number in (3, 6))
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    assert not np.array_equal(few[0], next(resampled(10, resamples=1, seed=1)))
    assert not np.array_equal(many[0], many[1])


def test_intervals_are_quantiles_of_the_draws() -> None:
    """Of 0..100 the middle 90 % are 5..95; recentred, the draws' mean is moved to the point."""
    found = Bootstrap(40.0, np.arange(101.0), (0, 5, "alone"))
    assert found.interval(0.9) == Interval(pytest.approx(5), pytest.approx(95), 0.9)  # type: ignore[arg-type]
    assert found.bias == 10
    assert found.recentred(0.9) == Interval(pytest.approx(-5), pytest.approx(85), 0.9)  # type: ignore[arg-type]
    assert Interval(1, 2, 0.9).holds(1.5) and not Interval(1, 2, 0.9).holds(2.5)
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match=f"level is {level}, expected a share"):
            found.interval(level)


def test_pairing_takes_off_what_clips_share() -> None:
    """Two models on the same hard and easy clips, one better by 1 on each: the difference has no spread at all, though
    either mean has. The ratio is taken draw by draw."""
    hard = np.random.default_rng(4).exponential(size=50) * 10 + 1
    one, two = bootstrap_mean(hard + 1), bootstrap_mean(hard)
    assert one.interval().high - one.interval().low > 3
    gap = one.minus(two)
    assert gap.point == pytest.approx(1) and gap.interval().low == pytest.approx(1) == gap.interval().high
    twice = bootstrap_mean(2 * hard).over(two)
    assert twice.point == pytest.approx(2) and np.ptp(twice.draws) < 1e-12


def test_what_was_not_resampled_alike_is_not_paired() -> None:
    """Another seed, number of clips, number of resamples or pairing; nor is there a ratio to nothing."""
    scores = np.arange(1.0, 11.0)
    one = bootstrap_mean(scores, resamples=20)
    made, real = features(10, 2, seed=0), features(10, 2, seed=1)
    others = [
        bootstrap_mean(scores, resamples=20, seed=1),
        bootstrap_mean(scores[:9], resamples=20),
        bootstrap_mean(scores, resamples=21),
        bootstrap_frechet(real, made, divisor="N", pairing="joint", resamples=20),
    ]
    for other in others:
        for combine in (one.minus, one.over):
            with pytest.raises(ValueError, match="resample both in the same way"):
                combine(other)
    with pytest.raises(ValueError, match="says nothing; use minus"):
        one.over(bootstrap_mean(scores - 5, resamples=20))


@pytest.mark.parametrize("pairing", ["joint", "apart", "fixed"])
def test_the_frechet_bootstrap_draws_the_sets_as_told(pairing: Pairing) -> None:
    """Joint: a made clip goes with its real one, so that a copy of the real set is at distance 0 in every draw. Apart:
    a copy never is. Fixed: draws are distances to the whole real set."""
    real = features(40, 3, seed=2)
    found = bootstrap_frechet(real, real.clone(), divisor="N-1", pairing=pairing, resamples=20, seed=5)
    assert found.point == pytest.approx(0, abs=1e-10)
    if pairing == "joint":
        assert found.draws.max() < 1e-10
        return
    assert found.draws.min() > 1e-3
    if pairing == "fixed":
        plain = [
            frechet_distance(Moments.of(real), Moments.of(real[indices]), divisor="N-1")
            for indices in resampled(40, resamples=20, seed=5)
        ]
        np.testing.assert_array_equal(found.draws, plain)


def test_the_frechet_bootstrap_is_biased_upwards_and_recentred() -> None:
    """Where nothing differs the resamples' bias is about that of the distance itself (true distance 0), so that the
    percentile interval lies above the distance; the recentred one holds it."""
    real, made = features(60, 10, seed=6), features(60, 10, seed=7)
    found = bootstrap_frechet(real, made, divisor="N", pairing="apart", resamples=100)
    assert 0.5 * found.point < found.bias < 2 * found.point
    assert found.interval().low > found.point
    assert found.recentred().holds(found.point)


def test_the_difference_of_two_models_is_surer_than_either() -> None:
    """Against the same real clips: what the distances share cancels, bias and spread; a model a little worse (5 %
    more of itself) is told from the other, though their own intervals overlap by far. A ratio is drawn towards 1."""
    real, base = features(80, 6, seed=8), features(80, 6, seed=9, scale=1.3)
    better, worse = (
        bootstrap_frechet(real, made, divisor="N", pairing="apart", resamples=100) for made in (base, base * 1.05)
    )
    gap = worse.minus(better)
    assert gap.point > 0 and gap.recentred().low > 0
    assert abs(gap.bias) < 0.3 * better.bias
    assert better.recentred().high > worse.recentred().low
    assert worse.over(better).bias < 0 < worse.over(better).point - 1


def test_a_distance_that_may_not_be_taken_is_not_resampled() -> None:
    """Sets of different size: refused as by the distance, unless forced; never joined clip by clip."""
    real, made = features(20, 2, seed=10), features(19, 2, seed=11)
    with pytest.raises(ValueError, match="20 and 19 clips"):
        bootstrap_frechet(real, made, divisor="N", pairing="apart", resamples=2)
    forced = bootstrap_frechet(real, made, divisor="N", pairing="apart", resamples=2, allow_different_counts=True)
    assert len(forced.draws) == 2
    with pytest.raises(ValueError, match="19 made clips cannot belong one by one to 20 real clips"):
        bootstrap_frechet(real, made, divisor="N", pairing="joint", allow_different_counts=True)


def test_what_cannot_be_resampled_is_refused() -> None:
    """No clip, no resample, a score that is no number, another shape."""
    for count, resamples in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match=f"{resamples} resamples of {count} clips"):
            list(resampled(count, resamples=resamples, seed=0))
    for wrong in (np.array([[1.0, np.nan]]), np.ones(3)):
        with pytest.raises(ValueError, match=r"expected \(B, F\) finite"):
            bootstrap_means(wrong)
    with pytest.raises(ValueError, match=r"expected \(B,\)"):
        bootstrap_mean(np.ones((3, 2)))


@pytest.mark.parametrize(
    ("freedom", "probability", "expected"),
    [
        (1, 0.975, 12.7062), (2, 0.975, 4.30265), (3, 0.975, 3.18245), (4, 0.95, 2.13185), (9, 0.995, 3.24984),
        (30, 0.975, 2.04227), (120, 0.975, 1.97993),
    ],
)  # fmt: skip
def test_students_quantiles_are_those_of_the_tables(freedom: int, probability: float, expected: float) -> None:
    """As printed in textbooks, to six digits; and of the other tail by symmetry."""
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=2e-6)
    assert student_quantile(1 - probability, freedom) == pytest.approx(-expected, rel=2e-6)


def test_students_distribution_has_closed_forms() -> None:
    """Cauchy for one degree of freedom; t / (2 (2 + t^2)^1/2) + 1/2 for two; and in general the integral of the
    density, here by Simpson's rule."""
    for t in (-3.0, -0.1, 0.0, 0.7, 25.0):
        assert student_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-15)
        assert student_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-15)
    x = np.linspace(0, 2.5, 2001)
    weights = np.array([1, *[4, 2] * 999, 4, 1]) * (x[1] / 3)
    for freedom in (3, 4, 7, 8, 51):
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
        density = scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
        assert student_cdf(2.5, freedom) == pytest.approx(0.5 + float(weights @ density), abs=1e-12)


def test_students_distribution_is_scipys() -> None:
    """Both ways, over a grid, where scipy is installed."""
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 5, 10, 33, 100, 1001):
        for probability in (0.01, 0.3, 0.5, 0.9, 0.975, 0.9995):
            quantile = stats.t.ppf(probability, freedom)
            assert student_quantile(probability, freedom) == pytest.approx(quantile, rel=1e-9, abs=1e-12)
            assert student_cdf(quantile, freedom) == pytest.approx(probability, rel=1e-9)


def test_seeds_give_students_interval() -> None:
    """By hand for 1, 2, 3: mean 2, standard error 1/3^1/2, t = 4.30265. One run has no interval; runs that agree have
    one of no width."""
    found = over_seeds([1.0, 2.0, 3.0])
    assert found is not None and found.level == 0.95
    half = 4.302653 / math.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(2 - half, rel=1e-6), pytest.approx(2 + half, rel=1e-6))
    assert over_seeds([1.0]) is None
    assert over_seeds([2.0, 2.0]) == Interval(2.0, 2.0, 0.95)
    for wrong in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="expected one finite number for each of at least 1 run"):
            over_seeds(wrong)


def test_students_interval_holds_the_truth_as_often_as_it_says() -> None:
    """For three normal runs, 2000 times over: 95 % within 4 binomial standard deviations, where the normal quantile
    1.96 would hold it 81 % of the time."""
    runs = np.random.default_rng(5).normal(size=(2000, 3))
    found = [over_seeds(run.tolist()) for run in runs]
    held = np.mean([interval is not None and interval.holds(0.0) for interval in found])
    assert abs(held - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_no_runs_no_freedom() -> None:
    """What has no distribution is refused."""
    with pytest.raises(ValueError, match="freedom is 0"):
        student_cdf(1.0, 0)
    for probability in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"probability is {probability}"):
            student_quantile(probability, 3)
