"""Films as files, whole or as they grow, and as bytes for a page. How their pictures look is `panels.py`'s business.

Shapes: T frames, S side of a square picture, H x W pixels of the whole.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from torch import Tensor

from magi.report.panels import GIVEN, MADE, SCALE, Colour, framed, to_frames
from magi.video import Frames, VideoWriter, write_gif, write_video

SMALL = 64_000  # bytes up to which a fallback is worth its place in a page
WATCHABLE = 256  # pixels on a side, to which smaller videos are enlarged
THIN = 64  # of a growing film's side the frame is one part: a pixel at 64, four at 256


class GrowingFilm:
    """A film that can be watched while it is made: what was given, then each frame as it arrives.

    Writes an mp4 frame by frame, which takes its name with `reveal`, or when it is whole, and a gif when it is closed.
    Use it in a ``with`` statement."""

    def __init__(
        self,
        stem: Path,
        *,
        draft: Path,
        context: Tensor | None,
        truth: Tensor | None,
        size: int,
        fps: float,
        plain: bool,
    ) -> None:
        """Open the files, and begin with the given frames.

        Args:
            stem: of the files' names.
            draft: of their names until they may replace what has the others; on the same file system.
            context: (k, 3, S, S) uint8, the given frames, if there are.
            truth: (T, 3, S, S) uint8, what came after them, to be shown on the left, if it is known.
            size: S.
            fps: how fast the files play.
            plain: leave pictures as they are, without frames and truth, and write no gif.
        """
        self.stem, self.draft, self.fps, self.plain = stem, draft, fps, plain
        self.revealed = False
        self.scale = 1 if plain else max(1, WATCHABLE // size)
        self.truth = truth
        self.made = 0
        self._shown: list[Frames] = []
        self._writer = VideoWriter(
            named(draft, ".mp4"), fps=fps, quality="near-lossless" if plain else "web", scale=self.scale
        )
        for frame in context if context is not None else []:
            self._show(frame, frame, GIVEN)

    def append(self, frame: Tensor) -> None:
        """Add a frame that was made, (3, S, S) uint8."""
        truth = self.truth[self.made] if self.truth is not None else frame
        self._show(truth, frame, MADE)
        self.made += 1

    def reveal(self) -> None:
        """Take the place of whatever has the film's name, and grow on there."""
        if not self.revealed:
            os.replace(named(self.draft, ".mp4"), named(self.stem, ".mp4"))
            self.revealed = True

    def _show(self, truth: Tensor, frame: Tensor, colour: Colour) -> None:
        picture = to_frames(frame)
        if not self.plain:
            width = max(1, picture.shape[0] // THIN)
            picture = framed(picture, colour, width=width)
            if self.truth is not None:
                picture = np.concatenate([framed(to_frames(truth), GIVEN, width=width), picture], axis=1)
            self._shown.append(picture)
        self._writer.append(picture)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            self.reveal()
        if self._shown and self.revealed:
            write_gif(named(self.draft, ".gif"), np.stack(self._shown), fps=self.fps, scale=self.scale)
            os.replace(named(self.draft, ".gif"), named(self.stem, ".gif"))


def files_of(stem: Path, *, plain: bool) -> list[Path]:
    """What a `GrowingFilm` writes."""
    return [named(stem, suffix) for suffix in ((".mp4",) if plain else (".mp4", ".gif"))]


@dataclass(frozen=True)
class Film:
    """A video written to files, and what a page needs to embed it."""

    name: str
    mp4: bytes
    size: tuple[int, int]  # width, height
    fallback: bytes | None


def named(stem: Path, suffix: str) -> Path:
    """A file beside others of this stem, in which dots are letters like any: 2024.01.05 keeps its day."""
    return stem.with_name(stem.name + suffix)


def write_film(stem: Path, frames: Frames, *, fps: float) -> Film:
    """Write `stem`.mp4, for browsers, and `stem`.gif."""
    mp4, gif = named(stem, ".mp4"), named(stem, ".gif")
    write_video(mp4, frames, fps=fps, quality="web")
    write_gif(gif, frames, fps=fps)
    fallback = animated_webp(frames[:, ::SCALE, ::SCALE], fps=fps)
    return Film(
        stem.name, mp4.read_bytes(), (frames.shape[2], frames.shape[1]), fallback if len(fallback) < SMALL else None
    )


def animated_webp(frames: Frames, *, fps: float) -> bytes:
    """Frames (T, H, W, 3) as an animated WebP picture that loops for ever."""
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    written = io.BytesIO()
    first.save(
        written,
        format="WEBP",
        save_all=True,
        append_images=rest,
        duration=round(1000 / fps),
        loop=0,
        quality=50,
        method=2,
    )
    return written.getvalue()


def png(picture: Frames) -> bytes:
    """One picture (H, W, 3) as a PNG file."""
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(picture).save(written, format="PNG", optimize=True)
    return written.getvalue()
