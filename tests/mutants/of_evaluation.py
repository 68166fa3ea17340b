"""Planted bugs of what is measured: leaks, swapped axes, wrong statistics, comparisons that are not fair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pytest import MonkeyPatch
from torch import Tensor

from magi.evaluation import frechet, generated, tracking
from magi.evaluation.protocols import Divisor
from magi.reproduce import runs
from tests import test_leaks
from tests.mutants.mutant import Mutant


def leaks(patch: MonkeyPatch) -> None:
    """Whole clips are encoded, and their latents cut afterwards."""
    patch.setattr(test_leaks, "honest", test_leaks.encode_everything_then_cut)


def swaps_axes(patch: MonkeyPatch) -> None:
    """Rows are taken for columns."""
    right = tracking._track_clip

    def wrong(*given: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
        position, found, blobs = right(*given, **named)
        return position.flip(-1), found, blobs

    patch.setattr(tracking, "_track_clip", wrong)


def halves_digits(patch: MonkeyPatch) -> None:
    """The usual repair of a covariance without full rank: something is added to its diagonal."""
    right = frechet.Moments.covariance

    def wrong(self: frechet.Moments, divisor: Divisor) -> Tensor:
        return right(self, divisor) + 1e-3 * torch.eye(self.dim, dtype=torch.float64)

    patch.setattr(frechet.Moments, "covariance", wrong)


def forgets_means(patch: MonkeyPatch) -> None:
    """Batches are merged as if they all had one mean."""
    right = frechet.Moments.merge

    def wrong(self: frechet.Moments, other: frechet.Moments) -> frechet.Moments:
        return replace(right(self, other), scatter=self.scatter + other.scatter)

    patch.setattr(frechet.Moments, "merge", wrong)


def trains_on_other_clips(patch: MonkeyPatch) -> None:
    """MTF sees the clips of another seed than CTF."""
    right = runs.training

    def wrong(scale: Any, recipe: runs.Recipe, **named: Any) -> Any:
        found = right(scale, recipe, **named)
        if recipe.forcing == "ctf":
            return found
        return replace(found, data=replace(found.data, world=replace(found.data.world, seed=recipe.seed + 1)))

    patch.setattr("tests.test_reproduce.training", wrong)


def same_seeds(patch: MonkeyPatch) -> None:
    """A clip is made from the place it has in its batch."""
    right = generated.complete

    def wrong(folder: Any, make: Any, **named: Any) -> Any:
        return right(folder, lambda numbers: make(range(len(numbers))), **named)

    patch.setattr("tests.test_generated.complete", wrong)


LEAKS, DYNAMICS, FRECHET, GENERATED, REPRODUCE = (
    f"tests/test_{name}.py::test_" for name in ("leaks", "dynamics", "frechet", "generated", "reproduce")
)

EVALUATION_MUTANTS = [
    Mutant("the context is encoded with the rest", leaks, (LEAKS + "nothing_after_the_context_is_seen[not causal]",)),
    Mutant("x and y are swapped", swaps_axes, (DYNAMICS + "true_videos_are_read_to_half_a_pixel[64]",)),
    Mutant(
        "a diagonal is repaired",
        halves_digits,
        (FRECHET + "orthogonal_spaces_have_nothing_in_common", FRECHET + "two_by_two_covariances_have_a_closed_form"),
    ),
    Mutant("batches are merged without means", forgets_means, (FRECHET + "batches_merge_to_the_whole[cuts0-0.0]",)),
    Mutant(
        "paradigms see different clips",
        trains_on_other_clips,
        (REPRODUCE + "runs_of_a_seed_begin_alike_and_see_one_order[mtf-seed0]",),
    ),
    Mutant("a clip depends on its batch", same_seeds, (GENERATED + "shards_cover_every_clip_once",)),
]
