"""Speed against the requested interval: k times faster is k, in closed form and on the world's own videos."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from magi.data.world import PALETTE, World, WorldConfig, WorldStates
from magi.evaluation.speed import Speeds, seen_speeds, true_speeds
from magi.evaluation.tracking import Tracks, track
from magi.evaluation.windows import in_windows, score_windows

INTERVALS = (1, 2, 3)


@dataclass(frozen=True)
class Filmed:
    states: WorldStates
    tracks: Tracks


@pytest.fixture(scope="module", params=[0.0, 0.2])
def films(request: pytest.FixtureRequest) -> tuple[bool, dict[int, Filmed]]:
    """The same scenes at several intervals, with gravity and without."""
    world, films = World(WorldConfig(num_frames=17, seed=7, gravity=request.param)), {}
    for interval in INTERVALS:
        states = world.simulate(range(16), interval=interval)
        tracks = track(world.render(states), states.color, present=states.present, radius=states.radius)
        films[interval] = Filmed(states, tracks)
    return request.param > 0, films


def truth(states: WorldStates, *, gravity: bool = False) -> Speeds:
    return true_speeds(
        states.position, states.velocity, bounces=states.bounces, present=states.present, gravity=gravity
    )


def one_body(velocity: tuple[float, float], *, frames: int = 6) -> Tracks:
    """A disc that flies freely from (10, 10)."""
    steps = torch.arange(frames, dtype=torch.float64)[:, None]
    position = (10 + steps * torch.tensor(velocity, dtype=torch.float64))[None, :, None]
    here = torch.ones(1, 1, dtype=torch.bool)
    blobs = torch.zeros(1, frames, len(PALETTE), dtype=torch.long)
    blobs[..., 0] = 1
    found = torch.ones(1, frames, 1, dtype=torch.bool)
    return Tracks(position, found, blobs, 0 * here.long(), 5.0 * here.double(), here, size=64)


def test_speed_in_closed_form() -> None:
    """(3, 4) px per frame are 5, or 3 from left to right; a body that was not found in a frame has none around it."""
    tracks = one_body((3.0, 4.0))
    torch.testing.assert_close(seen_speeds(tracks).mean(), torch.full((5,), 5.0, dtype=torch.float64))
    torch.testing.assert_close(seen_speeds(tracks, gravity=True).mean(), torch.full((5,), 3.0, dtype=torch.float64))
    lost = tracks.found.clone()
    lost[:, 2] = False
    gap = torch.where(lost[..., None], tracks.position, torch.nan)
    speeds = seen_speeds(replace(tracks, found=lost, position=gap))
    assert speeds.free[0, :, 0].tolist() == [True, False, False, True, True]
    assert speeds.mean().nan_to_num(0).tolist() == [5, 0, 0, 5, 5]


def test_a_bounce_shortens_the_way_and_is_left_out() -> None:
    """The step in which a body turns covers 0 px of the 4 that its path is long; it and its neighbours do not count."""
    tracks = one_body((4.0, 0.0), frames=10)
    x = tracks.position[..., 0]
    turned = replace(tracks, position=torch.stack([torch.minimum(x, 2 * 28 - x), tracks.position[..., 1]], dim=-1))
    assert turned.position.diff(dim=1).norm(dim=-1).min() == 0
    speeds = seen_speeds(turned)
    assert speeds.free.any() and torch.equal(speeds.speed[speeds.free], torch.full_like(speeds.speed[speeds.free], 4))


def ratio(seen: Speeds, true: Speeds) -> float:
    """Of the ways that bodies in free flight go in a frame and in a single step: each compared with itself."""
    both = seen.free & true.free
    return float(seen.speed[both].sum() / true.speed[both].sum())


@pytest.mark.parametrize("interval", INTERVALS)
def test_interval_k_is_k_times_faster(films: tuple[bool, dict[int, Filmed]], interval: int) -> None:
    """To a percent: centres are read to a fraction of a pixel, and a step is many."""
    gravity, film = films[0], films[1][interval]
    seen, true = seen_speeds(film.tracks, gravity=gravity), truth(film.states, gravity=gravity)
    assert ratio(seen, true) == pytest.approx(interval, rel=0.01)


def test_a_model_that_ignores_the_interval_is_found_out(films: tuple[bool, dict[int, Filmed]]) -> None:
    """What moves as at interval 1 has ratio 1 whatever was asked for, and what stands still 0."""
    gravity, at = films
    asked = truth(at[3].states, gravity=gravity)
    assert ratio(seen_speeds(at[1].tracks, gravity=gravity), asked) == pytest.approx(1, rel=0.15)
    first = at[1].tracks.position[:, :1]
    still = replace(at[1].tracks, position=first.expand_as(at[1].tracks.position))
    assert ratio(seen_speeds(still, gravity=gravity), asked) == 0


def test_swapped_axes_show_under_gravity() -> None:
    """From left to right a falling body keeps its speed; read along y, the speed is that of the fall."""
    tracks = one_body((1.0, 3.0))
    assert seen_speeds(tracks, gravity=True).mean().tolist() == [1] * 5
    assert seen_speeds(replace(tracks, position=tracks.position.flip(-1)), gravity=True).mean().tolist() == [3] * 5


# Windows


def test_windows_of_the_truth_last(films: tuple[bool, dict[int, Filmed]]) -> None:
    """The truth is right in every window: counts, bodies, speed, and energy, which gravity does not keep."""
    gravity, at = films
    scores = score_windows(at[2].tracks, at[2].states, size=8, gravity=gravity)
    assert all(values.shape == (2,) for values in scores.values())
    assert (scores["count correct"] > 0.97).all() and (scores["share found"] == 1).all()
    assert (scores["missing bodies"] < 0.03).all() and (scores["extra bodies"] < 0.03).all()
    assert (scores["speed ratio"] - 1).abs().max() < 0.08
    assert scores["energy ratio"].isnan().all() if gravity else (scores["energy ratio"] - 1).abs().max() < 0.12


def test_windows_tell_when_it_went_wrong(films: tuple[bool, dict[int, Filmed]]) -> None:
    """From frame 8 on bodies stand still and the first is gone: only the second window shows it. Speed and energy are
    0, and one body is missing of those the scene has."""
    gravity, at = films
    tracks, states = at[1].tracks, at[1].states
    position, found, blobs = tracks.position.clone(), tracks.found.clone(), tracks.blobs.clone()
    position[:, 8:], found[:, 8:, 0] = position[:, 7:8], False
    blobs[:, 8:].scatter_(2, tracks.color[:, None, :1].expand(-1, 9, -1), 0)
    scores = score_windows(
        replace(tracks, position=position, found=found, blobs=blobs), states, size=8, gravity=gravity
    )
    assert scores["share found"][0] == 1 and scores["count correct"][0] > 0.97
    torch.testing.assert_close(scores["share found"][1], (1 - 1 / states.present.sum(1).double()).mean())
    assert scores["count correct"][1] == 0 and scores["missing bodies"][1] == pytest.approx(1, abs=0.03)
    assert scores["speed ratio"][1] == 0 and scores["speed ratio"][0] == pytest.approx(1, abs=0.08)


def test_energy_is_the_square_of_speed() -> None:
    """Bodies twice as fast have four times the energy."""
    states = World(WorldConfig(num_frames=6, min_bodies=1, max_bodies=1)).simulate([0], interval=1)
    still = torch.zeros_like(states.bounces)
    tracks = one_body((3.0, 0.0))
    flying = replace(
        states, position=tracks.position, velocity=torch.tensor([1.5, 0.0]).double().expand(1, 6, 1, 2), bounces=still
    )
    scores = score_windows(tracks, flying, size=3)
    assert scores["speed ratio"].tolist() == [2, 2] and scores["energy ratio"].tolist() == [4, 4]


def test_steps_belong_to_the_window_they_end_in() -> None:
    """Of 7 frames in windows of 3, the steps 0, 1 | 2, 3, 4 count, the seventh frame being left over."""
    values = torch.arange(6.0)[None]
    assert in_windows(values, torch.ones_like(values), size=3).tolist() == [0.5, 3.0]


def test_impossible_windows_are_refused(films: tuple[bool, dict[int, Filmed]]) -> None:
    """Windows longer than the video, and a truth that ends before it."""
    film = films[1][1]
    with pytest.raises(ValueError, match="windows of 18 frames in a video of 17"):
        score_windows(film.tracks, film.states, size=18)
    short = replace(film.states, position=film.states.position[:, :9])
    with pytest.raises(ValueError, match="simulate it for as many frames"):
        score_windows(film.tracks, short, size=8)
