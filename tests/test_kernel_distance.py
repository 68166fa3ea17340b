"""Claims about the kernel distance: a plain double loop, closed forms, and what it is where nothing differs.

Shapes: N and M clips, D features.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from magi.evaluation.kernel import kernel_distance


def drawn(count: int, dim: int, *, seed: int) -> Tensor:
    """Features (N, D) float32."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def pair_by_pair(x: Tensor, y: Tensor) -> float:
    """The definition, in loops over pairs and features."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_blocks_add_up_to_the_double_loop(block: int) -> None:
    """However the pairs are cut into blocks, for sets of different size."""
    x, y = drawn(9, 3, seed=0), drawn(6, 3, seed=1) + 0.5
    assert kernel_distance(x, y, block=block) == pytest.approx(pair_by_pair(x, y), rel=1e-12)
    assert kernel_distance(y, x, block=block) == pytest.approx(kernel_distance(x, y), rel=1e-12)


def test_points_have_a_closed_form() -> None:
    """All clips of a set alike: k(a, a) + k(b, b) - 2 k(a, b), here 2^3 + 5^3 - 2 * 3^3 with D = 2."""
    x, y = torch.ones(5, 2), torch.full((4, 2), 2.0)
    assert kernel_distance(x, y) == pytest.approx(8 + 125 - 54, rel=1e-14)
    assert kernel_distance(x, x) == 0


def test_it_is_zero_on_average_where_nothing_differs() -> None:
    """Over many pairs of small sets the mean is within 4 standard errors of 0, and about half of them are negative: no
    bias, where the estimate with its diagonal would be above 0 every time."""
    values = torch.tensor([
        kernel_distance(drawn(10, 5, seed=2 * trial), drawn(14, 5, seed=2 * trial + 1)) for trial in range(400)
    ])  # fmt: skip
    assert abs(float(values.mean())) < 4 * float(values.std()) / 20
    assert 0.4 < float((values < 0).float().mean()) < 0.8


def test_the_mean_is_the_true_distance() -> None:
    """One feature, x standard normal, y moved by 1: the kernel (xy + 1)^3 compares first moments with weight 3, second
    ones with 3 and third ones with 1. So MMD^2 is 3 (0 - 1)^2 + 3 (1 - 2)^2 + (0 - 4)^2 = 22, for any N."""
    values = torch.tensor([
        kernel_distance(drawn(20, 1, seed=3 * trial), drawn(20, 1, seed=3 * trial + 1) + 1) for trial in range(600)
    ])  # fmt: skip
    error = float(values.std()) / 600**0.5
    assert abs(float(values.mean()) - 22) < 4 * error < 4


def test_shuffled_labels_tell_a_difference_from_none() -> None:
    """A difference stands out of all 99 shufflings of the clips between the sets; sets of one kind lie among them."""
    x, same, other = drawn(60, 4, seed=3), drawn(60, 4, seed=4), drawn(60, 4, seed=5) * 2

    def rank(y: Tensor) -> int:
        pool, numbers = torch.cat([x, y]), torch.Generator().manual_seed(6)
        shuffled = [pool[torch.randperm(120, generator=numbers)] for _ in range(99)]
        return sum(kernel_distance(z[:60], z[60:]) < kernel_distance(x, y) for z in shuffled)

    assert rank(other) == 99
    assert 2 < rank(same) < 97


def test_single_precision_features_are_summed_in_double() -> None:
    """The kernel of features of some hundreds is of 1e14: single precision would lose the distance in it."""
    x, y = drawn(30, 4, seed=9) * 0.1 + 300, drawn(30, 4, seed=10) * 0.1 + 300.5
    exact = pair_by_pair(x, y)
    assert kernel_distance(x, y) == pytest.approx(exact, rel=1e-5)


def test_what_has_no_distance_is_refused() -> None:
    """Shapes and numbers that do not fit."""
    for x, y in ((torch.ones(5), torch.ones(5)), (torch.ones(5, 3), torch.ones(5, 4))):
        with pytest.raises(ValueError, match=r"expected \(N, D\) and \(M, D\)"):
            kernel_distance(x, y)
    with pytest.raises(ValueError, match="have 1 and 5 clips, expected at least 2"):
        kernel_distance(torch.ones(1, 3), torch.ones(5, 3))
    with pytest.raises(ValueError, match="second set are not all finite"):
        kernel_distance(torch.ones(2, 3), torch.full((5, 3), torch.nan))
