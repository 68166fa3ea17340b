"""Everything random about one training step, drawn before the step from keys alone.

With the draws as an argument the loss is a plain function, the same on one process or on many: how many tokens of each
frame are masked is a function of seed and optimizer step, the same for the whole global batch, so that every sample
counts the same number of masked tokens; all else is a function of seed and sample.

Shapes: B videos, M masked copies of each, T frames, N tokens per frame, P masked tokens of a clip, C token channels, R
head repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from magi.model.config import MagiConfig
from magi.model.head import training_times
from magi.model.masking import first_of_each, mask_ratio, masked_count, random_orders
from magi.seeds import generator


@dataclass(frozen=True)
class TrainingDraws:
    """The random numbers of one training step."""

    masked_tokens: Tensor  # (B, M, P) int64, the hidden tokens: frame times N plus place in the frame, frame by frame
    noise_level: Tensor  # (B, T) int64, id of the noise injected into each clean frame
    signal: Tensor  # (B, T) scale of the clean frame under the noise
    sigma: Tensor  # (B, T) standard deviation of the noise
    noise: Tensor  # (B, T, N, C) unit normal, to be scaled by sigma
    head_time: Tensor  # (R, B, M, P) diffusion times of the head
    head_noise: Tensor  # (R, B, M, P, C)

    def to(self, device: torch.device) -> TrainingDraws:
        """The same draws on another device."""
        return TrainingDraws(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def noise_bucket(config: MagiConfig, sigma: np.ndarray | float) -> np.ndarray:
    """Id of a noise level: 0 is clean, 1..noise_buckets are parts of (0, noise_max] in order (GameNGen).

    Raises:
        ValueError: a level outside the trained range.
    """
    level = np.asarray(sigma, dtype=np.float64)
    if level.min(initial=0.0) < 0 or level.max(initial=0.0) > config.noise_max:
        raise ValueError(f"noise level {level} is outside the trained range 0 to {config.noise_max}")
    part = level / config.noise_max * config.noise_buckets
    bucket = 1 + np.floor(part + 0.5 if config.noise_bucketing == "round" else part)
    return np.where(level > 0, np.minimum(bucket, config.noise_buckets), 0).astype(np.int64)


def signal_scale(config: MagiConfig, sigma: np.ndarray | float) -> np.ndarray:
    """What a clean frame is multiplied by under noise of this deviation: 1, or sqrt(1 - sigma^2)."""
    level = np.asarray(sigma, dtype=np.float64)
    return np.sqrt(1 - level * level) if config.noise_mix == "vp" else np.ones_like(level)


def draw_sigma(config: MagiConfig, rng: np.random.Generator) -> np.ndarray:
    """Noise level of each frame of one clip, (T,): one for the clip or one per frame, sometimes exactly clean.

    Inference commits frames with the clean id, so training must meet it: with `clean_probability` the level is zero.
    """
    frames = config.num_frames
    level = rng.random(frames) * config.noise_max
    clean = rng.random(frames) < config.clean_probability
    if config.noise_granularity == "clip":
        level, clean = np.repeat(level[:1], frames), np.repeat(clean[:1], frames)
    return np.where(clean, 0.0, level)


def draw_counts(config: MagiConfig, seed: int, *, step: int) -> list[int]:
    """How many tokens of each of the T frames an optimizer step hides; none of the complete beginning MTF may have.

    The ratio of frame 0 is that of the batch where there is one for all.
    """
    uniform = generator(seed, "mask ratio", step).random(config.num_frames)
    if config.mask_ratio_granularity == "batch":
        uniform[:] = uniform[0]
    ratios = [mask_ratio(u, minimum=config.mask_ratio_min, deviation=config.mask_ratio_std) for u in uniform]
    counts = [masked_count(config.tokens, ratio) for ratio in ratios]
    complete = int(config.mtf_first_frame_clean)
    happens, where = generator(seed, "clean prefix", step).random(2)
    if happens < config.mtf_clean_prefix_probability:
        complete = 1 + int(where * (config.num_frames - 1))
    return [0] * complete + counts[complete:]


def draw_training(config: MagiConfig, seed: int, *, step: int, samples: Sequence[int]) -> TrainingDraws:
    """Draw what one optimizer step needs for these samples.

    Args:
        config: shapes and ranges.
        seed: of the run.
        step: optimizer step, sets how much is masked in the whole global batch.
        samples: position of each video of this process in the run's endless order.
    """
    counts = draw_counts(config, seed, step=step)
    copies, repeats, channels = config.masks_per_clip, config.head_repeats, config.token_channels
    frames, tokens, hidden = config.num_frames, config.tokens, sum(counts)
    masks, levels, noises, times, head_noises = [], [], [], [], []
    for sample in samples:
        orders = [random_orders(generator(seed, "mask", sample, m), frames, tokens) for m in range(copies)]
        masks.append(np.stack([first_of_each(order, counts) for order in orders]))
        levels.append(draw_sigma(config, generator(seed, "noise level", sample)))
        noises.append(generator(seed, "noise", sample).standard_normal((frames, tokens, channels), dtype=np.float32))
        head = generator(seed, "head", sample)
        times.append(head.random((repeats, copies, hidden)))
        head_noises.append(head.standard_normal((repeats, copies, hidden, channels), dtype=np.float32))
    sigma = np.stack(levels)  # (B, T)
    return TrainingDraws(
        masked_tokens=torch.from_numpy(np.stack(masks)),
        noise_level=torch.from_numpy(noise_bucket(config, sigma)),
        signal=torch.from_numpy(signal_scale(config, sigma)).float(),
        sigma=torch.from_numpy(sigma).float(),
        noise=torch.from_numpy(np.stack(noises)),
        head_time=training_times(config.head, np.stack(times, axis=1)),
        head_noise=torch.from_numpy(np.stack(head_noises, axis=1)),
    )
