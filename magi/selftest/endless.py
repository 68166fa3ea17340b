"""A rollout with a window: does it cost the same however long it is, and is it what no cache would give?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from magi.model.cache import KVCache
from magi.model.magi import Magi
from magi.sampling.config import SampleConfig
from magi.sampling.reference import generate_one
from magi.sampling.rollout import generate
from magi.selftest.outcome import Outcome
from magi.selftest.small import FLOW, TINY, trained_looking

WINDOW = 8
SETTINGS = SampleConfig(mask_steps=3, head_steps=2, window=WINDOW, observation_noise=0.1)
TOLERANCE = 1e-9  # of numbers of order one in float64
SLOPE = 0.2  # by how much the later frames may differ in time from the earlier
ATTEMPTS = 3  # others use the machine too: what takes longer again and again does so by itself


def roll_endlessly(folder: Path, *, trials: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Generate so many frames in float64 and compare each with a recomputation that has no cache.

    Args:
        folder: not used.
        trials: frames.
        seed: of the model and of the video.
        say: hears of the progress.
    """
    outcome = Outcome(
        f"endless generation, window {WINDOW}: memory and time per frame stay, and no cache is as good", seed
    )
    start = time.perf_counter()
    model = trained_looking(replace(TINY, head=FLOW), seed=seed)
    for _ in range(ATTEMPTS):
        frames, held, seconds = _rolled(model, num_frames=trials, seed=seed)
        slope = _slope(seconds[WINDOW:])
        say(f"{trials} frames, {held[0]:,} bytes of cache, time {slope:+.0%}")
        if abs(slope) <= SLOPE:
            break
    else:
        outcome.failures.append(f"later frames take {slope:+.0%} of time, {ATTEMPTS} times in a row")
    if set(held) != {held[0]}:
        outcome.failures.append(f"the cache had {held[0]:,} bytes, and {max(held):,} later on")
    config = model.config
    nothing = torch.zeros(0, config.latent_channels, config.latent_height, config.latent_width, dtype=frames.dtype)
    expected = generate_one(model, nothing, num_frames=trials, seed=seed, interval=1, settings=SETTINGS)
    errors = (frames - expected).abs().flatten(1).amax(1)
    for frame in torch.nonzero(~(errors <= TOLERANCE)).flatten().tolist():
        outcome.failures.append(f"frame {frame} differs by {errors[frame]:.2g} from what no cache gives")
    outcome.trials = trials
    outcome.details = {"bytes of cache": held[0], "largest difference": float(f"{errors.max():.2g}")}
    outcome.details["change of time per frame"] = f"{slope:+.0%}"
    outcome.seconds = time.perf_counter() - start
    return outcome


def _rolled(model: Magi, *, num_frames: int, seed: int) -> tuple[Tensor, list[int], list[float]]:
    """Frames (T, C', h, w), and after each the bytes of all caches that were made so far, and its processor time."""
    caches: list[KVCache] = []
    new_cache = model.new_cache

    def noted(*arguments: Any) -> KVCache:
        caches.append(new_cache(*arguments))
        return caches[-1]

    frames, held, seconds = [], [], []
    with mock.patch.object(model, "new_cache", noted):
        begun = time.process_time()
        for frame in generate(model, None, num_frames=num_frames, seeds=[seed], settings=SETTINGS):
            now = time.process_time()
            seconds.append(now - begun)
            frames.append(frame[0])
            held.append(sum(cache.store.untyped_storage().nbytes() for cache in caches))
            begun = time.process_time()
    return torch.stack(frames), held, seconds


def _slope(seconds: list[float]) -> float:
    """How much longer the later frames take than the earlier: medians of some hundreds, or of each half."""
    some = min(500, len(seconds) // 2)
    return statistics.median(seconds[-some:]) / statistics.median(seconds[:some]) - 1
