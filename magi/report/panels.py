"""Videos as a person sees them: framed, enlarged, side by side under their names. Writes no files.

A grey frame around a picture says that it was given to the model, an orange one that the model made it.

Shapes: T frames, S side of a square picture, H x W pixels of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from magi.video import Frames

Colour: TypeAlias = tuple[int, int, int]
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


def happened(truth: Tensor, *, given: int) -> Panel:
    """What really happened, (T, 3, S, S) uint8."""
    return Panel("what happened", to_frames(truth), given=given)


def continued(name: str, context: Tensor, made: Tensor) -> Panel:
    """What a model was given, (k, 3, S, S) uint8, and what it made of it, (F, 3, S, S)."""
    return Panel(name, to_frames(torch.cat([context, made])), given=len(context), made=True)


def to_frames(video: Tensor) -> Frames:
    """A picture or a clip (..., 3, H, W) uint8 as (..., H, W, 3)."""
    return np.ascontiguousarray(rearrange(video, "... c h w -> ... h w c").cpu().numpy())


def framed(picture: Frames, colour: Colour, *, width: int) -> Frames:
    """Put a frame of so many pixels around a picture (H, W, 3)."""
    around = np.empty((picture.shape[0] + 2 * width, picture.shape[1] + 2 * width, 3), dtype=np.uint8)
    around[:] = colour
    around[width:-width, width:-width] = picture
    return around


def origin(frame: int, *, given: int, made: bool) -> Colour:
    """The colour that says where a frame comes from; what merely happened is not marked."""
    return GIVEN if frame < given else MADE if made else BACKGROUND


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
            picture = repeat(panel.frames[frame], "h w c -> (h a) (w b) c", a=SCALE, b=SCALE)
            picture = framed(picture, origin(frame, given=panel.given, made=panel.made), width=BORDER)
            canvas.paste(Image.fromarray(picture), (left - BORDER, HEADING - BORDER))
            words = f"{panel.name} +{frame + 1 - panel.given}" if panel.made and frame >= panel.given else panel.name
            draw.text((left, HEADING // 2 - 1), words, fill=WORDS, font=font, anchor="lm")
        pictures.append(np.asarray(canvas))
    return np.stack(pictures)


def three_panels(context: Tensor, *, truth: Tensor, made: Tensor) -> Frames:
    """What was given, what happened, what the model made of it: clips (T, 3, S, S) uint8 to one video (T, H, W, 3)."""
    given = Panel("given", held(to_frames(context), len(truth)), given=len(context))
    return side_by_side([given, happened(truth, given=len(context)), continued("MAGI", context, made)])


def strip(frames: Frames, *, given: int, made: bool, gap: int = 2) -> Frames:
    """Frames (T, S, S, 3) as one picture (S, W, 3), each under a line of its border's colour."""
    pictures = []
    for index, frame in enumerate(frames):
        line = np.empty((gap, frame.shape[1], 3), dtype=np.uint8)
        line[:] = origin(index, given=given, made=made)
        space = np.full((frame.shape[0] + gap, gap, 3), BACKGROUND, dtype=np.uint8)
        pictures += [np.concatenate([line, frame]), space]
    return np.concatenate(pictures[:-1], axis=1)
