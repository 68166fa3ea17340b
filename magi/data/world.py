"""A procedural world: coloured discs that fly, bounce off walls and each other, over a still, dark texture.

The world is small enough to train on in minutes and exact enough to grade a generated video by: every clip comes
with the true position of every body. This file knows scenes and drawing; `magi.data.mechanics` moves the bodies and
`magi.evaluation.tracking` reads them back from videos.

Mechanics run in float64 NumPy and drawing in Torch, both with elementwise operations only, so a clip is a function of
the seed and its sample index, bit for bit, whatever batch it is made in.

Shapes: B clips, T frames, K bodies a scene may hold (`max_bodies`), H = W = size. Positions are (x, y) in pixels, y
pointing down; pixel i covers [i, i + 1) and the walls stand at 0 and `size`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from magi.data.clips import Clips
from magi.data.mechanics import Bodies, Floats, Integers
from magi.seeds import generator

PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 30, 40),  # red
    (255, 235, 60),  # yellow
    (40, 90, 255),  # blue
    (30, 190, 60),  # green
    (220, 40, 230),  # magenta
    (255, 140, 0),  # orange
    (40, 225, 235),  # cyan
    (255, 150, 200),  # pink
)
"""RGB of the bodies: at least 110 apart from each other and from every background."""

DIRECTIONS: tuple[tuple[int, int], ...] = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""What each action pushes towards: none, left, right, up, down."""

REFERENCE_SIZE = 64  # lengths and speeds are stated for this many pixels and scale with the frame
SMALLEST_RADIUS, LARGEST_RADIUS = 5.0, 7.5  # px
MAX_SPEED = 10.0  # px / step: faster bodies could pass through each other within a substep
STEERING = 0.6  # px / step^2: full speed the other way within a dozen steps
MAX_INTERVAL = 25  # the paper's largest frame interval, and the largest the model embeds


@dataclass(frozen=True)
class WorldConfig:
    """What the scenes are like.

    Args:
        size: pixels on a side, 32 or 64.
        num_frames: frames per clip.
        min_bodies, max_bodies: each scene holds U{min..max} bodies, no two of one colour.
        min_speed, max_speed: px per physics step at 64 px, drawn uniformly for each body.
        gravity: px / step^2 at 64 px, downwards.
        steered: body 0, then always red, answers to one action per frame.
        min_interval, max_interval: physics steps between two frames, U{min..max} for each clip.
        seed: a sample is a function of this and its index.
    """

    size: int = 64
    num_frames: int = 16
    min_bodies: int = 3
    max_bodies: int = 5
    min_speed: float = 1.5
    max_speed: float = 4.0
    gravity: float = 0.0
    steered: bool = False
    min_interval: int = 1
    max_interval: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size not in (32, 64):
            raise ValueError(f"size is {self.size}, expected 32 or 64")
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}, expected at least 1")
        if not 1 <= self.min_bodies <= self.max_bodies <= len(PALETTE):
            raise ValueError(
                f"min_bodies..max_bodies is {self.min_bodies}..{self.max_bodies}, expected within 1..{len(PALETTE)}"
            )
        if not (0 <= self.min_speed <= self.max_speed and 0 < self.max_speed <= MAX_SPEED):
            raise ValueError(
                f"min_speed..max_speed is {self.min_speed}..{self.max_speed}, expected within 0..{MAX_SPEED}, not 0..0"
            )
        if not 0 <= self.gravity <= 1:
            raise ValueError(f"gravity is {self.gravity}, expected 0..1 pixels per step^2")
        if not 1 <= self.min_interval <= self.max_interval <= MAX_INTERVAL:
            intervals = f"{self.min_interval}..{self.max_interval}"
            raise ValueError(f"min_interval..max_interval is {intervals}, expected within 1..{MAX_INTERVAL}")


@dataclass(frozen=True)
class WorldStates:
    """Everything that is true of a batch of clips. Where ``present`` is False the other entries of a body are 0."""

    position: Tensor  # (B, T, K, 2) float64, px, centre (x, y)
    velocity: Tensor  # (B, T, K, 2) float64, px per physics step
    bounces: Tensor  # (B, T, K) int64, hits against a wall or a body since the frame before
    radius: Tensor  # (B, K) float64, px; a body weighs its radius squared
    color: Tensor  # (B, K) int64, index into PALETTE
    present: Tensor  # (B, K) bool
    background: Tensor  # (B, 3, H, W) uint8
    interval: Tensor  # (B,) int64, physics steps between two frames
    action: Tensor  # (B, T) int64, action t acts on the steps that lead to frame t; all 0 unless steered
    sample: Tensor  # (B,) int64


class World:
    """A `ClipSource` of procedural clips that also tells the truth about them."""

    def __init__(self, config: WorldConfig, device: torch.device | str = "cpu") -> None:
        """Make a world that draws on `device`, where its videos are then; states are exact, and so on the CPU."""
        self.config = config
        self.device = torch.device(device)

    def clips(self, samples: Sequence[int]) -> Clips:
        """Return the clips at these positions of the endless order."""
        states = self.simulate(samples)
        return Clips(video=self.render(states), interval=states.interval, sample=states.sample)

    def simulate(
        self,
        samples: Sequence[int],
        *,
        interval: int | None = None,
        num_frames: int | None = None,
        actions: Tensor | None = None,
    ) -> WorldStates:
        """Return the exact states of these samples.

        Args:
            samples: positions in the endless order.
            interval: physics steps between frames, in place of each sample's own.
            num_frames: frames to simulate, in place of the configured number; the frames both have are the same.
            actions: (B, T) integers 0..4, in place of the random ones of a steered world.

        Raises:
            ValueError: an interval out of 1..25, no frames, or actions that are misshapen, unknown or given to a world
                that is not steered.
        """
        if interval is not None and not 1 <= interval <= MAX_INTERVAL:
            raise ValueError(f"interval is {interval}, expected 1..{MAX_INTERVAL}")
        num_frames = self.config.num_frames if num_frames is None else num_frames
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}, expected at least 1")
        scenes = [_draw_scene(self.config, sample, num_frames=num_frames) for sample in samples]
        intervals = np.array([scene.interval if interval is None else interval for scene in scenes], dtype=np.int64)
        if actions is None:
            chosen = np.stack([scene.action for scene in scenes])
        else:
            chosen = self._checked_actions(actions, shape=(len(scenes), num_frames))
        radius = np.stack([scene.radius for scene in scenes])
        position, velocity, bounces = _run(
            self.config,
            np.stack([scene.position for scene in scenes]),
            velocity=np.stack([scene.velocity for scene in scenes]),
            radius=radius,
            interval=intervals,
            action=chosen,
        )

        def tensor(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array))

        return WorldStates(
            position=tensor(position),
            velocity=tensor(velocity),
            bounces=tensor(bounces),
            radius=tensor(radius),
            color=tensor(np.stack([scene.color for scene in scenes])),
            present=tensor(radius > 0),
            background=tensor(np.stack([scene.background for scene in scenes])),
            interval=tensor(intervals),
            action=tensor(chosen),
            sample=torch.tensor(list(samples)),
        )

    def render(self, states: WorldStates) -> Tensor:
        """Draw the states: (B, T, 3, H, W) uint8, discs with a soft one pixel edge, a darker rim and a highlight."""
        size, scale = self.config.size, self.config.size / REFERENCE_SIZE
        batch, num_frames, num_bodies, _ = states.position.shape
        # float64 stays behind: not every device has it
        position, radius = states.position.float().to(self.device), states.radius.float().to(self.device)
        color, present = states.color.to(self.device), states.present.to(self.device)
        background = states.background.to(self.device)
        canvas = background[:, None].expand(batch, num_frames, 3, size, size).clone()
        flat = canvas.view(batch, num_frames, 3, size * size)
        palette = torch.tensor(PALETTE, dtype=torch.float32, device=self.device)
        # A body is drawn on a square just large enough for it, cut out of the frame and put back: a tenth of the work.
        side = min(2 * int(np.ceil(LARGEST_RADIUS * scale + 1)) + 1, size)
        steps = torch.arange(side, device=self.device)
        for body in range(num_bodies):
            centre = position[:, :, body]  # (B, T, 2)
            corner = (centre.floor().long() - side // 2).clamp(0, size - side)
            column, row = (corner[..., None] + steps).unbind(-2)  # (B, T, side) each
            pixels = rearrange(row[..., :, None] * size + column[..., None, :], "b t h w -> b t 1 (h w)")
            pixels = pixels.expand(-1, -1, 3, -1)
            alpha, colour = _disc(
                column + 0.5 - centre[..., :1],
                row + 0.5 - centre[..., 1:],
                radius=radius[:, body] * present[:, body],
                colour=palette[color[:, body]],
            )
            under = flat.gather(-1, pixels).float()
            flat.scatter_(-1, pixels, (under + alpha * (colour - under)).round().to(torch.uint8))
        return canvas

    def _checked_actions(self, actions: Tensor, *, shape: tuple[int, int]) -> Integers:
        if not self.config.steered:
            raise ValueError("actions were given, but this world is not steered: set steered=True in its WorldConfig")
        chosen = actions.cpu().numpy().astype(np.int64)
        if chosen.shape != shape:
            raise ValueError(f"actions have shape {chosen.shape}, expected one for each sample and frame, {shape}")
        if chosen.min() < 0 or chosen.max() >= len(DIRECTIONS):
            raise ValueError(f"actions lie in {chosen.min()}..{chosen.max()}, expected 0..{len(DIRECTIONS) - 1}")
        return chosen


def _disc(dx: Tensor, dy: Tensor, *, radius: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
    """Return coverage (B, T, 1, S^2) and colour (B, T, 3, S^2) of discs around the origin of dx, dy (B, T, S)."""
    radius = radius[:, None, None, None]  # (B, 1, 1, 1)
    dx, dy = dx[..., None, :], dy[..., :, None]
    distance = (dx * dx + dy * dy).sqrt()  # (B, T, S, S)
    # A disc of radius 0 is an absent body and covers nothing, hence the second clamp.
    coverage = (radius + 0.5 - distance).clamp(0, 1) * radius.clamp(0, 1)
    rim = (distance - 0.75 * radius).clamp(0, 1)
    gleam_x, gleam_y = dx + 0.35 * radius, dy + 0.35 * radius
    gleam = (1 - (gleam_x * gleam_x + gleam_y * gleam_y).sqrt() / (0.4 * radius).clamp(min=1)).clamp(0, 1)
    colour = colour[:, None, :, None]  # (B, 1, 3, 1)
    rim, gleam = (rearrange(x, "b t h w -> b t 1 (h w)") for x in (rim, gleam))
    shaded = colour * (1 - 0.2 * rim)
    shaded = shaded + 0.45 * gleam * (255 - shaded)
    return rearrange(coverage, "b t h w -> b t 1 (h w)"), shaded


@dataclass(frozen=True)
class _Scene:
    """One sample before it moves."""

    position: Floats  # (K, 2)
    velocity: Floats  # (K, 2)
    radius: Floats  # (K,), 0 where there is no body
    color: Integers  # (K,)
    background: NDArray[np.uint8]  # (3, H, W)
    interval: int
    action: Integers  # (T,)


def _draw_scene(config: WorldConfig, sample: int, *, num_frames: int) -> _Scene:
    random = generator(config.seed, "world", sample)
    scale = config.size / REFERENCE_SIZE
    interval = int(random.integers(config.min_interval, config.max_interval, endpoint=True))
    bodies = int(random.integers(config.min_bodies, config.max_bodies, endpoint=True))
    radius, color = np.zeros(config.max_bodies), np.zeros(config.max_bodies, dtype=np.int64)
    position, velocity = np.zeros((config.max_bodies, 2)), np.zeros((config.max_bodies, 2))
    radius[:bodies] = scale * random.uniform(SMALLEST_RADIUS, LARGEST_RADIUS, bodies)
    if config.steered:
        # The steered body is always the red one: a viewer, or a model, must be able to tell which one answers.
        color[1:bodies] = 1 + random.permutation(len(PALETTE) - 1)[: bodies - 1]
    else:
        color[:bodies] = random.permutation(len(PALETTE))[:bodies]
    position[:bodies] = _place(random, radius[:bodies], size=config.size)
    speed = scale * random.uniform(config.min_speed, config.max_speed, bodies)
    angle = random.uniform(0, 2 * np.pi, bodies)
    velocity[:bodies] = np.stack([speed * np.cos(angle), speed * np.sin(angle)], axis=1)
    background = _draw_background(random, size=config.size)
    # Last, and one row per frame, so that a longer clip begins like a shorter one.
    action = _draw_actions(random, num_frames) if config.steered else np.zeros(num_frames, dtype=np.int64)
    return _Scene(position, velocity, radius, color, background, interval, action)


def _place(random: np.random.Generator, radius: Floats, *, size: int) -> Floats:
    """Draw centres (K, 2) so that bodies are inside the frame and apart, starting over when one finds no room."""
    while True:
        position = random.uniform(radius[:, None], size - radius[:, None], (len(radius), 2))
        gap = np.hypot(*(position[:, None] - position[None]).transpose(2, 0, 1)) - (radius[:, None] + radius[None])
        if (gap[np.triu_indices(len(radius), 1)] > 0).all():
            return position


def _draw_background(random: np.random.Generator, *, size: int) -> NDArray[np.uint8]:
    """Draw a dark, nearly grey texture (3, H, W) out of a few long waves that the channels share in unequal parts."""
    waves = 4
    cycles = random.uniform(0.4, 1.8, waves)  # per frame width
    angle, phase = random.uniform(0, 2 * np.pi, (2, waves))
    shared = random.uniform(4, 9, waves)
    amplitude = shared + random.uniform(-3, 3, (3, waves))
    level = random.uniform(36, 56) + random.uniform(-8, 8, 3)
    across = (np.arange(size) + 0.5) / size
    texture = np.broadcast_to(level[:, None, None], (3, size, size))
    for wave in range(waves):
        along = np.cos(angle[wave]) * across[None, :] + np.sin(angle[wave]) * across[:, None]
        height = np.cos(2 * np.pi * cycles[wave] * along + phase[wave])
        texture = texture + amplitude[:, wave, None, None] * height
    return np.clip(np.round(texture), 0, 255).astype(np.uint8)


def _draw_actions(random: np.random.Generator, num_frames: int) -> Integers:
    """Draw (T,) actions, each held for four frames on average."""
    change, choice = random.random((num_frames, 2)).T
    change[0] = 0
    last_change = np.maximum.accumulate(np.where(change < 0.25, np.arange(num_frames), 0))
    return np.floor(len(DIRECTIONS) * choice[last_change]).astype(np.int64)


def _run(
    config: WorldConfig, position: Floats, *, velocity: Floats, radius: Floats, interval: Integers, action: Integers
) -> tuple[Floats, Floats, Integers]:
    """Move bodies (B, K, 2) and return positions, velocities (B, T, K, 2) and bounces per frame (B, T, K)."""
    batch, num_frames = action.shape
    scale = config.size / REFERENCE_SIZE
    bodies = Bodies(position, velocity, radius, size=config.size, gravity=scale * config.gravity)
    push = scale * STEERING * np.array(DIRECTIONS, dtype=np.float64)
    steps = (num_frames - 1) * int(interval.max())
    positions, velocities = np.empty((2, steps + 1, *position.shape))
    bounces = np.empty((steps + 1, *radius.shape), dtype=np.int64)
    rows = np.arange(batch)
    for step in range(steps + 1):
        if step > 0:
            if config.steered:
                frame = np.minimum((step - 1) // interval + 1, num_frames - 1)
                bodies.steer(push[action[rows, frame]], limit=scale * config.max_speed)
            bodies.advance()
        positions[step], velocities[step], bounces[step] = bodies.position, bodies.velocity, bodies.bounces
    shown = interval[:, None] * np.arange(num_frames)  # (B, T) physics step of each frame
    total = bounces[shown, rows[:, None]]
    return (
        positions[shown, rows[:, None]],
        velocities[shown, rows[:, None]],
        np.diff(total, axis=1, prepend=0),
    )
