"""A seed is a video: the same one in batches of any size and order, and shared out to any number of processes?

The model that ships, with fewer steps than it is used with. A process gets its share of the seeds and makes them in
batches; what must come out is what each seed gives alone: of the deterministic ones the pixels, of others the latents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from magi.data.world import World, WorldConfig
from magi.distributed import Distributed
from magi.sampling.config import SampleConfig
from magi.sampling.release import Release, load
from magi.sampling.rollout import generate
from magi.sampling.video import generate as generate_video
from magi.seeds import generator
from magi.selftest import toy
from magi.selftest.outcome import Outcome
from magi.tokenizers.protocol import to_pixels

FRAMES, GIVEN = 2, 2
POOL = 6  # seeds, each with a context of its own
TOLERANCE = 1e-4  # of the spread of a video, in float32


@dataclass(frozen=True)
class Way:
    """How some seeds are made."""

    seeds: tuple[int, ...]
    processes: int
    batch: int
    deterministic: bool
    given: bool

    def __str__(self) -> str:
        how = "deterministic, " if self.deterministic else ""
        return f"{how}seeds {self.seeds} by {self.processes} processes in batches of {self.batch}"


def repeat_seeds(folder: Path, *, trials: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Make videos in so many ways and compare them with each made alone.

    Args:
        folder: for what the processes made.
        trials: ways.
        seed: of the ways.
        say: hears of the progress.
    """
    outcome = Outcome("same seed, same video, in any batch, order and process: bit for bit if deterministic", seed)
    numbers, start = generator(seed, "seeds"), time.perf_counter()
    release = load("world64")
    clips = World(WorldConfig(num_frames=GIVEN)).clips(range(POOL)).video
    alone: dict[tuple[int, bool, bool], Tensor] = {}
    largest, bitwise = 0.0, 0
    for trial in range(trials):
        way = _way(numbers, deterministic=trial % 2 == 0)
        for each in way.seeds:
            if (each, way.given, way.deterministic) not in alone:
                alone[each, way.given, way.deterministic] = _made(release, clips, replace(way, seeds=(each,)))[0]
        expected = torch.stack([alone[each, way.given, way.deterministic] for each in way.seeds])
        found = _shared_out(folder / str(trial), release, clips, way)
        outcome.trials += 1
        if found is None or found.shape != expected.shape:
            outcome.failures.append(f"{way}: a process failed")
            continue
        difference = (found.float() - expected.float()).abs().flatten(1).amax(1)
        error = float((difference / expected.float().flatten(1).std(1)).amax())
        if way.deterministic:
            bitwise += 1
            if not torch.equal(found, expected):
                outcome.failures.append(f"{way}: other bits, by {error:.2g}")
        else:
            largest = max(largest, error)
            if not error <= TOLERANCE:
                outcome.failures.append(f"{way}: another video, by {error:.2g} of its spread")
        if trial % 10 == 9:
            say(f"{trial + 1} ways, {len(outcome.failures)} failures")
    if any(torch.equal(alone[a], alone[b]) for a in alone for b in alone if a[0] < b[0] and a[1:] == b[1:]):
        outcome.failures.append("two seeds gave one video")
    outcome.details = {"bit for bit": bitwise, "largest difference of the others": float(f"{largest:.2g}")}
    outcome.seconds = time.perf_counter() - start
    return outcome


def _way(numbers: Generator, *, deterministic: bool) -> Way:
    """Some seeds, in some order, among some processes, which make a few at a time."""
    processes = int(numbers.choice([1, 1, 2, 3]))
    count = processes * int(numbers.integers(1, POOL // processes + 1))
    seeds = tuple(int(each) for each in numbers.permutation(POOL)[:count])
    return Way(seeds, processes, int(numbers.integers(1, 6)), deterministic, bool(numbers.integers(2)))


def _made(release: Release, clips: Tensor, way: Way) -> Tensor:
    """Pixels (B, FRAMES, 3, H, W) or latents (B, FRAMES, C', h, w), made in this process, of which the beginnings of
    clips (POOL, GIVEN, 3, H, W) may be given."""
    settings: SampleConfig = replace(release.sample, mask_steps=4, head_steps=4, deterministic=way.deterministic)
    made = []
    for first in range(0, len(way.seeds), way.batch):
        seeds: Sequence[int] = way.seeds[first : first + way.batch]
        given = clips[list(seeds)] if way.given else None
        if way.deterministic:
            frames = generate_video(release, given, num_frames=FRAMES, seeds=seeds, settings=settings)
        else:
            context = None if given is None else release.tokenizer.encode(to_pixels(given))
            frames = generate(release.model, context, num_frames=FRAMES, seeds=seeds, settings=settings)
        made.append(torch.stack(list(frames), dim=1))
    return torch.cat(made)


def _shared_out(folder: Path, release: Release, clips: Tensor, way: Way) -> Tensor | None:
    """The same, each process having made its share; None if one failed."""
    if way.processes == 1:
        return _made(release, clips, way)
    folder.mkdir()

    def run(rank: int) -> int:
        share = Distributed(rank, way.processes).share(len(way.seeds))
        made = _made(release, clips, replace(way, seeds=way.seeds[share.start : share.stop]))
        np.save(folder / f"{rank}.npy", made.numpy())
        return 0

    children = [toy.fork(partial(run, rank)) for rank in range(way.processes)]
    if any([toy.ended(child) for child in children]):  # all of them are waited for
        return None
    return torch.cat([torch.from_numpy(np.load(folder / f"{rank}.npy")) for rank in range(way.processes)])
