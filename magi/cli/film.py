"""A video as it grows: what was given and what was made, told apart by colour, in files that can be watched meanwhile.

``S`` side of the square.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from einops import rearrange
from torch import Tensor

from magi.cli.clips import Given
from magi.video import Frames, VideoWriter, write_gif

GIVEN, MADE = (120, 120, 120), (255, 150, 40)  # grey and orange, around a picture
WATCHABLE = 256  # pixels on a side, to which smaller videos are enlarged


class Film:
    """Writes `STEM.mp4` frame by frame, and `STEM.gif` when it is closed. Use it in a ``with`` statement."""

    def __init__(self, stem: Path, given: Given | None, *, size: int, fps: float, plain: bool) -> None:
        """Open the files, and begin with the given frames; `plain` leaves pictures as they are, and the gif out."""
        self.stem, self.fps, self.plain = stem, fps, plain
        self.scale = 1 if plain else max(1, WATCHABLE // size)
        self.truth = None if given is None else given.truth
        self.made = 0
        self._shown: list[Frames] = []
        self._writer = VideoWriter(
            stem.with_suffix(".mp4"), fps=fps, quality="near-lossless" if plain else "web", scale=self.scale
        )
        for frame in given.context if given is not None else []:
            self._show(frame, frame, GIVEN)

    def append(self, frame: Tensor) -> None:
        """Add a frame that was made, (3, S, S) uint8."""
        truth = self.truth[self.made] if self.truth is not None else frame
        self._show(truth, frame, MADE)
        self.made += 1

    @property
    def files(self) -> list[str]:
        """The names of what was written."""
        return [f"{self.stem.name}.mp4"] if self.plain else [f"{self.stem.name}.mp4", f"{self.stem.name}.gif"]

    def _show(self, truth: Tensor, frame: Tensor, colour: tuple[int, int, int]) -> None:
        picture = rearrange(frame, "c h w -> h w c").numpy()
        if not self.plain:
            picture = framed(picture, colour)
            if self.truth is not None:
                picture = np.concatenate([framed(rearrange(truth, "c h w -> h w c").numpy(), GIVEN), picture], axis=1)
            self._shown.append(picture)
        self._writer.append(picture)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if self._shown:
            write_gif(self.stem.with_suffix(".gif"), np.stack(self._shown), fps=self.fps, scale=self.scale)


def framed(picture: Frames, colour: tuple[int, int, int]) -> Frames:
    """Put a thin frame around a picture (S, S, 3): one pixel at 64, four at 256."""
    width = max(1, picture.shape[0] // 64)
    around = np.empty((picture.shape[0] + 2 * width, picture.shape[1] + 2 * width, 3), dtype=np.uint8)
    around[:] = colour
    around[width:-width, width:-width] = picture
    return around
