"""What a latent cache saves: how fast it is made, what it takes, and how much faster training from it is.

Knows how to measure; what encodes and what prepares a batch is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from magi.bench.measure import Spread, alternate
from magi.bench.rows import Row, measured
from magi.bench.waiting import waiting_rows
from magi.model.magi import Magi
from magi.training.optim import OptimConfig, build_optimizer


def measure_encoding(
    stages: Mapping[str, Callable[[], object]], *, frames: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Frames per second of each stage, taking turns.

    Args:
        stages: by name, what treats all frames once.
        frames: how many these are.
        repeats: how often.
        device: where they run.
    """
    spent = alternate(stages, repeats=repeats, device=device)
    return {name: {"frames_per_second": seconds.per(frames).summary()} for name, seconds in spent.items()}


def measure_sources(
    model: Magi,
    inputs: Mapping[str, Callable[[range], tuple[Any, ...]]],
    *,
    batch: int,
    repeats: int,
    device: torch.device,
) -> dict[str, Any]:
    """Time what a batch costs, and a whole optimizer step with it, for each way to come by a batch, taking turns.

    Args:
        model: is copied.
        inputs: by name, from positions to the model's inputs. Every turn asks for other positions, the same for all.
        batch: clips per step.
        repeats: steps of each.
        device: where the model is.

    Returns:
        By name ``batch`` and ``step``, each with seconds and clips per second; and under ``ratio`` how many times
        faster the last name is than the first, turn by turn.
    """
    trained = deepcopy(model).train().requires_grad_(True)
    optim = OptimConfig()
    optimizer = build_optimizer(trained, optim)

    def positions() -> Iterator[range]:
        first = 0
        while True:
            yield range(first, first + batch)
            first += batch

    def step(prepare: Callable[[range], tuple[Any, ...]], places: Iterator[range]) -> None:
        loss = trained(*prepare(next(places)))["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), optim.clip)
        optimizer.step()

    def batch_only(prepare: Callable[[range], tuple[Any, ...]], places: Iterator[range]) -> None:
        prepare(next(places))

    results: dict[str, Any] = {name: {} for name in inputs}
    results["ratio"] = {}
    first, *_, last = inputs
    for what, run in (("batch", batch_only), ("step", step)):
        runs = {}
        for name, prepare in inputs.items():
            places = positions()
            runs[name] = lambda run=run, prepare=prepare, places=places: run(prepare, places)
        spent = alternate(runs, repeats=repeats, device=device)
        for name, seconds in spent.items():
            results[name][what] = {"seconds": seconds.summary(), "clips_per_second": seconds.per(batch).summary()}
        pairs = zip(spent[first].values, spent[last].values, strict=True)
        results["ratio"][what] = Spread(tuple(before / after for before, after in pairs)).summary()
    return results


def rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """The report as lines of a table."""
    for name, stage in report["encoding"].items():
        yield measured(f"frames per second and core, {name}", stage["frames_per_second"])
    for name, count in report["bytes"].items():
        title = f"bytes, {name}"
        yield Row((title, f"{count:,.0f}", "", ""), title, (count,))
    for what in ("batch", "step"):
        for name in ("videos", "latents"):
            rate = report["training"][name][what]["clips_per_second"]
            yield measured(f"clips per second, {what}, from {name}", rate)
        yield measured(f"  times faster from latents, {what}", report["training"]["ratio"][what])
    yield from waiting_rows(report.get("waiting", {}))  # which older reports lack
