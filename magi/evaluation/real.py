"""The real clips of a protocol as pixels: read from videos, or drawn by the procedural world, and squared by its rules.

Shapes: B clips, T frames, H x W pixels as stored, S side of the square.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from magi.data.datasets.listing import Entry, Listing, below
from magi.evaluation.manifest import Manifest, lengths_of, reuse_or_draw
from magi.evaluation.protocols import Crop, Filter, Protocol
from magi.evaluation.world import EVALUATION_WORLD, at_size, world_test
from magi.video import BadVideo, Frames, IsolatedReader, ReadableVideo, clip_indices, resize, ticks


class RealClips(Interface):
    """Clips by number."""

    @property
    def manifest(self) -> Manifest:
        """Which they are."""
        ...

    def clips(self, numbers: range, *, size: int) -> Tensor:
        """These clips (B, T, 3, S, S) uint8 with S = `size` and T the protocol's `clip_frames`."""
        ...


@dataclass(frozen=True)
class WorldClips:
    """Clips of the procedural world's test, by their index in it."""

    manifest: Manifest
    frames: int

    def clips(self, numbers: range, *, size: int) -> Tensor:
        """These clips (B, T, 3, S, S) uint8."""
        if not numbers:
            return torch.empty(0, self.frames, 3, size, size, dtype=torch.uint8)
        config = replace(at_size(size), num_frames=self.frames)
        interval = self.manifest.clips[0].interval
        return world_test(interval, clips=len(numbers), config=config, first=numbers.start).video


@dataclass(frozen=True)
class VideoClips:
    """Clips of video files, by their place in a manifest."""

    manifest: Manifest
    root: Path
    frames: int
    crop: Crop
    filter: Filter
    open: Callable[[Path], ReadableVideo]

    def clips(self, numbers: range, *, size: int) -> Tensor:
        """These clips (B, T, 3, S, S) uint8.

        Raises:
            BadVideo: a video has changed since the manifest was drawn, so that the clip cannot be read.
            ValueError: the manifest names a place outside of the folder.
        """
        return torch.stack([self._clip(number, size) for number in numbers])

    def _clip(self, number: int, size: int) -> Tensor:
        clip = self.manifest.clips[number]
        video = self.open(below(self.root, clip.video))
        indices = clip_indices(video.times, start=clip.start, interval=clip.interval, count=self.frames)
        return squared(video.rgb(indices), size=size, crop=self.crop, filter=self.filter)


def world_clips(protocol: Protocol, file: Path) -> WorldClips:
    """The world's clips of a protocol, with their manifest in `file`."""
    config = hashlib.sha256(repr(EVALUATION_WORLD).encode()).hexdigest()[:12]
    names = (f"world-{config}/{number:06d}" for number in range(protocol.real_count))
    entries = tuple(Entry(name, num_frames=protocol.clip_frames) for name in names)
    listing = Listing(Path("world"), entries)
    manifest = reuse_or_draw(file, protocol, listing, lengths_of(listing, lambda path: None))
    return WorldClips(manifest, protocol.clip_frames)


def video_clips(protocol: Protocol, listing: Listing, file: Path) -> VideoClips:
    """The clips of a protocol in these videos, with their manifest in `file`, drawn if it is not there.

    Raises:
        ValueError: see `reuse_or_draw`.
    """
    reader = IsolatedReader()

    def opened(path: Path) -> ReadableVideo:
        return reader.open(path)  # to its end, as an index counts it: the protocol says "whole video"

    def length(path: Path) -> int | None:
        try:
            return len(ticks(opened(path).times))
        except BadVideo:
            return None

    manifest = reuse_or_draw(file, protocol, listing, lengths_of(listing, length))
    return VideoClips(manifest, listing.root, protocol.clip_frames, protocol.crop, protocol.resize, opened)


def squared(frames: Frames, *, size: int, crop: Crop, filter: Filter) -> Tensor:
    """Frames (T, H, W, 3) uint8 as squares (T, 3, S, S) uint8, cut first and then resized.

    Args:
        frames: as stored.
        size: S, px.
        crop: "centre" cuts the largest square out of the middle, "squash" does not keep the aspect.
        filter: of the resizing. Lanczos is Pillow's, bicubic antialiases where it shrinks, bilinear does not.

    Raises:
        ValueError: pictures that are no squares and are not to be squared.
    """
    height, width = frames.shape[1:3]
    if crop == "none" and height != width:
        raise ValueError(
            f"frames are {height} x {width}, and the protocol neither crops nor squashes: expected squares"
        )
    if crop == "centre":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frames = frames[:, top : top + side, left : left + side]
    return resized(rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "t h w c -> t c h w"), size, filter)


def resized(video: Tensor, size: int, filter: Filter) -> Tensor:
    """Frames (..., 3, H, W) uint8 as (..., 3, S, S) uint8, S = `size`; the same tensor if they are so already.

    Raises:
        ValueError: another size is needed and there is no filter.
    """
    if tuple(video.shape[-2:]) == (size, size):
        return video
    if filter == "none":
        raise ValueError(f"frames are {tuple(video.shape[-2:])}, and the protocol resizes nothing: expected {size}")
    pictures = video.reshape(-1, *video.shape[-3:])
    if filter == "bilinear":
        small = functional.interpolate(pictures.float(), size=(size, size), mode="bilinear", align_corners=False)
        made = small.round().clamp(0, 255).to(torch.uint8)
    else:
        shown = rearrange(pictures, "n c h w -> n h w c").contiguous().numpy()
        made = rearrange(torch.from_numpy(_lanczos(shown, size) if filter == "lanczos" else resize(shown, size, size)),
                         "n h w c -> n c h w")  # fmt: skip
    return made.contiguous().reshape(*video.shape[:-2], size, size)


def _lanczos(frames: Frames, size: int) -> Frames:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Lanczos resizing is Pillow's: pip install pillow") from error
    one = [np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS)) for frame in frames]
    return np.stack(one)


def batches(numbers: range, size: int) -> Iterator[range]:
    """A range in parts of at most `size`, in order."""
    for first in range(numbers.start, numbers.stop, size):
        yield range(first, min(first + size, numbers.stop))
