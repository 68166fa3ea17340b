"""What is possible on this machine, to set beside what was achieved.

"Possible" is the least time that the work could take at rates which this machine reached in the same run, with the same
threads: the useful operations at the rate of a matrix product of the model's own large shape (its training batch's
tokens, width to MLP width) in the same precision; or, where that is longer, the bytes that must be read, at the rate
at which a matrix of that size is read. A denoising step of few rows multiplies every weight of the head by next to
nothing, so reading them may be what binds it; small weights lie in a cache, which is why the rate is measured at their
own size. Keys and values are read at the rate of a large copy, its reads and writes counted.

Useful are the operations without which the numbers would not be the same, whether or not the code leaves out the
others. The share achieved over possible is in (0, 1] up to noise; what is missing to 1 is small operations, waiting and
what need not be done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from magi.bench.measure import now
from magi.model import latency, plan
from magi.model.config import MagiConfig
from magi.model.head import Solver

SECONDS = 0.06  # spent on each rate
LARGE_COPY = {"cpu": 2**26, "other": 2**29}  # bytes, beyond the caches
MOST_ROWS = {"cpu": 1024, "other": 8192}  # of the large product: more makes it slower, not more efficient
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Peaks:
    """Rates that a machine reached."""

    flops: Mapping[str, float]
    """Per second, by precision."""
    shape: tuple[int, int, int]
    """Rows, inputs and outputs of the matrix product."""
    copy: float
    """Bytes per second, read and written."""
    read: Mapping[str, float]
    """Bytes per second of weights as many as those of the ``transformer`` and of the ``head``'s loop."""


def measure_peaks(config: MagiConfig, *, rows: int, device: torch.device, dtype: torch.dtype) -> Peaks:
    """Measure a machine's rates for a model.

    Args:
        config: of the model.
        rows: tokens of its largest product.
        device: where it is.
        dtype: of its weights.
    """
    kind = "cpu" if device.type == "cpu" else "other"
    shape = (min(rows, MOST_ROWS[kind]), config.width, config.mlp_width)
    sizes = {
        "transformer": latency.transformer_weights(config) * dtype.itemsize,
        "head": latency.head_loop_weights(config) * dtype.itemsize,
    }
    return Peaks(
        flops={name: product_rate(*shape, dtype=precision, device=device) for name, precision in PRECISIONS.items()},
        shape=shape,
        copy=copy_rate(LARGE_COPY[kind], device=device),
        read={
            part: read_rate(min(size, LARGE_COPY[kind]), columns=columns, dtype=dtype, device=device)
            for (part, size), columns in zip(sizes.items(), (config.width, config.head.width), strict=True)
        },
    )


def product_rate(rows: int, inputs: int, outputs: int, *, dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a matrix product, a multiplication and an addition being two."""
    x = torch.randn(rows, inputs, device=device).to(dtype)
    weight = torch.randn(outputs, inputs, device=device).to(dtype)
    result = torch.empty(rows, outputs, dtype=dtype, device=device)
    return 2 * rows * inputs * outputs / fastest(lambda: torch.mm(x, weight.T, out=result), device=device)


def copy_rate(size: int, *, device: torch.device) -> float:
    """Bytes per second, read and written, of copying so many bytes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * size / fastest(lambda: target.copy_(source), device=device)


def read_rate(size: int, *, columns: int, dtype: torch.dtype, device: torch.device) -> float:
    """Bytes per second of a matrix of about so many bytes that is multiplied by one vector, again and again."""
    weight = torch.ones(max(1, size // (columns * dtype.itemsize)), columns, dtype=dtype, device=device)
    x, result = weight[0].clone(), weight[:, 0].clone()
    return weight.nbytes / fastest(lambda: torch.mv(weight, x, out=result), device=device)


@torch.no_grad()
def fastest(run: Callable[[], object], *, device: torch.device, budget: float = SECONDS) -> float:
    """Seconds of a run at its fastest, in stretches long enough for the clock and the device's queue."""
    run()
    calls, end, best = 1, perf_counter() + budget, float("inf")
    while True:
        start = now(device)
        for _ in range(calls):
            run()
        spent = now(device) - start
        if spent < budget / 20 and calls < 2**14:
            calls *= 2
            continue
        best = min(best, spent / calls)
        if perf_counter() >= end:
            return best


def training_shares(training: Mapping[str, Any], peaks: Peaks) -> dict[str, dict[str, float]]:
    """Summaries of achieved over possible operations of a training step, by precision."""
    return {name: _times(training[name]["gflops"], 1e9 / peaks.flops[name]) for name in peaks.flops}


def frame_possible(
    config: MagiConfig, peaks: Peaks, *, past: float, row: Mapping[str, Any], precision: str, bytes_per_value: int
) -> dict[str, float]:
    """Seconds that a frame of a whole batch could take: by computing and by reading, of transformer and head.

    Args:
        config: of the model.
        peaks: of the machine.
        past: mean number of frames in the cache.
        row: ``mask_steps``, ``head_steps``, ``solver`` and ``batch``.
        precision: of the products.
        bytes_per_value: of weights and cache.
    """
    solver: Solver = row["solver"]
    batch, frames = row["batch"], round(past)
    work = latency.Work(frames, row["mask_steps"], row["head_steps"], solver, batch)
    flops = plan.frame_flops(config, past=frames, mask_steps=work.mask_steps, head_steps=work.head_steps, solver=solver)
    passes = min(work.mask_steps, config.tokens)  # the frame before is committed in the first of them
    cached = passes * frames * plan.cache_bytes(config, bytes_per_value=bytes_per_value)
    head_bytes = latency.denoising_calls(config, work) * latency.head_loop_weights(config) * bytes_per_value
    return {
        "transformer compute": batch * flops.transformer / peaks.flops[precision],
        "transformer bytes": passes * latency.transformer_weights(config) * bytes_per_value / peaks.read["transformer"]
        + batch * cached / peaks.copy,
        "head compute": batch * flops.head / peaks.flops[precision],
        "head bytes": head_bytes / peaks.read["head"],
    }


def frame_shares(row: Mapping[str, Any], possible: Mapping[str, float]) -> dict[str, Any]:
    """Possible over measured time of a row of `measure_frames`: summaries for ``transformer``, ``head``, ``total``.

    ``limits`` says of both parts what binds it, compute or bytes.
    """
    binding = {
        part: max(("compute", "bytes"), key=lambda way: possible[f"{part} {way}"]) for part in ("transformer", "head")
    }
    least = {part: 1e3 * possible[f"{part} {way}"] / row["batch"] for part, way in binding.items()}
    least["total"] = sum(least.values())
    return {"limits": binding, "possible_ms": least, **{part: _over(row[part], ms) for part, ms in least.items()}}


def _times(summary: Mapping[str, float], factor: float) -> dict[str, float]:
    """A summary of a rate, times a factor."""
    scaled = {name: factor * summary[name] for name in ("median", "min", "max")}
    return {**scaled, "repeats": summary["repeats"]}


def _over(summary: Mapping[str, float], least: float) -> dict[str, float]:
    """A summary of times, as shares that a least time is of them."""
    return {
        "median": least / summary["median"], "min": least / summary["max"], "max": least / summary["min"],
        "repeats": summary["repeats"],
    }  # fmt: skip
