"""Clips for a model from the videos that a user names. Knows files and frames, no model.

``T`` frames, ``S`` side of the square.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from magi.video import BadVideo, clip_indices, decode_video, find_videos, ticks


@dataclass(frozen=True)
class Given:
    """The beginning of a video, and what came after it if the video goes on."""

    path: Path
    context: Tensor  # (k, 3, S, S) uint8
    truth: Tensor | None  # (T, 3, S, S) uint8; None if the video is too short to compare with


def read_given(path: Path, *, size: int, context: int, frames: int, interval: int) -> Given:
    """Read `context` frames from the start of a video, every `interval`-th, and the `frames` after them if there are.

    Raises:
        BadVideo: it cannot be read, or is too short for the context.
    """
    wanted = (context + frames - 1) * interval + 1
    decoded = decode_video(path, max_frames=2 * wanted)  # of varying rates, some frames stand for no tick
    there = len(ticks(decoded.times))
    needed = (context - 1) * interval + 1
    if there < needed:
        raise BadVideo(path, f"is too short: it has {there} frames, {context} at interval {interval} need {needed}")
    count = context + frames if there >= wanted else context
    indices = clip_indices(decoded.times, start=0, interval=interval, count=count)
    height, width = decoded.convert(decoded.pictures[indices[0]]).shape[:2]
    if height != width:
        side = min(height, width)
        warnings.warn(f"{path}: of its {width} x {height} pixels the middle {side} x {side} are used", stacklevel=2)
    video = rearrange(torch.from_numpy(decoded.rgb(indices, size=size)), "t h w c -> t c h w").contiguous()
    return Given(path, video[:context], video[context:] if count > context else None)


def videos_at(place: Path, count: int | None) -> list[Path]:
    """The video file, or the first `count` videos of the folder.

    Raises:
        ValueError: nothing there, or fewer than asked for.
    """
    if not place.exists():
        raise ValueError(f"{place} does not exist; --context takes a video or a folder of videos")
    found = find_videos(place) if place.is_dir() else [place]
    if not found:
        raise ValueError(f"{place} holds no video files and no folders of numbered images")
    if count is not None and len(found) < count:
        raise ValueError(f"--count is {count}, but {place} holds {len(found)} videos")
    return found[:count]
