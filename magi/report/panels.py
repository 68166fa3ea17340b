"""Videos side by side under their names, enlarged so that a person sees them, in files and as bytes for a page.

A grey frame around a picture says that it was given to the model, an orange one that the model made it.

Shapes: T frames, S side of a square picture, H x W pixels of the whole.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange, repeat
from torch import Tensor

from magi.video import Frames, write_gif, write_video

BACKGROUND, WORDS = (23, 25, 29), (226, 226, 222)
GIVEN, MADE = (150, 150, 150), (255, 150, 40)
SCALE = 3  # a picture of 64 pixels becomes 192
MARGIN, BORDER, HEADING = 8, 3, 26  # px of the enlarged video
DIMMED = 0.6  # brightness of a given frame that is held after its time


@dataclass(frozen=True)
class Panel:
    """One of several videos side by side; the first `given` frames were given to a model."""

    name: str
    frames: Frames  # (T, S, S, 3)
    given: int = 0
    made: bool = False  # whether a model made the others


def to_frames(video: Tensor) -> Frames:
    """A clip (T, 3, H, W) uint8 as frames (T, H, W, 3)."""
    return np.ascontiguousarray(rearrange(video, "t c h w -> t h w c").cpu().numpy())


def held(context: Frames, total: int) -> Frames:
    """The given frames (k, S, S, 3), then the last of them, dimmed, up to `total`."""
    after = (context[-1:] * DIMMED).astype(np.uint8)
    return np.concatenate([context, repeat(after, "1 h w c -> t h w c", t=total - len(context))])


def side_by_side(panels: Sequence[Panel]) -> Frames:
    """Panels of one length and size as one video (T, H, W, 3) with even sides."""
    from PIL import Image, ImageDraw, ImageFont

    total, side = len(panels[0].frames), panels[0].frames.shape[1] * SCALE
    width = MARGIN + len(panels) * (side + MARGIN)
    height = HEADING + side + MARGIN
    font = ImageFont.load_default(14)
    pictures = []
    for frame in range(total):
        canvas = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
        draw = ImageDraw.Draw(canvas)
        for index, panel in enumerate(panels):
            left = MARGIN + index * (side + MARGIN)
            picture = Image.fromarray(panel.frames[frame]).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (left, HEADING))
            around = (left - BORDER, HEADING - BORDER, left + side + BORDER - 1, HEADING + side + BORDER - 1)
            _mark(draw, panel, frame, box=around)
            words = f"{panel.name} +{frame + 1 - panel.given}" if panel.made and frame >= panel.given else panel.name
            draw.text((left, HEADING // 2 - 1), words, fill=WORDS, font=font, anchor="lm")
        pictures.append(np.asarray(canvas))
    return np.stack(pictures)


def _mark(draw: Any, panel: Panel, frame: int, *, box: tuple[int, int, int, int]) -> None:
    """Frame a picture by where it comes from; what merely happened has no frame."""
    colour = GIVEN if frame < panel.given else MADE if panel.made else None
    if colour is not None:
        draw.rectangle(box, outline=colour, width=BORDER)


def strip(frames: Frames, *, given: int, made: bool, gap: int = 2) -> Frames:
    """Frames (T, S, S, 3) as one picture (S, W, 3), each under a line of its border's colour."""
    pictures = []
    for index, frame in enumerate(frames):
        line = np.empty((gap, frame.shape[1], 3), dtype=np.uint8)
        line[:] = GIVEN if index < given else MADE if made else BACKGROUND
        space = np.full((frame.shape[0] + gap, gap, 3), BACKGROUND, dtype=np.uint8)
        pictures += [np.concatenate([line, frame]), space]
    return np.concatenate(pictures[:-1], axis=1)


@dataclass(frozen=True)
class Film:
    """A video written to files, and what a page needs to embed it."""

    name: str
    mp4: bytes
    size: tuple[int, int]  # width, height
    fallback: bytes | None


SMALL = 64_000  # bytes up to which a fallback is worth its place in a page


def write_film(stem: Path, frames: Frames, *, fps: float) -> Film:
    """Write `stem`.mp4, for browsers, and `stem`.gif."""
    mp4, gif = stem.with_suffix(".mp4"), stem.with_suffix(".gif")
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
