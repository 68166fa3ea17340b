"""Bounces read from tracks: paths drawn by hand, the world's own, and the world's own at the wrong time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from magi.data.world import World, WorldConfig, WorldStates
from magi.evaluation.bounces import BounceScores, reversals, score_bounces
from magi.evaluation.tracking import Tracks, track


@dataclass(frozen=True)
class Filmed:
    states: WorldStates
    tracks: Tracks
    gravity: bool


def film(*, interval: int, gravity: float) -> Filmed:
    world = World(WorldConfig(num_frames=17, seed=5, gravity=gravity))
    states = world.simulate(range(16), interval=interval)
    tracks = track(world.render(states), states.color, present=states.present, radius=states.radius)
    return Filmed(states, tracks, gravity > 0)


@pytest.fixture(scope="module", params=[(1, 0.0), (2, 0.0), (1, 0.2)], ids=str)
def filmed(request: pytest.FixtureRequest) -> Filmed:
    interval, gravity = request.param
    return film(interval=interval, gravity=gravity)


def score(filmed: Filmed, *, tracks: Tracks | None = None) -> BounceScores:
    states = filmed.states
    return score_bounces(
        tracks or filmed.tracks, states.position, states.velocity, bounces=states.bounces, gravity=filmed.gravity
    ).total()


def moved(tracks: Tracks, frames: int) -> Tracks:
    """Everything happens some frames later: the first frame is held."""
    late = tracks.position.roll(frames, dims=1)
    late[:, :frames] = tracks.position[:, :1]
    return replace(tracks, position=late)


def frames_of(path: Sequence[Sequence[float]], *, gravity: bool = False) -> list[int]:
    position = torch.tensor(path, dtype=torch.float64)[None, :, None]
    return reversals(position, gravity=gravity)[0, :, 0].nonzero()[:, 0].tolist()


def reflected(start: float, speed: float, *, wall: float, frames: int) -> list[float]:
    """Places on an axis of a body that meets a wall above it."""
    straight = [start + speed * frame for frame in range(frames)]
    return [min(place, 2 * wall - place) for place in straight]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("start", [20.0, 20.7, 21.4, 21.9])
def test_a_wall_is_met_in_the_step_that_crosses_it(axis: int, start: float) -> None:
    """At 3 px per frame towards a wall at 30.5, the bounce ends at the first frame at which the straight line would be
    beyond; wherever within the step it is, and on either axis."""
    along = reflected(start, 3.0, wall=30.5, frames=8)
    crossing = next(frame for frame in range(8) if start + 3 * frame > 30.5)
    path = [[place, 40.0] if axis == 0 else [40.0, place] for place in along]
    assert frames_of(path) == [crossing]


def test_trembling_is_no_bounce() -> None:
    """Errors of reading change the sign of a small velocity all the time; a body that hardly moves does not bounce."""
    assert frames_of([[20.0 + 0.3 * (-1) ** frame, 30.0 + 2 * frame] for frame in range(8)]) == []


def test_nothing_is_concluded_across_a_gap() -> None:
    """A body that goes right, is lost, and goes left when it is found again may have turned at any time."""
    right, lost, left = [[20.0, 9.0], [23.0, 9.0]], [[float("nan")] * 2], [[26.0, 9.0], [23.0, 9.0]]
    assert frames_of(right + left) == [2] and frames_of(right + lost + left) == []


def test_the_top_of_a_throw_is_no_bounce() -> None:
    """A parabola turns from up to down with nothing there; on the ground it turns from down to up, and that is one."""
    throw = [[20.0, 40 - 6 * t + 0.75 * t * t] for t in range(9)]
    assert frames_of(throw, gravity=True) == [] and len(frames_of(throw)) == 1
    ground = [[20.0, 60 - y] for _, y in throw]
    assert len(frames_of(ground, gravity=True)) == 1


def test_bounces_of_the_world_are_read_back(filmed: Filmed) -> None:
    """Rendered and tracked, the truth has recall and precision near 1 and no delay. Over 32 clips of 21 frames they are
    0.94-0.97 and 0.96-0.99 at intervals 1 to 3, with gravity and without."""
    total = score(filmed)
    assert total.recalled + total.missed > 80
    assert total.recall > 0.94 and total.precision > 0.9 and total.f1 > 0.93
    assert abs(float(total.offset)) < 0.1


def test_exact_paths_have_exact_bounces(filmed: Filmed) -> None:
    """Without any error of reading the same holds: what is missing above is not the tracker's fault alone."""
    exact = replace(filmed.tracks, position=filmed.states.position)
    assert score(filmed, tracks=exact).f1 > 0.95


@pytest.mark.parametrize("frames", [1, 3])
def test_bounces_at_the_wrong_time_are_wrong(filmed: Filmed, frames: int) -> None:
    """Later by a frame most are still matched, and the offset tells; later by three they are wrong, and what is right
    then is chance."""
    right, late = score(filmed), score(filmed, tracks=moved(filmed.tracks, frames))
    if frames == 1:
        assert float(late.f1) < float(right.f1) - 0.1 and float(late.offset) > float(right.offset) + 0.2
    else:
        assert float(late.f1) < 0.6 * float(right.f1)


def test_swapped_axes_are_seen_where_down_is_down() -> None:
    """With x and y swapped a fall is a flight to the side, and its top, which is no bounce, counts as one;
    without gravity a turn is a turn on either axis, and velocities tell."""
    falling = film(interval=1, gravity=0.2)
    swapped = replace(falling.tracks, position=falling.tracks.position.flip(-1))
    right, wrong = score(falling), score(falling, tracks=swapped)
    assert float(wrong.f1) < float(right.f1) - 0.1 and float(wrong.precision) < float(right.precision) - 0.05


def test_held_and_straight_bodies_never_bounce(filmed: Filmed) -> None:
    """Where nothing turns nothing is spurious and all is missed: F1 is 0 and the precision undefined."""
    still = replace(filmed.tracks, position=filmed.tracks.position[:, :1].expand_as(filmed.tracks.position))
    total = score(filmed, tracks=still)
    assert total.f1 == 0 and total.recall == 0 and total.precision.isnan() and total.offset.isnan()


def test_one_bounce_is_matched_once() -> None:
    """Two turns around one true bounce: one is right, the other spurious. Precision 1/2, recall 1, F1 2/3."""
    x = [20.0, 23.0, 26.0, 23.0, 26.0, 29.0]
    position = torch.tensor([[value, 9.0] for value in x], dtype=torch.float64)[None, :, None]
    truth = torch.tensor([[20.0 + 3 * t if t < 3 else 32.0 - 3 * t, 9.0] for t in range(6)], dtype=torch.float64)
    velocity = torch.tensor([[3.0 if t < 3 else -3.0, 0.0] for t in range(6)], dtype=torch.float64)
    bounces = torch.zeros(1, 6, 1, dtype=torch.long)
    bounces[0, 3] = 1
    tracks = replace(BLANK, position=position)
    total = score_bounces(tracks, truth[None, :, None], velocity[None, :, None], bounces=bounces).total()
    assert (total.matched, total.spurious, total.recalled, total.missed) == (1, 1, 1, 0)
    assert float(total.f1) == pytest.approx(2 / 3)


def test_misshapen_truth_is_refused() -> None:
    """Bounces per frame of other frames would be matched, only wrongly."""
    zeros = torch.zeros(1, 6, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="expected one shape"):
        score_bounces(replace(BLANK, position=zeros), zeros, zeros, bounces=torch.zeros(1, 5, 1))


def _blank() -> Tracks:
    none: Tensor = torch.zeros(1, 6, 1, dtype=torch.bool)
    here = torch.ones(1, 1, dtype=torch.bool)
    blobs = torch.zeros(1, 6, 8, dtype=torch.long)
    return Tracks(none[..., None].double(), ~none, blobs, here.long(), 5.0 * here, here, size=64)


BLANK = _blank()
