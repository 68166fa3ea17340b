"""How long training waits for its data: the training loop itself, its source and its preparation timed from outside.

Knows the loop; where batches come from and what prepares them is handed to it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, redirect_stdout
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from magi.bench.measure import Spread, now
from magi.bench.rows import Row
from magi.distributed import Distributed
from magi.graphs import Inputs
from magi.model.magi import Magi
from magi.training.loop import Interrupted, TrainConfig, train

WARM = 4
"""Steps that do not count: the first ones are slow, and workers had time to prepare a batch for each of them."""
NEVER = 1 << 40  # samples


def measure_waiting(
    model: Magi,
    batches: Callable[[int], Generator[Any, None, None]],
    prepare: Callable[[Any, int], Inputs],
    *,
    config: TrainConfig,
    steps: int,
    run_dir: Path,
    device: torch.device,
    warm: int = WARM,
) -> dict[str, Any]:
    """Train for some steps and tell what the loop spent on its data.

    Args:
        model: is copied.
        batches: from a position in samples to the batches from there on, as the loop asks.
        prepare: from a batch and a step to the model's inputs.
        config: how to train; its length and periods do not matter.
        steps: that count.
        run_dir: new; the loop leaves a checkpoint there.
        device: where the model is.
        warm: steps before those.

    Returns:
        Seconds of a ``step``, of the ``wait`` for its batch and of the ``prepare`` that makes inputs of it, summaries;
        and under ``share`` what part of the steps was waiting, and under ``data_share`` waiting and preparing: that of
        ``all`` steps together, and a summary of single ones, which workers make uneven.
    """
    asked: list[float] = []
    waits: list[float] = []
    prepares: list[float] = []

    def watched(start: int) -> Generator[Any, None, None]:
        with closing(batches(start)) as source:
            while True:
                asked.append(now(device))
                batch = next(source)
                waits.append(perf_counter() - asked[-1])
                yield batch

    def timed(batch: Any, step: int) -> Inputs:
        start = perf_counter()
        inputs = prepare(batch, step)
        prepares.append(now(device) - start)
        return inputs

    made = (warm + steps + 1) * config.batch_size  # the last one ends with a checkpoint, and does not count either
    short = replace(config, total_samples=made, log_every=NEVER, evaluate_every=NEVER, checkpoint_every=NEVER)
    with redirect_stdout(io.StringIO()):
        try:
            train(
                deepcopy(model).requires_grad_(True), watched, prepare=timed, config=short, resolved={},
                run_dir=run_dir, distributed=Distributed(device=device),
            )  # fmt: skip
        except Interrupted:  # whoever stops a benchmark does not mean to resume it
            raise KeyboardInterrupt from None
    each = [after - before for before, after in pairwise(asked)][warm:]
    waits, prepares = waits[warm:-1], prepares[warm:-1]
    data = [wait + prepared for wait, prepared in zip(waits, prepares, strict=True)]
    return {
        "step": Spread(tuple(each)).summary(),
        "wait": Spread(tuple(waits)).summary(),
        "prepare": Spread(tuple(prepares)).summary(),
        "share": share(waits, each),
        "data_share": share(data, each),
    }


def share(parts: list[float], steps: list[float]) -> dict[str, float]:
    """Of all steps together, and the spread over single ones."""
    single = Spread(tuple(part / step for part, step in zip(parts, steps, strict=True)))
    return {"all": sum(parts) / sum(steps), **single.summary()}


def waiting_rows(waiting: Mapping[str, Any]) -> Iterator[Row]:
    """Lines of a table: the shares of all steps, the range of single ones, and the seconds behind them."""
    for name, found in waiting.items():
        seconds = {part: found[part]["median"] for part in ("wait", "prepare", "step")}
        for key, what, parts in (
            ("share", "waiting for a batch", f"{seconds['wait']:.3g}"),
            ("data_share", "waiting or encoding", f"{seconds['wait'] + seconds['prepare']:.3g}"),
        ):
            title, of = f"share of a step {what}, {name}", found[key]
            note = f"{parts} of {seconds['step']:.3g} s"
            yield Row((title, f"{of['all']:.4f}", f"{of['min']:.4f} - {of['max']:.4f}", note), title, (of["all"],))
