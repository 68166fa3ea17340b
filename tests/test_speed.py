"""Speed and bounces are read from tracks as the world's mechanics made them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from magi.evaluation.bounces import reversals, score_bounces
from magi.evaluation.dynamics import Tracks, track
from magi.evaluation.speed import mean_speed, speed_ratio, steps
from magi.evaluation.world import WorldTest, world_test


def tracks_of(position: Tensor) -> Tracks:
    """Tracks of one body (T, 2) that is always found."""
    frames = len(position)
    return Tracks(
        position=position.double()[None, :, None],
        found=torch.ones(1, frames, 1, dtype=torch.bool),
        blobs=torch.ones(1, frames, 8, dtype=torch.int64),
        color=torch.zeros(1, 1, dtype=torch.int64),
        radius=torch.full((1, 1), 6.0),
        present=torch.ones(1, 1, dtype=torch.bool),
        size=64,
    )


def found_in(test: WorldTest) -> Tracks:
    """Where the bodies of true clips are seen."""
    states = test.states
    return track(test.video, states.color, present=states.present, radius=states.radius)


def test_speed_is_the_distance_from_frame_to_frame() -> None:
    """A body that moves by (3, 4) every frame moves by 5, Pythagoras' triangle."""
    tracks = tracks_of(torch.arange(5)[:, None] * torch.tensor([3.0, 4.0]))
    assert torch.equal(steps(tracks), torch.full((1, 4, 1), 5.0, dtype=torch.float64))
    assert float(mean_speed(tracks)) == 5


def test_a_step_to_a_frame_without_the_body_does_not_count() -> None:
    """Of steps 1, (missing, missing), 1 only the two that were seen are averaged."""
    tracks = tracks_of(torch.arange(5)[:, None] * torch.tensor([1.0, 0.0]))
    tracks.found[0, 2] = False
    tracks.position[0, 2] = torch.nan
    assert torch.isnan(steps(tracks)).squeeze().tolist() == [False, True, True, False]
    assert float(mean_speed(tracks)) == 1


@pytest.mark.parametrize("interval", [2, 3])
def test_true_clips_are_as_many_times_faster_as_their_interval(interval: int) -> None:
    """The same scenes at interval k: a little less than k, because a bounce shortens the way between two frames."""
    base, faster = (found_in(world_test(k, clips=24)) for k in (1, interval))
    assert interval * 0.85 < speed_ratio(faster, base) < interval


def test_a_reversal_is_told_for_the_frame_at_the_turn() -> None:
    """Right, right, then left: the turn is at the third position."""
    tracks = tracks_of(torch.tensor([[10.0, 5], [12, 5], [14, 5], [12, 5], [10, 5]]))
    assert reversals(tracks).squeeze().tolist() == [False, False, True, False, False]


def test_a_fall_after_a_rise_is_no_bounce() -> None:
    """At the top of a flight the speed is next to nothing on both sides."""
    time = torch.arange(-6, 7).double()
    tracks = tracks_of(torch.stack([20 + time, 10 + 0.1 * time**2], dim=1))
    assert not reversals(tracks).any()


def test_bounces_of_true_clips_are_seen() -> None:
    """What is seen in the pictures is what the mechanics did; only glancing hits, which turn nothing, are missed."""
    test = world_test(1, clips=32)
    scores = score_bounces(found_in(test), test.states.bounces)
    assert scores.precision > 0.99 and scores.recall > 0.7 and scores.expected > 200


def test_bounces_at_another_time_are_not_matched() -> None:
    """The truth moved by five frames agrees no better than chance, so precision falls far."""
    test = world_test(1, clips=32)
    late = score_bounces(found_in(test), test.states.bounces.roll(5, dims=1))
    assert late.precision < 0.6


def test_axes_are_not_mixed_up() -> None:
    """Swapping x and y of half of a clip's frames breaks tracks, which shows as speed: a planted bug."""
    test = world_test(1, clips=8)
    tracks = found_in(test)
    swapped = replace(tracks, position=tracks.position.clone())
    swapped.position[:, ::2] = tracks.position[:, ::2].flip(-1)
    assert float(mean_speed(swapped).mean()) > 3 * float(mean_speed(tracks).mean())


def test_shapes_must_agree() -> None:
    """Both shapes are named."""
    test = world_test(1, clips=2)
    with pytest.raises(ValueError, match="bounces have shape"):
        score_bounces(found_in(test), test.states.bounces[:, 1:])
