"""`magi encode`: videos into a latent cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from magi.cli.arguments import Common, CommonOptions, TokenizerOptions, WithTokenizer, parse
from magi.cli.runs import resolve
from magi.cli.show import progress, quantity
from magi.data.folder import list_videos
from magi.data.latent_store import LatentStore, read_store
from magi.data.latents import cache_cost, diversity
from magi.distributed import Device, pick_device
from magi.experiments.data import DataConfig
from magi.experiments.encode import EncodeRun, encode, share_of_environment
from magi.experiments.presets import OWN, PRESETS
from magi.report.console import table
from magi.tokenizers.store import fingerprint, load_tokenizer


@dataclass(frozen=True)
class EncodeArguments:
    """Turn videos into latents once, so that training neither decodes nor encodes: a latent cache.

    $ magi encode tiny --data path/to/videos --tokenizer runs/tokenizer/release --out cache
    $ magi train tiny --data cache --out runs/mine
    $ magi encode --verify cache
    $ torchrun --nproc_per_node 8 -m magi encode xl --data path/to/videos --tokenizer NAME --out cache

    PRESET is tiny, small, base, large, xl, world64, or an experiment of the paper: ucf101-sd14, ucf101-cosmos,
    k600-omni. It decides size, crop and mirroring; with a tokenizer that sees several frames at once also the clips.
    The same command goes on after a kill, and adds videos that are new. Any
    number of processes and machines share the work by their RANK and WORLD_SIZE.
    """

    out: Path
    """The cache: a new folder, or one that the same settings began."""
    run: Annotated[EncodeRun, tyro.conf.FlagConversionOff, tyro.conf.arg(name="")]
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: TokenizerOptions = field(default_factory=WithTokenizer)


@dataclass(frozen=True)
class VerifyArguments:
    """Read every byte of a latent cache and name what is damaged."""

    verify: Path
    """The cache."""
    common: CommonOptions = field(default_factory=Common)


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    if any(word == "--verify" or word.startswith("--verify=") for word in words):
        return verify(parse(VerifyArguments, words, usage="encode").verify)
    presets = {name: EncodeRun(run.data, run.tokenizer) for name, run in PRESETS.items()}
    arguments = resolve(EncodeArguments, words, verb="encode", presets=presets, fallback=presets["tiny"])
    run = arguments.run
    check(run)
    rank, world_size, local_rank = share_of_environment()
    device = pick_device(arguments.device)
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK is {local_rank}, but this machine has {torch.cuda.device_count()} CUDA devices"
            )
        device = torch.device("cuda", local_rank)
    tokenizer = load_tokenizer(run.tokenizer)
    if isinstance(tokenizer, nn.Module):
        tokenizer.to(device)
    store = encode(
        run,
        list_videos(run.data.folder),
        tokenizer,
        fingerprint=fingerprint(tokenizer),
        out=arguments.out,
        rank=rank,
        world_size=world_size,
        device=device,
        tell=lambda done, total: progress(done, total, "videos"),
    )
    if rank == 0:
        print(summary(store, run.data))
    return 0


def check(run: EncodeRun) -> None:
    """Refuse what cannot be encoded, before anything is opened.

    Raises:
        ValueError: no videos, or no tokenizer.
    """
    if run.data.kind == "world":
        raise ValueError("the world is drawn as fast as latents are read; for a cache, write its videos by magi world")
    if run.data.kind == "latents":
        raise ValueError(f"{run.data.latents.path} is a latent cache already; give --data FOLDER, one of videos")
    if not run.data.folder.path:
        raise ValueError("which videos? Give --data FOLDER")
    if run.data.folder.bad_files is not None:
        raise ValueError("--data.folder.bad-files has no effect here: the cache itself says which videos are bad")
    if run.tokenizer == OWN:
        raise ValueError(
            "with which tokenizer? Give --tokenizer NAME; magi tokenizer train makes one of these videos in RUN/release"
        )


def verify(cache: Path) -> int:
    """Say that a cache is whole.

    Raises:
        ValueError: naming everything that is not.
    """
    store = read_store(cache)
    problems = store.verify()
    if problems:
        raise ValueError(
            f"{len(problems)} parts are damaged or missing: {'; '.join(problems)}. Delete those, run magi encode again"
        )
    print(f"{cache}: all {sum(1 for _ in store.shards())} shards are as they were written")
    return 0


def summary(store: LatentStore, data: DataConfig) -> str:
    """What the cache holds and takes, as far as it is made."""
    shards = list(store.shards())
    made = [shard for shard in shards if store.has(shard)]
    records = [record for shard in made for record in store.records(shard)]
    listed = [record for shard in made for record in store.listed(shard)]
    gone, bad = len(records) - len(listed), sum(record.bad is not None for record in listed)
    readable = [record for record in records if record.bad is None]
    config, recipe = data.folder, store.recipe
    size = sum(path.stat().st_size for shard in made for path in (store.root / shard.name).iterdir())
    rows = [
        (
            "videos",
            f"{len(listed):,} of {len(store.listing.entries):,}",
            f"{bad} unreadable" + (f"; {gone} more that have gone or changed since" if gone else ""),
        ),
        ("shards", f"{len(made)} of {len(shards)}", "" if len(made) == len(shards) else "the others are still to come"),
        ("on disk", quantity(size, "B"), f"{quantity(size / max(1, len(readable)), 'B')} per video"),
    ]
    shape = recipe.drawn.shape if recipe.drawn else None
    if readable and shape is not None:
        frames = sum(record.num_frames for record in readable) // len(readable)
        cost = cache_cost(recipe, shape, num_videos=len(readable), frames_per_video=frames)
        distinct = sum(diversity(record.slots) for record in readable) / len(readable)
        told = f"of about {cost.possible:,} in a video of {frames} frames, the average"
        rows.append(("different clips per video", f"{distinct:.1f}", told))
    elif readable:
        rows.append(("clips per video", "all", "frames were encoded alone"))
    clip = (1 + (config.num_frames - 1) // recipe.temporal_stride) * recipe.bytes_per_frame
    rows.append((f"clip of {config.num_frames} frames", quantity(clip, "B"), ", ".join(recipe.moments)))
    return table(rows)
