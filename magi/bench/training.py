"""What a training step costs: its time in two precisions, and the operations that exact pruning saves.

Shapes: B videos, M masked copies, T frames, S stream frames, N tokens per frame, P masked tokens of a clip, C token
channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from magi.bench.measure import alternate
from magi.model import plan
from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws, draw_training
from magi.model.embeddings import patchify
from magi.model.forcing import LAYOUTS, OBSERVATION, Streams, hidden, with_noise
from magi.model.magi import Magi
from magi.model.masking import masked_count
from magi.training.optim import OptimConfig, build_optimizer


def typical_draws(config: MagiConfig, samples: Sequence[int]) -> tuple[TrainingDraws, TrainingDraws]:
    """Draws at the mean mask ratio, so that all steps are the same work; and the same for all tokens, masked first."""
    everything = draw_training(replace(config, mask_ratio_min=1.0), 0, step=0, samples=samples)
    first = torch.arange(config.tokens) < masked_count(config.tokens, plan.mean_mask_ratio(config))
    kept = first.repeat(config.num_frames)  # (T N,), of each frame the first in its order
    masked = replace(
        everything,
        masked_tokens=everything.masked_tokens[..., kept],
        head_time=everything.head_time[..., kept],
        head_noise=everything.head_noise[..., kept, :],
    )
    return masked, everything


def measure_training(model: Magi, *, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time whole optimizer steps, from the draws to the updated weights, on latents that are already there.

    Returns:
        By precision: ``step_seconds``, ``clips_per_second``, ``tokens_per_second`` (T N per clip) and ``gflops`` (as
        the planner counts a clip's operations), each a summary; and the ``batch``.
    """
    config = model.config
    trained = deepcopy(model).train().requires_grad_(True)
    optim = OptimConfig()
    optimizer = build_optimizer(trained, optim)
    shape = (config.num_frames, config.latent_channels, config.latent_height, config.latent_width)
    latents = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(model.head_position)
    interval = torch.ones(batch, dtype=torch.long, device=device)

    def step(precision: str) -> None:
        draws = typical_draws(config, range(batch))[0].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = trained(latents, interval, draws)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), optim.clip)
        optimizer.step()

    runs: dict[str, Callable[[], object]] = {"fp32": lambda: step("fp32"), "bf16": lambda: step("bf16")}
    results: dict[str, Any] = {"batch": batch}
    for precision, seconds in alternate(runs, repeats=repeats, device=device).items():
        clips = seconds.per(batch)
        results[precision] = {
            "step_seconds": seconds.summary(),
            "clips_per_second": clips.summary(),
            "tokens_per_second": clips.times(config.num_frames * config.tokens).summary(),
            "gflops": clips.times(plan.training_flops(config).total / 1e9).summary(),
        }
    return results


def count_training_flops(config: MagiConfig) -> dict[str, float]:
    """Operations of one clip's training, forward and backward, as computed and in the plain layout.

    Counted on a model without memory, by torch's counter: a product and a sum are two, matrix products only.
    """
    with torch.device("meta"):
        model = Magi(config)
        shape = (config.num_frames, config.latent_channels, config.latent_height, config.latent_width)
        latents, interval = torch.empty(1, *shape), torch.ones(1, dtype=torch.long)
    masked, everything = (draws.to(torch.device("meta")) for draws in typical_draws(config, [0]))
    pruned = _flops(lambda: model(latents, interval, masked)["loss"].backward())
    plain = _flops(lambda: plain_loss(model, latents, interval, masked, everything).backward())
    return {"pruned": pruned, "plain": plain, "ratio": pruned / plain}


def plain_loss(
    model: Magi, latents: Tensor, interval: Tensor, masked: TrainingDraws, everything: TrainingDraws
) -> Tensor:
    """The loss of `model` with nothing left out: all T observation frames, and the head on all N tokens.

    Args:
        model: whose loss for the `masked` draws this is, up to rounding.
        latents: (B, T, C', h, w).
        interval: (B,).
        masked: draws with P tokens masked.
        everything: the same draws for all T N tokens, the masked ones of each frame first.
    """
    tokens = patchify(latents, model.config.patch)  # (B, T, N, C)
    streams = LAYOUTS[model.config.forcing](tokens, masked)
    if model.config.forcing == "ctf":
        streams = with_last_observation(streams, tokens, masked)
    x = model.embedding(streams.tokens, streams.masked, streams.kind, streams.frame, streams.noise_level, interval)
    x = model.transformer(x, temporal_mask=streams.temporal_mask)[:, -streams.predicted :, : model.config.tokens]
    z = rearrange(x + model.head_position, "b (m t) n d -> b m (t n) d", t=tokens.shape[1])
    target = repeat(tokens, "b t n c -> b m (t n) c", m=z.shape[1])
    index = everything.masked_tokens[..., None]  # (B, M, T N, 1)
    losses = model.head.loss(
        rearrange(z.take_along_dim(index, dim=2), "b m n d -> (b m n) d"),
        rearrange(target.take_along_dim(index, dim=2), "b m n c -> (b m n) c"),
        rearrange(everything.head_time, "r b m n -> r (b m n)"),
        rearrange(everything.head_noise, "r b m n c -> r (b m n) c"),
    )
    each = torch.stack(list(losses.values())).sum(dim=0)  # (R, B M T N)
    count = masked.masked_tokens.shape[-1] // tokens.shape[1]
    return rearrange(each, "r (bmt n) -> r bmt n", n=tokens.shape[2])[..., :count].mean()


def with_last_observation(streams: Streams, tokens: Tensor, draws: TrainingDraws) -> Streams:
    """CTF's streams with the observation frame that nobody may attend to, placed first."""
    frames, observed = tokens.shape[1], tokens.shape[1] - 1
    mask = F.pad(streams.temporal_mask, (1, 0, 1, 0))  # (S + 1, S + 1), false in the new row and column
    mask[0, : 1 + observed] = True  # it sees itself and the other observations
    nothing_hidden = torch.zeros_like(hidden(draws, tokens.shape[2])[:, 0, :1])  # (B, 1, N)
    return replace(
        streams,
        tokens=torch.cat([with_noise(tokens, draws)[:, -1:], streams.tokens], dim=1),
        masked=torch.cat([nothing_hidden, streams.masked], dim=1),
        kind=F.pad(streams.kind, (1, 0), value=OBSERVATION),
        frame=F.pad(streams.frame, (1, 0), value=frames - 1),
        noise_level=torch.cat([draws.noise_level[:, -1:], streams.noise_level], dim=1),
        temporal_mask=mask,
    )


def _flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
