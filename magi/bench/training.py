"""What a training step costs: its time in two precisions, and the operations that exact pruning saves.

Shapes: B videos, M masked copies, T frames, S stream frames, N tokens per frame, P masked tokens of a clip, C token
channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from magi.bench.measure import alternate, count_flops, now, stopwatch
from magi.model import plan
from magi.model.config import MagiConfig
from magi.model.draws import TrainingDraws, draw_training
from magi.model.embeddings import patchify
from magi.model.forcing import LAYOUTS, OBSERVATION, Streams, hidden, with_noise
from magi.model.magi import Magi
from magi.model.masking import masked_count
from magi.training.optim import OptimConfig, build_optimizer

Precision = Literal["fp32", "bf16"]


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


class TrainingStep:
    """Whole optimizer steps, from the draws to the updated weights, on latents that are already there.

    Args:
        model: to train.
        batch: clips.
        device: where it is.
        copied: whether a copy is trained, and the model stays what it was.
    """

    def __init__(self, model: Magi, *, batch: int, device: torch.device, copied: bool = True) -> None:
        config = model.config
        self.model = (deepcopy(model) if copied else model).train().requires_grad_(True)
        self.batch, self.device, self.optim = batch, device, OptimConfig()
        self.optimizer = build_optimizer(self.model, self.optim)
        shape = (config.num_frames, config.latent_channels, config.latent_height, config.latent_width)
        latents = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        self.latents = latents.to(model.head_position)
        self.interval = torch.ones(batch, dtype=torch.long, device=device)

    def __call__(self, precision: Precision) -> None:
        """One step."""
        draws = typical_draws(self.model.config, range(self.batch))[0].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = self.model(self.latents, self.interval, draws)["loss"]
        self.backward(loss)
        self.update()

    def backward(self, loss: Tensor) -> None:
        """The gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def update(self) -> None:
        """The weights."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip)
        self.optimizer.step()


def measure_training(model: Magi, *, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time optimizer steps.

    Returns:
        By precision: ``step_seconds``, ``clips_per_second``, ``tokens_per_second`` (T N per clip) and ``gflops`` (as
        the planner counts a clip's operations), each a summary; and the ``batch``.
    """
    config, step = model.config, TrainingStep(model, batch=batch, device=device)
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


def time_training_parts(step: TrainingStep, precision: Precision, *, repeats: int) -> dict[str, list[float]]:
    """Seconds of steps by part: forward through transformer and head, backward, update, and the rest, the draws."""
    model, device = step.model, step.device
    parts: dict[str, list[tuple[object, str]]] = {
        "transformer, forward": [(model, "conditions")],
        "head, forward": [(model.head, "loss")],
        "backward": [(step, "backward")],
        "update": [(step, "update")],
    }
    times: dict[str, list[float]] = {part: [] for part in (*parts, "rest", "total")}
    step(precision)
    with stopwatch(parts, device=device) as spent:
        for _ in range(repeats):
            before, start = dict(spent), now(device)
            step(precision)
            total = now(device) - start
            each = {part: spent[part] - before[part] for part in parts}
            for part, seconds in {**each, "rest": total - sum(each.values()), "total": total}.items():
                times[part].append(seconds)
    return times


def count_training_flops(config: MagiConfig) -> dict[str, float]:
    """Operations of one clip's training, forward and backward, as computed and in the plain layout.

    Counted on a model without memory, by torch's counter: a product and a sum are two, matrix products only.
    """
    with torch.device("meta"):
        model = Magi(config)
        shape = (config.num_frames, config.latent_channels, config.latent_height, config.latent_width)
        latents, interval = torch.empty(1, *shape), torch.ones(1, dtype=torch.long)
    masked, everything = (draws.to(torch.device("meta")) for draws in typical_draws(config, [0]))
    pruned = count_flops(lambda: model(latents, interval, masked)["loss"].backward())
    plain = count_flops(lambda: plain_loss(model, latents, interval, masked, everything).backward())
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
