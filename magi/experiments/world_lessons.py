"""What the detector of the procedural world is taught: worlds of random physics, and the questions asked about them.

Knows which clips are shown and what counts as an answer; the network is `magi.evaluation.detectors.world`, how long it
learns is `magi.experiments.world_detector`. No clip is tampered with in time: frozen or shuffled clips are what the
detector is tested on. Half of the clips get a little blur and noise, as a tokenizer leaves, so that texture does not
outweigh motion.

Shapes: B clips, T frames, K bodies, D features, C colours, h = w = 8 places. Speeds are in pixels per frame.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from magi.data.world import PALETTE, World, WorldConfig, WorldStates
from magi.evaluation.detectors.world import SIZE, WorldNetwork, prepare
from magi.seeds import generator

ALIKE = 8  # clips in a row that share gravity and range of speeds; a world has one of each
LENGTHS = (5, 8, 12, 16)  # frames
MOST_BODIES, LONGEST_INTERVAL = 5, 4
GRAVITY = 0.3  # at most, px / step^2; half of the worlds have none
HAZE = 0.5  # share of clips with blur and noise
NOISE = 8.0  # of 255, the largest deviation
PLACES = 8
SPEED_UNIT, FALL_UNIT = 8.0, 2.0  # px / frame and px / frame^2 that count as 1


@dataclass(frozen=True)
class Lesson:
    """A batch of clips and the truth about them."""

    video: Tensor  # (B, T, 3, 64, 64) uint8
    states: WorldStates
    gravity: Tensor  # (B,) px / step^2
    sample: Tensor  # (B,) int64


def lesson(samples: Sequence[int], *, seed: int, num_frames: int) -> Lesson:
    """The clips at these positions of an endless order, which must begin and end at a multiple of `ALIKE`.

    Returns:
        (B, T, 3, 64, 64) uint8 clips with their states.
    """
    parts, videos, gravity = [], [], []
    for first in range(0, len(samples), ALIKE):
        group = samples[first : first + ALIKE]
        config = _physics(seed, group[0] // ALIKE, num_frames)
        world = World(config)
        parts.append(world.simulate(group))
        videos.append(world.render(parts[-1]))
        gravity += [config.gravity] * len(group)
    joined = WorldStates(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})
    video = torch.cat(videos)
    return Lesson(_hazed(video, joined.sample, seed=seed), joined, torch.tensor(gravity), joined.sample)


def lessons(start: int, *, batch_size: int, seed: int) -> Generator[Lesson, None, None]:
    """Batches from a position on, without end, each of a random length."""
    while True:
        num_frames = int(generator(seed, "lesson length", start).choice(LENGTHS))
        yield lesson(range(start, start + batch_size), seed=seed, num_frames=num_frames)
        start += batch_size


def _physics(seed: int, group: int, num_frames: int) -> WorldConfig:
    random = generator(seed, "physics", group)
    gravity = float(random.uniform(0, GRAVITY)) if random.random() < 0.5 else 0.0
    slowest = float(random.uniform(0.3, 2.5))
    return WorldConfig(
        size=SIZE,
        num_frames=num_frames,
        min_bodies=1,
        max_bodies=MOST_BODIES,
        min_speed=slowest,
        max_speed=slowest + float(random.uniform(0.5, 3.0)),
        gravity=gravity,
        max_interval=LONGEST_INTERVAL,
        seed=seed,
    )


def _hazed(video: Tensor, sample: Tensor, *, seed: int) -> Tensor:
    """Half of the clips (B, T, 3, H, W) uint8 a little blurred and noisy, the others as they are."""
    result = video.clone()
    for row, index in enumerate(sample.tolist()):
        random = generator(seed, "haze", index)
        if random.random() >= HAZE:
            continue
        clear = video[row].float()
        soft = functional.avg_pool2d(functional.pad(clear, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        noise = random.standard_normal(clear.shape, dtype=np.float32) * random.uniform(0, NOISE)
        shown = torch.lerp(clear, soft, float(random.random())) + torch.from_numpy(noise)
        result[row] = shown.round().clamp(0, 255).to(torch.uint8)
    return result


@dataclass(frozen=True)
class Answers:
    """The truth in the form in which it is asked for, over places (h, w) of 8 x 8 pixels and over clips."""

    occupied: Tensor  # (B, T, h, w) bool, the centre of a body is here
    offset: Tensor  # (B, T, h, w, 2) where in the place it is, -.5..0.5 in x and y
    color: Tensor  # (B, T, h, w) int64, index into PALETTE
    velocity: Tensor  # (B, T, h, w, 2) units of SPEED_UNIT
    bounced: Tensor  # (B, T, h, w) float, 1 if it has bounced since the frame before
    count: Tensor  # (B,) int64, bodies less one
    colors: Tensor  # (B, C) float, 1 where a body has this colour
    interval: Tensor  # (B,) int64, interval less one
    numbers: Tensor  # (B, 3): mean speed, fall per frame^2, bounces per body and frame


def answers(truth: Lesson) -> Answers:
    """The right answers about a batch: tensors over places (B, T, h, w) and over clips (B,)."""
    states = truth.states
    batch, num_frames, bodies, _ = states.position.shape
    place = (states.position / (SIZE / PLACES)).floor().clamp(0, PLACES - 1)
    index = (place[..., 1] * PLACES + place[..., 0]).long()  # (B, T, K)
    index = torch.where(states.present[:, None], index, PLACES * PLACES)  # absent ones fall off the end

    def over_places(values: Tensor) -> Tensor:
        """Values (B, T, K, F) at the places of their bodies, (B, T, h, w, F)."""
        field = torch.zeros(batch, num_frames, PLACES * PLACES + 1, values.shape[-1])
        field.scatter_(2, index[..., None].expand_as(values), values.float())
        return rearrange(field[:, :, :-1], "b t (h w) f -> b t h w f", h=PLACES)

    interval = states.interval[:, None, None]
    velocity = states.velocity * interval[..., None] / SPEED_UNIT
    shown = states.color[:, None].expand(-1, num_frames, -1)
    present = states.present.double()
    speed = (velocity.norm(dim=-1).mean(1) * present).sum(1) / present.sum(1)
    bounces = (states.bounces[:, 1:].double().mean(1) * present).sum(1) / present.sum(1)
    fall = truth.gravity.double() * states.interval**2 / FALL_UNIT
    colors = torch.zeros(batch, len(PALETTE)).scatter_add_(1, states.color, present.float())
    return Answers(
        occupied=over_places(torch.ones(batch, num_frames, bodies, 1))[..., 0] > 0,
        offset=over_places(states.position / (SIZE / PLACES) - place - 0.5),
        color=over_places(shown[..., None])[..., 0].long(),
        velocity=over_places(velocity),
        bounced=over_places((states.bounces > 0)[..., None])[..., 0],
        count=states.present.sum(1) - 1,
        colors=colors,
        interval=states.interval - 1,
        numbers=torch.stack([speed, fall, bounces], dim=1).float(),
    )


class Pupil(nn.Module):
    """A network with the questions it is asked; only the network is kept.

    All questions are linear in the features, so that what is learned lies open in them: about the places of single
    frames and of moving ones, and about the means that the detector gives out.
    """

    STILL = ("occupied", "offset", "color", "frame count", "frame colors")
    MOVING = ("velocity", "bounced", "count", "interval", "numbers")

    def __init__(self, network: WorldNetwork) -> None:
        super().__init__()
        dim = network.config.dim
        self.network = network
        self.still_places = nn.Linear(dim, 1 + 2 + len(PALETTE))
        self.still_mean = nn.Linear(dim, MOST_BODIES + len(PALETTE))
        self.moving_places = nn.Linear(dim, 2 + 1)
        self.moving_mean = nn.Linear(dim, MOST_BODIES + LONGEST_INTERVAL + 3)

    def forward(self, pixels: Tensor, truth: Answers) -> dict[str, Tensor]:
        still = self.network.still(pixels)
        moving = self.network.moving(still)
        parts = self._about_frames(still, truth) | self._about_motion(moving, truth)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def _about_frames(self, still: Tensor, truth: Answers) -> dict[str, Tensor]:
        places = self.still_places(rearrange(still, "b t d h w -> b t h w d")).float()
        found, offset, color = places.split([1, 2, len(PALETTE)], dim=-1)
        count, colors = self.still_mean(still.mean((3, 4))).float().split([MOST_BODIES, len(PALETTE)], dim=-1)
        here, num_frames = truth.occupied, still.shape[1]
        loss = functional.binary_cross_entropy_with_logits
        return {
            "occupied": 10 * loss(found[..., 0], here.float()),  # few places are
            "offset": 4 * functional.smooth_l1_loss(offset[here], truth.offset[here], beta=0.1),
            "color": functional.cross_entropy(color[here], truth.color[here]),
            "frame count": functional.cross_entropy(count.flatten(0, 1), truth.count.repeat_interleave(num_frames)),
            "frame colors": loss(colors, truth.colors[:, None].expand_as(colors)),
        }

    def _about_motion(self, moving: Tensor, truth: Answers) -> dict[str, Tensor]:
        places = self.moving_places(rearrange(moving, "b t d h w -> b t h w d")).float()
        velocity, bounced = places.split([2, 1], dim=-1)
        count, interval, numbers = self.about_clips(moving)
        here = truth.occupied
        return {
            "velocity": 4 * functional.smooth_l1_loss(velocity[here], truth.velocity[here], beta=0.1),
            "bounced": functional.binary_cross_entropy_with_logits(bounced[..., 0][here], truth.bounced[here]),
            "count": functional.cross_entropy(count, truth.count),
            "interval": functional.cross_entropy(interval, truth.interval),
            "numbers": 4 * functional.smooth_l1_loss(numbers, truth.numbers, beta=0.1),
        }

    def about_clips(self, moving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of counts (B, 5) and intervals (B, 4) and the numbers (B, 3), of features (B, T, D, h, w)."""
        answer: Tensor = self.moving_mean(moving.mean((1, 3, 4))).float()
        count, interval, numbers = answer.split([MOST_BODIES, LONGEST_INTERVAL, 3], dim=-1)
        return count, interval, numbers


@torch.no_grad()
def examine(pupil: Pupil, held: Lesson) -> dict[str, float]:
    """How well clips (B, T, 3, 64, 64) that were never trained on are told apart; in words of the world.

    Shares are of clips; errors are means of the absolute value. The error of saying the mean of these clips stands
    beside each.
    """
    truth = answers(held)
    moving = pupil.network.moving(pupil.network.still(prepare(held.video)))
    count, interval, numbers = pupil.about_clips(moving)
    scores = {
        "count right": float((count.argmax(1) == truth.count).double().mean()),
        "interval right": float((interval.argmax(1) == truth.interval).double().mean()),
    }
    for column, (name, unit) in enumerate((("speed", SPEED_UNIT), ("fall", FALL_UNIT), ("bounces", 1.0))):
        said, right = numbers[:, column], truth.numbers[:, column]
        scores[f"{name} error"] = unit * float((said - right).abs().mean())
        scores[f"{name} error of the mean"] = unit * float((right.mean() - right).abs().mean())
    return scores
