"""The specification of sampling: slow, obvious, one video at a time, no cache, nothing hoisted.

`rollout.generate` must agree with this for the same seeds. Read this one first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magi.model.draws import noise_bucket, signal_scale
from magi.model.embeddings import patchify, temporal_positions, unpatchify
from magi.model.forcing import CLEAN, COMMITTED_KIND, MASKED
from magi.model.magi import Magi
from magi.model.masking import unmasking_counts
from magi.sampling.config import SampleConfig
from magi.sampling.noise import SampleNoise


@torch.no_grad()
def generate_one(
    model: Magi, context: Tensor, *, num_frames: int, seed: int, interval: int, settings: SampleConfig
) -> Tensor:
    """Continue one video: context (k, C', h, w), k may be 0, to the generated latents (num_frames, C', h, w)."""
    config = model.config
    total = len(context) + num_frames
    positions = temporal_positions(min(total, settings.window or total), config.num_frames, settings.time_mode)
    sigma, signal = settings.observation_noise, float(signal_scale(config, settings.observation_noise))
    noise = SampleNoise(
        [seed], tokens=config.tokens, channels=config.token_channels,
        dtype=context.dtype, device=context.device, source=settings.noise_source,
    )  # fmt: skip
    frames = list(patchify(context[None], config.patch)[0])  # each (N, C)
    for frame in range(len(context), total):
        first = first_in_sight(frame, settings.window)
        seen = [signal * x + sigma * noise.observation(first + i)[0] for i, x in enumerate(frames[first:])]
        tokens, masked = torch.zeros_like(noise.observation(0)[0]), torch.ones(config.tokens, dtype=torch.bool)
        order, revealed = noise.order(frame)[0], 0
        sizes = unmasking_counts(config.tokens, settings.mask_steps)
        for step, size in enumerate(sizes):
            head_steps = settings.head_steps_at(step, mask_steps=len(sizes))
            z = conditions(model, seen, tokens, masked, positions, interval, settings)  # (N, D)
            head_noise = noise.head(frame, step, head_steps=head_steps)[:, 0]  # (S + 1, N, C)
            # every token is denoised; only those that are due are kept
            values = model.head.sample_reference(
                z,
                head_noise,
                num_steps=head_steps,
                solver=settings.solver_for(config.head),
                spacing=settings.spacing,
                temperature=settings.temperature,
            )
            due = order[revealed : revealed + size]
            tokens[due], masked[due] = values[due], False
            revealed += size
        frames.append(tokens)
    return unpatchify(torch.stack(frames[len(context) :])[None], config.patch, config.latent_height)[0]


def first_in_sight(frame: int, window: int | None) -> int:
    """The earliest frame that frame number `frame` may see: as soon as a whole window is in sight, only the newest half
    of it is kept."""
    in_sight: list[int] = []
    for earlier in range(frame):
        in_sight.append(earlier)
        if len(in_sight) == window:
            in_sight = in_sight[-(window // 2) :]
    return in_sight[0] if in_sight else 0


def conditions(
    model: Magi,
    seen: list[Tensor],
    tokens: Tensor,
    masked: Tensor,
    positions: Tensor,
    interval: int,
    settings: SampleConfig,
) -> Tensor:
    """The head's conditions (N, D) for a masked frame after the frames it sees, all computed anew."""
    config, past = model.config, len(seen)
    level = int(noise_bucket(config, settings.observation_noise))
    x = model.embedding(
        torch.stack([*seen, tokens])[None],
        torch.stack([*[torch.zeros_like(masked)] * past, masked])[None],
        torch.tensor([COMMITTED_KIND[config.forcing]] * past + [MASKED]),
        positions[: past + 1],
        torch.tensor([[level] * past + [CLEAN]]),
        torch.tensor([interval]),
    )  # (1, past + 1, L, D)
    each_sees_the_earlier = torch.ones(past + 1, past + 1, dtype=torch.bool).tril()
    x = model.transformer(x, temporal_mask=each_sees_the_earlier)
    return x[0, -1, : config.tokens] + model.head_position
