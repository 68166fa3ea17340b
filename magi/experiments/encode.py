"""Encode a source of videos once, so that training reads latents: `magi encode`.

Threads decode ahead while the tokenizer works, and a shard is written when its last video is done. Shards are dealt to
the processes of a run by their numbers, which nobody has to negotiate: processes neither wait for each other nor
talk, so that a slow one, or one that is started again, holds up no other.

``F`` frames of a video, ``M`` clips drawn from it of ``T`` frames, ``S`` side of the square; ``t`` latent frames, ``C``
channels, ``h`` x ``w`` cells.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from magi.choices import check_choices
from magi.data.datasets.listing import Entry, Listing
from magi.data.folder import FAIR_SAMPLE, TOLERATED, FolderConfig
from magi.data.latent_recipe import DTYPES, DrawnClips, Precision, Recipe
from magi.data.latent_store import LatentStore, Record, begin_store, ingest
from magi.experiments.data import DataConfig
from magi.experiments.footage import Decoded, ahead, opener_of_threads, read
from magi.tokenizers.precision import ComputedIn, posterior_in
from magi.tokenizers.protocol import Tokenizer, latent_frames, to_pixels
from magi.tokenizers.statistics import channel_moments
from magi.video import open_video

FAR_MEAN, FAR_SCALE = 1.0, 2.5  # of a channel, from 0 and as a factor from 1: Stable Diffusion's are within
DRAWN = 16  # clips per video where their number is not said


@dataclass(frozen=True)
class EncodeRun:
    """Everything that decides a latent cache, and how fast it is made."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: str = "pixel:4"
    """A tokenizer by name or folder."""
    dtype: Precision = "float16"
    precision: ComputedIn = "fp32"
    """Of the tokenizer: bf16 autocast is several times faster on a GPU, and rounds latents by about half a percent."""
    deviation: bool = True
    """Store the deviations too, twice the size, so that every epoch can sample the latents anew."""
    clips_per_video: int | None = None
    """Clips drawn of each video, with a tokenizer that sees several frames at once; 16 by default."""
    videos_per_shard: int = 128
    """What a kill can cost each process."""
    batch_frames: int = 64
    """Frames encoded at once."""
    workers: int = 2
    """Threads that decode ahead; 0 decodes in turn."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name, least in (("videos_per_shard", 1), ("batch_frames", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def recipe_of(run: EncodeRun, tokenizer: Tokenizer, *, fingerprint: str, deviation: bool) -> Recipe:
    """What decides the latents.

    Args:
        run: settings.
        tokenizer: any.
        fingerprint: of it.
        deviation: whether the tokenizer has any.

    Raises:
        ValueError: settings without effect with this tokenizer, or frames that it does not take.
    """
    data, stride = run.data.folder, tokenizer.temporal_stride
    if stride == 1 and run.clips_per_video is not None:
        raise ValueError(
            "--clips-per-video has no effect with a tokenizer that encodes each frame alone: these latents serve all "
            "clips of a video"
        )
    _, channels, height, width = tokenizer.latent_shape(data.num_frames if stride > 1 else 1, data.size, data.size)
    drawn = DrawnClips(
        per_video=DRAWN if run.clips_per_video is None else run.clips_per_video,
        num_frames=data.num_frames,
        min_interval=data.min_interval,
        max_interval=data.max_interval,
        interval_rule=data.interval_rule,
        seed=data.seed,
    )
    return Recipe(
        tokenizer=fingerprint,
        latent_shape=(channels, height, width),
        temporal_stride=stride,
        size=data.size,
        crop=data.crop,
        flip=data.flip,
        max_frames=data.max_frames,
        deviation=run.deviation and deviation,
        dtype=run.dtype,
        precision=run.precision,
        drawn=drawn if stride > 1 else None,
    )


@torch.no_grad()
def encode(
    run: EncodeRun,
    listing: Listing,
    tokenizer: Tokenizer,
    *,
    fingerprint: str,
    out: str | Path,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    tell: Callable[[int, int], None] | None = None,
) -> LatentStore:
    """Make this process's share of a cache: of all its shards, those of number rank, rank + world_size, ...

    Shards that are there are left alone, so the same command goes on after a kill. To have one made again, delete it.

    Args:
        run: settings.
        listing: the videos. Those that the cache has are not encoded again; new ones make new shards.
        tokenizer: on `device`.
        fingerprint: of the tokenizer; the cache is only for this one.
        out: folder of the cache.
        rank, world_size: which share of how many.
        device: of the tokenizer.
        tell: called after each video with how many of this share are done, and how many there are to do.

    Returns:
        The cache, in which the shards of other processes may still be missing.

    Raises:
        ValueError: a cache that was made otherwise, latents that are not finite, too many unreadable videos.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"need 0 <= rank < world_size, got {rank} and {world_size}")
    black = to_pixels(torch.zeros(_probed_shape(run, tokenizer), dtype=torch.uint8, device=device))
    has_deviation = tokenizer.posterior(black).deviation is not None
    recipe = recipe_of(run, tokenizer, fingerprint=fingerprint, deviation=has_deviation)
    store = begin_store(out, recipe, listing, tokenizer=run.tokenizer, videos_per_shard=run.videos_per_shard)
    mine = list(store.shards())[rank::world_size]
    watched = _BadOnes(run.data.folder, listing)
    for shard in mine:
        store.sweep(shard.name)
        if store.has(shard):
            watched.note(shard.entries, store.records(shard))
    waiting = [shard for shard in mine if not store.has(shard)]
    entries = [entry for shard in waiting for entry in shard.entries]
    opener = opener_of_threads() if run.data.folder.isolate else open_video
    decoded = ahead(
        entries, lambda entry: read(listing.root / entry.name, entry.name, recipe, opener), workers=run.workers
    )
    done = 0
    for shard in waiting:
        tensors: dict[str, Tensor] = {}
        records = []
        for row in range(len(shard.entries)):
            video = next(decoded)
            tensors |= {f"{row:05d}/{key}": value for key, value in _latents(video, recipe, tokenizer, run, device)}
            records.append(video.record)
            done += 1
            if tell is not None:
                tell(done, len(entries))
        store.write(shard, tensors, records)
        watched.note(shard.entries, records)
        if shard is waiting[0]:
            look_at_scale(tensors, recipe)
    if rank == 0:
        store.sweep("recipe", "source")  # both are there, so nobody writes them any more
    return store


def look_at_scale(tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Warn of latents that no model expects: noise is injected, and hidden, at a scale of one."""
    means = [values for key, values in tensors.items() if key.endswith("/mean")]
    if sum(len(values) for values in means) < 2:
        return
    clips = [(values if recipe.drawn else values[:, None]).float() for values in means]
    try:
        mean, deviation, _ = channel_moments(clips)
    except ValueError:  # black films: nothing can be said of the scale
        return
    if float(mean.abs().max()) > FAR_MEAN or not bool(((deviation > 1 / FAR_SCALE) & (deviation < FAR_SCALE)).all()):
        warnings.warn(
            f"the channels of these latents have means from {mean.min():.2g} to {mean.max():.2g} and deviations from "
            f"{deviation.min():.2g} to {deviation.max():.2g}, where a model takes 0 and 1 for granted: magi tokenizer "
            "stats measures them and writes a tokenizer that is normalised",
            stacklevel=3,
        )


def share_of_environment(environment: Mapping[str, str] | None = None) -> tuple[int, int, int]:
    """Rank, number of processes and rank on this machine, as torchrun or a job script says; alone if nobody does."""
    told = os.environ if environment is None else environment
    rank, world_size = int(told.get("RANK", "0")), int(told.get("WORLD_SIZE", "1"))
    return rank, world_size, int(told.get("LOCAL_RANK", "0"))


def _latents(
    video: Decoded, recipe: Recipe, tokenizer: Tokenizer, run: EncodeRun, device: torch.device | str
) -> Iterator[tuple[str, Tensor]]:
    """The tensors to store of a video, by key."""
    if video.shown is not None:
        yield "shown", torch.from_numpy(video.shown.astype(np.int32))
    if video.frames is None:
        return
    # Frames that are encoded alone make one long clip; drawn clips are a batch.
    clips = video.frames if recipe.drawn else video.frames[:, None]
    at_once = max(1, run.batch_frames // clips.shape[1])
    for side in recipe.sides:
        moments: dict[str, list[Tensor]] = {name: [] for name in recipe.moments}
        for batch in clips.split(at_once):
            pixels = to_pixels((batch.flip(-1) if side else batch).to(device))
            posterior = posterior_in(run.precision, tokenizer, pixels)
            shape = (len(batch), latent_frames(clips.shape[1], recipe.temporal_stride), *recipe.latent_shape)
            for name, values in (("mean", posterior.mean), ("deviation", posterior.deviation)):
                if name in moments:
                    assert values is not None, "a tokenizer has deviations or has none"
                    stored = ingest(values, video=video.record.name, what=name, shape=shape, dtype=DTYPES[recipe.dtype])
                    moments[name].append(stored if recipe.drawn else stored[:, 0])
        yield from ((f"{side}{name}", torch.cat(parts)) for name, parts in moments.items())


def _probed_shape(run: EncodeRun, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Of the smallest video that tells whether a tokenizer has deviations."""
    data = run.data.folder
    return (1, data.num_frames if tokenizer.temporal_stride > 1 else 1, 3, data.size, data.size)


class _BadOnes:
    """Tells of every unusable video once, and stops when there are too many, by the rule of the folder source.

    A cache may hold videos that its source has no more, such as those that were excluded when they turned out bad.
    """

    def __init__(self, config: FolderConfig, listing: Listing) -> None:
        self._config, self._wanted = config, {(entry.name, entry.num_bytes) for entry in listing.entries}
        self._opened = self._bad = 0

    def note(self, entries: Sequence[Entry], records: Sequence[Record]) -> None:
        last = ""
        for entry, record in zip(entries, records, strict=True):
            if (entry.name, entry.num_bytes) not in self._wanted:
                continue
            self._opened += 1
            if record.bad is not None:
                self._bad += 1
                last = f"{record.name}: {record.bad}"
                warnings.warn(f"not used: {last}", stacklevel=3)
            elif record.problem is not None:
                warnings.warn(f"not all is used of {record.name}: {record.problem}", stacklevel=3)
        trusted = max(self._opened, min(len(self._wanted), FAIR_SAMPLE))
        if self._bad > max(TOLERATED, self._config.max_bad_fraction * trusted):
            raise ValueError(
                f"{self._config.path}: {self._bad} of the {self._opened} videos opened so far cannot be read; exclude "
                f"them or raise max_bad_fraction (now {self._config.max_bad_fraction}). Shards that are finished stay. "
                f"{'The last: ' if last else ''}{last}"
            )
