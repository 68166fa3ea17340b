"""One sample and the best of several are different questions."""

from __future__ import annotations

import pytest
import torch

from magi.evaluation.best_of import best_of, single

VALUES = torch.tensor([[[1.0, 9.0], [4.0, 4.0]], [[6.0, 6.0], [5.0, 1.0]]])  # 2 samples, 2 clips, 2 frames


def test_the_best_sample_is_chosen_by_clip_not_by_frame() -> None:
    """Clip 0: means 5 and 6, so the second; clip 1: 4 and 3, so the first. By frame (6 + 4) / 2 in both."""
    assert best_of(VALUES, higher_is_better=True).tolist() == [5, 5]
    assert best_of(VALUES, higher_is_better=False).tolist() == [3, 5]


def test_one_sample_is_the_mean_of_all() -> None:
    """Frame 0: (1 + 4 + 6 + 5) / 4."""
    assert single(VALUES).tolist() == [4, 5]


def test_of_one_sample_both_agree_and_more_samples_only_help() -> None:
    """The best of K never falls with K."""
    values = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(best_of(values[:1], higher_is_better=True), single(values[:1]))
    means = [float(best_of(values[:k], higher_is_better=True).mean()) for k in range(1, 6)]
    assert means == sorted(means)


def test_shapes_are_checked() -> None:
    """A missing dimension is told."""
    with pytest.raises(ValueError, match="expected"):
        single(VALUES[0])
