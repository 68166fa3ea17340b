"""Which video, interval and start a sample has: functions of its position and the seed. Knows no file and no pixel.

Epoch e takes the videos in the e-th keyed permutation, and a video that cannot be used is replaced by the next of the
same permutation, every time anew. A cache of latents and the videos it was made of share this, so they give the same
clips.

``n`` frames of a video, ``T`` of a clip, ``k`` the interval between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from magi.choices import check_choices
from magi.seeds import generator

IntervalRule = Literal["clamp", "reject", "fixed"]


@dataclass(frozen=True)
class Draws:
    """All that is random about the clip of a sample: numbers in [0, 1)."""

    interval: float
    start: float
    flip: float
    top: float
    left: float


@dataclass(frozen=True)
class ClipShape:
    """How clips are laid into videos: `num_frames` frames at an interval of U{min_interval..max_interval}.

    Where the largest interval does not fit into a video, "clamp" draws up to the largest that does (the paper's ids are
    then what videos of this length can show), "reject" draws from all and passes over a video that is too short for
    what was drawn, so that all ids are equally frequent. "fixed" is one interval and no draw.
    """

    num_frames: int
    min_interval: int
    max_interval: int
    rule: IntervalRule = "clamp"

    def __post_init__(self) -> None:
        check_choices(self)
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {self.num_frames}")
        if not 1 <= self.min_interval <= self.max_interval:
            raise ValueError(f"need 1 <= min_interval <= max_interval, got {self.min_interval} and {self.max_interval}")
        if self.rule == "fixed" and self.min_interval != self.max_interval:
            raise ValueError(
                f"one fixed interval needs min_interval = max_interval, got {self.min_interval} and "
                f"{self.max_interval}; reject draws from all of them alike"
            )

    @property
    def shortest(self) -> int:
        """Frames that a video needs at least, to give a clip at all."""
        return 1 + (self.num_frames - 1) * self.min_interval

    def largest(self, num_frames: int) -> int:
        """The largest interval drawn for a video of n frames: under clamp min(max, (n - 1) // (T - 1))."""
        steps = self.num_frames - 1
        if self.rule != "clamp" or not steps:
            return self.max_interval
        return max(self.min_interval, min(self.max_interval, (num_frames - 1) // steps))

    def place(self, num_frames: int, draws: Draws) -> tuple[int, int]:
        """Return the start and the interval of the clip that these draws choose in a video of n = `num_frames` frames.

        Raises:
            TooFew: no such clip fits.
        """
        largest, steps = self.largest(num_frames), self.num_frames - 1
        interval = self.min_interval + int(draws.interval * (largest - self.min_interval + 1))
        if num_frames <= steps * interval:
            raise TooFew(
                f"is too short: it has {num_frames} frames, {self.num_frames} at interval {interval} need "
                f"{steps * interval + 1}"
            )
        return int(draws.start * (num_frames - steps * interval)), interval


class TooFew(ValueError):
    """A video with too few frames; nothing else is wrong with it."""


def draws_of(seed: int, sample: int) -> Draws:
    """What is random about this sample's clip; the first numbers stay when another is added."""
    return Draws(*generator(seed, "folder clip", sample).random(5).tolist())


def candidates(seed: int, sample: int, num_videos: int) -> Iterator[int]:
    """The videos to try for this sample, by number, the one whose turn it is first."""
    epoch, position = divmod(sample, num_videos)
    order = _permutation(seed, epoch, num_videos)
    for step in range(num_videos):
        yield int(order[(position + step) % num_videos])


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(seed: int, epoch: int, num_videos: int) -> NDArray[np.int64]:
    return generator(seed, "folder order", epoch).permutation(num_videos)
