"""`magi bench cache`: what a latent cache saves on this machine, and how long training waits for its data."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from magi.bench.cache import measure_encoding, measure_sources, rows
from magi.bench.compare import read_earlier
from magi.bench.measure import METHOD, machine
from magi.bench.outcome import described, publish
from magi.bench.waiting import WARM, measure_waiting
from magi.cli.arguments import Common, CommonOptions, check_counts, parse
from magi.cli.runs import train_on
from magi.data.folder import FolderSource, list_videos
from magi.data.latent_store import LatentStore
from magi.data.latents import LatentSource, cache_cost
from magi.data.loader import Source
from magi.distributed import Device, Distributed, pick_device
from magi.experiments.data import DataConfig, stream
from magi.experiments.encode import EncodeRun, encode
from magi.experiments.footage import Decoded, opener_of_threads, read
from magi.experiments.presets import PRESETS
from magi.experiments.video import preparation
from magi.model.magi import Magi
from magi.seeds import generator
from magi.tokenizers.protocol import Tokenizer, to_pixels
from magi.tokenizers.store import fingerprint, load_tokenizer
from magi.video import Frames, write_video

QUICK: dict[str, Any] = {"videos": 1, "frames": 20, "batch": 1, "repeats": 1, "workers": 0}
TOKENIZER = "world64"  # light: with one of the published sizes, encoding while training costs far more


@dataclass(frozen=True)
class BenchCacheArguments:
    """Measure what a latent cache saves: how fast it is made, what it takes, how much faster training from it is, and
    what share of a training step is waiting for the next batch, from latents and from videos.

    $ magi bench cache --json cache.json --threads 1

    Trains the preset tiny on H.264 videos of 320 x 240 pixels that are made for it; decoded anew for every clip, as in
    a data set that does not fit into the memory.
    """

    quick: bool = False
    """Measure so little that the numbers only prove that everything runs."""
    videos: int = 8
    """How many."""
    frames: int = 120
    """Of each."""
    batch: int = 8
    """Clips per step."""
    repeats: int = 9
    """Of every measurement; of training steps whose waiting is measured, twice as many."""
    workers: int = 1
    """Processes that read ahead in a second measurement of waiting; in the first there are none, as the preset has it.
    0 leaves the second out."""
    json: Path | None = None
    """Write every measurement to this file."""
    compare: Path | None = None
    """An earlier --json of this benchmark: ratios of all shared figures, new over old."""
    device: Device = "auto"
    """auto is CUDA, else Apple's GPU, else the CPU."""
    common: CommonOptions = field(default_factory=Common)

    def __post_init__(self) -> None:
        changed = [name for name in QUICK if getattr(self, name) != getattr(type(self), name)]
        if self.quick and changed:
            raise ValueError(f"--{changed[0]} has no effect with --quick; leave one out")
        if self.workers < 0:
            raise ValueError(f"--workers must not be negative, got {self.workers}; 0 measures none that read ahead")


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    arguments = parse(BenchCacheArguments, words, usage="bench cache")
    check_counts(arguments, "videos", "batch", "repeats")
    quick = arguments.quick
    if quick:
        arguments = replace(arguments, quick=False, **QUICK)
    earlier = read_earlier(arguments.compare, section="encoding", rows=rows)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments, Path(folder), pick_device(arguments.device))
    command = shlex.join(["magi", "bench", "cache", *words])
    report = {"command": command, "method": METHOD, "effort": {"quick": quick}, **measured}
    publish(report, described(report, list(rows(report)), earlier), json_path=arguments.json)
    return 0


def measure(arguments: BenchCacheArguments, folder: Path, device: torch.device) -> dict[str, Any]:
    """Make videos, encode them, train from both."""
    told, videos, tiny = machine(device), folder / "videos", PRESETS["tiny"]
    videos.mkdir()
    for number in range(arguments.videos):
        write_video(videos / f"{number:03d}.mp4", scene(number, arguments.frames), fps=25, quality="web")
    # nothing is kept in memory: what is compared is reading latents with decoding and encoding
    data = DataConfig("folder", folder=replace(train_on(tiny.data, str(videos)).folder, cache_mb=0))
    tokenizer = load_tokenizer(TOKENIZER)
    if isinstance(tokenizer, nn.Module):
        tokenizer.to(device)
    store, encoding = measure_stages(data, tokenizer, folder, repeats=arguments.repeats, device=device)
    online, latents = FolderSource(data.folder), LatentSource(train_on(data, str(store.root)).latents)
    torch.manual_seed(0)
    prepare = preparation(tiny.model, tokenizer, seed=0, device=device)
    training = measure_sources(
        Magi(tiny.model).to(device),
        {"videos": lambda at: prepare(online.clips(at), 0), "latents": lambda at: prepare(latents.clips(at), 0)},
        batch=arguments.batch,
        repeats=arguments.repeats,
        device=device,
    )
    waiting = measure_loop(
        {"videos": online, "latents": latents}, tokenizer, folder, arguments=arguments, device=device
    )
    shape, size, number = latents.config.shape, latents.config.size, arguments.videos
    cost = cache_cost(store.recipe, shape, num_videos=number, frames_per_video=arguments.frames)
    sizes = {
        "clip of latents": cost.bytes_per_clip,
        "clip of pixels": shape.num_frames * 3 * size**2,
        "video of latents, both sides": cost.bytes_per_video,
        "cache on disk, per video": sum(p.stat().st_size for p in store.root.rglob("*") if p.is_file()) / number,
        "video file": sum(path.stat().st_size for path in videos.iterdir()) / number,
    }
    names = ("videos", "frames", "batch", "repeats", "workers")
    settings = {
        **{name: getattr(arguments, name) for name in names},
        "clip": {"num_frames": shape.num_frames, "size": size, "max_interval": shape.max_interval},
        "tokenizer": TOKENIZER,
        "model": "tiny",
    }
    return {
        "machine": told, "settings": settings, "encoding": encoding, "bytes": sizes, "training": training,
        "waiting": waiting,
    }  # fmt: skip


def measure_loop(
    sources: Mapping[str, Source],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    arguments: BenchCacheArguments,
    device: torch.device,
) -> dict[str, Any]:
    """How long the loop of `magi train tiny` waits for each source, without workers and with some."""
    tiny = PRESETS["tiny"]
    torch.manual_seed(0)
    model = Magi(tiny.model).to(device)
    prepare = preparation(tiny.model, tokenizer, seed=0, device=device)
    # float32 as above: on a CPU without bf16 that is the faster one, next to which waiting weighs the most
    config = replace(tiny.train, batch_size=arguments.batch, precision="bf16" if device.type == "cuda" else "fp32")
    found = {}
    for workers in dict.fromkeys((0, arguments.workers)):
        told, settings = "1 worker" if workers == 1 else f"{workers} workers", replace(config, workers=workers)
        for name, source in sources.items():
            found[f"{name}, {told}"] = measure_waiting(
                model,
                stream(source, settings, Distributed(device=device)),
                prepare,
                config=settings,
                steps=2 * arguments.repeats,
                run_dir=folder / f"waiting-{name}-{workers}",
                device=device,
                warm=min(WARM, arguments.repeats),
            )
    return found


def measure_stages(
    data: DataConfig, tokenizer: Tokenizer, folder: Path, *, repeats: int, device: torch.device
) -> tuple[LatentStore, dict[str, Any]]:
    """Encode the videos again and again, and their parts alone; returns a cache of them and the speeds."""
    run, listing = EncodeRun(data, TOKENIZER, workers=0), list_videos(data.folder)
    mark, numbers = fingerprint(tokenizer), count()

    def make() -> LatentStore:
        return encode(run, listing, tokenizer, fingerprint=mark, out=folder / f"cache-{next(numbers)}", device=device)

    store = make()

    opener = opener_of_threads()  # in another process, as encoding reads

    def decode() -> list[Decoded]:
        return [read(listing.path(number), e.name, store.recipe, opener) for number, e in enumerate(listing.entries)]

    decoded = decode()
    pixels = [to_pixels(video.frames[:, None].to(device)) for video in decoded if video.frames is not None]

    def tokenize() -> None:
        for video in pixels:
            for part in video.split(run.batch_frames):
                tokenizer.posterior(part)

    frames = sum(video.record.num_frames for video in decoded)
    stages = {"decode and resize": decode, "tokenizer, one side": tokenize, "encode, both sides": make}
    return store, measure_encoding(stages, frames=frames, repeats=repeats, device=device)


def scene(seed: int, num_frames: int, height: int = 240, width: int = 320) -> Frames:
    """Waves that drift, with a grain (T, H, W, 3): something for a codec to do."""
    rng = generator(seed, "bench scene")
    rows, columns = np.mgrid[:height, :width]
    frames = np.zeros((num_frames, height, width, 3), dtype=np.float32)
    for _ in range(6):
        fy, fx, speed, phase = rng.uniform(-0.1, 0.1, 4)
        waves = np.stack([np.sin(fy * rows + fx * columns + 4 * speed * t + phase) for t in range(num_frames)])
        frames += 20 * waves[..., None] * rng.uniform(-1, 1, 3)
    return np.clip(128 + frames + rng.normal(0, 3, frames.shape), 0, 255).astype(np.uint8)
