"""Claims about moments and the Fréchet distance: closed forms, other routes to the same number, and what is refused.

Shapes: N clips, D features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor

from magi.evaluation.frechet import Moments, finite_sample_bias, frechet_distance
from magi.evaluation.protocols import Divisor


def drawn(count: int, dim: int, *, seed: int) -> Tensor:
    """Correlated features (N, D) float64 away from 0."""
    numbers = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=numbers, dtype=torch.float64)
    return torch.randn(count, dim, generator=numbers, dtype=torch.float64) @ mixing + torch.arange(dim)


def exactly(mean: Tensor, covariance: Tensor, *, count: int = 100) -> Moments:
    """Moments with just this mean (D,) and covariance (D, D), divisor N."""
    return Moments(count, mean.double(), covariance.double() * count)


def rotation(dim: int, *, seed: int) -> Tensor:
    """An orthogonal matrix (D, D)."""
    return torch.linalg.qr(drawn(dim, dim, seed=seed))[0]


def assert_same(found: Moments, expected: Moments, *, rtol: float = 1e-12) -> None:
    """To `rtol` of the largest element."""
    assert found.count == expected.count
    for a, b in ((found.mean, expected.mean), (found.scatter, expected.scatter)):
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * float(b.abs().max()))


def test_moments_are_those_of_numpy() -> None:
    """Mean and covariance with either divisor, from an independent implementation; float32 features count in full."""
    features = drawn(30, 5, seed=0).float()
    moments = Moments.of(features)
    assert moments.mean.dtype == moments.scatter.dtype == torch.float64 and moments.dim == 5
    values = features.double().numpy()
    np.testing.assert_allclose(moments.mean.numpy(), values.mean(0), rtol=1e-13)
    for divisor, ddof in (("N", 0), ("N-1", 1)):
        expected = np.cov(values, rowvar=False, ddof=ddof)
        np.testing.assert_allclose(moments.covariance(divisor).numpy(), expected, rtol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("cuts", [(7,), (1, 2, 90), (0, 50, 50)])
def test_batches_merge_to_the_whole(cuts: tuple[int, ...], offset: float) -> None:
    """In whatever pieces the clips come, single and empty ones too, and however far the mean is from 0: the features
    are whole numbers, so that the offset itself loses nothing."""
    features = (drawn(100, 8, seed=1) * 64).round() + offset
    whole = Moments.of(features)
    pieces = [Moments.of(piece) for piece in features.tensor_split(cuts)]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.merge(piece)
    assert_same(merged, whole)
    assert_same(Moments.of(features[::2]).merge(Moments.of(features[1::2])), whole)


def test_nothing_changes_nothing() -> None:
    """Moments of no clips are neutral, from either side; of one clip they are the clip."""
    none, some = Moments.of(torch.empty(0, 3)), Moments.of(drawn(9, 3, seed=2))
    assert_same(none.merge(some), some, rtol=0)
    assert_same(some.merge(none), some, rtol=0)
    assert none.merge(none).count == 0
    one = Moments.of(torch.tensor([[1.0, 2.0]]))
    assert one.mean.tolist() == [1, 2] and not one.scatter.any() and not one.covariance("N").any()


def test_moments_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    """Through a safetensors file; tensors that are no moments are refused with the file's name."""
    moments = Moments.of(drawn(20, 4, seed=4))
    save_file(moments.tensors(), tmp_path / "moments.safetensors")
    kept = load_file(tmp_path / "moments.safetensors")
    assert_same(Moments.from_tensors(kept, where="here"), moments, rtol=0)
    for wrong in (
        {"mean": kept["mean"]},
        kept | {"scatter": kept["scatter"][:3]},
        kept | {"mean": kept["mean"].float()},
    ):
        with pytest.raises(ValueError, match=r"a\.safetensors holds .* expected moments"):
            Moments.from_tensors(wrong, where="a.safetensors")


def test_numbers_on_a_line_have_a_closed_form() -> None:
    """One feature: squared difference of means plus squared difference of standard deviations."""
    a = exactly(torch.tensor([1.0]), torch.tensor([[9.0]]))
    b = exactly(torch.tensor([3.0]), torch.tensor([[0.25]]))
    assert frechet_distance(a, b, divisor="N") == pytest.approx(2**2 + 2.5**2, rel=1e-14)
    assert frechet_distance(a, b, divisor="N-1") == pytest.approx(4 + 2.5**2 * 100 / 99, rel=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_commuting_covariances_have_a_closed_form(seed: int) -> None:
    """Diagonal in one basis: the axes add up as lines do, in whatever direction they are turned."""
    dim = 6
    numbers = torch.Generator().manual_seed(seed)
    one, two = torch.rand(2, dim, generator=numbers, dtype=torch.float64) * 5
    mean = torch.randn(dim, generator=numbers, dtype=torch.float64)
    turn = rotation(dim, seed=seed)
    a = exactly(torch.zeros(dim), turn @ torch.diag(one**2) @ turn.T)
    b = exactly(mean, turn @ torch.diag(two**2) @ turn.T)
    expected = float((mean**2).sum() + ((one - two) ** 2).sum())
    assert frechet_distance(a, b, divisor="N") == pytest.approx(expected, rel=1e-12)


def test_two_by_two_covariances_have_a_closed_form() -> None:
    """Not commuting: for 2 x 2 matrices Tr M^1/2 = (Tr M + 2 det(M)^1/2)^1/2, and M = S_a S_b will do, its eigenvalues
    being those of the symmetric product."""
    first = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, -0.5], [-0.5, 3.0]], dtype=torch.float64)
    product = first @ second
    assert not torch.allclose(product, second @ first)
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = float(first.trace() + second.trace() - 2 * root)
    a, b = (exactly(torch.zeros(2), covariance) for covariance in (first, second))
    assert frechet_distance(a, b, divisor="N") == pytest.approx(expected, rel=1e-13)


def test_sets_of_one_shape_are_their_means_apart() -> None:
    """A set moved by v is |v|^2 away, itself 0; scaled by s about its mean it is (s - 1)^2 Tr S away."""
    features = drawn(50, 7, seed=5)
    a = Moments.of(features)
    trace = float(a.covariance("N-1").trace())
    assert frechet_distance(a, a, divisor="N-1") == pytest.approx(0, abs=1e-13 * trace)
    moved = Moments.of(features + torch.arange(7))
    assert frechet_distance(a, moved, divisor="N-1") == pytest.approx(91, rel=1e-11)
    scaled = Moments.of((features - features.mean(0)) * 3 + features.mean(0))
    assert frechet_distance(a, scaled, divisor="N-1") == pytest.approx(4 * trace, rel=1e-12)


@pytest.mark.parametrize("count", [12, 60])
def test_turning_and_moving_both_changes_nothing(count: int) -> None:
    """The distance knows no axes and no origin, whether clips outnumber features or not."""
    x, y = drawn(count, 20, seed=6), drawn(count, 20, seed=7)
    before = frechet_distance(Moments.of(x), Moments.of(y), divisor="N")
    turn, by = rotation(20, seed=8), 100 * torch.arange(20)
    after = frechet_distance(Moments.of(x @ turn + by), Moments.of(y @ turn + by), divisor="N")
    assert after == pytest.approx(before, rel=1e-11)


@pytest.mark.parametrize(("count", "dim"), [(5, 40), (40, 40), (41, 40), (300, 40), (20, 400)])
def test_data_give_the_trace_without_a_root(count: int, dim: int) -> None:
    """With centred data X and Y (N, D), Tr (S_a S_b)^1/2 is the sum of singular values of X Y^T over N: no covariance
    is formed and none decomposed, so that the rank does not matter. Nor does the order of the sets."""
    x, y = drawn(count, dim, seed=9), drawn(count, dim, seed=10)
    a, b = Moments.of(x), Moments.of(y)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    common = torch.linalg.svdvals(x @ y.T).sum() / count
    parts = (x_mean - y_mean).square().sum(), (x.square().sum() + y.square().sum()) / count
    found = frechet_distance(a, b, divisor="N")
    assert found == pytest.approx(float(parts[0] + parts[1] - 2 * common), rel=1e-11)
    assert frechet_distance(b, a, divisor="N") == pytest.approx(found, rel=1e-13)


def test_no_distance_is_negative() -> None:
    """Of 20 sets to themselves some would be below 0 by a rounding, and its root would be NaN."""
    found = [frechet_distance(a, a, divisor="N") for a in (Moments.of(drawn(30, 8, seed=seed)) for seed in range(20))]
    assert min(found) >= 0 and max(found) < 1e-11


def test_orthogonal_spaces_have_nothing_in_common() -> None:
    """Covariances of low rank that share no direction: both traces in full; roots of noise would leave 1e-8 of them."""
    dim = 200
    turn = rotation(dim, seed=11)
    a, b = (exactly(torch.zeros(dim), turn[:, part] @ turn[:, part].T) for part in (slice(0, 5), slice(5, 10)))
    assert frechet_distance(a, b, divisor="N") == pytest.approx(10, rel=1e-13)
    assert frechet_distance(a, exactly(torch.zeros(dim), torch.zeros(dim, dim)), divisor="N") == pytest.approx(5)


def test_agrees_with_scipy_where_that_is_sound() -> None:
    """The usual route, `sqrtm` of the product, for covariances of full rank."""
    linalg = pytest.importorskip("scipy.linalg")
    x, y = drawn(200, 12, seed=12), drawn(200, 12, seed=13)
    first, second = (np.cov(z.numpy(), rowvar=False) for z in (x, y))
    root = np.trace(linalg.sqrtm(first @ second).real)
    gap = float((x.mean(0) - y.mean(0)).square().sum())
    expected = gap + np.trace(first) + np.trace(second) - 2 * root
    assert frechet_distance(Moments.of(x), Moments.of(y), divisor="N-1") == pytest.approx(expected, rel=1e-9)


def test_agrees_with_eigenvalues_of_the_product() -> None:
    """A third route, of full rank: the eigenvalues of S_a S_b, which is not symmetric, by numpy."""
    x, y = drawn(300, 15, seed=14), drawn(300, 15, seed=15)
    first, second = (np.cov(z.numpy(), rowvar=False, ddof=0) for z in (x, y))
    root = np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    gap = float((x.mean(0) - y.mean(0)).square().sum())
    expected = gap + np.trace(first) + np.trace(second) - 2 * root
    assert frechet_distance(Moments.of(x), Moments.of(y), divisor="N") == pytest.approx(expected, rel=1e-9)


def test_sets_of_different_size_are_refused_unless_forced() -> None:
    """Both numbers are named; forced, the distance is that of the formula."""
    a, b = exactly(torch.zeros(1), torch.eye(1), count=2048), exactly(torch.ones(1), torch.eye(1) * 4, count=2047)
    with pytest.raises(ValueError, match="2048 and 2047 clips"):
        frechet_distance(a, b, divisor="N")
    assert frechet_distance(a, b, divisor="N", allow_different_counts=True) == pytest.approx(2, rel=1e-14)


def test_what_has_no_distance_is_refused() -> None:
    """Before a NaN comes out: features of another detector, not finite, of another shape, or too few."""
    with pytest.raises(ValueError, match="3 and 4 features per clip"):
        frechet_distance(Moments.of(torch.ones(5, 3)), Moments.of(torch.ones(5, 4)), divisor="N")
    with pytest.raises(ValueError, match="3 and 4 features per clip"):
        Moments.of(torch.ones(5, 3)).merge(Moments.of(torch.ones(5, 4)))
    with pytest.raises(ValueError, match="of 2 of 4 clips are not finite, the first is clip 1 "):
        Moments.of(torch.tensor([[1.0], [torch.nan], [2.0], [torch.inf]]))
    for wrong in (torch.ones(5), torch.ones(5, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"expected floating point numbers \(N, D\)"):
            Moments.of(wrong)
    cases: list[tuple[int, Divisor, int]] = [(0, "N", 1), (1, "N-1", 2), (0, "N-1", 2)]
    for count, divisor, needed in cases:
        with pytest.raises(
            ValueError, match=f"of {count} clips have no covariance with divisor {divisor}; at least {needed}"
        ):
            Moments.of(torch.ones(count, 2)).covariance(divisor)


def one_over_k(dim: int = 400, total: float = 1000) -> Moments:
    """The spectrum of the published simulation: falling as 1/k, of this total variance."""
    values = 1 / torch.arange(1, dim + 1, dtype=torch.float64)
    return exactly(torch.zeros(dim), torch.diag(values * total / values.sum()), count=10**6)


@pytest.mark.parametrize(
    ("count", "other", "expected"), [(256, None, 327), (512, None, 170), (2048, None, 41), (256, 50_000, 221)]
)
def test_the_bias_is_that_of_an_independent_simulation(count: int, other: int | None, expected: float) -> None:
    """400 features, 1/k spectrum, total variance 1000, true distance 0: figures of another program that drew the clips
    themselves, given to whole numbers and from few repeats."""
    bias = finite_sample_bias(one_over_k(), count, other_count=other, divisor="N", repeats=3)
    assert bias.mean == pytest.approx(expected, rel=0.03) and bias.std < 0.02 * bias.mean
    assert bias.counts == (count, other or count) and bias.repeats == 3


@pytest.mark.parametrize("count", [2, 6, 10, 40])
def test_the_bias_is_that_of_clips_drawn_one_by_one(count: int) -> None:
    """Means over many repeats of both ways agree within 4 standard errors, for fewer clips than features as for more:
    the triangle that is drawn in place of clips has their distribution."""
    repeats, dim = 400, 9
    mixing = drawn(dim, dim, seed=16)
    real = exactly(torch.zeros(dim), mixing.T @ mixing)
    numbers = torch.Generator().manual_seed(17)
    direct = torch.tensor([
        frechet_distance(*(
            Moments.of(torch.randn(count, dim, generator=numbers, dtype=torch.float64) @ mixing) for _ in range(2)
        ), divisor="N-1")
        for _ in range(repeats)
    ])  # fmt: skip
    bias = finite_sample_bias(real, count, divisor="N-1", repeats=repeats)
    error = float(torch.hypot(direct.std(), torch.tensor(bias.std))) / repeats**0.5
    assert abs(bias.mean - float(direct.mean())) < 4 * error < 0.25 * bias.mean
    assert bias.std == pytest.approx(float(direct.std()), rel=0.25)


def test_the_bias_is_a_function_of_its_seed() -> None:
    """The same again with the same seed, another with another; a rotation of the features changes nothing but rounding;
    impossible numbers are refused."""
    real, turn = one_over_k(dim=10), rotation(10, seed=18)
    first = finite_sample_bias(real, 20, divisor="N", repeats=2)
    assert first == finite_sample_bias(real, 20, divisor="N", repeats=2)
    assert first.mean != finite_sample_bias(real, 20, divisor="N", repeats=2, seed=1).mean
    turned = Moments(real.count, real.mean, turn @ real.scatter @ turn.T)
    assert finite_sample_bias(turned, 20, divisor="N", repeats=2).mean == pytest.approx(first.mean, rel=1e-9)
    for count, repeats in ((1, 1), (20, 0)):
        with pytest.raises(ValueError, match="at least 2 clips and 1 repeat"):
            finite_sample_bias(real, count, divisor="N", repeats=repeats)
