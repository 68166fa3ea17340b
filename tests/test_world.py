"""The procedural world: what it promises about its bits, its mechanics and its pictures."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from magi.data.mechanics import SUBSTEPS, Bodies
from magi.data.world import DIRECTIONS, MAX_INTERVAL, PALETTE, STEERING, World, WorldConfig, WorldStates
from magi.data.world_files import write_world
from magi.video import read_video

CONFIGS = {
    "plain": WorldConfig(),
    "small": WorldConfig(size=32),
    "falling": WorldConfig(gravity=0.2),
    "steered": WorldConfig(steered=True, gravity=0.1, max_bodies=4),
}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def pick(states: WorldStates, rows: list[int]) -> WorldStates:
    return WorldStates(**{field.name: getattr(states, field.name)[rows] for field in fields(states)})


def assert_same(one: WorldStates, two: WorldStates) -> None:
    for field in fields(one):
        assert torch.equal(getattr(one, field.name), getattr(two, field.name)), field.name


def energy(states: WorldStates, *, gravity: float) -> Tensor:
    """Kinetic and potential energy of each frame (B, T); a disc weighs its radius squared and y points down."""
    mass = states.radius.square()[:, None]
    kinetic = 0.5 * mass * states.velocity.square().sum(-1)
    return (kinetic - mass * gravity * states.position[..., 1]).sum(-1)


def lone_disc(position: tuple[float, float], velocity: tuple[float, float], *, gravity: float = 0.0) -> Bodies:
    return Bodies(np.array([[position]]), np.array([[velocity]]), np.array([[6.0]]), size=64, gravity=gravity)


# Position is the only key


def test_a_clip_does_not_depend_on_its_batch(world: World) -> None:
    """Every operation is elementwise, so a sample alone, in a batch and in another order is the same to the bit."""
    together, shuffled = list(range(100, 117)), [111, 100, 116]
    states = world.simulate(together)
    video = world.clips(together).video
    rows = [sample - 100 for sample in shuffled]
    assert_same(world.simulate(shuffled), pick(states, rows))
    assert torch.equal(world.clips(shuffled).video, video[rows])
    assert torch.equal(world.clips([105]).video[0], video[5])


def test_two_worlds_of_one_seed_are_equal_and_of_two_seeds_are_not(world: World) -> None:
    """No state is kept between calls; a seed opens its own streams, so not one clip is shared."""
    other = World(replace(world.config, seed=1))
    samples = [0, 1, 2, 3]
    assert torch.equal(World(world.config).clips(samples).video, world.clips(samples).video)
    assert not any(map(torch.equal, other.clips(samples).video, world.clips(samples).video))


def test_a_longer_clip_begins_like_a_shorter_one(world: World) -> None:
    """Nothing drawn depends on the number of frames, actions included."""
    short, long = world.simulate(range(8), num_frames=5), world.simulate(range(8), num_frames=20)
    for name in ("position", "velocity", "bounces", "action"):
        assert torch.equal(getattr(short, name), getattr(long, name)[:, :5]), name


@pytest.mark.parametrize("interval", [2, 3, MAX_INTERVAL])
def test_interval_k_shows_every_kth_frame(interval: int) -> None:
    """The interval chooses which physics steps are shown and has no say in the physics."""
    world = World(WorldConfig(gravity=0.1))
    every = world.simulate(range(6), interval=1, num_frames=3 * interval + 1)
    sparse = world.simulate(range(6), interval=interval, num_frames=4)
    assert torch.equal(sparse.position, every.position[:, ::interval])
    assert torch.equal(sparse.velocity, every.velocity[:, ::interval])
    assert torch.equal(sparse.bounces.sum(1), every.bounces.sum(1))


def test_scenes_span_what_the_config_says() -> None:
    """Over 300 samples every interval and body count turns up, radii and speeds fill their range, colours differ."""
    world = World(WorldConfig(min_bodies=2, max_bodies=4, min_interval=2, max_interval=5))
    states = world.simulate(range(300), num_frames=1)
    assert set(states.interval.tolist()) == {2, 3, 4, 5}
    assert set(states.present.sum(1).tolist()) == {2, 3, 4}
    radius, speed = states.radius[states.present], states.velocity[:, 0].norm(dim=-1)[states.present]
    assert 5 <= radius.min() < 5.1 and 7.4 < radius.max() <= 7.5
    assert 1.5 <= speed.min() < 1.6 and 3.9 < speed.max() <= 4
    for color, present in zip(states.color, states.present, strict=True):
        assert len(set(color[present].tolist())) == present.sum()


# Mechanics


@pytest.mark.parametrize("gravity", [0.0, 0.1, 0.3])
def test_energy_is_conserved(gravity: float) -> None:
    """Walls and collisions are elastic and steering is off, so hundreds of bounces leave the energy as it was."""
    world = World(WorldConfig(gravity=gravity))
    states = world.simulate(range(32), interval=10, num_frames=20)
    total = energy(states, gravity=gravity)
    torch.testing.assert_close(total, total[:, :1].expand_as(total), rtol=1e-10, atol=0)
    assert states.bounces.sum(1)[states.present].float().mean() > 15


def test_bodies_stay_inside_the_frame_and_apart(world: World) -> None:
    """Walls act last, so they hold exactly; two bodies may still touch a third, rarely and by a pixel or so."""
    states = world.simulate(range(100), num_frames=40)
    size, scale = world.config.size, world.config.size / 64
    radius = states.radius[:, None, :, None]
    inside = (states.position >= radius) & (states.position <= size - radius)
    assert inside.all(-1)[states.present[:, None].expand(inside.shape[:-1])].all()
    one, two = np.triu_indices(world.config.max_bodies, 1)
    distance = (states.position[:, :, one] - states.position[:, :, two]).norm(dim=-1)
    overlap = (states.radius[:, None, one] + states.radius[:, None, two] - distance) / scale
    overlap = overlap[(states.present[:, one] & states.present[:, two])[:, None].expand_as(overlap)]
    assert overlap.max() < 2
    assert (overlap > 0.1).double().mean() < 0.002


def test_bodies_bounce_often_enough_to_be_worth_predicting() -> None:
    """A clip in which nothing bounces is solved by extrapolation: at least one bounce per body in 12 frames."""
    states = World(WorldConfig()).simulate(range(200), interval=1, num_frames=12)
    assert states.bounces.sum(1)[states.present].double().mean() >= 1


def test_a_lone_disc_flies_like_light_between_mirrors() -> None:
    """Without gravity the path unfolds to a straight line, so each coordinate is a triangle wave in closed form."""
    disc = lone_disc((20.0, 30.0), (3.1, -2.3))
    for step in range(1, 200):
        disc.advance()
        unfolded = np.array([20.0 + 3.1 * step, 30.0 - 2.3 * step])
        folded = 58 - np.abs((unfolded - 6) % 104 - 52)
        np.testing.assert_allclose(disc.position[0, 0], folded, atol=1e-9)


def test_a_dropped_disc_rises_to_where_it_fell_from() -> None:
    """From rest it falls for sqrt(2 h / g), and its height is the same parabola again and again."""
    gravity, height = 0.2, 30.0
    disc = lone_disc((32.0, 58.0 - height), (0.0, 0.0), gravity=gravity)
    fall = np.sqrt(2 * height / gravity)
    for step in range(1, 300):
        disc.advance()
        since_top = (step + fall) % (2 * fall) - fall
        np.testing.assert_allclose(disc.position[0, 0], [32.0, 58.0 - height + gravity * since_top**2 / 2], atol=1e-7)


def test_a_head_on_collision_follows_the_textbook() -> None:
    """v1' = ((m1 - m2) v1 + 2 m2 v2) / (m1 + m2), and the same for v2' with the indices swapped."""
    radius = np.array([[5.0, 7.0]])
    (m1, m2), v1, v2 = radius[0] ** 2, 3.0, -1.0
    bodies = Bodies(
        np.array([[[20.0, 32.0], [36.0, 32.0]]]), np.array([[[v1, 0], [v2, 0]]]), radius, size=64, gravity=0
    )
    for _ in range(3):
        bodies.advance()
    expected = [((m1 - m2) * v1 + 2 * m2 * v2) / (m1 + m2), ((m2 - m1) * v2 + 2 * m1 * v1) / (m1 + m2)]
    np.testing.assert_allclose(bodies.velocity[0], [[expected[0], 0], [expected[1], 0]], atol=1e-12)
    assert bodies.bounces.tolist() == [[1, 1]]


def test_collisions_conserve_momentum_and_the_centre_of_mass() -> None:
    """A pair in mid air, at random angles: forces are internal, so momentum stays and the common centre flies on."""
    random = np.random.default_rng(0)
    radius = random.uniform(5, 7.5, (200, 2))
    position = np.tile([[24.0, 32.0], [40.0, 32.0]], (200, 1, 1))
    velocity = np.array([[1.2, 0], [-1.2, 0]]) + random.uniform(-1, 1, (200, 2, 2))
    bodies = Bodies(position, velocity, radius, size=64, gravity=0.0)
    for _ in range(4):
        bodies.advance()
    weight = radius[..., None] ** 2
    assert bodies.bounces.any(axis=1).mean() > 0.5
    np.testing.assert_allclose((weight * bodies.velocity).sum(1), (weight * velocity).sum(1), atol=1e-10)
    np.testing.assert_allclose(
        (weight * bodies.position).sum(1), (weight * (position + 4 * velocity)).sum(1), atol=1e-9
    )


def test_bodies_that_overlap_but_part_are_let_go() -> None:
    """Pushed into each other by a third, say: they are moved apart, and no second impulse turns them back."""
    velocity = np.array([[[-1.0, 0.5], [2.0, 0.0]]])
    bodies = Bodies(np.array([[[28.0, 32.0], [36.0, 32.0]]]), velocity, np.full((1, 2), 6.0), size=64, gravity=0.0)
    bodies.advance()
    np.testing.assert_array_equal(bodies.velocity, velocity)
    assert bodies.position[0, 1, 0] - bodies.position[0, 0, 0] > 12 and not bodies.bounces.any()


# Steering


@pytest.mark.parametrize("action", range(5))
def test_an_action_pushes_body_0_and_no_other(action: int) -> None:
    """In one step without a bounce the velocity changes by exactly the push, capped, and the others fly as before."""
    world = World(WorldConfig(steered=True, max_speed=4))
    still, pushed = (
        world.simulate(range(100), interval=1, num_frames=2, actions=torch.full((100, 2), chosen))
        for chosen in (0, action)
    )
    quiet = (still.bounces + pushed.bounces).sum((1, 2)) == 0
    assert quiet.sum() > 20
    change = (pushed.velocity - still.velocity)[quiet, 1]
    assert torch.equal(change[:, 1:], torch.zeros_like(change[:, 1:]))
    wanted = still.velocity[quiet, 1, 0] + STEERING * torch.tensor(DIRECTIONS[action])
    speed = wanted.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(pushed.velocity[quiet, 1, 0], wanted * (4 / speed).clamp(max=1))


def test_a_held_action_wins_and_its_speed_is_capped() -> None:
    """Alone and pushed left for 8 frames of 1 step, body 0 ends up moving left, but never faster than max_speed."""
    world = World(WorldConfig(steered=True, min_bodies=1, max_bodies=1, max_speed=3))
    actions = torch.full((50, 9), 1)
    states = world.simulate(range(50), interval=1, num_frames=9, actions=actions)
    free = states.bounces.sum((1, 2)) == 0
    assert free.any() and (states.velocity[free, -1, 0, 0] < -1).all()
    assert states.velocity.norm(dim=-1).max() <= 3 + 1e-12


def test_the_action_of_a_frame_acts_on_the_steps_that_lead_to_it() -> None:
    """Action t changes frame t and later ones and none before, at every interval; action 0 changes nothing."""
    world = World(WorldConfig(steered=True))
    actions = torch.zeros(4, 6, dtype=torch.long)
    base = world.simulate(range(4), interval=3, num_frames=6, actions=actions)
    for frame in range(6):
        poked = actions.clone()
        poked[:, frame] = 2
        same = (world.simulate(range(4), interval=3, num_frames=6, actions=poked).position == base.position).all(-1)
        assert same[:, : max(frame, 1)].all()
        assert frame == 0 or not same[:, frame, 0].any()


def test_the_steered_body_is_the_red_one_and_actions_are_held() -> None:
    """A viewer can tell which body answers; all five actions occur, each held for about four frames."""
    states = World(WorldConfig(steered=True)).simulate(range(50), num_frames=40)
    assert (states.color[:, 0] == 0).all() and not (states.color[:, 1:] == 0)[states.present[:, 1:]].any()
    assert set(states.action.unique().tolist()) == {0, 1, 2, 3, 4}
    assert 0.15 < (states.action[:, 1:] != states.action[:, :-1]).double().mean() < 0.25
    assert (World(WorldConfig()).simulate(range(5)).action == 0).all()


# Pictures


def test_pixels_show_bodies_where_they_are_and_the_background_elsewhere(world: World) -> None:
    """The whole frame is checked against distances worked out pixel by pixel, not patch by patch as it was drawn."""
    states = world.simulate(range(6), num_frames=8)
    video = world.render(states)
    size = world.config.size
    axis = torch.arange(size) + 0.5
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # (H, W, 2)
    distance = (grid - states.position[:, :, :, None, None]).norm(dim=-1)  # (B, T, K, H, W)
    depth = states.radius[:, None, :, None, None] - distance
    depth = depth.masked_fill(~states.present[:, None, :, None, None], -100)
    clear = (depth < -0.51).all(2)
    still = states.background[:, None].expand_as(video)
    assert torch.equal(video.movedim(2, -1)[clear], still.movedim(2, -1)[clear])
    colours = (video[:, :, :, None].float() - torch.tensor(PALETTE).T[..., None, None]).norm(dim=2)  # (B, T, C, H, W)
    nearest = colours.argmin(2)
    for body in range(world.config.max_bodies):
        centre, radius = states.position[:, :, body, None, None], states.radius[:, body, None, None, None]
        highlight = (grid - centre + 0.35 * radius[..., None]).norm(dim=-1) < 0.4 * radius
        plain = (depth[:, :, body] > 0.5) & ((depth > -0.6).sum(2) == 1) & ~highlight
        assert plain.any() and (nearest == states.color[:, body, None, None, None])[plain].all()


def test_colours_are_far_from_each_other_and_from_backgrounds() -> None:
    """Bodies are tracked by colour: 110 apart leaves room for the rim, the highlight and the noise of a model."""
    palette = torch.tensor(PALETTE, dtype=torch.float)
    assert torch.pdist(palette).min() > 110
    background = World(WorldConfig()).simulate(range(200), num_frames=1).background.float().movedim(1, -1)
    assert torch.cdist(background.reshape(-1, 3), palette).min() > 110


def test_backgrounds_are_dark_and_distinct() -> None:
    """Muted so that bodies stand out, and a texture of its own for every sample."""
    background = World(WorldConfig()).simulate(range(50), num_frames=1).background.float()
    assert background.mean() < 64
    assert (background.amax(1) - background.amin(1)).mean() < 25, "nearly grey"
    assert torch.pdist(background.flatten(1)).min() / background[0].numel() ** 0.5 > 2


def test_clips_carry_what_a_model_is_given(world: World) -> None:
    """Shapes and types of the protocol, and the interval that was really used."""
    clips = world.clips([3, 9])
    assert clips.video.shape == (2, 16, 3, world.config.size, world.config.size)
    assert clips.video.dtype == torch.uint8
    assert clips.sample.tolist() == [3, 9]
    assert torch.equal(clips.interval, world.simulate([3, 9]).interval)


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 48}, "size is 48"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"min_bodies": 4, "max_bodies": 3}, r"4\.\.3"),
        ({"max_bodies": 9}, r"3\.\.9"),
        ({"max_speed": 20.0}, r"1\.5\.\.20"),
        ({"min_speed": 0.0, "max_speed": 0.0}, "max_speed"),
        ({"gravity": -0.1}, "gravity is -0.1"),
        ({"min_interval": 0}, r"0\.\.3"),
        ({"max_interval": 26}, r"1\.\.26"),
    ],
)
def test_an_impossible_config_is_refused(change: dict[str, float], message: str) -> None:
    """The message says which value, and what was expected."""
    with pytest.raises(ValueError, match=message):
        WorldConfig(**change)


def test_impossible_requests_are_refused() -> None:
    """An option that would have no effect, or no meaning, is an error and not a shrug."""
    plain, steered = World(WorldConfig()), World(WorldConfig(steered=True))
    with pytest.raises(ValueError, match="not steered"):
        plain.simulate([0], actions=torch.zeros(1, 16))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        steered.simulate([0], actions=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"0\.\.5"):
        steered.simulate([0], num_frames=2, actions=torch.tensor([[0, 5]]))
    with pytest.raises(ValueError, match="interval is 26"):
        plain.simulate([0], interval=26)
    with pytest.raises(ValueError, match="num_frames is 0"):
        plain.simulate([0], num_frames=0)


def test_substeps_keep_the_fastest_pair_from_passing_through() -> None:
    """Two of the smallest bodies meeting at the greatest speed close in by less than their reach in a substep."""
    bodies = Bodies(
        np.array([[[10.0, 32.0], [50.0, 32.0]]]),
        np.array([[[10.0, 0], [-10.0, 0]]]),
        np.full((1, 2), 5.0),
        size=64,
        gravity=0,
    )
    assert 2 * 10.0 / SUBSTEPS < 10.0
    for _ in range(2):
        bodies.advance()
    assert bodies.position[0, 0, 0] < bodies.position[0, 1, 0] and bodies.bounces.tolist() == [[1, 1]]


def test_world_files_tell_the_truth(tmp_path: Path) -> None:
    """JSON keeps every float64 exactly, and the video shows what it says; existing files are never written over."""
    config = WorldConfig(num_frames=4, seed=3)
    first, second = write_world(tmp_path, config, samples=[7, 8], interval=2)
    states = World(config).simulate([8], interval=2)
    told = json.loads(second.with_suffix(".json").read_text())
    present = states.present[0]
    assert told["interval"] == 2 and told["sample"] == 8 and told["frames"] == 4
    positions = torch.tensor([body["position"] for body in told["bodies"]], dtype=torch.float64)
    assert torch.equal(positions, states.position[0][:, present].transpose(0, 1))
    frames = torch.from_numpy(read_video(second).frames)
    assert (frames - World(config).render(states)[0].permute(0, 2, 3, 1).float()).abs().mean() < 1.5
    with pytest.raises(ValueError, match=r"world-000007\.mp4 exists"):
        write_world(tmp_path, config, samples=[6, 7])
    assert not (tmp_path / "world-000006.mp4").exists() and first.exists()
