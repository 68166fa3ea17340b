"""Training clips from a latent cache. Knows which latents a sample has; not how they were made.

The order is that of the videos it was made of: the same seed gives the same videos, and where each frame was encoded
alone also the same intervals, starts and mirror images, whatever the number of workers and ranks (`magi.data.order`).
Clips drawn beforehand are taken in turn: clip e mod M in epoch e. There is one difference: of a video whose damage
shows only where it is decoded, the folder still gives the clips that end before the damage, and a cache has none.

``B`` clips, ``T`` frames, ``t`` latent frames, ``C`` channels, ``h`` x ``w`` cells; ``k`` the interval.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from magi.checkpoint import CheckpointError
from magi.choices import check_choices
from magi.data.clips import LatentClips
from magi.data.latent_recipe import DTYPES, Crop, Recipe
from magi.data.latent_store import NOWHERE, UNSOUND, Slot, open_shard, read_store, unsound
from magi.data.order import ClipShape, Draws, IntervalRule, TooFew, candidates, draws_of

MOST_OPEN = 256  # shards mapped at once by a process


@dataclass(frozen=True)
class LatentConfig:
    """Clips of `num_frames` frames whose latents are in the cache at `path`."""

    path: str
    num_frames: int = 16  # before encoding
    size: int = 64  # pixels on a side, before encoding; must be the cache's
    crop: Crop = "centre"  # of the frames; must be the cache's
    min_interval: int = 1
    max_interval: int = 25
    interval_rule: IntervalRule = "clamp"
    flip: bool = True  # mirror half of the clips left to right
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        _ = self.shape

    @property
    def shape(self) -> ClipShape:
        """How the clips lie in a video."""
        return ClipShape(self.num_frames, self.min_interval, self.max_interval, self.interval_rule)


class LatentSource:
    """A source of `LatentClips`. All that it remembers saves time; no clip depends on it."""

    def __init__(self, config: LatentConfig) -> None:
        """Open the cache; looks at its recipe and at the sizes of all its shards.

        Raises:
            ValueError: it is not finished, holds other clips than these, or none that can be used.
            CheckpointError: a shard is not what was written.
        """
        self.config = config
        self.store = store = read_store(config.path)
        self.recipe = store.recipe
        check_recipe(store.recipe, config)
        shards = list(store.shards())
        missing = [shard.name for shard in shards if not store.has(shard)]
        if missing:
            raise ValueError(
                f"{config.path} is not finished: {len(missing)} of {len(shards)} shards are missing, {missing[0]} "
                "first; run magi encode again"
            )
        entries = store.listing.entries
        numbers = {(entry.name, entry.num_bytes): number for number, entry in enumerate(entries)}
        clips = store.recipe.drawn.per_video if store.recipe.drawn else 0
        self.bad: dict[int, str] = {}  # by number of the video, why it cannot be used
        self._shards = [store.root / shard.name for shard in shards]
        self._place = np.full((len(entries), 2), NOWHERE, dtype=np.int32)  # shard and row of each video
        self._frames = np.zeros(len(entries), dtype=np.int32)  # at the nominal rate
        self._uneven = np.zeros(len(entries), dtype=bool)
        self._interval = np.zeros((len(entries), clips), dtype=np.int16)  # of drawn clips; 0 where there is none
        for shard_number, shard in enumerate(shards):  # the records of one are let go before the next: they are large
            for row, (entry, record) in enumerate(zip(shard.entries, store.records(shard), strict=True)):
                number = numbers.get((entry.name, entry.num_bytes), NOWHERE)
                if number == NOWHERE:  # the source has it no more
                    continue
                self._place[number] = shard_number, row
                self._frames[number], self._uneven[number] = record.num_frames, record.uneven
                self._interval[number] = [slot.interval if slot else 0 for slot in record.slots] or 0
                if record.bad is not None:
                    self.bad[number] = record.bad
        self._labels = [entry.label for entry in entries]
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._tell_unused()

    def clips(self, samples: Sequence[int]) -> LatentClips:
        """Return the latents (B, t, C, h, w) of the clips at these positions, with the intervals that were used.

        Raises:
            ValueError: latents that are not finite, or huge; with the shard, the video and the values.
            CheckpointError: a shard is damaged.
        """
        chosen = [self._clip(sample) for sample in samples]
        labels = [self._labels[number] for number, _, _ in chosen]
        deviations = [moments[1] for _, _, moments in chosen] if self.recipe.deviation else None
        return LatentClips(
            mean=torch.stack([moments[0] for _, _, moments in chosen]),
            deviation=torch.stack(deviations) if deviations else None,
            interval=torch.tensor([interval for _, interval, _ in chosen]),
            sample=torch.tensor(list(samples)),
            label=torch.tensor(labels) if None not in labels else None,
        )

    def _clip(self, sample: int) -> tuple[int, int, list[Tensor]]:
        """Number of the video, interval, and the moments (t, C, h, w) of the clip of a sample."""
        draws, epoch = draws_of(self.config.seed, sample), sample // len(self._place)
        # Under "reject" it may be that no video has the clip whose turn it is: then it is the next one's.
        for turn in range(epoch, epoch + max(1, self._interval.shape[1])):
            for number in candidates(self.config.seed, sample, len(self._place)):
                if number in self.bad:
                    continue
                found = self._drawn(number, turn) if self.recipe.drawn else self._cut(number, draws)
                if found is not None:
                    return number, *found
        raise AssertionError("a cache without a usable video is refused when it is opened")

    def _cut(self, number: int, draws: Draws) -> tuple[int, list[Tensor]] | None:
        """The clip that these draws choose in a video whose frames were encoded alone, if one fits."""
        try:
            start, interval = self.config.shape.place(int(self._frames[number]), draws)
        except TooFew:
            return None
        end = start + (self.config.num_frames - 1) * interval + 1
        side = "mirrored/" if self.config.flip and draws.flip < 0.5 else ""
        shard, row = map(int, self._place[number])
        if not self._uneven[number]:
            return interval, self._read(number, shard, f"{row:05d}/{side}", slice(start, end, interval))
        shown = self._part(shard, f"{row:05d}/shown", slice(start, end, interval))
        if bool((shown == NOWHERE).any()):  # damaged there
            return None
        first = int(shown[0])
        moments = self._read(number, shard, f"{row:05d}/{side}", slice(first, int(shown[-1]) + 1, 1))
        return interval, [values[(shown - first).long()] for values in moments]

    def _drawn(self, number: int, turn: int) -> tuple[int, list[Tensor]] | None:
        """The clip drawn beforehand whose turn it is, if it fitted into the video."""
        clip = turn % self._interval.shape[1]
        interval = int(self._interval[number, clip])
        if not interval:
            return None
        at = int((self._interval[number, :clip] > 0).sum())
        shard, row = map(int, self._place[number])
        return interval, [values[0] for values in self._read(number, shard, f"{row:05d}/", slice(at, at + 1, 1))]

    def _read(self, number: int, shard: int, key: str, rows: slice) -> list[Tensor]:
        """These rows of the moments of a video, in float32."""
        recipe, moments = self.recipe, []
        for moment in recipe.moments:
            stored = self._part(shard, f"{key}{moment}", rows)
            if stored.dtype != DTYPES[recipe.dtype] or tuple(stored.shape[-3:]) != recipe.latent_shape:
                raise CheckpointError(
                    f"{self._shards[shard]}: {key}{moment} holds {str(stored.dtype)[6:]} {tuple(stored.shape[-3:])}; "
                    f"the recipe says {recipe.dtype} {recipe.latent_shape}"
                )
            values = stored.float()
            wrong = int(unsound(values, moment).sum())
            if wrong:
                raise ValueError(
                    f"{self._shards[shard]}: {wrong} of {values.numel()} values of {key}{moment}, "
                    f"{self.store.listing.entries[number].name}, are {UNSOUND[moment]}; magi encode --verify "
                    f"{self.config.path} tells what is damaged"
                )
            moments.append(values)
        return moments

    def _part(self, shard: int, key: str, rows: slice) -> Tensor:
        try:
            part = self._opened(shard).get_slice(key)
            there = part.get_shape()[0]
            if there < rows.stop:
                raise CheckpointError(f"{self._shards[shard]}: {key} has {there} rows; wanted are up to {rows.stop}")
            return part[rows.start : rows.stop : rows.step]
        except SafetensorError as error:
            raise CheckpointError(f"{self._shards[shard]}: {key} cannot be read: {error}") from error

    def _opened(self, shard: int) -> Any:
        if shard not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)
            self._open[shard] = open_shard(self._shards[shard])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _tell_unused(self) -> None:
        """Say how many videos give no clip, if any do not, and refuse a cache in which none does."""
        shape = self.config.shape
        can = self._interval.any(axis=1) if self.recipe.drawn else self._frames >= shape.shortest
        videos = len(self._place)
        short = videos - int(can.sum()) - len(self.bad)
        # Where no smaller interval is taken instead, some video must have room for the largest.
        largest = shape.min_interval if shape.rule == "clamp" or self.recipe.drawn else shape.max_interval
        if not can.any() or int(self._frames.max()) <= (shape.num_frames - 1) * largest:
            raise ValueError(
                f"{self.config.path}: none of its {videos} videos has {shape.num_frames} frames at interval "
                f"{largest}; the longest has {int(self._frames.max())} frames, and {len(self.bad)} cannot be read"
            )
        if short or self.bad:
            warnings.warn(
                f"{self.config.path}: {len(self.bad)} unreadable videos and {short} that are too short are not used, "
                f"of {videos}",
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: another process opens its own."""
        return self.__dict__ | {"_open": OrderedDict()}


def check_recipe(recipe: Recipe, config: LatentConfig) -> None:
    """Refuse a cache that does not hold these clips.

    Raises:
        ValueError: naming every setting that differs, with both values.
    """
    fixed = ["size", "crop"]
    saved: dict[str, Any] = {"size": recipe.size, "crop": recipe.crop}
    if recipe.drawn is not None:
        fixed += ["num_frames", "min_interval", "max_interval", "interval_rule", "flip"]
        drawn = recipe.drawn
        saved |= {name: getattr(drawn, name) for name in fixed[2:-1]} | {"flip": recipe.flip}
    elif config.flip and not recipe.flip:
        fixed.append("flip")
        saved["flip"] = False
    differing = [name for name in fixed if saved[name] != getattr(config, name)]
    if differing:
        differences = [
            f"{name} of the cache is {saved[name]!r}, of the run {getattr(config, name)!r}" for name in differing
        ]
        flags = " ".join(f"--data.latents.{name.replace('_', '-')} {saved[name]}" for name in differing)
        raise ValueError(f"{config.path} holds other clips: {'; '.join(differences)}. Encode anew, or give {flags}")


@dataclass(frozen=True)
class CacheCost:
    """What a cache takes, and how much of a data set is in it."""

    bytes_per_clip: int
    bytes_per_video: int
    total_bytes: int
    distinct: float
    """Clips of a video, by interval and start, that training meets; of drawn ones as many as are expected to differ."""
    possible: int
    """Those that there are."""


def cache_cost(recipe: Recipe, shape: ClipShape, *, num_videos: int, frames_per_video: int) -> CacheCost:
    """What a cache of so many videos of this length would cost. Headers and records, about a thousandth, are left out.

    Args:
        recipe: how the latents are made.
        shape: the clips to be trained on; those of `recipe.drawn`, if it has any.
        num_videos: of the source.
        frames_per_video: at the nominal rate.
    """
    frames = min(frames_per_video, recipe.max_frames)
    starts = _starts(shape, frames)
    possible = int(starts.sum())
    latents = 1 + (shape.num_frames - 1) // recipe.temporal_stride
    clip = latents * recipe.bytes_per_frame
    if recipe.drawn is None:
        video, distinct = frames * recipe.bytes_per_frame * len(recipe.sides), float(possible)
    else:
        clips = recipe.drawn.per_video
        fitting = starts[starts > 0]
        video = round(clips * clip * len(fitting) / max(1, len(starts)))
        # of M draws, each of an interval first and then of one of its starts
        chances = 1 / (len(starts) * fitting)
        distinct = float((fitting * (1 - (1 - chances) ** clips)).sum())
    return CacheCost(clip, video, video * num_videos, distinct, possible)


def diversity(slots: Sequence[Slot | None]) -> int:
    """Distinct (interval, start) among the clips drawn of a video."""
    return len({(slot.interval, slot.start) for slot in slots if slot is not None})


def _starts(shape: ClipShape, frames: int) -> NDArray[np.int64]:
    """For each interval that is drawn in a video of so many frames, how many starts it has."""
    intervals = np.arange(shape.min_interval, shape.largest(frames) + 1)
    return np.maximum(0, frames - (shape.num_frames - 1) * intervals)
