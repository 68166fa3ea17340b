"""Reading bodies back from videos: right on true videos, and wrong by the right amount on planted errors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from magi.data.world import PALETTE, World, WorldConfig, WorldStates
from magi.evaluation.dynamics import (
    constant_velocity,
    copy_last,
    count_correct,
    count_errors,
    found_error,
    position_error,
    share_found,
    velocity_error,
)
from magi.evaluation.tracking import Tracks, _label, join, track


@dataclass(frozen=True)
class Filmed:
    world: World
    states: WorldStates
    video: Tensor


@pytest.fixture(scope="module", params=[32, 64])
def filmed(request: pytest.FixtureRequest) -> Filmed:
    world = World(WorldConfig(size=request.param, num_frames=8, min_bodies=3, max_bodies=6))
    states = world.simulate(range(24))
    return Filmed(world, states, world.render(states))


def tracks_of(video: Tensor, states: WorldStates) -> Tracks:
    return track(video, states.color, present=states.present, radius=states.radius)


def by_hand(position: list[list[float]]) -> Tracks:
    """One disc of radius 5 in a frame of 64 pixels; NaN where it was not found."""
    centre = torch.tensor(position, dtype=torch.float64)[None, :, None]
    found = ~centre.isnan().any(-1)
    blobs = torch.zeros(1, len(position), len(PALETTE), dtype=torch.long)
    blobs[..., 0] = found[..., 0]
    color, present = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    return Tracks(centre, found, blobs, color, torch.full((1, 1), 5.0), present, size=64)


# True videos


def test_true_videos_are_read_to_half_a_pixel(filmed: Filmed) -> None:
    """Every body is found in every frame, no centre is off by half a pixel, and all counts are right."""
    tracks = tracks_of(filmed.video, filmed.states)
    assert torch.equal(tracks.found, filmed.states.present[:, None].expand_as(tracks.found))
    assert tracks.position[~tracks.found].isnan().all()
    off = (tracks.position - filmed.states.position).norm(dim=-1)[tracks.found]
    assert off.max() < 0.5
    assert count_correct(tracks).double().mean() >= 0.99
    assert position_error(tracks, filmed.states.position).mean() < 0.2


@pytest.mark.parametrize("gravity", [0.0, 0.2])
def test_crowds_are_counted(gravity: float) -> None:
    """Bodies of all eight colours touch all the time; counts stay right in 99 frames of 100."""
    world = World(WorldConfig(num_frames=8, min_bodies=8, max_bodies=8, gravity=gravity))
    states = world.simulate(range(12))
    assert count_correct(tracks_of(world.render(states), states)).double().mean() >= 0.99


def test_noise_as_a_model_makes_it_does_no_harm(filmed: Filmed) -> None:
    """Noise of 15 of 255 moves no centre by much: thresholds have room to spare."""
    noise = 15 * torch.randn(filmed.video.shape, generator=torch.Generator().manual_seed(0))
    noisy = (filmed.video + noise).clamp(0, 255).to(torch.uint8)
    tracks = tracks_of(noisy, filmed.states)
    assert position_error(tracks, filmed.states.position).mean() < 0.3
    assert count_correct(tracks).double().mean() >= 0.99


# Planted errors


def test_a_shifted_video_is_wrong_by_the_shift(filmed: Filmed) -> None:
    """Rolling the picture by 2 px to the right moves every body, save those it cuts at the border, by 2 px."""
    tracks = tracks_of(filmed.video.roll(2, dims=-1), filmed.states)
    clear = (
        filmed.states.position[..., 0] + filmed.states.radius[:, None] < filmed.world.config.size - 3
    ) & tracks.found
    off = (tracks.position - filmed.states.position)[clear]
    torch.testing.assert_close(off.mean(0), torch.tensor([2.0, 0.0], dtype=torch.float64), atol=0.1, rtol=0)


def test_a_missing_body_is_as_wrong_as_can_be(filmed: Filmed) -> None:
    """On an empty frame each body counts as far as the farthest of the four corners, worked out one by one."""
    states, size = filmed.states, filmed.world.config.size
    empty = states.background[:, None].expand_as(filmed.video)
    tracks = tracks_of(empty, states)
    assert not tracks.found.any() and not tracks.blobs.any() and not count_correct(tracks).any()
    corners = torch.tensor([[0, 0], [0, size], [size, 0], [size, size]], dtype=torch.float64)
    farthest = torch.cdist(states.position, corners.expand(len(empty), 8, 4, 2)).amax(-1)
    expected = torch.stack([far[:, here].mean(-1) for far, here in zip(farthest, states.present, strict=True)])
    torch.testing.assert_close(position_error(tracks, states.position), expected)


def test_a_removed_body_is_missed_and_the_others_are_not(filmed: Filmed) -> None:
    """Leaving out body 1 from frame 4 on spoils the count there and only there, and only its own track."""
    states = filmed.states
    without = states.present.clone()
    without[:, 1] = False
    video = filmed.video.clone()
    video[:, 4:] = filmed.world.render(replace(states, present=without))[:, 4:]
    tracks = tracks_of(video, states)
    assert not tracks.found[:, 4:, 1].any() and tracks.found[:, :4, 1].all()
    assert tracks.found[:, :, 0].all()
    right = count_correct(tracks)
    assert right[:, :4].double().mean() >= 0.99 and not right[:, 4:].any()
    error = position_error(tracks, states.position)
    assert error[:, 4:].min() > 2 and error[:, :4].max() < 0.5


def test_swapped_colours_are_wrong_places(filmed: Filmed) -> None:
    """Two bodies that trade colours trade places: the count is right and the error is their distance."""
    states = filmed.states
    swapped = states.color.clone()
    swapped[:, :2] = states.color[:, [1, 0]]
    tracks = tracks_of(filmed.world.render(replace(states, color=swapped)), states)
    assert count_correct(tracks).double().mean() >= 0.99
    distance = (states.position[:, :, 0] - states.position[:, :, 1]).norm(dim=-1)
    expected = 2 * distance / states.present.sum(-1)[:, None]
    torch.testing.assert_close(position_error(tracks, states.position), expected, atol=0.5, rtol=0)


def place_another(filmed: Filmed, *, color: Tensor) -> Tensor:
    """Draw one more body of these palette colours (B,) in frame 5, on the free spot farthest from all others."""
    video, size = filmed.video.clone(), filmed.world.config.size
    axis = torch.arange(8, size - 7).double()
    spots = torch.cartesian_prod(axis, axis)
    for row in range(len(video)):
        bodies = filmed.states.position[row, 5, filmed.states.present[row]]
        x, y = spots[torch.cdist(spots, bodies).amin(1).argmax()].long().tolist()
        radius = 4 if size == 64 else 2
        video[row, 5, :, y - radius : y + radius, x - radius : x + radius] = torch.tensor(
            PALETTE[int(color[row])], dtype=torch.uint8
        )[:, None, None]
    return video


def test_a_second_body_of_one_colour_is_counted(filmed: Filmed) -> None:
    """A spurious twin in frame 5 spoils the count of that frame in every clip and of no other frame."""
    right = count_correct(tracks_of(place_another(filmed, color=filmed.states.color[:, 0]), filmed.states))
    assert not right[:, 5].any() and right[:, [0, 1, 2, 3, 4, 6, 7]].double().mean() >= 0.99


def test_a_body_of_a_foreign_colour_is_counted(filmed: Filmed) -> None:
    """A body in a colour that the scene does not have spoils the count too, though no track looks for it."""
    states = filmed.states
    foreign = torch.tensor(
        [
            min(set(range(len(PALETTE))) - set(color[present].tolist()))
            for color, present in zip(states.color, states.present, strict=True)
        ]
    )
    tracks = tracks_of(place_another(filmed, color=foreign), states)
    right = count_correct(tracks)
    assert not right[:, 5].any() and right[:, [0, 1, 2, 3, 4, 6, 7]].double().mean() >= 0.99
    assert position_error(tracks, states.position)[:, 5].max() < 0.5


def test_a_torn_body_counts_twice() -> None:
    """A dark line of one pixel through the middle leaves two halves, each large enough to be taken for a body."""
    world = World(WorldConfig(min_bodies=1, max_bodies=1, num_frames=1))
    states = world.simulate(range(10))
    states = replace(states, position=states.position.floor() + 0.5)
    video = world.render(states)
    for row in range(10):
        x = int(states.position[row, 0, 0, 0])
        video[row, ..., x] = 30
    tracks = tracks_of(video, states)
    assert (tracks.blobs.sum(-1) == 2).all() and not count_correct(tracks).any()


# By horizon


@pytest.mark.parametrize("axis", [0, 1])
def test_velocity_errors_in_closed_form(axis: int) -> None:
    """A body that goes 5 px per frame along one axis where 3 are true is wrong by 2 px per frame in every step, though
    its place is wrong by 2, 4, 6; along the other axis the two velocities are sqrt(34) apart."""
    steps = torch.arange(1, 5, dtype=torch.float64)

    def moving(speed: float, axis: int) -> Tensor:
        path = torch.full((4, 2), 10.0, dtype=torch.float64)
        path[:, axis] += speed * steps
        return path

    tracks, truth = by_hand(moving(5, axis).tolist()), moving(3, axis)[None, :, None]
    torch.testing.assert_close(velocity_error(tracks, truth), torch.full((1, 3), 2.0, dtype=torch.float64))
    torch.testing.assert_close(position_error(tracks, truth), 2 * steps[None])
    other = moving(3, 1 - axis)[None, :, None]
    torch.testing.assert_close(velocity_error(tracks, other), torch.full((1, 3), 34**0.5, dtype=torch.float64))


def test_what_was_not_found_has_no_velocity() -> None:
    """A body missing in frame 2 of 5 has a place in four frames and a velocity only in the steps that do not touch it;
    found bodies are graded by themselves and the share found tells what that leaves out."""
    path = [[20.0, 30.0], [23.0, 30.0], [float("nan")] * 2, [29.0, 30.0], [32.0, 30.0]]
    truth = torch.tensor([[20.0 + 3 * t, 31.0] for t in range(5)], dtype=torch.float64)[None, :, None]
    tracks = by_hand(path)
    assert velocity_error(tracks, truth).isnan().tolist() == [[False, True, True, False]]
    assert velocity_error(tracks, truth).nan_to_num(0).tolist() == [[0.0] * 4]
    assert found_error(tracks, truth).isnan().tolist() == [[False, False, True, False, False]]
    assert found_error(tracks, truth).nanmean().item() == 1 and position_error(tracks, truth)[0, 2] > 40
    assert share_found(tracks).tolist() == [[1, 1, 0, 1, 1]]


def test_true_videos_move_as_the_world_does(filmed: Filmed) -> None:
    """Velocities are read to a fraction of a pixel per frame; with x and y swapped they are wrong by pixels."""
    truth, tracks = filmed.states.position, tracks_of(filmed.video, filmed.states)
    assert velocity_error(tracks, truth).mean() < 0.3
    assert velocity_error(tracks, truth.flip(-1)).mean() > 1
    turned = tracks_of(filmed.video.transpose(-1, -2), filmed.states)
    assert velocity_error(turned, truth).mean() > 1


def test_counts_are_wrong_in_two_directions(filmed: Filmed) -> None:
    """One body taken away and a twin of another added leave the number of bodies right and the picture wrong by two."""
    states = filmed.states
    without = states.present.clone()
    without[:, 1] = False
    less = filmed.world.render(replace(states, present=without))
    twins = place_another(replace(filmed, video=less), color=states.color[:, 0])
    errors = count_errors(tracks_of(twins, states))
    assert (errors.missing == 1).double().mean() >= 0.99 and not errors.extra[:, [0, 1, 2, 3, 4, 6, 7]].any()
    shown = errors.extra - errors.missing  # bodies less bodies expected
    assert (errors.extra[:, 5] == 1).all() and (shown[:, 5] == 0).double().mean() >= 0.95
    assert (shown[:, 4] == -1).double().mean() >= 0.95


def test_joined_tracks_are_the_track_of_the_joined_video(filmed: Filmed) -> None:
    """Frames are read one by one, so cutting a clip in two changes nothing; other bodies' tracks are refused."""
    states, whole = filmed.states, tracks_of(filmed.video, filmed.states)
    parts = join(tracks_of(filmed.video[:, :3], states), tracks_of(filmed.video[:, 3:], states))
    for name in ("position", "found", "blobs"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), equal_nan=True, atol=0, rtol=0)
    with pytest.raises(ValueError, match="not of the same bodies"):
        join(whole, by_hand([[20.0, 30.0]]))


# Baselines


def test_constant_velocity_in_closed_form() -> None:
    """x(t) = x + v t from the last two frames alone; the disc of radius 5 stops when it touches the wall."""
    ahead = constant_velocity(by_hand([[50.0, 9.0], [20.0, 30.0], [24.0, 29.0]]), 10)
    steps = torch.arange(1, 11, dtype=torch.float64)
    expected = torch.stack([(24 + 4 * steps).clamp(max=59), 29 - steps], dim=-1)
    torch.testing.assert_close(ahead.position[0, :, 0], expected)
    assert ahead.found.all() and count_correct(ahead).all()


def test_copy_last_stays() -> None:
    """Whatever came before, every frame ahead is the last one."""
    ahead = copy_last(by_hand([[20.0, 30.0], [24.0, 29.0]]), 3)
    assert ahead.position[0, :, 0].tolist() == [[24.0, 29.0]] * 3


def test_a_baseline_invents_no_body() -> None:
    """Not found in the frame before last: it stands still. Not found in the last: missing, and penalised."""
    missing = [float("nan")] * 2
    assert constant_velocity(by_hand([missing, [24.0, 29.0]]), 2).position[0, :, 0].tolist() == [[24.0, 29.0]] * 2
    lost = constant_velocity(by_hand([[24.0, 29.0], missing]), 2)
    assert not lost.found.any() and not count_correct(lost).any()
    truth = torch.tensor([24.0, 29.0], dtype=torch.float64).expand(1, 2, 1, 2)
    torch.testing.assert_close(position_error(lost, truth), torch.full((1, 2), np.hypot(40, 35), dtype=torch.float64))


def test_baselines_rank_as_mechanics_says(filmed: Filmed) -> None:
    """One frame ahead bodies mostly fly on, so extrapolation beats copying by far, and neither is perfect."""
    context = tracks_of(filmed.video[:, :7], filmed.states)
    truth = filmed.states.position[:, 7:]
    moved = position_error(constant_velocity(context, 1), truth).mean()
    copied = position_error(copy_last(context, 1), truth).mean()
    assert 0.2 < moved < 0.7 * copied


# Parts


def flood_fill(colors: np.ndarray) -> np.ndarray:
    """The obvious labelling: from each pixel of a body, walk to all 4-connected pixels of its colour."""
    height, width = colors.shape
    roots = np.arange(height * width).reshape(height, width)
    seen = np.zeros(colors.shape, dtype=bool)
    for start in zip(*np.nonzero(colors >= 0), strict=True):
        if seen[start]:
            continue
        seen[start], blob, queue = True, [start], deque([start])
        while queue:
            y, x = queue.popleft()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= near[0] < height and 0 <= near[1] < width
                if inside and not seen[near] and colors[near] == colors[start]:
                    seen[near] = True
                    blob.append(near)
                    queue.append(near)
        for pixel in blob:
            roots[pixel] = max(y * width + x for y, x in blob)
    return roots


def test_labels_equal_a_flood_fill() -> None:
    """Random two-coloured grids hold spirals and dead ends of every kind, and the background stays single pixels."""
    colors = np.random.default_rng(0).choice([-1, 0, 1], size=(60, 12, 12), p=[0.15, 0.6, 0.25])
    expected = np.stack([flood_fill(grid) for grid in colors]).reshape(60, -1)
    np.testing.assert_array_equal(_label(torch.from_numpy(colors)).numpy(), expected)


def test_impossible_input_is_refused(filmed: Filmed) -> None:
    """The wrong dtype, a wrong layout, too little context and a truth of another length are named."""
    with pytest.raises(ValueError, match="expected uint8"):
        tracks_of(filmed.video.float(), filmed.states)
    with pytest.raises(ValueError, match="expected uint8"):
        tracks_of(filmed.video.movedim(2, -1), filmed.states)
    with pytest.raises(ValueError, match="at least 2"):
        constant_velocity(by_hand([[20.0, 30.0]]), 2)
    with pytest.raises(ValueError, match="needs at least 2"):
        velocity_error(by_hand([[20.0, 30.0]]), torch.zeros(1, 1, 1, 2))
    with pytest.raises(ValueError, match="truth has shape"):
        position_error(by_hand([[20.0, 30.0]]), torch.zeros(1, 2, 1, 2))
