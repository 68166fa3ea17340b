"""What a generated frame costs: where its time goes, how it grows with the video, what the cache and exact bits cost.

Shapes: B videos, F frames seen and one under construction, N tokens per frame, C token channels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from magi.bench.measure import Spread, count_flops, count_operations, fitted_exponent, now, stopwatch
from magi.model import plan
from magi.model.cache import KVCache
from magi.model.forcing import CLEAN, COMMITTED_KIND, MASKED
from magi.model.head import SOLVERS, DiffusionHead, Kind
from magi.model.head_kernel import available
from magi.model.magi import Finished, Magi
from magi.model.transformer import take
from magi.sampling.config import SampleConfig
from magi.sampling.rollout import generate


@dataclass(frozen=True)
class Rollout:
    """Videos to be generated together."""

    model: Magi
    settings: SampleConfig
    batch: int = 1


@dataclass(frozen=True)
class FrameTime:
    """Seconds of one frame, all videos of the batch together."""

    total: float
    transformer: float
    head: float

    @property
    def rest(self) -> float:
        """Noise, orders, gathering and scattering tokens."""
        return self.total - self.transformer - self.head


class UncachedMagi(Magi):
    """A model without a KV cache: it keeps the finished frames and reads them all again at every mask step.

    It shares the parameters of `model` and computes the same, as `sampling.reference` does, but for a batch.
    """

    def __init__(self, model: Magi) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        self.embedding, self.transformer, self.head = model.embedding, model.transformer, model.head
        self.head_position = model.head_position
        self.seen: list[tuple[Tensor, Tensor, int]] = []  # of each frame tokens (B, N, C), time () and noise level

    def commit(self, cache: KVCache, finished: Finished, *, interval: Tensor) -> None:
        """Remember finished frames; the cache only counts them."""
        del self.seen[cache.frames :]
        pairs = zip(finished.tokens.unbind(1), finished.time, strict=True)
        self.seen += [(frame, when, finished.noise_level) for frame, when in pairs]
        cache.advance(finished.tokens.shape[1])

    def predict(
        self,
        cache: KVCache,
        tokens: Tensor,
        masked: Tensor,
        *,
        time: float,
        interval: Tensor,
        chosen: Tensor | None = None,
        finished: Finished | None = None,
    ) -> Tensor:
        """The head's conditions (B, n, D) for the frame under construction, from everything seen."""
        if finished is not None:
            self.commit(cache, finished, interval=interval)
        past, device = self.seen[: cache.frames], tokens.device
        complete = torch.zeros_like(masked)
        levels = torch.tensor([level for _, _, level in past] + [CLEAN], device=device)
        x = self.embedding(
            torch.stack([*(frame for frame, _, _ in past), tokens], dim=1),
            torch.stack([*[complete] * len(past), masked], dim=1),
            torch.tensor([COMMITTED_KIND[self.config.forcing]] * len(past) + [MASKED], device=device),
            torch.tensor([*(float(when) for _, when, _ in past), time], device="cpu", dtype=torch.float64),
            levels.expand(len(tokens), -1),
            interval,
        )  # (B, F + 1, L, D)
        x = self.transformer(x, temporal_mask=self.sight(len(past) + 1, device))
        z = x[:, -1, : self.config.tokens] + self.head_position
        return z if chosen is None else take(z, chosen)

    def sight(self, frames: int, device: torch.device) -> Tensor:
        """Which frame sees which, (frames, frames) bool: each those up to itself."""
        return torch.ones(frames, frames, dtype=torch.bool, device=device).tril()


def race(rollouts: Mapping[str, Rollout], *, frames: int) -> dict[str, list[FrameTime]]:
    """Generate videos from nothing, all rollouts in turn frame by frame, and time every frame.

    On CUDA kernels are started one by one: in a graph no part could be told from another. From the second frame on, a
    frame's time includes committing the one before it.
    """
    models = {id(rollout.model): rollout.model for rollout in rollouts.values()}
    heads = {id(model.head): model.head for model in models.values()}
    parts: dict[str, list[tuple[object, str]]] = {
        "transformer": [(model, name) for model in models.values() for name in ("predict", "commit")],
        "head": [(head, "sample") for head in heads.values()],
    }
    device = next(iter(models.values())).head_position.device
    videos = {
        name: generate(
            r.model, None, num_frames=frames, seeds=range(r.batch), settings=replace(r.settings, cuda_graphs=False)
        )
        for name, r in rollouts.items()
    }
    times: dict[str, list[FrameTime]] = {name: [] for name in rollouts}
    with stopwatch(parts, device=device) as spent:
        for _ in range(frames):
            for name, video in videos.items():
                before, start = dict(spent), now(device)
                next(video)
                total = now(device) - start
                times[name].append(FrameTime(total, **{part: spent[part] - before[part] for part in parts}))
    return times


def step_settings(kind: Kind, tokens: int) -> list[SampleConfig]:
    """The paper's steps (A.4), of which no more than one per token are made, and cheaper ones."""
    exact, fast = SOLVERS[kind][0], SOLVERS[kind][-1]
    counts = [(64, 100, exact), (16, 100, exact), (8, 100, exact), (16, 25, fast), (8, 25, fast)]
    rows = [SampleConfig(mask_steps=min(m, tokens), head_steps=h, solver=solver) for m, h, solver in counts]
    return list(dict.fromkeys(rows))  # without repetitions, in order


def measure_frames(model: Magi, *, batches: Sequence[int], frames: int) -> list[dict[str, Any]]:
    """Milliseconds per generated frame and video, split into transformer, head and rest.

    Returns:
        A row per settings and batch size: ``mask_steps``, ``head_steps``, ``solver``, ``compiled_head``, ``batch``, and
        the summaries ``total``, ``transformer``, ``head`` and ``rest`` over `frames` frames.
    """
    ways = step_settings(model.config.head.kind, model.config.tokens)
    weight = model.head.output.linear.weight
    if available(weight.dtype, weight.device):
        ways += [replace(settings, compiled_head=True) for settings in ways]
    rollouts = {f"{settings} {batch}": Rollout(model, settings, batch) for settings in ways for batch in batches}
    race(rollouts, frames=1)
    rows = []
    for name, times in race(rollouts, frames=frames + 1).items():
        settings, batch = rollouts[name].settings, rollouts[name].batch
        row: dict[str, Any] = {
            "mask_steps": settings.mask_steps, "head_steps": settings.head_steps,
            "solver": settings.solver, "compiled_head": settings.compiled_head, "batch": batch,
        }  # fmt: skip
        for part in ("total", "transformer", "head", "rest"):
            seconds = Spread(tuple(getattr(time, part) for time in times[1:]))  # the first frame commits none
            row[part] = seconds.times(1e3 / batch).summary()
        rows.append(row)
    return rows


def count_frame_flops(model: Magi) -> dict[str, Any]:
    """Operations of a frame after one other, at the cheapest of the measured steps.

    Returns:
        The steps, ``past``, and ``counted``, by torch's counter, beside ``planned``, by the planner's formula.
    """
    settings = step_settings(model.config.head.kind, model.config.tokens)[-1]
    video = generate(model, None, num_frames=2, seeds=[0], settings=settings)
    next(video)
    steps: dict[str, Any] = {"mask_steps": settings.mask_steps, "head_steps": settings.head_steps}
    counted = count_flops(lambda: next(video))  # with the pass that commits the first frame, which has seen none
    planned = plan.frame_flops(model.config, past=1, solver=settings.solver, **steps)
    return {**steps, "solver": settings.solver, "past": 1, "counted": counted, "planned": planned.total}


def measure_growth(model: Magi, *, batch: int, lengths: Sequence[int], repeats: int) -> dict[str, Any]:
    """Seconds for videos of several lengths, with the KV cache and without, with the head and without.

    One batch of the greatest length is generated in each way; its first n frames are the videos of n frames.

    Returns:
        ``batch``, ``lengths`` and the ``settings``; ``cached`` and ``uncached``, each with ``total`` and
        ``transformer``, which hold ``seconds``, a summary by length, and ``exponent``, a summary of the fitted growth;
        and ``speedup``, how many times faster the cache makes it, for ``total`` and ``transformer`` by length.
    """
    settings = step_settings(model.config.head.kind, model.config.tokens)[-1]
    rollouts = {
        "cached": Rollout(model, settings, batch),
        "uncached": Rollout(UncachedMagi(model).eval(), settings, batch),
    }
    race(rollouts, frames=2)
    races = [race(rollouts, frames=max(lengths)) for _ in range(repeats)]
    growth: dict[str, Any] = {
        "batch": batch,
        "lengths": list(lengths),
        "settings": {"mask_steps": settings.mask_steps, "head_steps": settings.head_steps, "solver": settings.solver},
        **{name: {} for name in rollouts},
        "speedup": {},
    }
    for part in ("total", "transformer"):
        seconds = {name: [_reached(times[name], part, lengths) for times in races] for name in rollouts}
        for name, each in seconds.items():
            growth[name][part] = {
                "seconds": [Spread(at_length).summary() for at_length in zip(*each, strict=True)],
                "exponent": Spread(tuple(fitted_exponent(lengths, reached) for reached in each)).summary(),
            }
        ratios = np.array(seconds["uncached"]) / np.array(seconds["cached"])  # (repeats, lengths)
        growth["speedup"][part] = [Spread(tuple(at_length)).summary() for at_length in ratios.T.tolist()]
    return growth


def _reached(times: Sequence[FrameTime], part: str, lengths: Sequence[int]) -> list[float]:
    """Seconds after which each length was reached."""
    elapsed = list(accumulate(getattr(time, part) for time in times))
    return [elapsed[length - 1] for length in lengths]


def measure_determinism(model: Magi, *, batch: int, frames: int) -> dict[str, Any]:
    """What it costs that a seed gives the same bits at every batch size.

    Returns:
        Summaries of milliseconds per frame and video, ``batched`` and ``deterministic``, and their ``ratio``.
    """
    settings = step_settings(model.config.head.kind, model.config.tokens)[-1]
    rollouts = {
        "batched": Rollout(model, settings, batch),
        "deterministic": Rollout(model, replace(settings, deterministic=True), batch),
    }
    race(rollouts, frames=1)
    times = race(rollouts, frames=frames)
    costs = {
        name: Spread(tuple(time.total for time in each)).times(1e3 / batch).summary() for name, each in times.items()
    }
    return {"batch": batch, **costs, "ratio": costs["deterministic"]["median"] / costs["batched"]["median"]}


def count_head_operations(head: DiffusionHead, *, steps: int, rows: int) -> dict[str, Any]:
    """Non-view aten operations per denoising step, for every solver of the head.

    Returns:
        By solver: ``loop``, what one more step adds, and ``all``, everything that a call of `steps` steps issues, its
        tables of times included, per step.
    """
    weight = head.input_proj.weight
    z = torch.zeros(rows, head.cond_embed.in_features, dtype=weight.dtype, device=weight.device)

    def issued(solver: Any, num_steps: int) -> int:
        noise = torch.zeros(num_steps + 1, rows, head.token_channels, dtype=weight.dtype, device=weight.device)
        call = partial(head.sample, z, noise, num_steps=num_steps, solver=solver)
        call()  # makes the schedules, which are kept
        return count_operations(call)

    return {
        solver: {"loop": issued(solver, 5) - issued(solver, 4), "all": issued(solver, steps) / steps}
        for solver in SOLVERS[head.config.kind]
    }


def measure_cache(model: Magi, *, batch: int, frames: int) -> dict[str, int]:
    """Bytes of KV cache per frame and video: held, and by the formula 2 x blocks x tokens x width x bytes per value."""
    cache = model.new_cache(batch, frames)
    held, rest = divmod(cache.nbytes, batch * frames)
    assert rest == 0
    return {
        "bytes_per_frame": held,
        "formula": plan.cache_bytes(model.config, bytes_per_value=model.head_position.element_size()),
    }
