"""Videos made ready for a tokenizer, ahead of it: frames or drawn clips, and what is wrong with those that have none.

Knows the recipe of a latent cache; neither a tokenizer nor how latents are kept.

``F`` frames of a video, ``M`` clips drawn from it of ``T`` frames, ``S`` side of the square.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from magi.data.datasets.listing import Entry
from magi.data.latent_recipe import Recipe
from magi.data.latent_store import NOWHERE, Record, Slot
from magi.data.order import TooFew
from magi.video import BadVideo, Frames, IsolatedReader, ReadableVideo, clip_indices, open_video, ticks

FRAMES_AT_ONCE = 32  # converted to RGB together: those of a long video at full size would fill the memory


class Opener(Protocol):
    """Opens a video, up to so many frames."""

    def __call__(self, path: Path, *, max_frames: int | None = None) -> ReadableVideo:
        """Raises BadVideo where it cannot be read."""
        ...


@dataclass(frozen=True)
class Decoded:
    """A video ready for the tokenizer; or what is wrong with it."""

    record: Record
    frames: Tensor | None = None  # (F, 3, S, S) uint8, or clips (M, T, 3, S, S)
    shown: NDArray[np.int64] | None = None  # (ticks,) of the frames, where the rate varies or damage has left gaps


def ahead(entries: Sequence[Entry], prepare: Callable[[Entry], Decoded], *, workers: int) -> Iterator[Decoded]:
    """Prepare entries in order, up to `workers` of them in threads while the caller is busy; 0 does so in turn.

    Decoding and resizing leave Python's lock alone, so threads are enough, and nothing is copied between processes.
    """
    if not workers:
        yield from map(prepare, entries)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Decoded]] = deque()
        try:
            for entry in entries:
                waiting.append(pool.submit(prepare, entry))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def opener_of_threads() -> Opener:
    """Open videos in another process, one for each thread that does."""
    own = threading.local()

    def opened(path: Path, *, max_frames: int | None = None) -> ReadableVideo:
        if not hasattr(own, "reader"):
            own.reader = IsolatedReader()
        video: ReadableVideo = own.reader.open(path, max_frames=max_frames)
        return video

    return opened


def read(path: Path, name: str, recipe: Recipe, opener: Opener = open_video) -> Decoded:
    """Decode what the recipe asks for of a video; a video that cannot be read keeps its place, with the reason."""
    try:
        decoded = opener(path, max_frames=recipe.max_frames)
        shown = ticks(decoded.times)
        record = Record(name, len(shown), problem=decoded.problem)
        if recipe.drawn is not None:
            return _read_clips(decoded, record, recipe)
        used, places = np.unique(shown, return_inverse=True)
        frames, problem = _read_frames(decoded, used, size=recipe.size)
        there = np.array([frame is not None for frame in frames])
        if not there.any():
            return Decoded(Record(name, bad=problem))
        rows = np.where(there, np.cumsum(there) - 1, NOWHERE)[places]
        uneven = len(used) != len(shown) or not there.all()
        record = replace(record, uneven=uneven, problem=problem or record.problem)
        kept = np.stack([frame for frame in frames if frame is not None])
        return Decoded(record, _tensor(kept), rows if uneven else None)
    except BadVideo as error:
        return Decoded(Record(name, bad=error.reason if error.path == str(path) else str(error)))


def _read_frames(
    decoded: ReadableVideo, indices: NDArray[np.int64], *, size: int
) -> tuple[list[Frames | None], str | None]:
    """Frames (S, S, 3), None for those that damage has spoilt, and what is wrong with the first of these.

    Training from the videos passes over the clips that need such a frame and takes the others, so the cache must too.
    """
    frames: list[Frames | None] = []
    problem = None
    for first in range(0, len(indices), FRAMES_AT_ONCE):
        chunk = indices[first : first + FRAMES_AT_ONCE]
        try:
            frames += list(decoded.rgb(chunk, size=size))
            continue
        except BadVideo:  # some of them
            pass
        for index in chunk:
            try:
                frames.append(decoded.rgb([int(index)], size=size)[0])
            except BadVideo as error:
                frames.append(None)
                problem = problem or error.reason
    return frames, problem


def _read_clips(decoded: ReadableVideo, record: Record, recipe: Recipe) -> Decoded:
    """The drawn clips (M, T, S, S, 3), without those that do not fit or that damage has spoilt."""
    clips, slots, problem = [], list(_place(record.name, record.num_frames, recipe)), record.problem
    for place, slot in enumerate(slots):
        try:
            if slot is not None:
                clips.append(_clip(decoded, slot, recipe))
        except BadVideo as error:
            slots[place], problem = None, problem or error.reason
    if problem and not clips:
        return Decoded(Record(record.name, bad=problem))
    record = replace(record, slots=tuple(slots), problem=problem)
    return Decoded(record, _tensor(np.stack(clips)) if clips else None)


def _place(name: str, num_frames: int, recipe: Recipe) -> tuple[Slot | None, ...]:
    """The clips drawn of a video, None where the draw did not fit."""
    drawn = recipe.drawn
    assert drawn is not None
    slots: list[Slot | None] = []
    for clip in range(drawn.per_video):
        draws = drawn.draws(name, clip)
        try:
            start, interval = drawn.shape.place(num_frames, draws)
        except TooFew:
            slots.append(None)
            continue
        at = (draws.top, draws.left) if recipe.crop == "random" else (0.5, 0.5)
        slots.append(Slot(start, interval, recipe.flip and draws.flip < 0.5, *at))
    return tuple(slots)


def _clip(decoded: ReadableVideo, slot: Slot, recipe: Recipe) -> Frames:
    """The frames (T, S, S, 3) of a drawn clip: interval, crop and mirroring come before the tokenizer."""
    assert recipe.drawn is not None
    count, size = recipe.drawn.num_frames, recipe.size
    indices = clip_indices(decoded.times, start=slot.start, interval=slot.interval, count=count)
    frames = decoded.rgb(indices, size=size, top=slot.top, left=slot.left)
    return frames[:, :, ::-1] if slot.flip else frames


def _tensor(frames: NDArray[np.uint8]) -> Tensor:
    return rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "... h w c -> ... c h w").contiguous()
