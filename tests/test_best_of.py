"""Single samples and the best of K: each is what it says, and their names differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from magi.evaluation.best_of import BETTER, measure_samples, single_and_best
from magi.evaluation.pixel import psnr

# Two samples, two clips, two frames: in clip 0 sample 1 is better on average, in clip 1 sample 0.
VALUES = torch.tensor([[[9.0, 1.0], [8.0, 6.0]], [[6.0, 6.0], [0.0, 10.0]]])


def test_the_best_is_chosen_by_clip() -> None:
    """By hand: one try of clip 0 is kept for both frames although the other has the best single frame."""
    both = single_and_best(VALUES, better="higher")
    assert both.chosen.tolist() == [1, 0]
    assert both.best.tolist() == [7, 6] and both.single.tolist() == [5.75, 5.75]


def test_lower_can_be_better() -> None:
    """A distance is best where it is least: the same as the highest of its negative."""
    low, high = single_and_best(VALUES, better="lower"), single_and_best(-VALUES, better="higher")
    assert torch.equal(low.best, -high.best) and torch.equal(low.chosen, high.chosen)
    assert low.chosen.tolist() == [0, 1] and BETTER["LPIPS"] == "lower" != BETTER["PSNR"]


def test_the_best_of_more_is_better_and_a_single_one_is_not() -> None:
    """Of K normal draws of deviation 1 the best is 0.56 above the mean for K = 2 and 1.16 for K = 5 (order
    statistics: 1/sqrt(pi) and 1.163); the single number does not move."""
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 20_000, 1)))
    for samples, expected in ((2, np.pi**-0.5), (5, 1.16296)):
        both = single_and_best(values[:samples], better="higher")
        assert float(both.best) == pytest.approx(expected, abs=0.02) and float(both.single) == pytest.approx(
            0, abs=0.02
        )


def test_names_differ() -> None:
    """No table can show the one as the other, and of one sample there is no best."""
    assert list(single_and_best(VALUES, better="higher").named("PSNR")) == ["PSNR, single sample", "PSNR, best of 2"]
    assert list(single_and_best(VALUES[:1], better="higher").named("PSNR")) == ["PSNR, single sample"]


def test_samples_are_measured_by_any_callable() -> None:
    """Set by set from a generator; a difference of d everywhere has PSNR 20 log10(255 / d) and L1 distance d."""
    truth = torch.zeros(2, 3, 3, 4, 4, dtype=torch.uint8)

    def distance(made: Tensor, truth: Tensor) -> Tensor:
        return (made.double() - truth.double()).abs().mean((-3, -2, -1))

    values = measure_samples((truth + d for d in (1, 10)), truth, psnr)
    torch.testing.assert_close(values[:, 0, 0], 20 * torch.log10(255 / torch.tensor([1.0, 10.0]).double()))
    distances = measure_samples((truth + d for d in (1, 10)), truth, distance)
    assert distances.shape == (2, 2, 3) and single_and_best(distances, better="lower").best.tolist() == [1] * 3


def test_what_cannot_be_ranked_is_refused() -> None:
    """NaN is neither better nor worse, one number per clip has no frames, and nothing has no best."""
    with pytest.raises(ValueError, match="1 of 8 values are NaN"):
        single_and_best(torch.where(VALUES == 9, torch.nan, VALUES), better="higher")
    with pytest.raises(ValueError, match="expected \\(samples, clips, frames\\)"):
        single_and_best(VALUES[0], better="higher")
    with pytest.raises(ValueError, match="no samples"):
        measure_samples([], VALUES, psnr)
    truth = torch.zeros(2, 3, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="expected one per frame"):
        measure_samples([truth], truth, lambda one, two: psnr(one, two).mean(1))
